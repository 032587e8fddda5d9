//! What lowering has to know of the host and of the root file system: found out by the caller, once, so that
//! lowering itself stays pure.

use std::path::PathBuf;

/// The host a container is made on. Found once per shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Number of the newest capability the running kernel knows (`/proc/sys/kernel/cap_last_cap`).
    pub last_capability: u8,
    /// The only hierarchy is cgroup v2, so the child is born in its cgroup with every controller.
    pub unified_cgroup: bool,
    /// AppArmor is enabled (`/sys/module/apparmor/parameters/enabled` is `Y`).
    pub apparmor: bool,
    /// SELinux is enabled (selinuxfs is mounted).
    pub selinux: bool,
    /// `/proc/kcore` exists, so `/dev/core` may point to it.
    pub kcore: bool,
}

/// One container's own facts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootfsFacts {
    /// Home directory of the process's uid by the container's own `/etc/passwd`; for `HOME` when unset.
    pub home: Option<String>,
    /// The container's own directory in every hierarchy, for a `cgroup` mount.
    pub cgroups: Vec<CgroupMount>,
    /// Name of the session keyring to join, `_ses.<id>`, so that keys of the host's session cannot be seen;
    /// `None` leaves the keyring as it is (option of the runtime).
    pub keyring: Option<String>,
}

/// A cgroup hierarchy as the container shall see it below `/sys/fs/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// Name of the mount point: `cpu,cpuacct`, `memory`, `systemd`; empty on a pure v2 host.
    pub name: String,
    /// Option string that mounts the hierarchy anew inside a cgroup namespace: `cpu,cpuacct`, `name=systemd`;
    /// `None` is cgroup v2.
    pub v1_options: Option<String>,
    /// Further names that get a symlink to it, such as `cpu` and `cpuacct`.
    pub symlinks: Vec<String>,
    /// Absolute host path of the container's own directory.
    pub host_path: PathBuf,
}
