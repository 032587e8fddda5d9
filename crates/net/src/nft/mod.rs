//! The nftables side: one table `inet dunnage` for all pod networks of a host, and one of the family bridge where
//! frames are checked.
//!
//! The rules are made once and never change; a network is an element of a set, a host port an element of a map,
//! so that nothing grows with the number of pods but hash tables. No `nft` program is run: one takes 4 to 20 ms
//! for what takes 7 µs here.

mod conntrack;
mod element;
mod expression;
mod foreign;
mod forward;
mod frames;
mod layout;
mod ports;
mod table;

pub(crate) use forward::{Passage, PodLinks};
pub(crate) use frames::CheckedPod;
pub(crate) use ports::PodPorts;
pub(crate) use table::Elements;

use dunnage_sys::netlink::Subsystem;

use crate::Result;
use crate::channel::{Channel, Request, aligned};

/// The one table.
pub(crate) const TABLE: &str = "dunnage";

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFPROTO_INET: u8 = 1;
const NLA_F_NESTED: u16 = 0x8000;

/// A socket to nftables of the network namespace it was opened in.
#[derive(Debug)]
pub(crate) struct NftSocket {
    channel: Channel,
}

/// The messages in use (`enum nf_tables_msg_types`).
#[derive(Debug, Clone, Copy)]
enum Verb {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    NewElement = 12,
    GetElement = 13,
    DelElement = 14,
}

impl NftSocket {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { channel: Channel::open(Subsystem::Netfilter)? })
    }

    /// Carries out all requests or none.
    fn transact(&mut self, requests: Vec<Request>) -> std::result::Result<(), crate::channel::Failed> {
        let what = requests.first().map(|request| request.what.clone()).unwrap_or_default();
        let mut batch = vec![edge(NFNL_MSG_BATCH_BEGIN, what)];
        batch.extend(requests);
        batch.push(edge(NFNL_MSG_BATCH_END, "end a batch".into()));
        self.channel.exchange(&batch, |_| {}).map_err(|mut failed| {
            failed.index = failed.index.saturating_sub(1);
            failed
        })
    }
}

/// The first or last message of a batch.
fn edge(kind: u16, what: String) -> Request {
    // struct nfgenmsg: family, version, and the subsystem in network order.
    let mut body = vec![0, 0];
    body.extend(NFNL_SUBSYS_NFTABLES.to_be_bytes());
    Request { ack: false, ..Request::new(kind, 0, body, what) }
}

fn message(verb: Verb, flags: u16, attributes: Attributes, what: String) -> Request {
    let mut body = vec![NFPROTO_INET, 0, 0, 0];
    body.extend(attributes.0);
    Request::new(NFNL_SUBSYS_NFTABLES << 8 | verb as u16, flags, body, what)
}

/// Netlink attributes being written. Numbers of nftables are big-endian.
#[derive(Debug, Clone)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn new() -> Self {
        // Room for what most messages come to, so that they do not grow by steps of a few bytes.
        Self(Vec::with_capacity(96))
    }

    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("an attribute of ours is far below 64 KiB");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}
