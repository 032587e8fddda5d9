//! Checks `linux.sysctl`: only parameters that belong to a namespace of the container may be set.

use std::collections::BTreeMap;

use crate::error::{Checked, invalid, unsupported};
use crate::namespace::{Namespace, NamespaceKind, Namespaces};
use crate::spec::Sysctl;

impl Sysctl {
    /// Refuses what would change the host. Whether a joined namespace is the host's own is seen only when it
    /// is opened.
    pub(super) fn check_all(listed: BTreeMap<String, String>, namespaces: &Namespaces) -> Checked<Vec<Self>> {
        let mut sysctls: Vec<Self> = Vec::with_capacity(listed.len());
        for (key, value) in listed {
            let path = path(&key);
            check(&key, &path, namespaces)?;
            if sysctls.iter().any(|sysctl| sysctl.path == path) {
                return invalid(key, "is listed twice, in two ways of writing");
            }
            sysctls.push(Self { path, value });
        }
        Ok(sysctls)
    }
}

// sysctl(8): the first separator says which of the two ways of writing it is. With dots as separators a slash
// stands for a dot in a name: `net.ipv4.conf.eno2/100.rp_filter` is about the interface `eno2.100`.
fn path(key: &str) -> String {
    if key.find(['.', '/']).is_none_or(|first| key.as_bytes()[first] == b'/') {
        return key.to_owned();
    }
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        letter => letter,
    };
    key.chars().map(swap).collect()
}

fn check(key: &str, path: &str, namespaces: &Namespaces) -> Checked<()> {
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return invalid(key, "is no name of a kernel parameter");
    }
    let kind = match namespace(path) {
        Some(kind) => kind,
        None if path == "kernel/hostname" => return invalid(key, "is set by the field hostname"),
        None if path.starts_with("user/") => return unsupported(key, "user namespaces are"),
        None => return invalid(key, "belongs to no namespace: it would change the host"),
    };
    match namespaces.get(kind) {
        Namespace::Host => invalid(key, format!("needs a {} namespace in linux.namespaces", kind.as_str())),
        Namespace::New | Namespace::Join(_) => Ok(()),
    }
}

fn namespace(path: &str) -> Option<NamespaceKind> {
    match path {
        "kernel/msgmax"
        | "kernel/msgmnb"
        | "kernel/msgmni"
        | "kernel/sem"
        | "kernel/shmall"
        | "kernel/shmmax"
        | "kernel/shmmni"
        | "kernel/shm_rmid_forced" => Some(NamespaceKind::Ipc),
        "kernel/domainname" => Some(NamespaceKind::Uts),
        _ if path.starts_with("fs/mqueue/") => Some(NamespaceKind::Ipc),
        _ if path.starts_with("net/") => Some(NamespaceKind::Network),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_a_key_give_its_path() {
        for (key, expected) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eno2.100/rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
            ("net.ipv4.conf.eno2/100.rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
            ("kernel", "kernel"),
        ] {
            assert_eq!(path(key), expected, "{key}");
        }
    }
}
