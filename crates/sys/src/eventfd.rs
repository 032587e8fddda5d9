//! A counter that can be waited for: what cgroup v1 signals out-of-memory events on.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::EventfdFlags;

use crate::Errno;

/// Makes an event counter at zero, non-blocking.
///
/// # Errors
/// The errno of `eventfd2`.
pub fn eventfd() -> Result<OwnedFd, Errno> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

/// Takes the count and sets it back to zero; 0 when nothing had happened.
///
/// # Errors
/// The errno of `read`, except `EAGAIN`.
pub fn take(counter: impl AsFd) -> Result<u64, Errno> {
    let mut count = [0; 8];
    match rustix::io::retry_on_intr(|| rustix::io::read(counter.as_fd(), &mut count)) {
        Ok(_) => Ok(u64::from_ne_bytes(count)),
        Err(Errno::AGAIN) => Ok(0),
        Err(errno) => Err(errno),
    }
}
