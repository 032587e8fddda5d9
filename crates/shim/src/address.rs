//! Where the serving process of a group listens.
//!
//! The name is a hash that every shim computes alike, so a shim of a group finds the one that is there already,
//! of whatever version. containerd's Go shims use the same rule.

use std::fmt;
use std::path::{Path, PathBuf};

use dunnage_spec::{ContainerId, ContainerdNamespace};
use sha2::{Digest, Sha256};

/// Where sockets are when containerd does not say.
pub(crate) const DEFAULT_DIRECTORY: &str = "/run/containerd/s";
const SCHEME: &str = "unix://";
/// What fits a `sockaddr_un` with its final NUL, less one to be on the safe side of other implementations
/// (unix(7)).
const LONGEST: usize = 106;

/// The socket of a serving process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(PathBuf);

/// Why a socket cannot be where it should.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// `sockaddr_un` is small.
    #[error("socket path {0} is longer than {LONGEST} bytes")]
    TooLong(PathBuf),
    /// Not `unix:///…`.
    #[error("address {0:?} is no unix:// path")]
    NoUnixPath(String),
}

impl Address {
    /// The address of a group. `containerd` is containerd's own socket, which keeps two containerds on one
    /// machine apart.
    pub(crate) fn of_group(
        directory: &Path,
        containerd: &str,
        namespace: &ContainerdNamespace,
        group: &ContainerId,
    ) -> Result<Self, AddressError> {
        let name = joined([containerd, namespace.as_str(), group.as_str()]);
        let hash = Sha256::digest(name.as_bytes());
        let path = directory.join(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        if path.as_os_str().len() > LONGEST {
            return Err(AddressError::TooLong(path));
        }
        Ok(Self(path))
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, AddressError> {
        let path = text.strip_prefix(SCHEME).filter(|path| path.starts_with('/'));
        path.map(|path| Self(path.into())).ok_or_else(|| AddressError::NoUnixPath(text.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The directory all sockets are in.
    pub(crate) fn directory(&self) -> &Path {
        self.0.parent().unwrap_or(Path::new("/"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the scheme containerd would take it for the name of an abstract socket.
        write!(f, "{SCHEME}{}", self.0.display())
    }
}

/// Go's `filepath.Join`: joined with slashes, without empty parts, `.`, `..` and double slashes.
fn joined(parts: [&str; 3]) -> String {
    let joined = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    let absolute = joined.starts_with('/');
    let mut clean: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." if clean.last().is_some_and(|last| *last != "..") => {
                clean.pop();
            }
            ".." if absolute => {}
            part => clean.push(part),
        }
    }
    format!("{}{}", if absolute { "/" } else { "" }, clean.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_group(directory: &str) -> Result<Address, AddressError> {
        let containerd = "/run/containerd/containerd.sock";
        Address::of_group(
            Path::new(directory),
            containerd,
            &"k8s.io".parse().unwrap(),
            &"abc".parse().unwrap(),
        )
    }

    #[test]
    fn the_address_is_the_hash_that_other_shims_compute() {
        // printf /run/containerd/containerd.sock/k8s.io/abc | sha256sum
        let hash = "a99a1752d3a0fadfb1f869026f16760475df03a572e20f4ccea9e6c1e5470b72";
        let address = of_group(DEFAULT_DIRECTORY).unwrap();
        assert_eq!(address.to_string(), format!("unix:///run/containerd/s/{hash}"));
        assert_eq!(Address::parse(&address.to_string()), Ok(address));
    }

    #[test]
    fn the_longest_directory_of_containerd_fits_and_a_longer_one_is_refused() {
        assert!(of_group(&format!("/{}", "d".repeat(40))).is_ok());
        assert!(matches!(of_group(&format!("/{}", "d".repeat(41))), Err(AddressError::TooLong(_))));
    }

    #[test]
    fn parts_are_joined_as_go_joins_them() {
        for (parts, expected) in [
            (["/a/", "b", "c"], "/a/b/c"),
            (["", "b", "c"], "b/c"),
            (["/a//./x/..", "b", "c"], "/a/b/c"),
            (["/../a", "b", "c"], "/a/b/c"),
            (["../a", "b", "c"], "../a/b/c"),
        ] {
            assert_eq!(joined(parts), expected, "{parts:?}");
        }
    }

    #[test]
    fn only_unix_paths_are_addresses() {
        for text in ["/run/s", "unix://", "unix://relative", "vsock://1:2"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
