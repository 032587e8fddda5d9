//! The files every container of a pod gets from outside its image: hosts, hostname, resolv.conf, /dev/shm.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use dunnage_sys::classic_mount::{self, Flags};

/// Shared memory of a pod, as Docker and containerd size it.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";
/// The resolver's own file, beside a resolv.conf that points to a stub on the loopback interface.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Files in a directory of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFiles {
    hosts: PathBuf,
    hostname: PathBuf,
    pub(crate) resolv_conf: PathBuf,
    /// A tmpfs, which goes with its mount.
    pub(crate) shm: PathBuf,
}

impl PodFiles {
    /// Writes the files into `folder`, which exists, and mounts shared memory there. `address` is the pod's,
    /// or absent when it has the host's network and so the host's names.
    ///
    /// # Errors
    /// A file cannot be written, or the mount was refused.
    pub(crate) fn write(folder: &Path, hostname: &str, address: Option<IpAddr>) -> anyhow::Result<Self> {
        let files = Self::at(folder);
        let write = |path: &Path, content: &str| {
            std::fs::write(path, content).with_context(|| format!("write {}", path.display()))
        };
        let hosts = match address {
            Some(address) => hosts(hostname, address),
            None => std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        };
        write(&files.hosts, &hosts)?;
        write(&files.hostname, &format!("{hostname}\n"))?;
        write(&files.resolv_conf, &resolv_conf(address.is_some()))?;
        std::fs::create_dir(&files.shm).with_context(|| format!("create {}", files.shm.display()))?;
        let flags = Flags::NOSUID | Flags::NODEV | Flags::NOEXEC;
        classic_mount::mount("shm", &files.shm, "tmpfs", flags, SHM_OPTIONS)?;
        Ok(files)
    }

    /// The places of the files.
    pub(super) fn at(folder: &Path) -> Self {
        Self {
            hosts: folder.join("hosts"),
            hostname: folder.join("hostname"),
            resolv_conf: folder.join("resolv.conf"),
            shm: folder.join("shm"),
        }
    }

    /// The files by their places in a container.
    pub(super) fn mounts(&self) -> [(&'static str, &Path); 3] {
        [
            ("/etc/hosts", &self.hosts),
            ("/etc/hostname", &self.hostname),
            ("/etc/resolv.conf", &self.resolv_conf),
        ]
    }
}

/// As the kubelet writes it.
fn hosts(hostname: &str, address: IpAddr) -> String {
    format!(
        "# Managed by dunnage.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
         {address}\t{hostname}\n"
    )
}

/// The host's resolver; but one on the host's loopback interface cannot be reached from a pod.
fn resolv_conf(own_network: bool) -> String {
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if own_network && is_stub(&host) {
        return std::fs::read_to_string(RESOLVED).unwrap_or(host);
    }
    host
}

fn is_stub(resolv_conf: &str) -> bool {
    let mut servers =
        resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).peekable();
    servers.peek().is_some()
        && servers.all(|server| server.trim().parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_on_loopback_is_known() {
        assert!(is_stub("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!is_stub("nameserver 127.0.0.53\nnameserver 192.0.2.1\n"));
        assert!(!is_stub("search example\n"));
    }

    #[test]
    fn the_pod_knows_itself_by_name() {
        let text = hosts("web", "10.88.0.2".parse().unwrap());
        assert!(text.ends_with("10.88.0.2\tweb\n") && text.contains("127.0.0.1\tlocalhost\n"));
    }
}
