//! The parent's end: from a plan to a living child.

use std::os::fd::{BorrowedFd, OwnedFd};

use dunnage_plan::Plan;

use crate::{Error, Newborn};

/// Everything one birth needs.
#[derive(Debug, Clone, Copy)]
pub struct Birth<'a> {
    /// What the child does.
    pub plan: &'a Plan,
    /// Its standard streams, unless the plan opens a terminal.
    pub streams: Streams<'a>,
    /// Pidfd of the container's init, for [`dunnage_plan::Slot::Init`].
    pub init: Option<BorrowedFd<'a>>,
    /// Directory of the cgroup v2 to be born in.
    pub clone_into: Option<BorrowedFd<'a>>,
    /// What [`dunnage_plan::Step::JoinCgroups`] writes `0` to, in order: `tasks` of every v1 hierarchy, opened
    /// for writing. The child joins by itself, which spares an RCU grace period; so there is no `place()` and
    /// no waiting for the parent. When `clone_into` cannot be used, the caller adds `cgroup.procs` of it
    /// ([`crate::Newborn`] is not made then: `spawn` says so by its error kind `Unsupported`).
    pub cgroups: &'a [OwnedFd],
}

/// Standard streams; an absent one is the container's own `/dev/null`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Streams<'a> {
    /// 0
    pub stdin: Option<BorrowedFd<'a>>,
    /// 1
    pub stdout: Option<BorrowedFd<'a>>,
    /// 2
    pub stderr: Option<BorrowedFd<'a>>,
}

/// Opens the slots of the plan and clones the child, which begins at once.
///
/// # Errors
/// A slot cannot be opened, or the clone failed; nothing is left behind.
pub fn spawn(birth: &Birth<'_>) -> Result<Newborn, Error> {
    let _ = birth;
    Err(Error::unfinished())
}
