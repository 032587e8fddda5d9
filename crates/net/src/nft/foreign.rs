//! Other people's chains that would drop the pods' packets.

use super::{Attributes, NFPROTO_INET, NftSocket, TABLE, Verb, message};
use crate::channel::{NLM_F_DUMP, attributes};
use crate::error::or_absent;
use crate::{Error, NetworkName, Result};

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
const NF_DROP: u32 = 0;
/// Its chain has the policy to accept, and ends with a rule that rejects.
const FIREWALLD: &str = "firewalld";
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

impl NftSocket {
    /// Chains of other tables at the forward hook whose policy is to drop, and that of firewalld, whose last rule
    /// refuses, unless rules there let the network's pods pass. A verdict of our table cannot overrule them:
    /// pods reach nobody through this host unless a rule there lets them. Rules of the old iptables (xtables) are
    /// not seen.
    pub(crate) fn forward_chains_that_drop(&mut self, network: &NetworkName) -> Result<Vec<String>> {
        let mut dump = message(Verb::GetChain, NLM_F_DUMP, Attributes::new(), "list nftables chains".into());
        // All families.
        dump.body[0] = 0;
        let mut found = Vec::new();
        let answer = self.channel.exchange(&[dump], |reply| found.extend(dropping(reply)));
        or_absent(answer.map_err(Error::from))?;
        let mut in_the_way = Vec::new();
        for chain in found {
            if !self.is_passed(&chain, network)? {
                in_the_way.push(chain);
            }
        }
        Ok(in_the_way)
    }
}

fn dropping(reply: &[u8]) -> Option<String> {
    let family = match *reply.first()? {
        NFPROTO_INET => "inet",
        NFPROTO_IPV4 => "ip",
        NFPROTO_IPV6 => "ip6",
        _ => return None,
    };
    let field =
        |wanted| attributes(reply.get(4..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let number = |value: &[u8]| value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let hook = attributes(field(CHAIN_HOOK)?).find(|(kind, _)| *kind == HOOK_NUMBER)?.1;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let (table, chain) = (text(field(CHAIN_TABLE)?), text(field(CHAIN_NAME)?));
    let refuses = number(field(CHAIN_POLICY)?) == Some(NF_DROP) || table == FIREWALLD;
    let drops = number(hook) == Some(FORWARD) && refuses;
    (drops && table != TABLE).then(|| format!("{family} {table} {chain}"))
}
