//! Whether a file could be made, without making one.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use crate::{Call, Errno, Result};

/// Whether a new file can be made in a directory, or in the nearest one above it that is there.
///
/// # Errors
/// `EROFS` or `EACCES` when it is not to be written to; `ENOSPC` when the file system is full.
pub fn has_room(dir: &Path) -> Result<()> {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    access(there, Access::WRITE_OK | Access::EXEC_OK).call(|| format!("write to {}", there.display()))?;
    let stat = statvfs(there).call(|| format!("statvfs {}", there.display()))?;
    // Zero blocks or inodes in all is how a file system says that it does not count them.
    let full = stat.f_blocks > 0 && stat.f_bavail == 0 || stat.f_files > 0 && stat.f_favail == 0;
    if full { Err(Errno::NOSPC).call(|| format!("write to {}", there.display())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_only_has_no_room() {
        assert!(has_room(&std::env::temp_dir().join("not/there/yet")).is_ok());
        let error = has_room(Path::new("/proc/self/not-there")).unwrap_err();
        assert!([Errno::ACCESS, Errno::PERM, Errno::ROFS].contains(&error.errno()), "{error}");
    }
}
