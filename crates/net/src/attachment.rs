//! What a pod got, all of it derived from its network and its lease.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::lease::Lease;
use crate::route::PodAddress;
use crate::{IfName, Mac, Mode, NetworkConfig};

/// One interface of a pod on a pod network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// IPv4 address with the prefix that the interface has: /32 when the network is routed. A pod has an address of
    /// one family at least, unless its network gives none.
    pub address: Option<Ipv4Net>,
    /// IPv6 address with its prefix.
    pub address6: Option<Ipv6Net>,
    /// The host's address next to the pod's.
    pub gateway: Option<Ipv4Addr>,
    /// The host's IPv6 address next to the pod's.
    pub gateway6: Option<Ipv6Addr>,
    /// Of the interface in the pod.
    pub mac: Mac,
    /// Of the interface on the host.
    pub host_mac: Mac,
    /// Name in the pod.
    pub ifname: IfName,
    /// Name on the host: `dnp` and the address in hexadecimal.
    pub host_ifname: IfName,
    /// The bridge that the network has or, when it is routed, does without.
    pub bridge: IfName,
}

impl Attachment {
    pub(crate) fn new(config: &NetworkConfig, lease: &Lease, ifname: &IfName) -> Self {
        let (address, given) = (lease.address, &lease.given);
        let range = config.ranges.v4.iter().find(|range| range.subnet.contains(&address));
        let (prefix, prefix6) = match config.mode {
            Mode::Routed => (32, 128),
            Mode::Bridged => (
                range.map_or(32, |range| range.subnet.prefix_len()),
                config.ranges.v6.as_ref().map_or(128, |range| range.subnet.prefix_len()),
            ),
        };
        Self {
            address: lease.address4().map(|address| Ipv4Net::new_assert(address, prefix)),
            address6: given.address6.map(|address| Ipv6Net::new_assert(address, prefix6)),
            gateway: lease.address4().map(|_| given.gateway),
            gateway6: given.gateway6,
            mac: given.mac,
            host_mac: Mac::of_host_end(address),
            ifname: ifname.clone(),
            host_ifname: host_ifname(address),
            bridge: config.bridge.clone(),
        }
    }

    /// The address that people know the pod by: of IPv4, if it has one.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        let first = self.addresses().next();
        first.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |(net, _)| net.addr())
    }

    /// Addresses with the host's next to them, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = (IpNet, IpAddr)> {
        let v4 = self.address.zip(self.gateway);
        let v6 = self.address6.zip(self.gateway6);
        let v4 = v4.map(|(net, gateway)| (IpNet::V4(net), IpAddr::V4(gateway)));
        let v6 = v6.map(|(net, gateway)| (IpNet::V6(net), IpAddr::V6(gateway)));
        v4.into_iter().chain(v6)
    }

    pub(crate) fn pod_addresses(&self) -> Vec<PodAddress> {
        self.addresses().map(|(net, gateway)| PodAddress { net, gateway }).collect()
    }
}

/// How the names of host ends begin, by which the firewall knows them.
pub(crate) const HOST_END: &str = "dnp";

/// The host's end is named after the IPv4 address, or what stands for it: no two leases share one, and a link that is found tells whose it
/// is even when the lease table is lost.
pub(crate) fn host_ifname(address: Ipv4Addr) -> IfName {
    format!("{HOST_END}{:08x}", u32::from(address))
        .parse()
        .expect("eleven letters and digits are a valid name")
}

/// The address that a host's end is named after.
pub(crate) fn address_of(host_ifname: &str) -> Option<Ipv4Addr> {
    let digits = host_ifname.strip_prefix(HOST_END).filter(|digits| digits.len() == 8)?;
    Some(Ipv4Addr::from(u32::from_str_radix(digits, 16).ok()?))
}

/// The host's end of the pod that has the lease.
pub(crate) fn host_end(lease: &Lease) -> IfName {
    host_ifname(lease.address)
}
