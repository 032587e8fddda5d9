//! Switches of links, and whether the host forwards, by netlink instead of `/proc/sys/net`.
//!
//! A path there costs more with every network namespace whose switches somebody has looked at: the entries of all
//! of them have one name, and the kernel asks each whether it is the one that is meant (`proc_sys_compare`). With
//! 1,000 pods the first path in a new pod took 0.7 ms (Linux 6.18), more than everything else together.

use dunnage_sys::Errno;
use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{AfSpecUnspec, LinkAttribute, LinkMessage};

use super::ip::{MAKE, add_address, unreachable};
use super::link::no_ipv6_addresses;
use super::{Link, RTM_NEWLINK, RTM_NEWROUTE, RouteSocket, request};
use crate::channel::{Request, attributes};
use crate::{Error, IfName, Result};

/// `IPV4_DEVCONF_*` of linux/ip.h.
pub(super) const ACCEPT_REDIRECTS: u16 = 4;
pub(super) const ROUTE_LOCALNET: u16 = 26;

const AF_INET: u8 = 2;
const IFLA_INET_CONF: u16 = 1;
const RTM_GETNETCONF: u16 = 82;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
/// `NETCONFA_IFINDEX_ALL`.
const ALL: i32 = -1;
/// `struct netconfmsg`, to the next boundary.
const NETCONF_HEADER: usize = 4;
const FORWARDS: &str = "ask whether the host forwards";

/// A switch of IPv4 and what it is to be.
pub(super) type Switch = (u16, bool);

/// What all pods of a network share.
#[derive(Debug, Default)]
pub(crate) struct Shared<'a> {
    /// Nets whose addresses are unreachable unless they have a route of their own.
    pub(crate) closed: &'a [IpNet],
    /// The link that has the gateways' addresses, and these.
    pub(crate) gateways: Option<(&'a Link, Vec<IpNet>)>,
}

impl RouteSocket {
    /// Lets addresses of loopback pass a link that is there already.
    pub(crate) fn route_localnet(&mut self, link: &IfName) -> Result<()> {
        let mut message = LinkMessage::default();
        let switches = vec![ipv4_switches(&[(ROUTE_LOCALNET, true)])];
        message.attributes =
            vec![LinkAttribute::IfName(link.to_string()), LinkAttribute::AfSpecUnspec(switches)];
        let set = request(RTM_NEWLINK, 0, &message, format!("let addresses of loopback pass {link}"));
        Ok(self.channel.exchange(&[set], |_| {})?)
    }

    /// Makes what is missing of what all pods share (again is fine), and tells of each family whether the host forwards
    /// its packets: with one datagram, because every pod asks both.
    pub(crate) fn share(&mut self, shared: &Shared<'_>, families: &[AddressFamily]) -> Result<Vec<bool>> {
        let closed = shared.closed.iter().map(|net| unreachable(RTM_NEWROUTE, MAKE, *net));
        let gateways = shared.gateways.iter().flat_map(|(link, addresses)| {
            addresses.iter().map(|address| add_address(link.index, &link.name, *address))
        });
        let made = closed.chain(gateways).map(|request| request.unless(Errno::EXIST));
        let all: Vec<Request> = made.chain(families.iter().map(|family| forwarding(*family))).collect();
        let mut found = Vec::new();
        self.channel.exchange(&all, |reply| {
            let body = reply.get(NETCONF_HEADER..).unwrap_or_default();
            let value = attributes(body).find(|(kind, _)| *kind == NETCONFA_FORWARDING);
            found.extend(value.map(|(_, value)| value.iter().any(|byte| *byte != 0)));
        })?;
        match found.len() == families.len() {
            true => Ok(found),
            false => Err(Error::Answer { what: FORWARDS.to_owned(), reason: "no forwarding in it" }),
        }
    }
}

fn forwarding(family: AddressFamily) -> Request {
    let mut body = vec![u8::from(family), 0, 0, 0];
    body.extend(attribute(NETCONFA_IFINDEX, &ALL.to_ne_bytes()));
    Request::new(RTM_GETNETCONF, 0, body, FORWARDS.to_owned())
}

/// Switches of IPv4 as part of a link's message. They are set behind the flags of that message, so a link that
/// the same message brings up is up before.
pub(super) fn ipv4_switches(switches: &[Switch]) -> AfSpecUnspec {
    let one = |(switch, on): &Switch| attribute(*switch, &u32::from(*on).to_ne_bytes());
    let all: Vec<u8> = switches.iter().flat_map(one).collect();
    AfSpecUnspec::Other(DefaultNla::new(u16::from(AF_INET), attribute(IFLA_INET_CONF, &all)))
}

/// As [`ipv4_switches`], with nothing of IPv6 but what is added by hand, where the kernel has it.
pub(super) fn link_switches(switches: &[Switch], ipv6: bool) -> Option<LinkAttribute> {
    let ipv4 = (!switches.is_empty()).then(|| ipv4_switches(switches));
    let all: Vec<AfSpecUnspec> = ipv4.into_iter().chain(ipv6.then(no_ipv6_addresses)).collect();
    (!all.is_empty()).then_some(LinkAttribute::AfSpecUnspec(all))
}

/// One attribute whose value needs no padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a handful of switches");
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}
