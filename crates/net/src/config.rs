//! The wanted state of a pod network, checked by [`NetworkConfig::check`] before anything is touched.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::{Error, IfName, NetworkName, Result};

/// Sizes of subnets: below, the lease table would be larger than is worth it; above, there is no address left.
pub(crate) const PREFIXES: RangeInclusive<u8> = 16..=29;

/// How pods reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// A pod has its address alone (/32, /128), and the host has a route to it by the pod's own link: every
    /// packet is routed and passes the forward hook, nothing is flooded, nobody asks for link-layer addresses,
    /// there is no bridge to make and remove, and there may be more pods than the 1023 ports of one.
    ///
    /// Isolated ports of a bridge would do as well, but not together with br_netfilter, which redirects a
    /// frame inside the bridge and then finds the port of the other pod closed.
    #[default]
    Routed,
    /// Pods have the prefix of the subnet and reach each other through the bridge.
    Bridged,
}

/// One pod network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Its name, and that of its lease table.
    pub name: NetworkName,
    /// For [`Mode::Bridged`]: the bridge, made when it is missing. No other network may have the same, in
    /// either mode, because the nftables table knows networks by it.
    pub bridge: IfName,
    /// Addresses of the pods; the first one is the gateway. /16 to /29.
    pub subnet: Ipv4Net,
    /// For dual stack: the prefix that the low 16 bits of the IPv4 offset are added to. At most /112.
    pub subnet6: Option<Ipv6Net>,
    /// MTU of the bridge and of both ends of every pair, in bytes; `None` leaves it to the kernel (1500).
    pub mtu: Option<u32>,
    /// Whether packets that leave the subnet get an address of the host.
    pub masquerade: bool,
    /// How pods reach each other.
    pub mode: Mode,
    /// Directory of the lease tables and of the lock that all networks of a host share. On a tmpfs.
    pub state_dir: PathBuf,
}

impl NetworkConfig {
    /// The network of `dunnage pod run`: `10.209.0.0/16`, routed, masqueraded, IPv4 only.
    ///
    /// The subnet is none of the usual ones of Podman (10.88), CRI-O (10.85), k3s (10.42), flannel (10.244),
    /// Cilium (10.0) or Docker (172.17), so that it can share a host with them.
    #[must_use]
    pub fn local() -> Self {
        Self {
            name: "local".parse().expect("a constant name is valid"),
            bridge: "dunnage0".parse().expect("a constant name is valid"),
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 209, 0, 0), 16),
            subnet6: None,
            mtu: None,
            masquerade: true,
            mode: Mode::default(),
            state_dir: PathBuf::from("/run/dunnage/ipam"),
        }
    }

    /// The host's address on the bridge, the first of the subnet.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        gateway_of(self.subnet)
    }

    /// The host's IPv6 address on the bridge.
    #[must_use]
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.address6(1)
    }

    /// Refuses what cannot work, by name.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<()> {
        let subnet = |value: String, reason| Err(Error::Invalid { what: "subnet", value, reason });
        if self.subnet.trunc() != self.subnet {
            return subnet(self.subnet.to_string(), "has host bits set");
        }
        if !PREFIXES.contains(&self.subnet.prefix_len()) {
            return subnet(self.subnet.to_string(), "is not between /16 and /29");
        }
        if self.subnet.addr().is_loopback() || self.subnet.addr().is_multicast() {
            return subnet(self.subnet.to_string(), "is not of unicast addresses");
        }
        if let Some(subnet6) = self.subnet6 {
            if subnet6.trunc() != subnet6 {
                return subnet(subnet6.to_string(), "has host bits set");
            }
            if subnet6.prefix_len() > 112 {
                return subnet(subnet6.to_string(), "is longer than /112");
            }
        }
        // IPv6 vanishes from a device below 1280, IPv4 below 68 (RFC 8200, RFC 791).
        let smallest = if self.subnet6.is_some() { 1280 } else { 68 };
        match self.mtu {
            Some(mtu) if !(smallest..=65_535).contains(&mtu) => {
                Err(Error::Invalid { what: "mtu", value: mtu.to_string(), reason: "out of range" })
            }
            _ => Ok(()),
        }
    }

    /// The IPv6 address with the same offset.
    pub(crate) fn address6(&self, offset: u32) -> Option<Ipv6Addr> {
        self.subnet6.map(|net| Ipv6Addr::from(u128::from(net.network()) + u128::from(offset)))
    }
}

/// The first address of a subnet is that of the host.
pub(crate) fn gateway_of(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + 1)
}

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in an IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the host that leads to a port of the pod; prints as `8080/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Only this address of the host, or every one.
    pub host_ip: Option<IpAddr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host_port, self.protocol.as_str())
    }
}
