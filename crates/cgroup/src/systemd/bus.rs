//! A connection to systemd itself: no bus daemon is between, and none has to run.
//!
//! systemd listens on a socket of its own for root, which `systemctl` uses too. There it takes calls without any
//! greeting beyond the authentication, and tells everybody of every job, so a connection lives no longer than
//! what it was made for.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use dunnage_sys::Errno;
use dunnage_sys::process::effective_ids;

use super::message::{self, Argument, Heard};

const SOCKET: &str = "/run/systemd/private";

/// What a caller that has to wait allows: systemd answers within milliseconds, unless it has hundreds of
/// units to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing was heard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silence {
    #[error("{0} {SOCKET}: {errno}", errno = dunnage_sys::error::Named(*.1))]
    Call(&'static str, Errno),
    #[error("systemd closed the connection")]
    Closed,
    #[error("systemd refused the authentication: {0}")]
    Stranger(String),
    #[error("what came over {SOCKET} is no D-Bus")]
    Garbled,
    #[error("systemd did not answer within {} s", PATIENCE.as_secs())]
    Late,
}

/// A refusal by systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Such as `org.freedesktop.systemd1.NoSuchUnit`.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    /// Calls that wait for the end of the authentication.
    unsent: Option<Vec<u8>>,
    serial: u32,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Connection {
    pub(crate) fn open() -> Result<Self, Silence> {
        let stream = UnixStream::connect(SOCKET).map_err(|error| Silence::Call("connect", errno(&error)))?;
        Self::over(stream)
    }

    pub(super) fn over(stream: UnixStream) -> Result<Self, Silence> {
        stream.set_nonblocking(true).map_err(|error| Silence::Call("set non-blocking", errno(&error)))?;
        let mut connection = Self { stream, received: Vec::new(), unsent: Some(Vec::new()), serial: 0 };
        connection.write(&message::authentication(effective_ids().0))?;
        Ok(connection)
    }

    /// Sends a call, or keeps it until the authentication is over; gives the number that its answer will carry.
    pub(crate) fn send(&mut self, member: &str, arguments: &[Argument<'_>]) -> Result<u32, Silence> {
        self.serial += 1;
        let call = message::call(self.serial, member, arguments);
        match &mut self.unsent {
            Some(unsent) => unsent.extend(call),
            None => self.write(&call)?,
        }
        Ok(self.serial)
    }

    /// The next message, if it is there. Does not wait, unless within [`Connection::call`].
    pub(crate) fn hear(&mut self) -> Result<Option<Heard>, Silence> {
        loop {
            self.finish_authentication()?;
            if self.unsent.is_none()
                && let Some((heard, length)) =
                    message::parse(&self.received).map_err(|message::Garbled| Silence::Garbled)?
            {
                self.received.drain(..length);
                return Ok(Some(heard));
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Silence::Closed),
                Ok(length) => self.received.extend(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Silence::Call("read from", errno(&error))),
            }
        }
    }

    /// Calls and waits for the answer.
    pub(crate) fn call(
        &mut self,
        member: &str,
        arguments: &[Argument<'_>],
    ) -> Result<Result<(), Refusal>, Silence> {
        let wait = |error: std::io::Error| Silence::Call("set a timeout on", errno(&error));
        self.stream.set_nonblocking(false).map_err(wait)?;
        self.stream.set_read_timeout(Some(PATIENCE)).map_err(wait)?;
        let serial = self.send(member, arguments)?;
        let end = Instant::now() + PATIENCE;
        // Signals of other units come in between, on a busy machine for as long as one cares to listen.
        while Instant::now() < end {
            match self.hear()? {
                Some(Heard::Returned { to, .. }) if to == serial => return Ok(Ok(())),
                Some(Heard::Refused { to, name, text }) if to == serial => {
                    return Ok(Err(Refusal { name, text }));
                }
                Some(_) => {}
                None => break,
            }
        }
        Err(Silence::Late)
    }

    fn finish_authentication(&mut self) -> Result<(), Silence> {
        let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") else { return Ok(()) };
        let Some(unsent) = self.unsent.take() else { return Ok(()) };
        let line: Vec<u8> = self.received.drain(..end + 2).collect();
        // What follows is an id of the server that nobody needs.
        if !line.starts_with(b"OK ") {
            return Err(Silence::Stranger(String::from_utf8_lossy(&line).trim().to_owned()));
        }
        self.write(&unsent)
    }

    /// The kernel's buffer takes a hundred calls; one that it does not take means that systemd is stuck.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Silence> {
        self.stream.write_all(bytes).map_err(|error| Silence::Call("write to", errno(&error)))
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::over(ours).unwrap(), theirs)
    }

    fn said(stream: &mut UnixStream) -> Vec<u8> {
        let mut buffer = vec![0; 4096];
        let length = stream.read(&mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    /// A method return to serial 1 without a body, recorded from systemd 257.
    #[cfg(target_endian = "little")]
    const RETURNED: &[u8] =
        b"l\x02\x01\x01\x00\x00\x00\x00\x05\x00\x00\x00\x08\x00\x00\x00\x05\x01u\x00\x01\x00\x00\x00";

    #[test]
    #[cfg(target_endian = "little")]
    fn calls_wait_for_the_end_of_the_authentication() {
        let (mut connection, mut systemd) = pair();
        let serial = connection.send("ResetFailedUnit", &[Argument::Text("a.scope")]).unwrap();
        assert!(said(&mut systemd).ends_with(b"BEGIN\r\n"));
        assert_eq!(connection.hear().unwrap(), None);
        systemd.write_all(b"OK 6a5a29d1").unwrap();
        assert_eq!(connection.hear().unwrap(), None);
        systemd.write_all(b"1c0d\r\n").unwrap();
        assert_eq!(connection.hear().unwrap(), None);
        assert_eq!(
            said(&mut systemd),
            message::call(serial, "ResetFailedUnit", &[Argument::Text("a.scope")])
        );
        for byte in RETURNED {
            assert_eq!(connection.hear().unwrap(), None);
            systemd.write_all(&[*byte]).unwrap();
        }
        assert_eq!(connection.hear().unwrap(), Some(Heard::Returned { to: 1, job: None }));
    }

    #[test]
    fn a_stranger_is_told_so() {
        let (mut connection, mut systemd) = pair();
        systemd.write_all(b"REJECTED\r\n").unwrap();
        let silence = connection.hear().unwrap_err();
        assert_eq!(silence.to_string(), "systemd refused the authentication: REJECTED");
    }

    #[test]
    fn a_closed_connection_and_another_protocol_are_told_apart() {
        let (mut connection, systemd) = pair();
        drop(systemd);
        assert!(matches!(connection.hear(), Err(Silence::Closed | Silence::Call("read from", _))));
        let (mut connection, mut other) = pair();
        other.write_all(b"OK 1\r\nHTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert!(matches!(connection.hear(), Err(Silence::Garbled)));
    }
}
