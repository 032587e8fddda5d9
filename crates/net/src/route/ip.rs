//! Addresses, routes and neighbours, as requests.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};

use super::{RTM_DELADDR, RTM_NEWADDR, RTM_NEWNEIGH, RTM_NEWROUTE, request};
use crate::channel::{NLM_F_CREATE, NLM_F_EXCL, Request};
use crate::{Mac, PodRoute};

pub(super) const MAKE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Adds an address to a link; of IPv6 without detection of duplicates, which would hold it back for 1.5 s: the lease
/// says that nobody else has it.
pub(super) fn add_address(index: u32, name: &str, net: IpNet) -> Request {
    new_address(index, name, net, false)
}

/// Adds an address to a link, and has the kernel ask whether somebody else has it.
pub(super) fn probe_address(index: u32, name: &str, net: IpNet) -> Request {
    new_address(index, name, net, true)
}

fn new_address(index: u32, name: &str, net: IpNet, probed: bool) -> Request {
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
        IpNet::V6(_) if probed => {}
        IpNet::V6(_) => {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    request(RTM_NEWADDR, MAKE, &message, format!("add address {net} to {name}"))
}

/// Takes an address from a link.
pub(super) fn delete_address(index: u32, name: &str, net: IpNet) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.header.family = family(net.addr());
    message.attributes = vec![AddressAttribute::Local(net.addr())];
    request(RTM_DELADDR, 0, &message, format!("delete address {net} from {name}"))
}

/// A route of a pod; the next hop need not be in any prefix of the link.
pub(super) fn pod_route(index: u32, to: &PodRoute, gateway: IpAddr) -> Request {
    let mut message = route(index, gateway);
    message.header.flags = RouteFlags::Onlink;
    message.header.destination_prefix_length = to.destination.prefix_len();
    if to.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to.destination.network())));
    }
    // Scope "link" and narrower are for routes without a next hop.
    if to.scope.is_none_or(|scope| scope < u8::from(RouteScope::Link)) {
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
    } else {
        message.header.flags = RouteFlags::empty();
    }
    message.header.scope = to.scope.map_or(RouteScope::Universe, RouteScope::from);
    if let Some(table) = to.table {
        // Only one byte of it fits into the header.
        message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.attributes.push(RouteAttribute::Table(table));
    }
    message.attributes.extend(to.priority.map(RouteAttribute::Priority));
    let metrics: Vec<RouteMetric> =
        to.mtu.map(RouteMetric::Mtu).into_iter().chain(to.advmss.map(RouteMetric::Advmss)).collect();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    let destination = match to.destination.prefix_len() {
        0 => "default route".to_owned(),
        _ => format!("route to {}", to.destination),
    };
    // A pod may have the same destination by another network already: as with the reference plugins IPv4 then goes by
    // the last one, and IPv6 by both.
    request(RTM_NEWROUTE, NLM_F_CREATE, &message, format!("add {destination} via {gateway}"))
}

/// One address is behind this link; what the host itself sends there comes from `source`.
pub(super) fn host_route(index: u32, name: &str, address: IpAddr, source: IpAddr) -> Request {
    let mut message = route(index, address);
    message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    message.header.scope = RouteScope::Link;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(address)));
    message.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
    request(RTM_NEWROUTE, MAKE, &message, format!("add route to {address} by {name}"))
}

/// What is in the net and has no route of its own is unreachable, at once and without leaving the host.
pub(super) fn unreachable(verb: u16, flags: u16, net: IpNet) -> Request {
    /// Of routes to the same net: the last to be asked, and so never in the way of anybody else's.
    const METRIC: u32 = u32::MAX;
    let mut message = RouteMessage::default();
    message.header.address_family = family(net.addr());
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unreachable;
    message.header.destination_prefix_length = net.prefix_len();
    message.attributes =
        vec![RouteAttribute::Destination(RouteAddress::from(net.addr())), RouteAttribute::Priority(METRIC)];
    let what = if verb == RTM_NEWROUTE { "add" } else { "delete" };
    request(verb, flags, &message, format!("{what} unreachable route to {net}"))
}

/// The link-layer address is known and stays: nobody has to ask for it.
pub(super) fn neighbour(index: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    request(RTM_NEWNEIGH, NLM_F_CREATE, &message, format!("add neighbour {address} with {mac}"))
}

/// A link-layer address is behind this port of a bridge, in all its VLANs, and stays there whoever else pretends to
/// have it (since 4.20).
pub(super) fn behind_port(index: u32, name: &str, mac: Mac) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    // To a bridge, "permanent" would be an address of the host.
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    request(RTM_NEWNEIGH, NLM_F_CREATE, &message, format!("say that {mac} is behind {name}"))
}

fn route(index: u32, of: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(index)];
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
