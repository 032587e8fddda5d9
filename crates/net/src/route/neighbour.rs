//! Who is behind a link: neighbours by their IP addresses, and link-layer addresses behind the ports of a bridge.

use std::net::IpAddr;

use super::list::net;
use super::{RTM_GETNEIGH, RouteSocket};
use crate::channel::{NLM_F_DUMP, Request, attributes};
use crate::{Mac, Result};

const AF_BRIDGE: u8 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_IFINDEX: u16 = 8;
const NDA_MASTER: u16 = 9;
const NUD_PERMANENT: u16 = 0x80;
const NTF_STICKY: u8 = 0x40;
/// `struct ndmsg`: family, padding, link, state, flags, type.
const HEADER: usize = 12;

/// An address whose link-layer address is known for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
}

/// A link-layer address that stays behind a port of a bridge, whoever else pretends to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) mac: Mac,
    /// `None` for frames of a bridge that does not keep VLANs apart.
    pub(crate) vlan: Option<u16>,
}

impl RouteSocket {
    /// The permanent neighbours of a link.
    pub(crate) fn neighbours(&mut self, link: u32) -> Result<Vec<Neighbour>> {
        // Asked strictly, the kernel refuses to be told the link in the header.
        let get = list("list neighbours", [0; HEADER], NDA_IFINDEX, link);
        let mut found = Vec::new();
        self.channel.exchange(&[get], |reply| {
            if link_of(reply) == Some(link) {
                found.extend(neighbour(reply));
            }
        })?;
        Ok(found)
    }

    /// What a bridge keeps behind one of its ports.
    pub(crate) fn places(&mut self, port: u32, bridge: u32) -> Result<Vec<Place>> {
        let mut header = [0; HEADER];
        header[0] = AF_BRIDGE;
        header[4..8].copy_from_slice(&port.to_ne_bytes());
        let get = list("list what is behind ports of bridges", header, NDA_MASTER, bridge);
        let mut found = Vec::new();
        self.channel.exchange(&[get], |reply| {
            // A kernel before 4.20 tells of every port.
            if link_of(reply) == Some(port) {
                found.extend(place(reply));
            }
        })?;
        Ok(found)
    }
}

fn list(what: &str, header: [u8; HEADER], kind: u16, link: u32) -> Request {
    let mut body = header.to_vec();
    body.extend([8, 0]);
    body.extend(kind.to_ne_bytes());
    body.extend(link.to_ne_bytes());
    Request::new(RTM_GETNEIGH, NLM_F_DUMP, body, what.to_owned())
}

fn link_of(reply: &[u8]) -> Option<u32> {
    reply.get(4..8)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn find(reply: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(reply.get(HEADER..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn neighbour(reply: &[u8]) -> Option<Neighbour> {
    let state = u16::from_ne_bytes(*reply.get(8..)?.first_chunk()?);
    if state & NUD_PERMANENT == 0 {
        return None;
    }
    let address = net(*reply.first()?, find(reply, NDA_DST)?, 0)?.addr();
    Some(Neighbour { address, mac: Mac(find(reply, NDA_LLADDR)?.try_into().ok()?) })
}

fn place(reply: &[u8]) -> Option<Place> {
    if reply.get(10)? & NTF_STICKY == 0 {
        return None;
    }
    let vlan = find(reply, NDA_VLAN).and_then(|value| value.first_chunk().map(|id| u16::from_ne_bytes(*id)));
    Some(Place { mac: Mac(find(reply, NDA_LLADDR)?.try_into().ok()?), vlan })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct ndmsg` of link 9, and a link-layer address behind it.
    fn reply(family: u8, state: u16, flags: u8, more: &[u8]) -> Vec<u8> {
        let mut bytes = vec![family, 0, 0, 0, 9, 0, 0, 0];
        bytes.extend(state.to_ne_bytes());
        bytes.extend([flags, 0]);
        bytes.extend([10, 0, 2, 0, 2, 0, 0, 0, 0, 7, 0, 0]);
        bytes.extend(more);
        bytes
    }

    #[test]
    fn neighbours_that_the_kernel_may_forget_are_none() {
        let address = [8, 0, 1, 0, 10, 88, 0, 2];
        let permanent = neighbour(&reply(2, NUD_PERMANENT, 0, &address)).unwrap();
        assert_eq!((permanent.address.to_string(), permanent.mac.0[5]), ("10.88.0.2".to_owned(), 7));
        assert_eq!(neighbour(&reply(2, 2, 0, &address)), None, "reachable");
        assert_eq!(neighbour(&reply(2, NUD_PERMANENT, 0, &[])), None, "no address in it");
    }

    #[test]
    fn what_a_bridge_has_learnt_is_no_place() {
        let vlan = [6, 0, 5, 0, 7, 0, 0, 0];
        assert_eq!(place(&reply(AF_BRIDGE, 0x40, NTF_STICKY, &vlan)).unwrap().vlan, Some(7));
        assert_eq!(place(&reply(AF_BRIDGE, 0x40, NTF_STICKY, &[])).unwrap().vlan, None);
        assert_eq!(place(&reply(AF_BRIDGE, 2, 0, &vlan)), None);
        assert_eq!(link_of(&reply(AF_BRIDGE, 2, 0, &vlan)), Some(9));
    }
}
