//! The checked specification of one container: what `config.json` says, with every default filled in.

mod check;
mod device;
mod refuse;
mod sysctl;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::mount::{Mount, Propagation};
use crate::namespace::Namespaces;
use crate::process::Process;
use crate::resources::{CgroupPath, Resources};
use crate::seccomp::Profile;

/// A container, as the OCI runtime specification describes it, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The root file system.
    pub root: Root,
    /// The process to run; absent is legal (create works, start must fail).
    pub process: Option<Process>,
    /// In the order of mounting.
    pub mounts: Vec<Mount>,
    /// What is new, what is joined, and what is shared with the host.
    pub namespaces: Namespaces,
    /// Set only when the container gets a UTS namespace of its own.
    pub hostname: Option<String>,
    /// NIS domain name, under the same condition.
    pub domainname: Option<String>,
    /// Device nodes besides the default ones.
    pub devices: Vec<Device>,
    /// Kernel parameters of the container's namespaces, validated against them.
    pub sysctls: Vec<Sysctl>,
    /// Absolute paths in the container that are hidden.
    pub masked_paths: Vec<PathBuf>,
    /// Absolute paths in the container that are made read-only.
    pub readonly_paths: Vec<PathBuf>,
    /// System call filter.
    pub seccomp: Option<Profile>,
    /// `context=` label of mounts (SELinux).
    pub mount_label: Option<String>,
    /// Where the container's cgroup is.
    pub cgroup: CgroupPath,
    /// Its limits.
    pub resources: Resources,
    /// As given; [`crate::annotation`] gives meaning to the few that have one.
    pub annotations: BTreeMap<String, String>,
    /// What was ignored because the OCI specification says so, in sentences that name the field.
    pub warnings: Vec<String>,
}

/// `root` and `linux.rootfsPropagation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Absolute path on the host (a relative `root.path` is taken from the bundle).
    pub path: PathBuf,
    /// Remounted read-only after everything else was mounted.
    pub readonly: bool,
    /// Propagation of `/` in the container; private unless the spec says otherwise.
    pub propagation: Propagation,
}

/// One entry of `linux.devices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute path in the container.
    pub path: PathBuf,
    /// What node it is.
    pub kind: DeviceKind,
    /// Permission bits only.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The kind of a device node, with its number where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// `c` and `u`.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// `b`.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// `p`.
    Fifo,
}

/// One kernel parameter, its key as a path below `/proc/sys`: `net/ipv4/ip_forward`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Relative, without `..`.
    pub path: String,
    /// Written as it is.
    pub value: String,
}
