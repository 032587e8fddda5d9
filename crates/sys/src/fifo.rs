//! A fifo held open at both ends (fifo(7)): it never sees an end of file and never breaks, so what is written
//! while nobody reads waits in the kernel's buffer for the next reader.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use crate::{Call, Errno, Error, Result};

/// Opens the fifo at `path`; writes do not block, and fail with `EAGAIN` when its buffer is full.
///
/// # Errors
/// The failed `open`; `EINVAL` when it is no fifo.
pub fn open_both_ends(path: &Path) -> Result<File> {
    let name = || format!("open {}", path.display());
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, Mode::empty()).call(name)?;
    let stat = rustix::fs::fstat(&fd).call(name)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err(Error::new(format!("{} as a fifo", name()), Errno::INVAL));
    }
    Ok(File::from(fd))
}

/// Makes a fifo that only its owner can use.
///
/// # Errors
/// The failed `mkfifo`, such as `EEXIST`.
pub fn make(path: &Path) -> Result<()> {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .call(|| format!("mkfifo {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_nobody_reads_waits_and_a_full_fifo_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        make(&path).unwrap();
        let mut fifo = open_both_ends(&path).unwrap();
        fifo.write_all(b"first").unwrap();
        let mut reader = open_both_ends(&path).unwrap();
        let mut text = [0; 5];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"first");
        let full = loop {
            if let Err(error) = fifo.write(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(open_both_ends(file.path()).unwrap_err().errno(), Errno::INVAL);
    }
}
