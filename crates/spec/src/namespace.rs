//! Which namespaces a container makes, joins, or shares with the host.

mod check;

use std::path::PathBuf;

/// The kinds of namespace dunnage knows (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NamespaceKind {
    /// `pid_namespaces(7)`.
    Pid,
    /// `network_namespaces(7)`.
    Network,
    /// `mount_namespaces(7)`.
    Mount,
    /// `ipc_namespaces(7)`.
    Ipc,
    /// `uts_namespaces(7)`.
    Uts,
    /// `cgroup_namespaces(7)`.
    Cgroup,
}

impl NamespaceKind {
    /// Every kind, in the order in which they are joined.
    pub const ALL: [Self; 6] = [Self::Ipc, Self::Uts, Self::Network, Self::Pid, Self::Cgroup, Self::Mount];

    /// The word of the OCI specification.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Network => "network",
            Self::Mount => "mount",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
        }
    }
}

/// What becomes of one kind of namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Namespace {
    /// Not listed in the spec: the host's (the shim's own).
    #[default]
    Host,
    /// Listed without a path: made for this container.
    New,
    /// Listed with a path: joined. Absolute; the kernel checks that the kind fits when it is joined.
    Join(PathBuf),
}

impl Namespace {
    /// Whether the container lives in another namespace than the host.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !matches!(self, Self::Host)
    }
}

/// One decision for each kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespaces {
    /// Process ids.
    pub pid: Namespace,
    /// Network.
    pub network: Namespace,
    /// Mounts.
    pub mount: Namespace,
    /// System V and POSIX IPC.
    pub ipc: Namespace,
    /// Host and domain name.
    pub uts: Namespace,
    /// Cgroup root.
    pub cgroup: Namespace,
}

impl Namespaces {
    /// The decision for `kind`.
    #[must_use]
    pub fn get(&self, kind: NamespaceKind) -> &Namespace {
        match kind {
            NamespaceKind::Pid => &self.pid,
            NamespaceKind::Network => &self.network,
            NamespaceKind::Mount => &self.mount,
            NamespaceKind::Ipc => &self.ipc,
            NamespaceKind::Uts => &self.uts,
            NamespaceKind::Cgroup => &self.cgroup,
        }
    }

    /// The decision for `kind`, to change it.
    pub fn get_mut(&mut self, kind: NamespaceKind) -> &mut Namespace {
        match kind {
            NamespaceKind::Pid => &mut self.pid,
            NamespaceKind::Network => &mut self.network,
            NamespaceKind::Mount => &mut self.mount,
            NamespaceKind::Ipc => &mut self.ipc,
            NamespaceKind::Uts => &mut self.uts,
            NamespaceKind::Cgroup => &mut self.cgroup,
        }
    }
}
