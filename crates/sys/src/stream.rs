//! Fifos and files that become a process's streams (fifo(7)).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};

use crate::{Call, Result};

/// Opens the reading end at once, whether or not somebody writes; reads do not block.
///
/// # Errors
/// The failed `open`.
pub fn open_reader(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::NONBLOCK)
}

/// Opens the writing end. Fails with ENXIO when nobody reads, instead of waiting; writes do not block.
///
/// # Errors
/// The failed `open`.
pub fn open_writer(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::WRONLY | OFlags::NONBLOCK)
}

/// Opens the writing end of the fifo whose reading end is `reader`, whatever its path is by now; writes do not
/// block.
///
/// # Errors
/// The failed `open`.
pub fn open_writer_of(reader: impl AsFd) -> Result<OwnedFd> {
    open_writer(Path::new(&format!("/proc/self/fd/{}", reader.as_fd().as_raw_fd())))
}

/// Opens a regular file for appending, made with mode 0644 when it does not exist.
///
/// # Errors
/// The failed `open`.
pub fn open_append(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).call(|| format!("open {}", path.display()))
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
        .call(|| format!("open {}", path.display()))
}

/// Makes reads and writes through this open file wait, as a program expects of its streams.
///
/// # Errors
/// The failed `fcntl`.
pub fn set_blocking(fd: impl AsFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd).call(|| "fcntl F_GETFL")?;
    rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK).call(|| "fcntl F_SETFL")
}

/// Makes reads and writes through this open file return at once (`EAGAIN`).
///
/// # Errors
/// The failed `fcntl`.
pub fn set_nonblocking(fd: impl AsFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd).call(|| "fcntl F_GETFL")?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).call(|| "fcntl F_SETFL")
}

/// Whether the path names a fifo.
///
/// # Errors
/// The failed `stat`.
pub fn is_fifo(path: &Path) -> Result<bool> {
    let stat = rustix::fs::stat(path).call(|| format!("stat {}", path.display()))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// Bytes that were written and that nobody has read yet (`FIONREAD`).
///
/// # Errors
/// The errno.
pub fn unread(fd: impl AsFd) -> std::result::Result<u64, crate::Errno> {
    rustix::io::ioctl_fionread(fd)
}

/// Whether somebody holds the reading end of the fifo that `writer` writes to (`POLLERR` says that nobody does).
///
/// # Errors
/// The errno of `poll`.
pub fn has_reader(writer: impl AsFd) -> std::result::Result<bool, crate::Errno> {
    let mut ends = [PollFd::new(&writer, PollFlags::empty())];
    rustix::event::poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!ends[0].revents().contains(PollFlags::ERR))
}

/// Reads into `buffer`; the number of bytes, 0 at the end.
///
/// # Errors
/// The errno, `EAGAIN` when there is nothing yet.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> std::result::Result<usize, crate::Errno> {
    rustix::io::read(fd, buffer)
}

/// Writes some of `bytes`; the number of bytes taken.
///
/// # Errors
/// The errno, `EAGAIN` when nothing can be taken now.
pub fn write(fd: impl AsFd, bytes: &[u8]) -> std::result::Result<usize, crate::Errno> {
    rustix::io::write(fd, bytes)
}
