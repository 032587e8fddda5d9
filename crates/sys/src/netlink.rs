//! `AF_NETLINK` sockets: plain, synchronous, one request at a time.
//!
//! Owns opening, the socket options and the two directions of bytes. Leaves every message format to the
//! caller. A socket belongs for its whole life to the network namespace of the thread that opened it, and can
//! be used from anywhere.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use crate::{Call, Errno, Result};

/// Answers that take longer than this are an error: a stuck kernel lock must not hang the caller for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Numbers of sockios.h and ethtool.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GLINK: u32 = 0x0a;

/// Which kernel subsystem a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsystem {
    /// Links, addresses, routes (`NETLINK_ROUTE`).
    Route,
    /// nftables and conntrack (`NETLINK_NETFILTER`).
    Netfilter,
}

/// One open netlink socket.
#[derive(Debug)]
pub struct NetlinkSocket {
    fd: OwnedFd,
    subsystem: Subsystem,
}

impl NetlinkSocket {
    /// Opens and binds a socket in the network namespace of the calling thread, with errors in words
    /// (`NETLINK_EXT_ACK`), short acks (`NETLINK_CAP_ACK`), and requests of dumps checked strictly.
    ///
    /// # Errors
    /// `socket`, `bind` or `setsockopt` failed; `EPROTONOSUPPORT` when the kernel lacks the subsystem.
    pub fn open(subsystem: Subsystem) -> Result<Self> {
        let protocol = match subsystem {
            Subsystem::Route => None,
            Subsystem::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .call(|| format!("open a {subsystem:?} netlink socket"))?;
        // Older kernels lack some of these options; each makes answers shorter or clearer, none is needed.
        let _ = set_flag(&fd, libc::NETLINK_EXT_ACK);
        let _ = set_flag(&fd, libc::NETLINK_CAP_ACK);
        let _ = set_flag(&fd, libc::NETLINK_GET_STRICT_CHK);
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_TIMEOUT))
            .call(|| "set SO_RCVTIMEO on a netlink socket")?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).call(|| format!("bind a {subsystem:?} netlink socket"))?;
        Ok(Self { fd, subsystem })
    }

    /// Sends one datagram of one or more messages to the kernel, which has handled all of them when this
    /// returns.
    ///
    /// # Errors
    /// `send` failed: the datagram is too large, or the kernel lacks a module (`EOPNOTSUPP`).
    pub fn send(&self, messages: &[u8]) -> Result<()> {
        send(&self.fd, messages, SendFlags::empty())
            .call(|| format!("send {} bytes to {:?} netlink", messages.len(), self.subsystem))?;
        Ok(())
    }

    /// Receives one datagram and gives its length.
    ///
    /// # Errors
    /// `EAGAIN` after ten seconds without an answer, `ENOBUFS` when answers were lost, `EMSGSIZE` when
    /// `buffer` was too small for the datagram.
    pub fn recv(&self, buffer: &mut [u8]) -> Result<usize> {
        self.recv_with(buffer, RecvFlags::empty())
    }

    /// Throws away what is waiting, so that the next request reads only its own answers.
    pub fn drain(&self, buffer: &mut [u8]) {
        while self.recv_with(buffer, RecvFlags::DONTWAIT).is_ok() {}
    }

    /// Asks whether a link of the socket's network namespace has carrier (`ETHTOOL_GLINK`). Since Linux 6.8 the kernel
    /// then does at once what its work queue would do for a change of carrier (`linkwatch_sync_dev`). To look the link
    /// up would do the same, but the kernel walks all network namespaces for the answer.
    ///
    /// # Errors
    /// `ENODEV` when there is no such link, `EOPNOTSUPP` when it cannot say.
    pub fn has_carrier(&self, link: &str) -> Result<bool> {
        let named = || format!("ask link {link} for its carrier");
        let mut name = [0; libc::IFNAMSIZ];
        if link.len() >= name.len() {
            return Err(Errno::NAMETOOLONG).call(named);
        }
        for (to, from) in name.iter_mut().zip(link.bytes()) {
            *to = from.cast_signed();
        }
        // struct ethtool_value: the command, then the answer.
        let mut value = [ETHTOOL_GLINK, 0];
        let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_data: value.as_mut_ptr().cast() };
        let mut request = libc::ifreq { ifr_name: name, ifr_ifru };
        // SAFETY: SIOCETHTOOL reads a struct ifreq, and writes the two words that it points to; both outlive the call.
        let returned = unsafe { libc::ioctl(self.fd.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if returned < 0 {
            return Err(last_errno()).call(named);
        }
        Ok(value[1] != 0)
    }

    fn recv_with(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<usize> {
        let name = || format!("receive from {:?} netlink", self.subsystem);
        loop {
            // The length is told as it was sent. `recvmsg` says as much, and costs half as much again.
            match recv(&self.fd, &mut *buffer, flags | RecvFlags::TRUNC) {
                Ok((_, whole)) if whole > buffer.len() => return Err(Errno::MSGSIZE).call(name),
                Ok((received, _)) => return Ok(received),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).call(name),
            }
        }
    }
}

fn set_flag(fd: &impl AsFd, option: c_int) -> std::result::Result<(), Errno> {
    let on: c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<c_int>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the pointer and the length describe `on`, which lives until the call returns; the descriptor is
    // open because it is borrowed.
    let done = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&on).cast(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_carrier_and_a_link_that_is_not_there_has_none() {
        let socket = NetlinkSocket::open(Subsystem::Route).unwrap();
        assert!(socket.has_carrier("lo").unwrap());
        assert_eq!(socket.has_carrier("missing0").unwrap_err().errno(), Errno::NODEV);
        assert_eq!(socket.has_carrier("a-name-that-is-too-long").unwrap_err().errno(), Errno::NAMETOOLONG);
    }

    #[test]
    fn a_question_to_the_kernel_is_answered() {
        let socket = NetlinkSocket::open(Subsystem::Route).unwrap();
        // struct nlmsghdr {32, RTM_GETLINK, NLM_F_REQUEST, seq 7} and an ifinfomsg for index 1, loopback.
        let mut request = Vec::new();
        request.extend(32u32.to_ne_bytes());
        request.extend(18u16.to_ne_bytes());
        request.extend(1u16.to_ne_bytes());
        request.extend(7u32.to_ne_bytes());
        request.extend([0; 8]);
        request.extend(1u32.to_ne_bytes());
        request.extend([0; 8]);
        socket.send(&request).unwrap();
        assert_eq!(socket.recv(&mut [0; 20]).unwrap_err().errno(), Errno::MSGSIZE);
        socket.send(&request).unwrap();
        let mut buffer = [0; 8192];
        assert!(socket.recv(&mut buffer).unwrap() > 32);
        assert_eq!(buffer[8..12], 7u32.to_ne_bytes());
    }
}
