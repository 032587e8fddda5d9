//! The table as a whole, and the networks in it.

use dunnage_sys::Errno;
use ipnet::IpNet;

use super::layout::{self, BRIDGES, LAYOUT, MASQ4, MASQ6, OURS, PODS4, PODS6};
use super::{Attributes, NftSocket, TABLE, Verb, message};
use crate::channel::{NLM_F_CREATE, Request, attributes};
use crate::error::or_absent;
use crate::{Error, IfName, Result};

pub(super) const TABLE_USERDATA: u16 = 6;
/// `struct nfgenmsg`.
pub(super) const MESSAGE_HEADER: usize = 4;

/// Attributes of a list of elements and of one element.
pub(super) const LIST_ELEMENTS: u16 = 3;
pub(super) const LIST_ELEM: u16 = 1;
pub(super) const ELEM_KEY: u16 = 1;
pub(super) const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const INTERVAL_END: u32 = 1;

/// What the table knows of one network.
#[derive(Debug, Default)]
pub(crate) struct Elements {
    /// Where its pods are.
    pub(crate) pods: Vec<IpNet>,
    /// Which of them get an address of the host outside.
    pub(crate) masqueraded: Vec<IpNet>,
    /// Parts of them that the table may know from before the network grew.
    pub(crate) replaced: Vec<IpNet>,
    /// A bridge with pods behind it, which must not reach the host's loopback services.
    pub(crate) bridge: Option<IfName>,
}

impl NftSocket {
    /// Makes sure that the table is there and knows the network. Whether it did not before.
    pub(crate) fn ensure(&mut self, network: &Elements) -> Result<bool> {
        let found = self.found()?;
        if found == Found::Current && self.knows(network)? {
            return Ok(false);
        }
        let mut requests = match found {
            Found::Current => Vec::new(),
            Found::Nothing => layout::requests(),
            // Other networks of the host come back with their next pod, or by STATUS.
            Found::Older => std::iter::once(delete()).chain(layout::requests()).collect(),
        };
        for net in &network.replaced {
            let part = Elements { pods: vec![*net], ..Elements::default() };
            let masqueraded = Elements { masqueraded: vec![*net], ..Elements::default() };
            for part in [part, masqueraded] {
                if self.knows(&part)? {
                    requests.extend(part.requests(Verb::DelElement, 0));
                }
            }
        }
        requests.extend(network.requests(Verb::NewElement, NLM_F_CREATE));
        match self.transact(requests) {
            Err(failed) if is_taken(&failed.error) => Err(Error::Foreign {
                what: "subnet",
                name: network.pods.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                reason: "overlaps that of another pod network of this host".to_owned(),
            }),
            done => Ok(done.map(|()| true)?),
        }
    }

    /// Removes the network from the table; one that is not there is a success.
    pub(crate) fn remove_network(&mut self, network: &Elements) -> Result<()> {
        // One by one: somebody may have removed some, and a batch would keep all then.
        for request in network.requests(Verb::DelElement, 0) {
            or_absent(self.transact(vec![request]).map_err(Error::from))?;
        }
        Ok(())
    }

    /// Removes the table with everything in it; when it is not there, that is a success.
    pub(crate) fn remove_table(&mut self) -> Result<()> {
        if self.found()? == Found::Nothing {
            return Ok(());
        }
        or_absent(self.transact(vec![delete()]).map_err(Error::from))?;
        Ok(())
    }

    /// Whether the table is there and knows the network.
    pub(crate) fn knows(&mut self, network: &Elements) -> Result<bool> {
        let mut found = Vec::new();
        let get = network.requests(Verb::GetElement, 0);
        let answer = self.channel.exchange(&get, |reply| found.extend(keys(reply)));
        // The kernel answers with an interval that has the address, which may be a larger one.
        let known = |net: &IpNet| {
            let (first, end) = interval(*net);
            found.contains(&first) && found.contains(&end)
        };
        let nets = || network.pods.iter().chain(&network.masqueraded);
        Ok(or_absent(answer.map_err(Error::from))?.is_some() && nets().all(known))
    }

    /// Whether the table is there, and is ours.
    fn found(&mut self) -> Result<Found> {
        let attributes_ = Attributes::new().text(1, TABLE);
        let get = message(Verb::GetTable, 0, attributes_, format!("look up nftables table inet {TABLE}"));
        let mut comment = Vec::new();
        let answer = self.channel.exchange(&[get], |reply| {
            let body = reply.get(MESSAGE_HEADER..).unwrap_or_default();
            let data = attributes(body).find(|(kind, _)| *kind == TABLE_USERDATA);
            comment = data.map(|(_, value)| value.to_vec()).unwrap_or_default();
        });
        match or_absent(answer.map_err(Error::from))? {
            None => Ok(Found::Nothing),
            Some(()) if comment == layout::comment() => Ok(Found::Current),
            // Behind type and length.
            Some(()) if comment.get(2..).is_some_and(|text| text.starts_with(OURS.as_bytes())) => {
                Ok(Found::Older)
            }
            Some(()) => Err(Error::Foreign {
                what: "nftables table",
                name: format!("inet {TABLE}"),
                reason: format!("does not have the comment {LAYOUT:?}"),
            }),
        }
    }
}

/// What there is of the table's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Current,
    /// Made by another version of this program.
    Older,
}

fn delete() -> Request {
    let what = format!("delete nftables table inet {TABLE}");
    message(Verb::DelTable, 0, Attributes::new().text(1, TABLE), what)
}

impl Elements {
    /// Whether there is nothing that the table has to know.
    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.bridge.is_none()
    }

    fn requests(&self, verb: Verb, flags: u16) -> Vec<Request> {
        let pods = self.pods.iter().map(|net| (net, [PODS4, PODS6]));
        let masqueraded = self.masqueraded.iter().map(|net| (net, [MASQ4, MASQ6]));
        let mut requests: Vec<Request> = pods
            .chain(masqueraded)
            .map(|(net, [v4, v6])| {
                let set = if net.addr().is_ipv4() { v4 } else { v6 };
                let (first, end) = interval(*net);
                elements(verb, flags, set, &[key(&first), key(&end).number(ELEM_FLAGS, INTERVAL_END)])
            })
            .collect();
        let bridge = self.bridge.as_ref();
        requests.extend(bridge.map(|name| elements(verb, flags, BRIDGES, &[key(&ifname_key(name))])));
        requests
    }
}

/// The first address of a net, and the first behind it.
fn interval(net: IpNet) -> (Vec<u8>, Vec<u8>) {
    match net {
        IpNet::V4(net) => {
            let end = u32::from(net.broadcast()).wrapping_add(1);
            (net.network().octets().to_vec(), end.to_be_bytes().to_vec())
        }
        IpNet::V6(net) => {
            let end = u128::from(net.broadcast()).wrapping_add(1);
            (net.network().octets().to_vec(), end.to_be_bytes().to_vec())
        }
    }
}

fn ifname_key(name: &IfName) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
    bytes
}

/// The key of an element.
pub(super) fn key(bytes: &[u8]) -> Attributes {
    Attributes::new().nest(ELEM_KEY, &Attributes::new().bytes(1, bytes))
}

/// Keys of the elements in one answer.
fn keys(reply: &[u8]) -> Vec<Vec<u8>> {
    let body = reply.get(MESSAGE_HEADER..).unwrap_or_default();
    let lists = attributes(body).filter(|(kind, _)| *kind == LIST_ELEMENTS);
    let all = lists.flat_map(|(_, list)| attributes(list).filter(|(kind, _)| *kind == LIST_ELEM));
    all.filter_map(|(_, element)| field(element, ELEM_KEY)).collect()
}

/// The bytes in a nested value of an element.
pub(super) fn field(element: &[u8], kind: u16) -> Option<Vec<u8>> {
    let nested = attributes(element).find(|(found, _)| *found == kind)?.1;
    attributes(nested).find(|(kind, _)| *kind == 1).map(|(_, value)| value.to_vec())
}

/// A request about elements of one set.
pub(super) fn elements(verb: Verb, flags: u16, set: &str, list: &[Attributes]) -> Request {
    let list = list.iter().fold(Attributes::new(), |all, element| all.nest(LIST_ELEM, element));
    let attributes = Attributes::new().text(1, TABLE).text(2, set).nest(LIST_ELEMENTS, &list);
    let what = match verb {
        Verb::NewElement => "add to",
        Verb::DelElement => "delete from",
        _ => "look up in",
    };
    message(verb, flags, attributes, format!("{what} nftables set {set}"))
}

/// Whether a transaction failed because an element is there with another value.
pub(super) fn is_taken(error: &Error) -> bool {
    error.errno() == Some(Errno::EXIST)
}
