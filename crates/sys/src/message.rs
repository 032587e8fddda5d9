//! A pair of `SOCK_SEQPACKET` sockets: whole messages, an end of file when the other side is gone, and one
//! descriptor along with a message.
//!
//! Sending and receiving bytes is `write` and `read`, which every seccomp profile allows; only a descriptor
//! needs `sendmsg`. Nothing allocates.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::Errno;

/// Two connected sockets, both close-on-exec.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends a message without raising `SIGPIPE`.
///
/// # Errors
/// `EPIPE` or `ECONNRESET` when the other side is gone.
pub fn send(socket: impl AsFd, message: &[u8]) -> Result<(), Errno> {
    loop {
        match rustix::net::send(socket.as_fd(), message, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

/// Sends a message and a copy of `fd`.
///
/// # Errors
/// As [`send`].
pub fn send_with(socket: impl AsFd, message: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Receives one message, and the descriptor that came with it, without waiting; 0 is the end of file.
///
/// # Errors
/// `EAGAIN` when there is none yet.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket.as_fd(), &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(received) => return Ok((received.bytes, first_descriptor(&mut control))),
        }
    }
}

/// Waits until there is something to receive, the end of file too; `false` when `timeout` passed first.
///
/// # Errors
/// None that a correct kernel gives.
pub fn await_readable(socket: impl AsFd, timeout: Duration) -> Result<bool, Errno> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            result => return result.map(|ready| ready > 0),
        }
    }
}

fn first_descriptor(control: &mut RecvAncillaryBuffer<'_>) -> Option<OwnedFd> {
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_borders_and_descriptors_travel_along() {
        let (here, there) = pair().unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receive(&here, &mut buffer).unwrap_err(), Errno::AGAIN);
        send(&there, b"one").unwrap();
        send_with(&there, b"two", std::fs::File::open("/dev/null").unwrap().as_fd()).unwrap();
        let (length, fd) = receive(&here, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fd.is_some()), (&b"one"[..], false));
        let (length, fd) = receive(&here, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fd.is_some()), (&b"two"[..], true));
        drop(there);
        assert_eq!(receive(&here, &mut buffer).unwrap().0, 0);
    }
}
