//! Rules that let pods' packets pass the forward chains of iptables (the nft variant), which may drop by policy.
//!
//! ```text
//! ip filter FORWARD    -s NET -i LINK                                  ACCEPT   from pods
//! ip6 filter FORWARD   -d NET -m conntrack --ctstate RELATED,ESTABLISHED ACCEPT answers to them
//!                      -d NET -m mark --mark 0x2000/0x2000             ACCEPT   by host ports
//! ```
//!
//! The chains are other people's: nothing is made when they are not there, and what is put in is what `iptables` itself
//! reads, writes and deletes. A rule is known by its comment, which says all that it does. iptables 1.8.9 cannot read
//! `ct state` of nftables, and older ones not its mark: both are extensions of xtables here (`nft_compat`), as iptables
//! has them itself.

use ipnet::IpNet;

use super::element::MESSAGE_HEADER;
use super::expression::{
    Expression, Header, META_IIFNAME, NFPROTO_IPV4, NFPROTO_IPV6, R, REDIRECTED, accept, and, counter, equal,
    extension, list, meta, payload,
};
use super::layout::userdata;
use super::{Attributes, NftSocket, Verb, message};
use crate::attachment::HOST_END;
use crate::channel::{NLM_F_CREATE, NLM_F_DUMP, Request, attributes};
use crate::error::or_absent;
use crate::{Error, IfName, NetworkName, Result};

/// As iptables names them.
const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
const CHAIN_HOOK: u16 = 4;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;

/// What is to pass of a network's packets.
#[derive(Debug, Clone)]
pub(crate) struct Passage {
    pub(crate) network: NetworkName,
    /// Where its pods are.
    pub(crate) nets: Vec<IpNet>,
    /// By which links of the host their packets come.
    pub(crate) links: Vec<PodLinks>,
}

/// Links by which packets of pods come to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PodLinks {
    /// The pods' own.
    Own,
    /// A bridge, or the host's link into a VLAN of it.
    Bridge(IfName),
}

/// One rule.
#[derive(Debug, Clone)]
struct Rule {
    net: IpNet,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    From(PodLinks),
    Answers,
    HostPorts,
}

/// A rule that is there.
struct Present {
    handle: Vec<u8>,
    comment: String,
}

impl NftSocket {
    /// Puts the rules that are missing before all others, where iptables has the chains. All of them or none.
    pub(crate) fn let_pass(&mut self, passage: &Passage) -> Result<()> {
        let missing = self.missing(passage)?;
        // Each goes before the one that was put in last.
        let requests: Vec<Request> = missing.iter().rev().map(|rule| rule.insert(&passage.network)).collect();
        if requests.is_empty() { Ok(()) } else { Ok(self.transact(requests)?) }
    }

    /// The rules that are missing: a sentence for each.
    pub(crate) fn passage_differences(&mut self, passage: &Passage) -> Result<Vec<String>> {
        let missing = self.missing(passage)?;
        let say = |rule: &Rule| {
            format!(
                "nftables chain {} has lost the rule \"{}\"",
                rule.chain(),
                rule.comment(&passage.network)
            )
        };
        Ok(missing.iter().map(say).collect())
    }

    /// Takes away every rule that was put in for the network.
    pub(crate) fn stop_passing(&mut self, network: &NetworkName) -> Result<()> {
        for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
            // One by one: somebody may have removed some, and a batch would keep all then.
            for rule in self.passing(family, network)? {
                or_absent(self.transact(vec![delete(family, &rule.handle)]).map_err(Error::from))?;
            }
        }
        Ok(())
    }

    /// Whether packets of the network's pods pass that chain, called as `ip filter FORWARD`, because of rules of ours.
    pub(crate) fn is_passed(&mut self, chain: &str, network: &NetworkName) -> Result<bool> {
        let family = [NFPROTO_IPV4, NFPROTO_IPV6].into_iter().find(|family| name_of(*family) == chain);
        family.map_or(Ok(false), |family| Ok(!self.passing(family, network)?.is_empty()))
    }

    fn missing(&mut self, passage: &Passage) -> Result<Vec<Rule>> {
        let mut missing = Vec::new();
        for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
            let mut rules = passage.rules().filter(|rule| rule.family() == family).peekable();
            if rules.peek().is_none() || !self.has_chain(family)? {
                continue;
            }
            let there = self.passing(family, &passage.network)?;
            let is_there = |comment: &str| there.iter().any(|present| present.comment == comment);
            missing.extend(rules.filter(|rule| !is_there(&rule.comment(&passage.network))));
        }
        Ok(missing)
    }

    /// Whether packets that the host forwards come by the chain.
    fn has_chain(&mut self, family: u8) -> Result<bool> {
        const NAME: u16 = 3;
        let what = format!("look up nftables chain {}", name_of(family));
        let attributes_of_it = Attributes::new().text(RULE_TABLE, TABLE).text(NAME, CHAIN);
        let mut hooked = false;
        let get = of_family(family, message(Verb::GetChain, 0, attributes_of_it, what));
        let answer = self.channel.exchange(&[get], |reply| {
            let body = reply.get(MESSAGE_HEADER..).unwrap_or_default();
            hooked |= attributes(body).any(|(kind, _)| kind == CHAIN_HOOK);
        });
        Ok(or_absent(answer.map_err(Error::from))?.is_some() && hooked)
    }

    /// The rules of ours for the network.
    fn passing(&mut self, family: u8, network: &NetworkName) -> Result<Vec<Present>> {
        let what = format!("list rules of nftables chain {}", name_of(family));
        let dump = message(Verb::GetRule, NLM_F_DUMP, place(), what);
        let begin = comment_of(network, "");
        let mut found = Vec::new();
        let answer = self.channel.exchange(&[of_family(family, dump)], |reply| {
            found.extend(present(reply).filter(|rule| rule.comment.starts_with(&begin)));
        });
        or_absent(answer.map_err(Error::from))?;
        Ok(found)
    }
}

impl Passage {
    fn rules(&self) -> impl Iterator<Item = Rule> {
        self.nets.iter().flat_map(|net| {
            let from = self.links.iter().cloned().map(What::From);
            from.chain([What::Answers, What::HostPorts]).map(|what| Rule { net: *net, what })
        })
    }
}

impl Rule {
    fn family(&self) -> u8 {
        if self.net.addr().is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 }
    }

    fn chain(&self) -> String {
        name_of(self.family())
    }

    fn comment(&self, network: &NetworkName) -> String {
        let net = self.net;
        comment_of(
            network,
            &match &self.what {
                What::From(PodLinks::Own) => format!("from {net} by {HOST_END}+"),
                What::From(PodLinks::Bridge(name)) => format!("from {net} by {name}"),
                What::Answers => format!("answers to {net}"),
                What::HostPorts => format!("host ports of {net}"),
            },
        )
    }

    /// In the order in which iptables has them.
    fn expressions(&self) -> Vec<Expression> {
        let mut rule = Vec::new();
        match &self.what {
            What::From(links) => {
                rule.extend([meta(META_IIFNAME, R), links.expression()]);
                rule.extend(within(self.net, true));
            }
            What::Answers => {
                rule.extend(within(self.net, false));
                rule.push(extension("conntrack", 3, &related_or_established()));
            }
            What::HostPorts => {
                rule.extend(within(self.net, false));
                rule.push(extension("mark", 1, &redirected()));
            }
        }
        rule.extend([counter(), accept()]);
        rule
    }

    fn insert(&self, network: &NetworkName) -> Request {
        let attributes = place().nest(RULE_EXPRESSIONS, &list(&self.expressions()));
        let attributes = attributes.bytes(RULE_USERDATA, &userdata(&self.comment(network)));
        let what = format!("insert a rule into nftables chain {}", self.chain());
        of_family(self.family(), message(Verb::NewRule, NLM_F_CREATE, attributes, what))
    }
}

impl PodLinks {
    /// Without the NUL it is all names that begin so.
    fn expression(&self) -> Expression {
        match self {
            Self::Own => equal(HOST_END.as_bytes()),
            Self::Bridge(name) => equal(&[name.as_str().as_bytes(), &[0]].concat()),
        }
    }
}

/// Ends the rule unless the source, or else the destination, is in the net.
fn within(net: IpNet, source: bool) -> Vec<Expression> {
    let (offset, network, mask) = match net {
        IpNet::V4(net) => (12, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        IpNet::V6(net) => (8, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
    };
    let length = if net.addr().is_ipv4() { 4 } else { 16 };
    let load = payload(Header::Network, if source { offset } else { offset + length }, length, R);
    if net.prefix_len() == net.max_prefix_len() {
        return vec![load, equal(&network)];
    }
    vec![load, and(&mask), equal(&network)]
}

/// `struct xt_conntrack_mtinfo3`, padded to eight bytes: eight addresses and masks, then numbers.
fn related_or_established() -> [u8; 168] {
    const MATCH_FLAGS: usize = 146;
    const STATE_MASK: usize = 150;
    /// `XT_CONNTRACK_STATE`, and the bit by which iptables prints `--ctstate` (`XT_CONNTRACK_STATE_ALIAS` is not set).
    const STATE: u16 = 1;
    const ESTABLISHED: u16 = 1 << 1;
    const RELATED: u16 = 1 << 2;
    let mut info = [0; 168];
    info[MATCH_FLAGS..MATCH_FLAGS + 2].copy_from_slice(&STATE.to_ne_bytes());
    info[STATE_MASK..STATE_MASK + 2].copy_from_slice(&(ESTABLISHED | RELATED).to_ne_bytes());
    info
}

/// `struct xt_mark_mtinfo1`, padded to eight bytes: mark, mask, whether it is turned over.
fn redirected() -> [u8; 16] {
    let mut info = [0; 16];
    info[..4].copy_from_slice(&REDIRECTED.to_ne_bytes());
    info[4..8].copy_from_slice(&REDIRECTED.to_ne_bytes());
    info
}

fn comment_of(network: &NetworkName, what: &str) -> String {
    format!("dunnage {}: {what}", network.as_str())
}

fn name_of(family: u8) -> String {
    let family = if family == NFPROTO_IPV4 { "ip" } else { "ip6" };
    format!("{family} {TABLE} {CHAIN}")
}

fn place() -> Attributes {
    Attributes::new().text(RULE_TABLE, TABLE).text(RULE_CHAIN, CHAIN)
}

fn delete(family: u8, handle: &[u8]) -> Request {
    let what = format!("delete a rule of nftables chain {}", name_of(family));
    of_family(family, message(Verb::DelRule, 0, place().bytes(RULE_HANDLE, handle), what))
}

fn of_family(family: u8, mut request: Request) -> Request {
    request.body[0] = family;
    request
}

/// A rule that has a comment, as nftables keeps it or, once iptables has saved and restored it, as iptables does.
fn present(reply: &[u8]) -> Option<Present> {
    let body = reply.get(MESSAGE_HEADER..)?;
    let field = |wanted| attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    // Behind type and length.
    let own = field(RULE_USERDATA).filter(|data| data.first() == Some(&0)).and_then(|data| data.get(2..));
    let comment = own.or_else(|| comment_of_iptables(field(RULE_EXPRESSIONS)?))?;
    let comment = comment.split(|byte| *byte == 0).next().unwrap_or_default();
    let handle = field(RULE_HANDLE)?.to_vec();
    Some(Present { handle, comment: String::from_utf8_lossy(comment).into_owned() })
}

fn comment_of_iptables(expressions: &[u8]) -> Option<&[u8]> {
    const DATA: u16 = 2;
    const NAME: u16 = 1;
    const INFO: u16 = 3;
    let inside = |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    attributes(expressions).find_map(|(_, expression)| {
        let data = inside(expression, DATA)?;
        (inside(expression, NAME)? == b"match\0" && inside(data, NAME)? == b"comment\0")
            .then(|| inside(data, INFO))?
    })
}
