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

use super::ip::{MAKE, unreachable};
use super::link::no_ipv6_addresses;
use super::{RTM_NEWLINK, RTM_NEWROUTE, RouteSocket, request};
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

    /// The families of which the host does not forward packets.
    pub(crate) fn unforwarded(&mut self, families: &[AddressFamily]) -> Result<Vec<AddressFamily>> {
        let all: Vec<Request> = families.iter().copied().map(ask_forwarding).collect();
        let mut answers = Vec::new();
        self.channel.exchange(&all, |reply| answers.extend(forwards(reply)))?;
        without(families, &answers)
    }
}

/// Makes all addresses of a net unreachable that have no route of their own; again is fine.
pub(super) fn close_net(net: IpNet) -> Request {
    unreachable(RTM_NEWROUTE, MAKE, net).unless(Errno::EXIST)
}

/// What an answer to [`ask_forwarding`] says.
pub(super) fn forwards(reply: &[u8]) -> Option<bool> {
    let mut all = attributes(reply.get(NETCONF_HEADER..)?);
    let (_, value) = all.find(|(kind, _)| *kind == NETCONFA_FORWARDING)?;
    Some(value.iter().any(|byte| *byte != 0))
}

/// Those families to which the answer was no.
pub(super) fn without(families: &[AddressFamily], answers: &[bool]) -> Result<Vec<AddressFamily>> {
    if answers.len() != families.len() {
        return Err(Error::Answer { what: FORWARDS.to_owned(), reason: "no forwarding in it" });
    }
    Ok(families.iter().zip(answers).filter(|(_, forwards)| !**forwards).map(|(family, _)| *family).collect())
}

/// Asks whether the host forwards packets of a family.
pub(super) fn ask_forwarding(family: AddressFamily) -> Request {
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
