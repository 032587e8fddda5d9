//! The table as a whole, and the networks in it.

use dunnage_sys::Errno;
use ipnet::IpNet;

use super::element::{ELEM_KEY, LIST_ELEM, LIST_ELEMENTS, LIST_SET, MESSAGE_HEADER, elements, field, key};
use super::layout::{self, BRIDGES, LAYOUT, MASQ4, MASQ6, OURS, PODS4, PODS6, USES};
use super::{Attributes, NftSocket, TABLE, Verb, message};
use crate::channel::{Failed, NLM_F_CREATE, Request, attributes};
use crate::error::or_absent;
use crate::{Error, IfName, Result};

pub(super) const TABLE_USERDATA: u16 = 6;
/// Attributes of a chain.
const CHAIN_NAME: u16 = 3;
const CHAIN_USE: u16 = 6;

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

/// How a table is not as a network wants it.
#[derive(Debug)]
pub(crate) struct Lack {
    found: Found,
    /// What it knows and should not.
    stale: Elements,
}

impl NftSocket {
    /// Makes sure that the table is there and knows the network. Whether it did not before.
    pub(crate) fn ensure(&mut self, network: &Elements) -> Result<bool> {
        match self.lacks(network)? {
            Some(lack) => self.make(network, lack).map(|()| true),
            None => Ok(false),
        }
    }

    /// What keeps the table from being as the network wants it, if anything.
    pub(crate) fn lacks(&mut self, network: &Elements) -> Result<Option<Lack>> {
        let Look { found, known, whole } = self.look(network)?;
        let mut stale = network.unmasqueraded();
        stale.masqueraded.retain(|net| knows(&known, [MASQ4, MASQ6], *net));
        let knows = whole && network.is_in(&known);
        let as_wanted = found == Found::Current && knows && stale.masqueraded.is_empty();
        Ok((!as_wanted).then_some(Lack { found, stale }))
    }

    /// Makes the table as the network wants it.
    pub(crate) fn make(&mut self, network: &Elements, Lack { found, stale }: Lack) -> Result<()> {
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
        if found == Found::Current {
            requests.extend(stale.requests(Verb::DelElement, 0));
        }
        requests.extend(network.requests(Verb::NewElement, NLM_F_CREATE));
        match self.transact(requests) {
            Err(failed) if is_taken(&failed.error) => Err(Error::Foreign {
                what: "subnet",
                name: network.pods.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                reason: "overlaps that of another pod network of this host".to_owned(),
            }),
            done => Ok(done?),
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
        if self.look(&Elements::default())?.found == Found::Nothing {
            return Ok(());
        }
        or_absent(self.transact(vec![delete()]).map_err(Error::from))?;
        Ok(())
    }

    /// Whether the table is there and knows the network.
    pub(crate) fn knows(&mut self, network: &Elements) -> Result<bool> {
        let mut known = Vec::new();
        let get = network.requests(Verb::GetElement, 0);
        let answer = self.channel.exchange(&get, |reply| known.extend(keys(reply)));
        Ok(or_absent(answer.map_err(Error::from))?.is_some() && network.is_in(&known))
    }

    /// Whether nobody has taken rules out of the table.
    pub(crate) fn has_its_rules(&mut self) -> Result<bool> {
        let get: Vec<Request> = USES.iter().map(|(name, _)| chain_lookup(name)).collect();
        let mut intact = 0;
        self.channel.exchange(&get, |reply| {
            intact += usize::from(USES.iter().any(|(name, uses)| is_used(reply, name, *uses)));
        })?;
        Ok(intact == USES.len())
    }

    /// Gives the table its rules again. What is in sets stays, that of other networks too.
    pub(crate) fn restore_rules(&mut self) -> Result<()> {
        Ok(self.transact(layout::again())?)
    }

    /// What there is of the table, and what it knows of the network: both with one question, which every pod asks.
    fn look(&mut self, network: &Elements) -> Result<Look> {
        let table = Attributes::new().text(1, TABLE);
        let get = message(Verb::GetTable, 0, table, format!("look up nftables table inet {TABLE}"));
        let mut all = vec![get];
        // Known from when the network was masqueraded. Not the last question, so that its refusal is none.
        let once = network.unmasqueraded().requests(Verb::GetElement, 0).into_iter();
        all.extend(once.map(|request| request.unless(Errno::NOENT)));
        all.extend(network.requests(Verb::GetElement, 0));
        let (mut comment, mut known) = (Vec::new(), Vec::new());
        let answer = self.channel.exchange(&all, |reply| {
            let body = reply.get(MESSAGE_HEADER..).unwrap_or_default();
            if let Some((_, value)) = attributes(body).find(|(kind, _)| *kind == TABLE_USERDATA) {
                comment = value.to_vec();
            }
            known.extend(keys(reply));
        });
        match answer {
            Ok(()) => Ok(Look { found: Found::by(&comment)?, known, whole: true }),
            Err(Failed { index: 0, error }) => {
                or_absent(Err::<(), _>(error))?;
                Ok(Look { found: Found::Nothing, known, whole: false })
            }
            Err(Failed { error, .. }) => {
                let found = Found::by(&comment)?;
                // What sets another version has is its own.
                if found == Found::Current {
                    or_absent(Err::<(), _>(error))?;
                }
                Ok(Look { found, known, whole: false })
            }
        }
    }
}

/// What the kernel has told of a network.
struct Look {
    found: Found,
    known: Vec<Known>,
    /// Whether it knew everything that it was asked for, the bridge included.
    whole: bool,
}

/// Asks for a chain; that it is gone is told by no answer.
pub(super) fn chain_lookup(name: &str) -> Request {
    let chain = Attributes::new().text(1, TABLE).text(CHAIN_NAME, name);
    message(Verb::GetChain, 0, chain, format!("look up nftables chain {name}")).unless(Errno::NOENT)
}

/// Whether an answer is about that chain, which has so many rules, and others that lead to it, or more.
pub(super) fn is_used(reply: &[u8], chain: &str, least: u32) -> bool {
    let body = reply.get(MESSAGE_HEADER..).unwrap_or_default();
    let find = |wanted| attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let named = find(CHAIN_NAME).and_then(|name| name.strip_suffix(b"\0")) == Some(chain.as_bytes());
    let uses = find(CHAIN_USE).and_then(|value| value.first_chunk()).map(|uses| u32::from_be_bytes(*uses));
    named && uses.is_some_and(|uses| uses >= least)
}

/// What there is of the table's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Current,
    /// Made by another version of this program.
    Older,
}

impl Found {
    /// What a table with that comment is.
    fn by(comment: &[u8]) -> Result<Self> {
        if comment == layout::comment() {
            return Ok(Self::Current);
        }
        // Behind type and length.
        if comment.get(2..).is_some_and(|text| text.starts_with(OURS.as_bytes())) {
            return Ok(Self::Older);
        }
        Err(Error::Foreign {
            what: "nftables table",
            name: format!("inet {TABLE}"),
            reason: format!("does not have the comment {LAYOUT:?}"),
        })
    }
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

    pub(super) fn requests(&self, verb: Verb, flags: u16) -> Vec<Request> {
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

    /// Whether the subnets are among what the table knows.
    fn is_in(&self, known: &[Known]) -> bool {
        self.pods.iter().all(|net| knows(known, [PODS4, PODS6], *net))
            && self.masqueraded.iter().all(|net| knows(known, [MASQ4, MASQ6], *net))
    }

    /// The subnets that keep their addresses outside, as if they were masqueraded.
    fn unmasqueraded(&self) -> Self {
        let kept = self.pods.iter().filter(|net| !self.masqueraded.contains(net));
        Self { masqueraded: kept.copied().collect(), ..Self::default() }
    }
}

/// A key and the set that it is in.
type Known = (String, Vec<u8>);

/// Whether a set knows a subnet. The kernel answers with an interval that has the address, which may be a larger one.
fn knows(known: &[Known], [v4, v6]: [&str; 2], net: IpNet) -> bool {
    let set = if net.addr().is_ipv4() { v4 } else { v6 };
    let (first, end) = interval(net);
    [first, end].iter().all(|key| known.iter().any(|(found, other)| found == set && other == key))
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

/// Keys of the elements in one answer, each with its set.
fn keys(reply: &[u8]) -> Vec<Known> {
    let body = reply.get(MESSAGE_HEADER..).unwrap_or_default();
    let set = attributes(body).find(|(kind, _)| *kind == LIST_SET).map(|(_, name)| name);
    let set = String::from_utf8_lossy(set.unwrap_or_default()).trim_end_matches('\0').to_owned();
    let lists = attributes(body).filter(|(kind, _)| *kind == LIST_ELEMENTS);
    let all = lists.flat_map(|(_, list)| attributes(list).filter(|(kind, _)| *kind == LIST_ELEM));
    all.filter_map(|(_, element)| Some((set.clone(), field(element, ELEM_KEY)?))).collect()
}

/// Whether a table or a set is missing, or has part of an interval.
pub(super) fn is_lacking(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::NOENT | Errno::EXIST | Errno::NOTEMPTY))
}

/// Whether a transaction failed because an element is there with another value.
pub(super) fn is_taken(error: &Error) -> bool {
    error.errno() == Some(Errno::EXIST)
}
