//! The process of a container, or one that is executed in it later.

mod capability;
mod check;

use std::path::PathBuf;

pub(crate) use check::id;

/// `process`, checked: what runs, as whom, and with which rights.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// At least one; the first is looked up in the container's `PATH` when it has no slash.
    pub args: Vec<String>,
    /// `NAME=value`; of duplicates the last was kept, at its last place.
    pub env: Vec<String>,
    /// Absolute path in the container.
    pub cwd: PathBuf,
    /// A pseudo terminal instead of three streams.
    pub terminal: Option<Terminal>,
    /// Who it runs as.
    pub user: User,
    /// Empty sets when the spec gives none.
    pub capabilities: Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// At most one of each resource.
    pub rlimits: Vec<Rlimit>,
    /// -1000 to 1000; absent: unchanged.
    pub oom_score_adj: Option<i32>,
    /// Name of the AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// SELinux label of the process.
    pub selinux_label: Option<String>,
}

/// Numeric ids; names are never resolved by the runtime (CVE-2016-3697).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Below 2^32-1 (CVE-2024-40635).
    pub uid: u32,
    /// Below 2^32-1.
    pub gid: u32,
    /// Supplementary groups; always set, also when empty (CVE-2023-25173).
    pub additional_gids: Vec<u32>,
    /// 0o022 unless the spec says otherwise.
    pub umask: u32,
}

/// Asks for a pseudo terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terminal {
    /// Initial size, when given.
    pub size: Option<WindowSize>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// The five capability sets as bit masks: bit n is capability number n (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Limit of what can ever be gained.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// Kept over execve of files that have them inheritable.
    pub inheritable: u64,
    /// May be made effective.
    pub permitted: u64,
    /// Kept over execve of ordinary files.
    pub ambient: u64,
}

/// One resource limit (getrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Which.
    pub resource: RlimitResource,
    /// `u64::MAX` is unlimited.
    pub soft: u64,
    /// `u64::MAX` is unlimited; never below `soft`.
    pub hard: u64,
}

/// The resources that can be limited, named as in getrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names of getrlimit(2)")]
pub enum RlimitResource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}
