//! What a pod got, all of it derived from its network and its lease.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::lease::Lease;
use crate::route::PodAddress;
use crate::{IfName, Mac, Mode, NetworkConfig};

/// One interface of a pod on a pod network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Addresses with the prefix that the interface has, /32 or /128 when the network is routed, in the order of
    /// the network's sets of ranges. None when the network gives none.
    pub addresses: Vec<PodAddress>,
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
        let own = lease.address4().map(|address| (address.into(), given.gateway.into()));
        let along =
            given.address6.zip(given.gateway6).map(|(address, gateway)| (address.into(), gateway.into()));
        let own: Vec<(IpAddr, IpAddr)> = own.into_iter().chain(along).collect();
        // The first address of IPv6 is written down with the lease, even if it has a place of its own.
        let further = lease.further.iter().map(|further| (further.address, further.gateway));
        let further = further.filter(|(address, _)| own.iter().all(|(other, _)| other != address));
        let mut addresses: Vec<PodAddress> = own
            .iter()
            .copied()
            .chain(further)
            .map(|(address, gateway)| PodAddress { net: net(config, address), gateway })
            .collect();
        addresses.sort_by_key(|address| config.ranges.position(address.net.addr()));
        Self {
            addresses,
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
        let first = self.first(true).or(self.first(false));
        first.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.net.addr())
    }

    /// The first address of a family: its gateway is the next hop of the pod's routes.
    #[must_use]
    pub fn first(&self, ipv4: bool) -> Option<&PodAddress> {
        self.addresses.iter().find(|address| address.net.addr().is_ipv4() == ipv4)
    }
}

/// An address with the prefix that the interface of a pod gets.
fn net(config: &NetworkConfig, address: IpAddr) -> IpNet {
    let range = config.ranges.range_of(address).filter(|_| config.mode == Mode::Bridged);
    range.map_or(IpNet::from(address), |range| IpNet::new_assert(address, range.subnet.prefix_len()))
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
