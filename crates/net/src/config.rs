//! The wanted state of a pod network, checked by [`NetworkConfig::check`] before anything is touched.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

use crate::range::Ranges;
use crate::{Error, IfName, NetworkName, Result};

/// IPv6 vanishes from a link with a smaller MTU, IPv4 likewise (RFC 8200, RFC 791).
pub(crate) const IPV6_MTU: u32 = 1280;
const IPV4_MTU: u32 = 68;

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

/// What a bridge is like, for [`Mode::Bridged`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridging {
    /// Whether the host has the gateways' addresses on the bridge.
    pub gateway: bool,
    /// Whether a frame may leave by the port it came from; `None` where br_netfilter makes that necessary.
    pub hairpin: Option<bool>,
    /// Whether the bridge receives every frame.
    pub promiscuous: bool,
    /// Whether pods cannot reach each other inside the bridge.
    pub isolated: bool,
    /// The VLAN that pods are in without a tag, 1 to 4094. The bridge filters VLANs then.
    pub vlan: Option<u16>,
    /// VLANs that pods are in with a tag: intervals of 1 to 4094 without that of `vlan`. The bridge filters VLANs
    /// then.
    pub trunk: Vec<RangeInclusive<u16>>,
    /// Whether pods stay in the VLAN that the bridge puts every new port into, usually 1: what others send there
    /// without a tag reaches them, and without `vlan` it is where their own frames without a tag go.
    pub default_vlan: bool,
    /// Whether a pod asks if somebody else on the bridge has its IPv6 address, which takes it one or two seconds.
    pub detects_duplicates: bool,
    /// Whether what pods send must have their own link-layer address as source.
    pub checks_sources: bool,
    /// Whether pods' interfaces are left down, for a network without addresses.
    pub leaves_down: bool,
}

impl Default for Bridging {
    fn default() -> Self {
        Self {
            gateway: true,
            hairpin: None,
            promiscuous: false,
            isolated: false,
            vlan: None,
            trunk: Vec::new(),
            default_vlan: true,
            detects_duplicates: false,
            checks_sources: false,
            leaves_down: false,
        }
    }
}

impl Bridging {
    /// Whether the bridge keeps VLANs apart.
    pub(crate) fn has_vlans(&self) -> bool {
        self.vlan.is_some() || !self.trunk.is_empty()
    }

    /// The VLANs that a pod is to be in, with a tag or without.
    pub(crate) fn vlans(&self) -> impl Iterator<Item = u16> {
        self.trunk.iter().cloned().flatten().chain(self.vlan)
    }

    fn check_vlans(&self) -> Result<()> {
        const ALL: RangeInclusive<u16> = 1..=4094;
        let invalid = |value: String, reason| Err(Error::Invalid { what: "VLAN", value, reason });
        if let Some(vlan) = self.vlan.filter(|vlan| !ALL.contains(vlan)) {
            return invalid(vlan.to_string(), "is not between 1 and 4094");
        }
        for range in &self.trunk {
            if range.is_empty() || !ALL.contains(range.start()) || !ALL.contains(range.end()) {
                let value = format!("{} to {}", range.start(), range.end());
                return invalid(value, "is no interval between 1 and 4094");
            }
            if let Some(vlan) = self.vlan.filter(|vlan| range.contains(vlan)) {
                return invalid(vlan.to_string(), "cannot be in the trunk and without a tag");
            }
        }
        Ok(())
    }
}

/// A route of every pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRoute {
    /// Where it leads.
    pub destination: IpNet,
    /// The next hop, or `None` for the gateway of the pod's address. A pod that has no address of the family
    /// does without the route.
    pub gateway: Option<IpAddr>,
    /// `RTAX_MTU`.
    pub mtu: Option<u32>,
    /// `RTAX_ADVMSS`.
    pub advmss: Option<u32>,
    /// `RTA_PRIORITY`.
    pub priority: Option<u32>,
    /// Another table than the main one.
    pub table: Option<u32>,
    /// The scope by its number; `None` for what the next hop makes of it.
    pub scope: Option<u8>,
}

impl PodRoute {
    /// To everywhere in the net, by the gateway.
    #[must_use]
    pub fn to(destination: IpNet) -> Self {
        Self { destination, gateway: None, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }

    /// The default routes of both families.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        vec![Self::to(IpNet::V4(Ipv4Net::default())), Self::to(IpNet::V6(ipnet::Ipv6Net::default()))]
    }
}

/// One pod network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Its name, and that of its lease table.
    pub name: NetworkName,
    /// For [`Mode::Bridged`]: the bridge, made when it is missing.
    pub bridge: IfName,
    /// Addresses of the pods. Those of a bridge that the host has no address on may have none: [`Ranges::none`].
    pub ranges: Ranges,
    /// MTU of the bridge and of both ends of every pair, in bytes; `None` leaves it to the kernel (1500).
    pub mtu: Option<u32>,
    /// Whether packets that leave the pods' subnets get an address of the host.
    pub masquerade: bool,
    /// How pods reach each other.
    pub mode: Mode,
    /// What the bridge is like.
    pub bridging: Bridging,
    /// Routes inside the pods.
    pub routes: Vec<PodRoute>,
    /// Directory of the lease tables and of the lock that all networks of a host share. On a tmpfs.
    pub state_dir: PathBuf,
    /// A directory of the reference plugin `host-local`, whose leases are taken over when the table is begun.
    pub import: Option<PathBuf>,
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
            ranges: Ranges::of(Ipv4Net::new_assert(Ipv4Addr::new(10, 209, 0, 0), 16), None),
            mtu: None,
            masquerade: true,
            mode: Mode::default(),
            bridging: Bridging::default(),
            routes: PodRoute::defaults(),
            state_dir: PathBuf::from("/run/dunnage/ipam"),
            import: None,
        }
    }

    /// Whether frames of the network's next pods are checked. Routed there is nobody who could be deceived: both ends
    /// of a pair know the other's address and learn none.
    pub(crate) fn checks_sources(&self) -> bool {
        self.mode == Mode::Bridged && self.bridging.checks_sources
    }

    /// Whether the network's next pods ask for duplicates. At the other end of a routed pair is nobody who could
    /// answer.
    pub(crate) fn detects_duplicates(&self) -> bool {
        self.mode == Mode::Bridged && self.bridging.detects_duplicates
    }

    /// Refuses what cannot work, by name.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<()> {
        let bridged_only = self.mode == Mode::Bridged && !self.bridging.gateway;
        if !(bridged_only && self.ranges.is_empty()) {
            self.ranges.check()?;
        }
        if self.bridging.leaves_down && !self.ranges.is_empty() {
            let value = "down".to_owned();
            return Err(Error::Invalid { what: "interface left", value, reason: "has no use of addresses" });
        }
        self.bridging.check_vlans()?;
        let smallest = if self.ranges.has_family(false) { IPV6_MTU } else { IPV4_MTU };
        match self.mtu {
            Some(mtu) if !(smallest..=65_535).contains(&mtu) => {
                Err(Error::Invalid { what: "mtu", value: mtu.to_string(), reason: "is out of range" })
            }
            _ => Ok(()),
        }
    }
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

    /// The protocol of that name, in lower case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.as_str() == name)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn without_addresses() -> NetworkConfig {
        let bridging = Bridging { gateway: false, ..Bridging::default() };
        NetworkConfig { ranges: Ranges::none(), mode: Mode::Bridged, bridging, ..NetworkConfig::local() }
    }

    #[test]
    fn only_a_bridge_that_the_host_has_no_address_on_can_do_without_addresses() {
        without_addresses().check().unwrap();
        let routed = NetworkConfig { mode: Mode::Routed, ..without_addresses() };
        assert!(routed.check().is_err());
        let gateway = NetworkConfig { bridging: Bridging::default(), ..without_addresses() };
        assert!(gateway.check().is_err());
    }

    #[test]
    fn an_interface_that_is_left_down_has_no_addresses() {
        let bridging = Bridging { leaves_down: true, ..without_addresses().bridging };
        NetworkConfig { bridging: bridging.clone(), ..without_addresses() }.check().unwrap();
        let with = NetworkConfig { bridging, mode: Mode::Bridged, ..NetworkConfig::local() };
        assert!(with.check().is_err());
    }

    #[test]
    fn vlans_that_cannot_be_are_refused() {
        let check = |vlan, trunk: &[RangeInclusive<u16>]| {
            let bridging = Bridging { vlan, trunk: trunk.to_vec(), ..without_addresses().bridging };
            NetworkConfig { bridging, ..without_addresses() }.check()
        };
        assert!(check(Some(4094), &[1..=4093]).is_ok());
        assert!(check(Some(4095), &[]).is_err() && check(Some(0), &[]).is_err());
        for bad in [0..=7, 7..=4095, RangeInclusive::new(9, 8)] {
            assert!(check(None, std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
        assert!(check(Some(7), &[5..=9]).is_err(), "with and without a tag");
    }
}
