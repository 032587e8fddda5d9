//! Why a document cannot be used: which file, which field, which line, and what kind of refusal it is.

use std::fmt;

/// Why a bundle, a process or a resources document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file could not be read: `read /bundle/config.json: ENOENT (No such file or directory)`.
    #[error(transparent)]
    Io(#[from] dunnage_sys::Error),
    /// The document is no JSON, or a value has another type than its field.
    #[error("{document}: {path}{message}")]
    Json {
        /// `config.json`, `process` or `resources`.
        document: &'static str,
        /// Path of the field with `: ` behind it; empty when the document as a whole is broken.
        path: String,
        /// What is wrong, with line and column.
        message: String,
    },
    /// A field has a value that can never work, or that dunnage does not do.
    #[error("{document}: {refusal}")]
    Refused {
        /// `config.json`, `process` or `resources`.
        document: &'static str,
        /// The field and the reason.
        refusal: Refusal,
    },
}

impl Error {
    /// What the RPC layer decides by.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io(_) => ErrorKind::Io,
            Self::Json { .. } => ErrorKind::InvalidArgument,
            Self::Refused { refusal, .. } => refusal.kind,
        }
    }
}

/// What the RPC layer decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller gave something that can never work.
    InvalidArgument,
    /// A feature dunnage does not have yet.
    Unimplemented,
    /// The file could not be read.
    Io,
}

/// A field that is refused: `linux.timeOffsets: time namespaces are not supported yet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    field: String,
    reason: String,
    kind: ErrorKind,
}

impl Refusal {
    /// Path of the field in the document, such as `mounts[3].options`.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return f.write_str(&self.reason);
        }
        write!(f, "{}: {}", self.field, self.reason)
    }
}

pub(crate) type Checked<T> = Result<T, Refusal>;

pub(crate) fn invalid<T>(field: impl Into<String>, reason: impl Into<String>) -> Checked<T> {
    Err(Refusal { field: field.into(), reason: reason.into(), kind: ErrorKind::InvalidArgument })
}

pub(crate) fn unsupported<T>(field: impl Into<String>, feature: &str) -> Checked<T> {
    let reason = format!("{feature} not supported yet");
    Err(Refusal { field: field.into(), reason, kind: ErrorKind::Unimplemented })
}

/// Puts the parent's name before the field of a refusal, so that each check names only its own members.
pub(crate) trait Within<T> {
    fn within<P: AsRef<str>>(self, parent: impl FnOnce() -> P) -> Checked<T>;
}

impl<T> Within<T> for Checked<T> {
    fn within<P: AsRef<str>>(self, parent: impl FnOnce() -> P) -> Self {
        self.map_err(|refusal| {
            let parent = parent();
            let parent = parent.as_ref();
            let dot = if refusal.field.is_empty() || refusal.field.starts_with('[') { "" } else { "." };
            Refusal { field: format!("{parent}{dot}{}", refusal.field), ..refusal }
        })
    }
}
