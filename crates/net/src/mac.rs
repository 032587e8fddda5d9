//! Link-layer addresses, derived from the IPv4 address so that reusing an address never meets a stale
//! neighbour entry, and so that nothing (udev's `MACAddressPolicy`, a bridge's lowest port) has a reason to
//! change them.

use std::fmt;
use std::net::Ipv4Addr;

/// An Ethernet address; prints as `da:d0:0a:58:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Of the pod's end of a veth pair.
    pub(crate) fn of_pod(address: Ipv4Addr) -> Self {
        Self::local(0xda, address)
    }

    /// Of the host's end of a veth pair.
    pub(crate) fn of_host_end(address: Ipv4Addr) -> Self {
        Self::local(0xde, address)
    }

    /// Of the bridge that has the gateway address.
    pub(crate) fn of_bridge(gateway: Ipv4Addr) -> Self {
        Self::local(0xd6, gateway)
    }

    /// The first bytes 0xd6, 0xda and 0xde have the bits "locally administered" and "unicast".
    fn local(first: u8, address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([first, 0xd0, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
