//! What there is: links, addresses and routes, listed and looked up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dunnage_sys::Errno;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::link::look_up_name;
use super::{Link, RTM_DELLINK, RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RouteSocket};
use crate::channel::{NLM_F_DUMP, Request, attributes};
use crate::error::or_absent;
use crate::{Error, IfName, Result};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RT_TABLE_MAIN: u32 = 254;
/// `RTN_UNICAST`, `RTN_UNREACHABLE`.
const UNICAST: u8 = 1;
const UNREACHABLE: u8 = 7;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Which addresses and routes a link has.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) routes: Vec<RouteEntry>,
}

/// How far the kernel is with asking whether somebody else has an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    Asking,
    Unique,
    Duplicate,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteEntry {
    pub(crate) destination: IpNet,
    pub(crate) link: Option<u32>,
    pub(crate) gateway: Option<IpAddr>,
}

impl RouteSocket {
    /// The links of these names, as far as there are any, by one question.
    pub(crate) fn links_named<const N: usize>(&mut self, names: [&IfName; N]) -> Result<[Option<Link>; N]> {
        let all = names.map(|name| look_up_name(name).unless(Errno::NODEV));
        let mut found = [const { None }; N];
        self.channel.exchange(&all, |reply| {
            let link = Link::parse(reply);
            let place =
                names.iter().position(|name| link.as_ref().is_some_and(|link| link.name == name.as_str()));
            if let Some(place) = place {
                found[place] = link;
            }
        })?;
        Ok(found)
    }

    /// The link with that index, if there is one.
    pub(crate) fn link_at(&mut self, index: u32) -> Result<Option<Link>> {
        let mut found = None;
        let answer = self.channel.exchange(&[look_up(index)], |reply| found = Link::parse(reply));
        Ok(or_absent(answer.map_err(Error::from))?.and(found))
    }

    /// Every link.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>> {
        let get = self.dump(RTM_GETLINK, vec![0; 16], "list links");
        let mut found = Vec::new();
        self.channel.exchange(&[get], |reply| found.extend(Link::parse(reply)))?;
        Ok(found)
    }

    /// Addresses and routes of one link.
    pub(crate) fn listed(&mut self, index: u32) -> Result<Listed> {
        let mut listed = Listed::default();
        // struct ifaddrmsg: the last field is the link.
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        let get = self.dump(RTM_GETADDR, body, "list addresses");
        self.channel.exchange(&[get], |reply| {
            // An older kernel does not choose by the link.
            if reply.get(4..8) == Some(&index.to_ne_bytes()[..]) {
                listed.addresses.extend(address(reply));
            }
        })?;
        listed.routes = self.routes()?;
        listed.routes.retain(|route| route.link == Some(index));
        Ok(listed)
    }

    /// What is known about duplicates of an IPv6 address of a link; nothing when the link does not have it.
    pub(crate) fn probe(&mut self, index: u32, wanted: Ipv6Addr) -> Result<Option<Probe>> {
        // struct ifaddrmsg: family, prefix length, flags, scope, and the link.
        let mut body = vec![AF_INET6, 0, 0, 0];
        body.extend(index.to_ne_bytes());
        let get = self.dump(RTM_GETADDR, body, "list IPv6 addresses");
        let mut found = None;
        self.channel.exchange(&[get], |reply| {
            let is_it = reply.get(4..8) == Some(&index.to_ne_bytes()[..])
                && address(reply).is_some_and(|net| net.addr() == IpAddr::V6(wanted));
            found = found.or(reply.get(2).filter(|_| is_it).map(|flags| probe(*flags)));
        })?;
        Ok(found)
    }

    /// The routes of the main table that lead somewhere.
    pub(crate) fn routes(&mut self) -> Result<Vec<RouteEntry>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut body = vec![0; 12];
            body[0] = family;
            let get = self.dump(RTM_GETROUTE, body, "list routes");
            self.channel.exchange(&[get], |reply| found.extend(routes(reply)))?;
        }
        Ok(found)
    }

    /// The nets that are unreachable where no other route of the main table leads.
    pub(crate) fn unreachable(&mut self) -> Result<Vec<IpNet>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            // struct rtmsg: the type is the only one that is asked for, where the kernel can choose.
            let mut body = vec![0; 12];
            (body[0], body[7]) = (family, UNREACHABLE);
            let get = self.dump(RTM_GETROUTE, body, "list unreachable routes");
            self.channel.exchange(&[get], |reply| {
                found.extend(route(reply, UNREACHABLE).map(|route| route.destination));
            })?;
        }
        Ok(found)
    }

    /// Removes links by their index, which nobody else gets soon. Those that are gone already are a success.
    pub(crate) fn delete_at(&mut self, index: u32) -> Result<()> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend([0; 8]);
        let what = format!("delete link {index}");
        let delete = Request::new(RTM_DELLINK, 0, body, what);
        or_absent(self.channel.exchange(&[delete], |_| {}).map_err(Error::from))?;
        Ok(())
    }

    fn dump(&self, kind: u16, body: Vec<u8>, what: &str) -> Request {
        Request::new(kind, NLM_F_DUMP, body, what.to_owned())
    }
}

/// Asks for the link with that index.
pub(super) fn look_up(index: u32) -> Request {
    // struct ifinfomsg.
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend([0; 8]);
    // Nobody asks for counters here, which are half of the answer.
    body.extend([8, 0]);
    body.extend(IFLA_EXT_MASK.to_ne_bytes());
    body.extend(RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    Request::new(RTM_GETLINK, 0, body, format!("look up link {index}"))
}

/// A duplicate stays tentative, too.
fn probe(flags: u8) -> Probe {
    const IFA_F_DADFAILED: u8 = 0x08;
    const IFA_F_TENTATIVE: u8 = 0x40;
    match flags {
        flags if flags & IFA_F_DADFAILED != 0 => Probe::Duplicate,
        flags if flags & IFA_F_TENTATIVE != 0 => Probe::Asking,
        _ => Probe::Unique,
    }
}

fn address(reply: &[u8]) -> Option<IpNet> {
    let (family, prefix) = (*reply.first()?, *reply.get(1)?);
    let find = |wanted| attributes(reply.get(8..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    net(family, find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?, prefix)
}

/// An entry for each next hop.
fn routes(reply: &[u8]) -> Vec<RouteEntry> {
    let Some(entry) = route(reply, UNICAST) else { return Vec::new() };
    let hops = attributes(reply.get(12..).unwrap_or_default()).find(|(kind, _)| *kind == RTA_MULTIPATH);
    match hops {
        Some((_, hops)) => next_hops(hops)
            .map(|hop| RouteEntry { link: Some(hop), gateway: None, ..entry.clone() })
            .collect(),
        None => vec![entry],
    }
}

/// The links of a list of `struct rtnexthop`: length, flags, weight, link, and attributes.
fn next_hops(mut list: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*list.first_chunk()?));
        let link = list.get(4..8)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        list = list.get(length.max(8).next_multiple_of(4)..).unwrap_or_default();
        link
    })
}

fn route(reply: &[u8], wanted: u8) -> Option<RouteEntry> {
    let (family, prefix) = (*reply.first()?, *reply.get(1)?);
    let find =
        |wanted| attributes(reply.get(12..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let word = |wanted| find(wanted)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let table = word(RTA_TABLE).or_else(|| reply.get(4).map(|table| u32::from(*table)))?;
    if table != RT_TABLE_MAIN || *reply.get(7)? != wanted {
        return None;
    }
    let zeroes: &[u8] = if family == AF_INET { &[0; 4] } else { &[0; 16] };
    let destination = net(family, find(RTA_DST).unwrap_or(zeroes), prefix)?;
    let gateway = find(RTA_GATEWAY).and_then(|value| Some(net(family, value, 0)?.addr()));
    Some(RouteEntry { destination, link: word(RTA_OIF), gateway })
}

/// An address of a family, with a prefix length.
pub(super) fn net(family: u8, value: &[u8], prefix: u8) -> Option<IpNet> {
    match family {
        AF_INET => {
            let bytes: [u8; 4] = value.try_into().ok()?;
            Some(IpNet::V4(Ipv4Net::new(Ipv4Addr::from(bytes), prefix).ok()?))
        }
        AF_INET6 => {
            let bytes: [u8; 16] = value.try_into().ok()?;
            Some(IpNet::V6(Ipv6Net::new(Ipv6Addr::from(bytes), prefix).ok()?))
        }
        _ => None,
    }
}
