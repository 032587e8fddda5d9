//! The result of `libc::syscall`, for the calls that rustix lacks or that libc would broadcast to all threads, and
//! the one call that has none.

use std::ffi::{c_int, c_long};

use crate::Errno;

/// What a raw call returned, or the errno it left.
pub(crate) fn outcome(returned: c_long) -> Result<usize, Errno> {
    usize::try_from(returned).map_err(|_| last_errno())
}

/// As [`outcome`], for calls that give an `int`.
pub(crate) fn outcome_of_int(returned: c_int) -> Result<usize, Errno> {
    outcome(c_long::from(returned))
}

/// `exit_group`, without what libc does at exit.
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: the call has no precondition; it does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, i32::from(status)) };
    }
}

fn last_errno() -> Errno {
    // Holds only the number: nothing is allocated, so the cloned child may come here.
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
