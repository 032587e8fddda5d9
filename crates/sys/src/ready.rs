//! Descriptors that an event loop waits for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

pub use tokio::io::Interest;
pub use tokio::io::unix::AsyncFd;

/// Registers a duplicate of `fd` with the event loop of this thread.
///
/// The duplicate names the same open file, so what is ready on one is ready on the other.
///
/// # Errors
/// Descriptors are exhausted, or the kernel cannot wait for this kind (`EPERM` for regular files).
pub fn watch(fd: impl AsFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.as_fd().try_clone_to_owned()?;
    // SAFETY: an OwnedFd always answers with the same descriptor and keeps it open until it is dropped, which
    // the AsyncFd does itself after it has deregistered.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(|error| error.into_parts().1)
}
