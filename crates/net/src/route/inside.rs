//! The pod's side: loopback, addresses, the interface and its default routes, in one batch.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};

use super::link::up;
use super::{RTM_NEWADDR, RTM_NEWROUTE, RouteSocket, request};
use crate::channel::{NLM_F_CREATE, NLM_F_EXCL, Request};
use crate::{IfName, Result};

/// Loopback is the first link of every network namespace.
const LOOPBACK: u32 = 1;

/// An address of the pod and the way out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PodAddress {
    /// With the prefix that the interface gets.
    pub(crate) net: IpNet,
    /// Where the default route leads.
    pub(crate) gateway: IpAddr,
}

/// What is wanted inside a pod's network namespace.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub(crate) ifname: &'a IfName,
    pub(crate) index: u32,
    pub(crate) addresses: &'a [PodAddress],
}

impl RouteSocket {
    /// Configures the inside with one datagram; the socket must be of the pod's namespace.
    pub(crate) fn configure(&mut self, inside: &Inside<'_>) -> Result<()> {
        let name = inside.ifname.as_str();
        let mut batch = vec![up(LOOPBACK, "lo")];
        batch.extend(inside.addresses.iter().map(|address| add_address(inside.index, name, address.net)));
        // A default route needs its address, and the link up.
        batch.push(up(inside.index, name));
        batch.extend(inside.addresses.iter().map(|address| default_route(inside.index, address.gateway)));
        Ok(self.channel.exchange(&batch, |_| {})?)
    }
}

/// Adds an address to a link.
pub(super) fn add_address(index: u32, name: &str, net: IpNet) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.header.family = family(net.addr());
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => {
            // The lease says that nobody else has it; detection of duplicates would hold it back for 1.5 s.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message, format!("add address {net} to {name}"))
}

fn default_route(index: u32, gateway: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    // An address of its own (/32) has no prefix that the gateway could be in.
    message.header.flags = RouteFlags::Onlink;
    message.attributes =
        vec![RouteAttribute::Gateway(RouteAddress::from(gateway)), RouteAttribute::Oif(index)];
    request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &message, format!("add default route via {gateway}"))
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
