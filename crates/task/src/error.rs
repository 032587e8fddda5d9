//! Why a command could not be carried out, and of what kind that is for the caller.

use dunnage_spec::{ContainerId, ExecId};

use crate::state::Denied;

/// A refused or failed command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id is taken.
    #[error("container {0}: already exists")]
    Exists(ContainerId),
    /// The exec id is taken.
    #[error("exec {1} of container {0}: already exists")]
    ExecExists(ContainerId, ExecId),
    /// Nobody has this id.
    #[error("container {0}: not found")]
    NotFound(ContainerId),
    /// Nobody has this exec id.
    #[error("exec {1} of container {0}: not found")]
    ExecNotFound(ContainerId, ExecId),
    /// It does not fit the state.
    #[error("container {id}: {denied}")]
    Denied {
        /// Container.
        id: ContainerId,
        /// Reason.
        denied: Denied,
    },
    /// An exec wants an init that is not there any more.
    #[error("container {0}: init process is not running")]
    InitGone(ContainerId),
    /// The signal found nobody.
    #[error("container {0}: process already finished")]
    Finished(ContainerId),
    /// The spec has no process, so there is nothing to start.
    #[error("container {0}: config.json has no process to start")]
    NoProcess(ContainerId),
    /// config.json.
    #[error(transparent)]
    Bundle(#[from] dunnage_spec::Error),
    /// A plan could not be made of the spec.
    #[error(transparent)]
    Plan(#[from] dunnage_plan::Error),
    /// The process could not be made.
    #[error("OCI runtime {verb} failed: {source}")]
    Birth {
        /// `create`, `start` or `exec`: Docker, nerdctl and their users match on these words.
        verb: &'static str,
        /// Why.
        source: dunnage_init::Error,
    },
    /// The cgroup refused.
    #[error(transparent)]
    Cgroup(#[from] dunnage_cgroup::Error),
    /// Killed processes did not leave it in time.
    #[error("cgroup {0}: processes are still in it")]
    StillBusy(std::path::PathBuf),
    /// It did not stop running in time.
    #[error("container {0}: did not freeze in {1:?}; it runs on")]
    NotFrozen(ContainerId, std::time::Duration),
    /// A stream could not be opened.
    #[error(transparent)]
    Stdio(#[from] crate::stdio::Error),
    /// The root file system could not be mounted.
    #[error(transparent)]
    Rootfs(#[from] crate::rootfs::Error),
    /// The record could not be written.
    #[error(transparent)]
    Record(#[from] crate::record::Error),
    /// A system call outside all of these.
    #[error(transparent)]
    System(#[from] dunnage_sys::Error),
    /// Not there yet.
    #[error("{0} is not supported yet")]
    Unsupported(&'static str),
    /// The sandbox is shutting down.
    #[error("the shim is shutting down")]
    Closing,
}

/// What the RPC layer decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The id is taken.
    AlreadyExists,
    /// No such container or process.
    NotFound,
    /// Not in this state.
    FailedPrecondition,
    /// The request can never work.
    InvalidArgument,
    /// A feature that does not exist yet.
    Unimplemented,
    /// Something ran out.
    ResourceExhausted,
    /// The shim is going away.
    Unavailable,
    /// Everything else; containerd's own shims answer UNKNOWN.
    Unknown,
}

impl Error {
    /// What the RPC layer decides by.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Exists(_) | Self::ExecExists(..) => ErrorKind::AlreadyExists,
            Self::NotFound(_) | Self::ExecNotFound(..) | Self::Finished(_) => ErrorKind::NotFound,
            Self::Denied { denied: Denied::Finished, .. } => ErrorKind::NotFound,
            Self::Denied { .. } | Self::InitGone(_) | Self::NoProcess(_) => ErrorKind::FailedPrecondition,
            Self::Bundle(error) => match error.kind() {
                dunnage_spec::ErrorKind::InvalidArgument => ErrorKind::InvalidArgument,
                dunnage_spec::ErrorKind::Unimplemented => ErrorKind::Unimplemented,
                dunnage_spec::ErrorKind::Io => ErrorKind::Unknown,
            },
            Self::Plan(_) => ErrorKind::InvalidArgument,
            Self::Unsupported(_) => ErrorKind::Unimplemented,
            Self::Closing => ErrorKind::Unavailable,
            Self::Stdio(error) if error.is_unsupported() => ErrorKind::Unimplemented,
            Self::Birth { .. }
            | Self::Cgroup(_)
            | Self::StillBusy(_)
            | Self::NotFrozen(..)
            | Self::Stdio(_)
            | Self::Rootfs(_)
            | Self::Record(_)
            | Self::System(_) => ErrorKind::Unknown,
        }
    }
}

/// What commands return.
pub type Result<T> = std::result::Result<T, Error>;
