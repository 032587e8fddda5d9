//! What can go wrong at a birth, as a sentence and as a kind.

/// A birth failed: `{step}: {errno}`, or the call of the parent that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// What an [`Error`] is, for decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The spec asks for something that cannot be.
    InvalidArgument,
    /// The program, or a file the spec names, does not exist.
    NotFound,
    /// The program may not be executed.
    PermissionDenied,
    /// The kernel lacks it.
    Unsupported,
    /// Out of memory, processes, descriptors or namespaces.
    ResourceExhausted,
    /// Anything else.
    Internal,
}

impl Error {
    /// For decisions; nothing may decide by the text.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn unfinished() -> Self {
        Self { kind: ErrorKind::Unsupported, message: "spawn is not written yet".into() }
    }
}
