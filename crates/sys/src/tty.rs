//! Pseudo terminals by descriptor: never by the name `/dev/pts/N`, which can be replaced (CVE-2025-52565).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::Errno;
use crate::raw::outcome_of_int;

/// The other end of an open master, unlocked and opened without becoming anybody's controlling terminal.
///
/// # Errors
/// `ENOTTY` when it is no master.
pub fn peer(master: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::pty::unlockpt(master.as_fd())?;
    rustix::pty::ioctl_tiocgptpeer(
        master.as_fd(),
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
}

/// Size in characters.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn set_size(terminal: impl AsFd, rows: u16, columns: u16) -> Result<(), Errno> {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
}

/// Makes it the controlling terminal of the session that the caller leads.
///
/// # Errors
/// `EPERM` when the caller leads no session or has a terminal already.
pub fn set_controlling(terminal: impl AsFd) -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes an int by value; 0 steals from nobody.
    outcome_of_int(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}
