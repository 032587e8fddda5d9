//! Strings and paths of the spec as the C strings of a plan; every failure names its field.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::error::Error;

/// `bytes` as they are.
pub(crate) fn c_string(field: impl Into<String>, bytes: impl AsRef<[u8]>) -> Result<CString, Error> {
    CString::new(bytes.as_ref()).map_err(|_| Error::Nul { field: field.into() })
}

/// A host path, or a path after the pivot: as it is.
pub(crate) fn path(field: impl Into<String>, path: &Path) -> Result<CString, Error> {
    c_string(field, path.as_os_str().as_bytes())
}

/// A path in the container relative to its root: `/dev//pts/` is `dev/pts`. Never empty, never with `..`.
pub(crate) fn relative(field: impl Into<String>, path: &Path) -> Result<CString, Error> {
    let field = field.into();
    let mut bytes = Vec::with_capacity(path.as_os_str().len());
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                if !bytes.is_empty() {
                    bytes.push(b'/');
                }
                bytes.extend_from_slice(name.as_bytes());
            }
            Component::ParentDir => return Err(Error::invalid(field, "has `..`")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if bytes.is_empty() {
        return Err(Error::invalid(field, "is the container's root itself"));
    }
    c_string(field, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_container_loses_what_the_kernel_ignores() {
        assert_eq!(relative("f", Path::new("/dev//./pts/")).unwrap(), c"dev/pts".to_owned());
    }

    #[test]
    fn a_path_that_leads_up_or_nowhere_is_refused_by_its_field() {
        let up = relative("mounts[1].destination", Path::new("/a/../b")).unwrap_err();
        assert_eq!(up.to_string(), "mounts[1].destination: has `..`");
        let root = relative("mounts[1].destination", Path::new("/")).unwrap_err();
        assert_eq!(root.to_string(), "mounts[1].destination: is the container's root itself");
    }

    #[test]
    fn a_string_that_the_kernel_would_cut_is_refused_by_its_field() {
        let error = c_string("hostname", "a\0b").unwrap_err();
        assert_eq!(error.to_string(), "hostname: has a NUL byte");
    }
}
