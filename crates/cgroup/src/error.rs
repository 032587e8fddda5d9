//! What can go wrong with a cgroup, and what was refused without stopping anything.

use std::fmt;
use std::path::PathBuf;

use dunnage_sys::{Errno, error::Named};

use crate::controller::Controller;

/// A cgroup could not be made, changed or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed; the text has the call, the value and the file.
    #[error(transparent)]
    Kernel(#[from] dunnage_sys::Error),
    /// As [`Error::Kernel`], with what is known about the reason.
    #[error("{call} ({reason})")]
    Explained {
        /// The call.
        call: dunnage_sys::Error,
        /// Such as `usage is 5242880 bytes`.
        reason: String,
    },
    /// There is no cgroup mount at all.
    #[error("no cgroup filesystem is mounted at /sys/fs/cgroup or listed in /proc/self/mountinfo")]
    NoCgroups,
    /// A limit was asked for that needs a controller which is not there.
    #[error("{wanted} needs the {controller} controller, which is not enabled in {}{reason}", place.display())]
    NoController {
        /// The file or what was asked for.
        wanted: String,
        /// Such as `memory`.
        controller: Controller,
        /// The cgroup.
        place: PathBuf,
        /// What hindered enabling it, after a colon; empty when nobody tried.
        reason: String,
    },
    /// The values contradict each other or cannot be expressed.
    #[error("{0}")]
    Invalid(String),
    /// `checkBeforeUpdate`: the new limit is below what is in use.
    #[error("{file} of {limit} bytes is below the present usage of {usage} bytes")]
    BelowUsage {
        /// The limit's file.
        file: &'static str,
        /// Bytes.
        limit: u64,
        /// Bytes.
        usage: u64,
    },
    /// The cgroup exists and has processes in it.
    #[error("cgroup {} is not empty: {processes} processes are in it", path.display())]
    NotEmpty {
        /// Relative to the root of the hierarchies.
        path: PathBuf,
        /// How many.
        processes: usize,
    },
    /// The cgroup exists and is frozen: a process that joins it would stop at once.
    #[error("cgroup {} is frozen", .0.display())]
    Frozen(PathBuf),
    /// systemd refused a call about a unit, or could not do what it had accepted.
    #[error("systemd: {call} {unit}: {reason}")]
    Systemd {
        /// Such as `StartTransientUnit`.
        call: &'static str,
        /// The unit's name.
        unit: String,
        /// In systemd's words.
        reason: String,
        /// Of what kind its refusal is.
        kind: ErrorKind,
    },
    /// Something that dunnage does not do yet.
    #[error("{0} is not implemented")]
    Unimplemented(&'static str),
}

/// What kind of failure an [`Error`] is, for decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong or cannot be met as it is.
    Invalid,
    /// The state of the cgroup does not allow it now.
    Precondition,
    /// The cgroup is gone.
    NotFound,
    /// The kernel does not let this process do it.
    Denied,
    /// Not done by this version or on this machine.
    Unimplemented,
    /// Anything else the kernel said.
    Internal,
}

/// What the fallible functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For decisions; the text is for people.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            // A limit's file that this kernel does not have; the cgroup itself is there.
            Self::Explained { call, .. } if call.errno() == Errno::NOENT => ErrorKind::Unimplemented,
            Self::Kernel(call) | Self::Explained { call, .. } => kind(call.errno()),
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Systemd { kind, .. } => *kind,
            Self::BelowUsage { .. } | Self::NotEmpty { .. } | Self::Frozen(_) => ErrorKind::Precondition,
            Self::NoCgroups | Self::NoController { .. } | Self::Unimplemented(_) => ErrorKind::Unimplemented,
        }
    }

    /// The errno, when a system call was the reason.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel(call) | Self::Explained { call, .. } => Some(call.errno()),
            _ => None,
        }
    }
}

fn kind(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT | Errno::NODEV => ErrorKind::NotFound,
        Errno::PERM | Errno::ACCESS | Errno::ROFS => ErrorKind::Denied,
        Errno::BUSY => ErrorKind::Precondition,
        Errno::INVAL | Errno::RANGE | Errno::NOSPC => ErrorKind::Invalid,
        Errno::OPNOTSUPP | Errno::NOSYS => ErrorKind::Unimplemented,
        _ => ErrorKind::Internal,
    }
}

/// A value that was not written and did not have to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Such as `cpu.weight`.
    pub file: String,
    /// As it would have been written.
    pub value: String,
    /// What the kernel said, or would have said.
    pub errno: Errno,
    /// Why that is no failure.
    pub what: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, value, errno, what } = self;
        write!(f, "{file} = {value:?} was not set: {what}: {}", Named(*errno))
    }
}
