//! Why a checked spec still cannot become a plan: it contradicts itself across fields, or the host cannot do
//! what it asks.

/// A spec that cannot be lowered; names the field of `config.json`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A string with a NUL byte would be cut by the kernel.
    #[error("{field}: has a NUL byte")]
    Nul {
        /// Such as `mounts[3].destination`.
        field: String,
    },
    /// The field can never work, alone or together with another.
    #[error("{field}: {reason}")]
    Invalid {
        /// Such as `process.args[0]`.
        field: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The field asks for what this host does not have.
    #[error("{field}: {reason}")]
    Host {
        /// Such as `process.apparmorProfile`.
        field: String,
        /// What is missing.
        reason: &'static str,
    },
    /// The filter cannot be compiled.
    #[error("linux.seccomp: {0}")]
    Seccomp(#[source] dunnage_seccomp::Error),
}

/// What an [`Error`] is, for decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The spec can never work.
    InvalidArgument,
    /// It may work on another host.
    Unsupported,
}

impl Error {
    /// What the RPC layer decides by.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Nul { .. } | Self::Invalid { .. } | Self::Seccomp(_) => ErrorKind::InvalidArgument,
            Self::Host { .. } => ErrorKind::Unsupported,
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: &'static str) -> Self {
        Self::Invalid { field: field.into(), reason }
    }

    pub(crate) fn host(field: impl Into<String>, reason: &'static str) -> Self {
        Self::Host { field: field.into(), reason }
    }
}
