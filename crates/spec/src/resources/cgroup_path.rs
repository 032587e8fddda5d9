//! Reads `linux.cgroupsPath`. Its form follows the kubelet's cgroup driver, so the form decides, not an option.

use std::path::{Component, Path, PathBuf};

use crate::ContainerId;
use crate::error::{Checked, invalid};
use crate::resources::CgroupPath;

const FIELD: &str = "cgroupsPath";

impl CgroupPath {
    /// An absent path is `/dunnage/<id>`, as containerd's `ctr` uses `/<namespace>/<id>`. A relative one is
    /// taken from the root of the hierarchy.
    pub(crate) fn check(path: Option<&str>, id: &ContainerId) -> Checked<Self> {
        let path = path.unwrap_or_default();
        if path.is_empty() {
            return Ok(Self::Cgroupfs(PathBuf::from(format!("/dunnage/{id}"))));
        }
        match path.split(':').collect::<Vec<_>>()[..] {
            [slice, prefix, name] if !path.contains('/') => systemd(slice, prefix, name),
            _ => cgroupfs(path),
        }
    }
}

fn systemd(slice: &str, prefix: &str, name: &str) -> Checked<CgroupPath> {
    if !slice.is_empty() && !is_slice(slice) {
        return invalid(FIELD, format!("{slice:?} is no name of a systemd slice"));
    }
    if name.is_empty() {
        return invalid(FIELD, "the unit has no name");
    }
    Ok(CgroupPath::Systemd { slice: slice.into(), prefix: prefix.into(), name: name.into() })
}

// Every dash is a level (systemd.slice(5)), so empty parts would name no directory. `-.slice` is the root.
fn is_slice(slice: &str) -> bool {
    match slice.strip_suffix(".slice") {
        Some("-") => true,
        Some(name) => name.split('-').all(|part| !part.is_empty()),
        None => false,
    }
}

fn cgroupfs(path: &str) -> Checked<CgroupPath> {
    let mut directory = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => directory.push(name),
            // Nobody needs it, and two readers of the path might not agree on where it leads.
            Component::ParentDir => return invalid(FIELD, format!("{path:?} has a ..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if directory == Path::new("/") {
        return invalid(FIELD, format!("{path:?} is the root of all cgroups"));
    }
    Ok(CgroupPath::Cgroupfs(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str) -> Result<CgroupPath, String> {
        CgroupPath::check(Some(path), &"c1".parse().unwrap()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn three_parts_are_a_systemd_scope() {
        let expected = CgroupPath::Systemd {
            slice: "kubepods-burstable-pod1234.slice".into(),
            prefix: "cri-containerd".into(),
            name: "abc".into(),
        };
        assert_eq!(check("kubepods-burstable-pod1234.slice:cri-containerd:abc"), Ok(expected));
        let docker =
            CgroupPath::Systemd { slice: String::new(), prefix: "docker".into(), name: "abc".into() };
        assert_eq!(check(":docker:abc"), Ok(docker));
        assert!(check("-.slice:docker:abc").is_ok());
    }

    #[test]
    fn anything_else_is_a_directory() {
        for (path, directory) in [
            ("/kubepods/burstable/pod1/abc", "/kubepods/burstable/pod1/abc"),
            ("default//abc/", "/default/abc"),
            ("/a:b:c/d", "/a:b:c/d"),
            ("", "/dunnage/c1"),
        ] {
            assert_eq!(check(path), Ok(CgroupPath::Cgroupfs(directory.into())), "{path}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        assert_eq!(check("/a/../b").unwrap_err(), "cgroupsPath: \"/a/../b\" has a ..");
        assert_eq!(check("/").unwrap_err(), "cgroupsPath: \"/\" is the root of all cgroups");
        for slice in ["a", "a--b.slice", "-a.slice", "a-.slice", ".slice"] {
            let expected = format!("cgroupsPath: {slice:?} is no name of a systemd slice");
            assert_eq!(check(&format!("{slice}:p:n")).unwrap_err(), expected);
        }
        assert_eq!(check("a.slice:p:").unwrap_err(), "cgroupsPath: the unit has no name");
    }
}
