//! Links: looked up, taken off the network, removed; and the bridge.

use std::time::Duration;

use dunnage_sys::{Errno, kernel};
use ipnet::IpNet;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};

use super::ip::add_address;
use super::{RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RouteSocket, request};
use crate::channel::{NLM_F_CREATE, NLM_F_EXCL, Request, attributes};
use crate::error::or_absent;
use crate::{Error, IfName, Mac, Result};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
/// `IFLA_BRPORT_*`; the first is called `MODE`.
const HAIRPIN: u16 = 4;
const LEARNING: u16 = 8;
const ISOLATED: u16 = 33;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
/// `IF_OPER_UP` of linux/if.h.
const OPER_UP: u8 = 6;
/// Looks at a link, one in each millisecond, until its carrier has been noticed. Nothing is lost but a first packet.
const LINKWATCH_LOOKS: usize = 200;
const IFF_UP: u32 = 1;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;
/// `struct ifinfomsg`.
pub(super) const LINK_HEADER: usize = 16;

/// What the kernel says about a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) up: bool,
    /// Whether packets can leave by it, as far as the kernel has noticed.
    pub(crate) operational: bool,
    pub(crate) promiscuous: bool,
    pub(crate) all_multicast: bool,
    pub(crate) queue_length: Option<u32>,
    pub(crate) mtu: Option<u32>,
    /// Index of the bridge it is a port of.
    pub(crate) controller: Option<u32>,
    pub(crate) mac: Option<Mac>,
    pub(crate) kind: Option<String>,
    /// Whether it is a bridge that keeps VLANs apart.
    pub(crate) filters_vlans: bool,
    /// Index of the other end of a veth pair, in the other end's namespace.
    pub(crate) peer: Option<u32>,
    /// Whether what leaves it is limited by a token bucket.
    pub(crate) shaped: bool,
    /// Whether it is a port of a bridge that reaches no other port of this kind.
    pub(crate) isolated: bool,
    /// Whether it is a port by which a frame may leave that came from there.
    pub(crate) hairpin: bool,
    /// Whether it is a port whose bridge learns what is behind it.
    pub(crate) learns: bool,
}

/// What a link is like besides its addresses; nothing of it is the kernel's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkOptions {
    /// Whether it receives every frame.
    pub promiscuous: bool,
    /// Whether it receives every multicast frame.
    pub all_multicast: bool,
    /// How many packets may wait to be sent.
    pub queue_length: Option<u32>,
    /// MTU in bytes, of both ends: for a pod whose network has another.
    pub mtu: Option<u32>,
}

/// A bridge to make.
#[derive(Debug)]
pub(crate) struct Bridge<'a> {
    pub(crate) name: &'a IfName,
    pub(crate) mac: Mac,
    pub(crate) mtu: Option<u32>,
    /// Whether it keeps VLANs apart.
    pub(crate) vlans: bool,
}

impl RouteSocket {
    /// The link of that name, if there is one.
    pub(crate) fn link(&mut self, name: &IfName) -> Result<Option<Link>> {
        let mut found = None;
        let answer = self.channel.exchange(&[look_up_name(name)], |reply| found = Link::parse(reply));
        match or_absent(answer.map_err(Error::from))? {
            None => Ok(None),
            Some(()) if found.is_some() => Ok(found),
            Some(()) => Err(Error::Answer { what: format!("look up link {name}"), reason: "no link in it" }),
        }
    }

    /// Waits until all that must know have heard of a carrier that the link has just got.
    ///
    /// Asking for it settles that since Linux 6.8 (`linkwatch_sync_dev`), and costs less than a look at the link, for
    /// which the kernel walks all network namespaces. Before, a work queue does it in its own time.
    pub(crate) fn settle(&mut self, name: &IfName) -> Result<()> {
        if !self.channel.has_carrier(name.as_str())? || kernel::release() >= Some((6, 8)) {
            return Ok(());
        }
        for _ in 0..LINKWATCH_LOOKS {
            if self.link(name)?.is_none_or(|link| link.operational) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Makes a bridge that is still down, so that what must be set before it comes up can be.
    pub(crate) fn create_bridge(&mut self, bridge: &Bridge<'_>) -> Result<()> {
        let mut options = vec![InfoBridge::MulticastSnooping(false)];
        // Even to switch it off is refused by a kernel that was built without it.
        options.extend(bridge.vlans.then_some(InfoBridge::VlanFiltering(true)));
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(bridge.name.to_string()),
            // Without an address of its own the bridge takes the lowest one of its ports, and changes it with
            // them: neighbours keep sending to a port that has gone.
            LinkAttribute::Address(bridge.mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(options)),
            ]),
        ];
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let mut batch = vec![request(RTM_NEWLINK, flags, &message, format!("create bridge {}", bridge.name))];
        // An MTU that a bridge is created with follows that of its ports; one that is set stays.
        batch.extend(bridge.mtu.map(|mtu| {
            let mut message = LinkMessage::default();
            message.attributes =
                vec![LinkAttribute::IfName(bridge.name.to_string()), LinkAttribute::Mtu(mtu)];
            request(RTM_NEWLINK, 0, &message, format!("set the MTU of bridge {}", bridge.name))
        }));
        Ok(self.channel.exchange(&batch, |_| {})?)
    }

    /// Gives a link its addresses and brings it up; addresses that it has already are fine.
    pub(crate) fn bring_up(&mut self, link: &Link, addresses: &[IpNet]) -> Result<()> {
        for address in addresses {
            self.send(add_address(link.index, &link.name, *address).unless(Errno::EXIST))?;
        }
        Ok(self.channel.exchange(&[up(link.index, &link.name)], |_| {})?)
    }

    /// Sets what differs from the kernel's defaults.
    pub(crate) fn set_options(&mut self, link: &Link, options: &LinkOptions) -> Result<()> {
        if *options == LinkOptions::default() {
            return Ok(());
        }
        let mut flags = LinkFlags::empty();
        flags.set(LinkFlags::Promisc, options.promiscuous);
        flags.set(LinkFlags::Allmulti, options.all_multicast);
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.header.flags = flags;
        message.header.change_mask = flags;
        message.attributes.extend(options.queue_length.map(LinkAttribute::TxQueueLen));
        message.attributes.extend(options.mtu.map(LinkAttribute::Mtu));
        let set = request(RTM_NEWLINK, 0, &message, format!("set options of link {}", link.name));
        Ok(self.channel.exchange(&[set], |_| {})?)
    }

    /// Takes a link off its bridge and down, and so takes its routes away, at once: no packet of it passes any
    /// more. It stays where it is, because removing it would wait some 20 ms for RCU; the kernel does that when
    /// the other end's namespace goes. Its index, if it was there.
    pub(crate) fn detach(&mut self, name: &IfName) -> Result<Option<u32>> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_string())];
        let get = request(RTM_GETLINK, 0, &message, format!("look up link {name}"));
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::Controller(0));
        let set = request(RTM_NEWLINK, 0, &message, format!("detach link {name}"));
        let mut found = None;
        let answer = self.channel.exchange(&[get, set], |reply| found = Link::parse(reply));
        Ok(or_absent(answer.map_err(Error::from))?.and(found).map(|link| link.index))
    }

    /// Removes a link, and its other end, now. One that is not there is a success.
    pub(crate) fn delete(&mut self, name: &IfName) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        let delete = request(RTM_DELLINK, 0, &message, format!("delete link {name}"));
        or_absent(self.channel.exchange(&[delete], |_| {}).map_err(Error::from))?;
        Ok(())
    }

    /// Keeps the kernel from giving a link an IPv6 link-local address when it comes up.
    pub(crate) fn without_link_local(&mut self, name: &IfName) -> Result<()> {
        let mut message = LinkMessage::default();
        let none = LinkAttribute::AfSpecUnspec(vec![no_ipv6_addresses()]);
        message.attributes = vec![LinkAttribute::IfName(name.to_string()), none];
        let set = request(RTM_NEWLINK, 0, &message, format!("switch off link-local addresses of {name}"));
        Ok(self.channel.exchange(&[set], |_| {})?)
    }
}

impl Link {
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let word =
            |at: usize| body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let mut link = Self {
            name: String::new(),
            index: word(4)?,
            up: word(8)? & IFF_UP != 0,
            operational: false,
            promiscuous: word(8)? & IFF_PROMISC != 0,
            all_multicast: word(8)? & IFF_ALLMULTI != 0,
            queue_length: None,
            mtu: None,
            controller: None,
            mac: None,
            kind: None,
            filters_vlans: false,
            peer: None,
            shaped: false,
            isolated: false,
            hairpin: false,
            learns: false,
        };
        for (kind, value) in attributes(body.get(LINK_HEADER..)?) {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
                IFLA_LINK => {
                    link.peer = value.try_into().ok().map(u32::from_ne_bytes).filter(|index| *index != 0);
                }
                IFLA_OPERSTATE => link.operational = value == [OPER_UP],
                IFLA_TXQLEN => link.queue_length = value.try_into().ok().map(u32::from_ne_bytes),
                IFLA_MTU => link.mtu = value.try_into().ok().map(u32::from_ne_bytes),
                IFLA_MASTER => link.controller = value.try_into().ok().map(u32::from_ne_bytes),
                IFLA_QDISC => link.shaped = value == b"tbf\0",
                IFLA_LINKINFO => {
                    let find = |wanted| attributes(value).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
                    link.kind = find(IFLA_INFO_KIND).map(text);
                    let data = find(IFLA_INFO_DATA).filter(|_| link.kind.as_deref() == Some("bridge"));
                    link.filters_vlans = attributes(data.unwrap_or_default())
                        .any(|(kind, value)| kind == IFLA_BR_VLAN_FILTERING && value != [0]);
                    for (kind, value) in attributes(find(IFLA_INFO_SLAVE_DATA).unwrap_or_default()) {
                        match kind {
                            HAIRPIN => link.hairpin = value == [1],
                            LEARNING => link.learns = value == [1],
                            ISOLATED => link.isolated = value == [1],
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// Asks for the link of that name.
pub(super) fn look_up_name(name: &IfName) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    request(RTM_GETLINK, 0, &message, format!("look up link {name}"))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// Nothing of IPv6 but what is added by hand.
pub(super) fn no_ipv6_addresses() -> AfSpecUnspec {
    AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])
}

/// Brings a link up.
pub(super) fn up(index: u32, name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    request(RTM_NEWLINK, 0, &message, format!("bring up link {name}"))
}
