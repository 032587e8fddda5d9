//! Extended attributes (xattr(7)), as far as somebody wants to know whether there is one.

use std::path::Path;

use crate::Errno;

/// Whether the file at `path`, itself and not what a link names, has an attribute of this name, with any value.
///
/// # Errors
/// The errno of `lgetxattr`, except `ENODATA`; `ENOTSUP` where the filesystem has no attributes.
pub fn exists(path: &Path, name: &str) -> Result<bool, Errno> {
    // Without a buffer it only asks for the length.
    let nothing: &mut [u8] = &mut [];
    match rustix::fs::lgetxattr(path, name, nothing) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_there_or_not_and_a_missing_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(exists(dir.path(), "trusted.dunnage-test"), Ok(false));
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(dir.path(), "trusted.dunnage-test", b"value", flags).unwrap();
        assert_eq!(exists(dir.path(), "trusted.dunnage-test"), Ok(true));
        assert_eq!(exists(&dir.path().join("none"), "trusted.dunnage-test"), Err(Errno::NOENT));
    }
}
