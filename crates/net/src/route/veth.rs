//! A pod's veth pair: both ends made in one message, then each configured in one batch.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use dunnage_sys::Errno;
use ipnet::{IpNet, Ipv6Net};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkInfo,
    LinkMessage,
};

use super::conf::{
    ACCEPT_REDIRECTS, ROUTE_LOCALNET, ask_forwarding, close_net, forwards, link_switches, without,
};
use super::ip::{add_address, behind_port, host_route, neighbour, pod_route, probe_address};
use super::link::up;
use super::{LOOPBACK, Link, RTM_NEWLINK, RouteSocket, request};
use crate::channel::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, Request};
use crate::{Error, IfName, Mac, PodRoute, Result};

/// A veth pair to make, each end in its final namespace.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a IfName,
    pub(crate) host_mac: Mac,
    pub(crate) pod_name: &'a IfName,
    pub(crate) pod_mac: Mac,
    pub(crate) pod_netns: BorrowedFd<'a>,
    pub(crate) mtu: Option<u32>,
    /// Index of the bridge that the host's end is a port of.
    pub(crate) bridge: Option<u32>,
}

/// Indexes of the two ends, each in its own namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) host: u32,
    /// Not told by kernels before 6.2.
    pub(crate) pod: Option<u32>,
}

/// An address of the pod and the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodAddress {
    /// With the prefix that the interface gets.
    pub net: IpNet,
    /// The host's address next to it.
    pub gateway: IpAddr,
}

/// How packets get from the host to the pod.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// The host's end is a port of a bridge.
    Port {
        /// Whether a frame may leave by the port it came from.
        hairpin: bool,
        /// Whether other isolated ports cannot be reached.
        isolated: bool,
        /// The one address that is behind the port; `None` has the bridge learn what is.
        sole: Option<Mac>,
    },
    /// The host routes to its end; neither side asks for the other's link-layer address.
    Route {
        /// Of the pod's end.
        pod_mac: Mac,
    },
}

/// What is wanted of the host's end.
#[derive(Debug)]
pub(crate) struct HostEnd<'a> {
    pub(crate) name: &'a IfName,
    pub(crate) index: u32,
    pub(crate) way: Way,
    pub(crate) addresses: &'a [PodAddress],
    /// Whether addresses of loopback may pass.
    pub(crate) localnet: bool,
    /// Whether the kernel knows IPv6 at all.
    pub(crate) ipv6: bool,
    /// For people: what `ip link` prints beside the name. Empty for none.
    pub(crate) alias: &'a str,
    /// Nets whose other addresses are to be unreachable.
    pub(crate) closed: &'a [IpNet],
    /// The link of a bridge that has the gateways' addresses, and these: somebody may have taken some.
    pub(crate) gateways: Option<(&'a Link, Vec<IpNet>)>,
    /// Those of which the host has to forward packets.
    pub(crate) families: &'a [AddressFamily],
}

/// What is wanted inside a pod's network namespace.
#[derive(Debug)]
pub(crate) struct PodEnd<'a> {
    pub(crate) name: &'a IfName,
    pub(crate) index: u32,
    pub(crate) addresses: &'a [PodAddress],
    pub(crate) mac: Mac,
    /// Of the gateway, when nobody but the host is at the other end.
    pub(crate) gateway_mac: Option<Mac>,
    pub(crate) routes: &'a [PodRoute],
    /// Whether the kernel knows IPv6 at all.
    pub(crate) ipv6: bool,
    /// Whether the interface is brought up.
    pub(crate) up: bool,
    /// Whether the kernel asks for duplicates of IPv6 addresses.
    pub(crate) probes: bool,
}

impl RouteSocket {
    /// Makes a veth pair; nothing is left when it fails.
    ///
    /// Both ends are born where they belong, in one message: moving an end afterwards waits for an RCU grace
    /// period, 20 ms.
    pub(crate) fn create_veth(&mut self, veth: &Veth<'_>) -> Result<Pair> {
        let mut made = None;
        self.channel.exchange(&[create(veth)], |reply| made = Link::parse(reply))?;
        let gone = || Error::Answer {
            what: format!("look up link {}", veth.host_name),
            reason: "it has just been made",
        };
        match made {
            Some(link) => Ok(Pair { host: link.index, pod: link.peer }),
            None => Ok(Pair { host: self.link(veth.host_name)?.ok_or_else(gone)?.index, pod: None }),
        }
    }

    /// Configures the host's end and brings it up, with what all pods of the network need, in one datagram. Gives the
    /// families of which the host does not forward packets.
    pub(crate) fn configure_host_end(&mut self, end: &HostEnd<'_>) -> Result<Vec<AddressFamily>> {
        let mut batch: Vec<Request> = end.families.iter().copied().map(ask_forwarding).collect();
        batch.extend(end.closed.iter().copied().map(close_net));
        if let Some((link, addresses)) = &end.gateways {
            let made = addresses.iter().map(|net| add_address(link.index, &link.name, *net));
            batch.extend(made.map(|request| request.unless(Errno::EXIST)));
        }
        batch.push(before_up(end));
        if let Way::Port { sole: Some(mac), .. } = end.way {
            batch.push(behind_port(end.index, end.name.as_str(), mac));
        }
        batch.push(up(end.index, end.name.as_str()));
        if let Way::Route { pod_mac } = end.way {
            for address in end.addresses {
                // On loopback, once for all pods, and not on each one's link: the kernel walks all links with one
                // address whenever there is another.
                let gateway = IpNet::from(address.gateway);
                batch.push(add_address(LOOPBACK, "lo", gateway).unless(Errno::EXIST));
                batch.push(host_route(end.index, end.name.as_str(), address.net.addr(), address.gateway));
                batch.push(neighbour(end.index, address.net.addr(), pod_mac));
            }
        }
        let mut answers = Vec::new();
        self.channel.exchange(&batch, |reply| answers.extend(forwards(reply)))?;
        without(end.families, &answers)
    }

    /// Configures the pod's end, and loopback, in one datagram; the socket must be of the pod's namespace.
    pub(crate) fn configure_pod_end(&mut self, end: &PodEnd<'_>) -> Result<()> {
        let name = end.name.as_str();
        let mut batch = vec![up(LOOPBACK, "lo")];
        if end.gateway_mac.is_some() {
            batch.extend(alone_with_the_host(end));
        }
        let add = if end.probes { probe_address } else { add_address };
        batch.extend(end.addresses.iter().map(|to| add(end.index, name, to.net)));
        // A route needs its address, and the link up.
        batch.extend(end.up.then(|| up(end.index, name)));
        for (position, to) in end.addresses.iter().enumerate() {
            let of_family = |other: IpAddr| other.is_ipv4() == to.gateway.is_ipv4();
            // By the gateway of the first address of the family, as the reference plugins have it.
            if !end.addresses[..position].iter().any(|before| of_family(before.gateway)) {
                let routes = end.routes.iter().filter(|route| of_family(route.destination.addr()));
                batch.extend(
                    routes.map(|route| pod_route(end.index, route, route.gateway.unwrap_or(to.gateway))),
                );
            }
            batch.extend(end.gateway_mac.map(|mac| neighbour(end.index, to.gateway, mac)));
        }

        Ok(self.channel.exchange(&batch, |_| {})?)
    }
}

fn create(veth: &Veth<'_>) -> Request {
    let mut peer = LinkMessage::default();
    // The peer must not ask to be up: it is configured before the two are linked, and the kernel refuses
    // with ENOTCONN.
    peer.attributes = end(veth.pod_name, veth.pod_mac, veth.mtu);
    peer.attributes.push(LinkAttribute::NetNsFd(veth.pod_netns.as_raw_fd()));

    let mut host = LinkMessage::default();
    host.attributes = end(veth.host_name, veth.host_mac, veth.mtu);
    host.attributes.extend(veth.bridge.map(LinkAttribute::Controller));
    host.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO;
    request(RTM_NEWLINK, flags, &host, format!("create veth pair {} and {}", veth.host_name, veth.pod_name))
}

fn end(name: &IfName, mac: Mac, mtu: Option<u32>) -> Vec<LinkAttribute> {
    let mut attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        // An address given at creation is "set by the administrator": udev's MACAddressPolicy leaves it alone.
        LinkAttribute::Address(mac.0.to_vec()),
        // The default is one queue for each possible processor, at both ends.
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    attributes
}

/// What cannot be said when the pair is made, and must be said before the host's end is up. A link-local
/// address there is of no use, and the probes for it flood every port of a bridge, which makes attaching a pod
/// cost more with every pod there is.
fn before_up(end: &HostEnd<'_>) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = end.index;
    if !end.alias.is_empty() {
        message.attributes.push(LinkAttribute::IfAlias(end.alias.to_owned()));
    }
    if let Way::Port { hairpin, isolated, sole } = end.way {
        let mut port = vec![InfoBridgePort::HairpinMode(hairpin), InfoBridgePort::Isolated(isolated)];
        port.extend(sole.map(|_| InfoBridgePort::Learning(false)));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(port)),
        ]));
    }
    let switches: &[_] = if end.localnet { &[(ROUTE_LOCALNET, true)] } else { &[] };
    message.attributes.extend(link_switches(switches, end.ipv6));
    request(RTM_NEWLINK, 0, &message, format!("set up link {}", end.name))
}

/// What a pod's end needs before it is up, when there is nobody at the other end but the host, which routes: no
/// redirects; and nothing of IPv6 but what is added by hand, so that nothing is probed and nothing sent. Others can
/// send it neither router advertisements nor redirects of IPv6, which must not have passed a router (RFC 4861), nor
/// redirects of IPv4 in the name of the gateway, whose address is the host's own.
fn alone_with_the_host(end: &PodEnd<'_>) -> Vec<Request> {
    let name = end.name.as_str();
    let mut message = LinkMessage::default();
    message.header.index = end.index;
    message.attributes.extend(link_switches(&[(ACCEPT_REDIRECTS, false)], end.ipv6));
    let mut batch = vec![request(RTM_NEWLINK, 0, &message, format!("set up link {name}"))];
    if end.addresses.iter().any(|address| address.net.addr().is_ipv6()) {
        batch.push(add_address(end.index, name, link_local(end.mac)));
    }
    batch
}

/// The address that the kernel would make of a link-layer address (RFC 4291, appendix A).
pub(crate) fn link_local(mac: Mac) -> IpNet {
    let [a, b, c, d, e, f] = mac.0;
    let address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    IpNet::V6(Ipv6Net::new_assert(address.into(), 64))
}
