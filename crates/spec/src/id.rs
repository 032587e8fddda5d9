//! Names that become file names: container, exec and containerd namespace ids, checked once.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The id as given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(id: &str) -> Result<Self, InvalidId> {
                check(id).map(|()| Self(id.to_owned()))
            }
        }
    };
}

id! {
    /// A container, unique in its containerd namespace.
    ContainerId
}
id! {
    /// A process executed in a container, unique in it.
    ExecId
}
id! {
    /// containerd's tenancy label (not a kernel namespace).
    ContainerdNamespace
}

/// Why a string cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("id {id:?}: {reason}")]
pub struct InvalidId {
    id: String,
    reason: &'static str,
}

// The character set of runc and crun: letters, digits, `_+-.`, not starting with a dot, so that an id is
// always a plain file name.
fn check(id: &str) -> Result<(), InvalidId> {
    let reason = if id.is_empty() {
        "is empty"
    } else if id.len() > 255 {
        "is longer than 255 bytes"
    } else if id.starts_with('.') {
        "starts with a dot"
    } else if !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b)) {
        "has a character besides letters, digits and _ + - ."
    } else {
        return Ok(());
    };
    Err(InvalidId { id: id.to_owned(), reason })
}
