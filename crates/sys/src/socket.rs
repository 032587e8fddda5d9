//! Unix sockets that processes hand to each other: a listener inherited by number, and whether somebody still
//! accepts behind a path (unix(7)).

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::{Call, Errno, Error, Result};

/// Takes the listening socket that the parent process left open as descriptor `number`, and marks it to be
/// closed on exec.
///
/// To be called once for a number and before anything in this process opens descriptors, since the number then
/// still means what the parent left there.
///
/// # Errors
/// `EBADF` when it is not open, `ENOTSOCK` when it is something else, `EINVAL` when it does not listen.
pub fn inherited_listener(number: RawFd) -> Result<UnixListener> {
    let name = || format!("inherit the listening socket {number}");
    // SAFETY: fcntl only looks at the descriptor table, and any number is allowed.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(Error::new(name(), Errno::BADF));
    }
    // SAFETY: it is open, as was just seen, and the borrow ends before anybody could close it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if !rustix::net::sockopt::socket_acceptconn(borrowed).call(name)? {
        return Err(Error::new(name(), Errno::INVAL));
    }
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC).call(name)?;
    // SAFETY: it is open, and nothing else in this process owns it: nothing has been opened yet, so it is the
    // parent's gift.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(UnixListener::from(owned))
}

/// Whether a process accepts connections on the socket at `path`. Does not wait.
///
/// # Errors
/// Calls that fail for reasons of their own, such as `EACCES`.
pub fn is_alive(path: &Path) -> Result<bool> {
    let name = || format!("connect {}", path.display());
    let address = SocketAddrUnix::new(path).call(name)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).call(|| "socket")?;
    match rustix::net::connect(&socket, &address) {
        // EAGAIN: its queue is full, so it lives.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTSOCK) => Ok(false),
        Err(errno) => Err(Error::new(name(), errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_listener_is_taken_by_its_number_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = inherited_listener(UnixListener::bind(&path).unwrap().into_raw_fd()).unwrap();
        let flags = rustix::io::fcntl_getfd(listener.as_fd()).unwrap();
        assert!(flags.contains(FdFlags::CLOEXEC));
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();

        let (connected, _peer) = UnixStream::pair().unwrap();
        assert_eq!(inherited_listener(connected.as_raw_fd()).unwrap_err().errno(), Errno::INVAL);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(inherited_listener(file.as_raw_fd()).unwrap_err().errno(), Errno::NOTSOCK);
        assert_eq!(inherited_listener(987).unwrap_err().errno(), Errno::BADF);
    }

    #[test]
    fn a_socket_is_alive_while_its_listener_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(!is_alive(&path).unwrap());
        let listener = UnixListener::bind(&path).unwrap();
        assert!(is_alive(&path).unwrap());
        drop(listener);
        assert!(!is_alive(&path).unwrap());
    }
}
