//! A file of a container's root file system, read from outside: the image decides what its name leads to and
//! how long it is, so links stay inside the root and the length is bounded.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use crate::{Call, Errno, Error, Result, open};

/// Reads at most `limit` bytes of the regular file `path` below `root`.
///
/// # Errors
/// The failed call; `EINVAL` when it is no regular file, `EFBIG` when it is longer.
pub fn read(root: &Path, path: &Path, limit: usize) -> Result<Vec<u8>> {
    let name = || format!("read {} in {}", path.display(), root.display());
    let dir = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .call(name)?;
    let relative = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::new(name(), Errno::INVAL))?;
    // NONBLOCK: opening a fifo that the image put there must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open::in_root(&dir, &relative, flags, Mode::empty()).call(name)?;
    let stat = rustix::fs::fstat(&file).call(name)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(name(), Errno::INVAL));
    }
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        match rustix::io::read(&file, &mut chunk).call(name)? {
            0 => return Ok(bytes),
            count if bytes.len() + count > limit => return Err(Error::new(name(), Errno::FBIG)),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}
