//! The expressions that the rules are made of, by the names `nft --debug=netlink` prints.

use super::Attributes;

/// The first 16-byte register. Rules use it as the start of a concatenation, so that what follows a value of
/// `n` bytes goes to [`after`] `n`.
pub(super) const R: u32 = 1;
/// `NFT_REG_4`, behind the longest concatenation that begins in [`R`] (24 bytes).
const SPARE: u32 = 4;
/// `NFT_REG32_00`, the first of the same registers counted in 4 bytes.
const REG32: u32 = 8;

const META_MARK: u32 = 3;
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const META_NFPROTO: u32 = 15;
pub(super) const META_L4PROTO: u32 = 16;
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;

/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// A name and the attributes that go with it.
#[derive(Debug, Clone)]
pub(super) struct Expression(&'static str, Attributes);

/// Where a payload is loaded from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Header {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// The register `bytes` behind [`R`].
pub(super) fn after(bytes: u32) -> u32 {
    REG32 + bytes / 4
}

pub(super) fn meta(key: u32, register: u32) -> Expression {
    Expression("meta", Attributes::new().number(1, register).number(2, key))
}

pub(super) fn payload(header: Header, offset: u32, length: u32, register: u32) -> Expression {
    let attributes = Attributes::new().number(1, register).number(2, header as u32);
    Expression("payload", attributes.number(3, offset).number(4, length))
}

pub(super) fn equal(value: &[u8]) -> Expression {
    compare(0, value)
}

pub(super) fn different(value: &[u8]) -> Expression {
    compare(1, value)
}

fn compare(operator: u32, value: &[u8]) -> Expression {
    Expression("cmp", Attributes::new().number(1, R).number(2, operator).nest(3, &data(value)))
}

pub(super) fn and(mask: &[u8]) -> Expression {
    bits(R, mask, &vec![0; mask.len()])
}

/// Keeps the bits of a mask and turns others over.
fn bits(register: u32, keep: &[u8], turn: &[u8]) -> Expression {
    let length = u32::try_from(keep.len()).expect("a mask is at most 16 bytes");
    let attributes = Attributes::new().number(1, register).number(2, register).number(3, length);
    Expression("bitwise", attributes.nest(4, &data(keep)).nest(5, &data(turn)))
}

/// The bit of a packet's mark that says "redirected by a host port of ours": that of the reference plugin `portmap`,
/// whose place this takes. A connection's first packet alone is asked for it.
pub(super) const REDIRECTED: u32 = 1 << 13;

/// Sets that bit, without touching [`R`].
pub(super) fn mark_redirected() -> [Expression; 3] {
    let load = Expression("meta", Attributes::new().number(1, SPARE).number(2, META_MARK));
    let store = Expression("meta", Attributes::new().number(2, META_MARK).number(3, SPARE));
    [load, bits(SPARE, &(!REDIRECTED).to_ne_bytes(), &REDIRECTED.to_ne_bytes()), store]
}

pub(super) fn within(set: &str) -> Expression {
    Expression("lookup", Attributes::new().text(1, set).number(2, R))
}

pub(super) fn outside(set: &str) -> Expression {
    /// `NFT_LOOKUP_F_INV`.
    const INVERT: u32 = 1;
    Expression("lookup", Attributes::new().text(1, set).number(2, R).number(5, INVERT))
}

/// Replaces the key in [`R`] by the value it has in the map; ends the rule when it has none.
pub(super) fn look_up(map: &str) -> Expression {
    Expression("lookup", Attributes::new().text(1, map).number(2, R).number(3, R))
}

/// Ends the rule unless [`mark_redirected`] was applied to the packet.
///
/// That conntrack has changed the destination (`ct status dnat`) does not tell: kube-proxy does that, too, and pods
/// that are reached by a service must see who asks.
pub(super) fn was_redirected() -> [Expression; 3] {
    [meta(META_MARK, R), and(&REDIRECTED.to_ne_bytes()), different(&0u32.to_ne_bytes())]
}

/// Ends the rule unless the destination is an address of this host.
pub(super) fn to_this_host() -> [Expression; 2] {
    const RESULT_ADDRTYPE: u32 = 3;
    const BY_DADDR: u32 = 2;
    const RTN_LOCAL: u32 = 2;
    let load =
        Expression("fib", Attributes::new().number(1, R).number(2, RESULT_ADDRTYPE).number(3, BY_DADDR));
    [load, equal(&RTN_LOCAL.to_ne_bytes())]
}

/// Redirects to the address in [`R`] and the port behind it.
pub(super) fn redirect(family: u8, port_register: u32) -> Expression {
    const DNAT: u32 = 1;
    let attributes = Attributes::new().number(1, DNAT).number(2, u32::from(family));
    Expression("nat", attributes.number(3, R).number(5, port_register))
}

pub(super) fn masquerade() -> Expression {
    Expression("masq", Attributes::new())
}

pub(super) fn go_to(chain: &str) -> Expression {
    const GOTO: u32 = (-4i32).cast_unsigned();
    verdict(&Attributes::new().number(1, GOTO).text(2, chain))
}

pub(super) fn accept() -> Expression {
    const NF_ACCEPT: u32 = 1;
    verdict(&Attributes::new().number(1, NF_ACCEPT))
}

pub(super) fn counter() -> Expression {
    Expression("counter", Attributes::new())
}

/// A match of xtables, as iptables has it in nftables; `info` is its struct.
pub(super) fn extension(name: &str, revision: u32, info: &[u8]) -> Expression {
    Expression("match", Attributes::new().text(1, name).number(2, revision).bytes(3, info))
}

pub(super) fn drop_packet() -> Expression {
    const NF_DROP: u32 = 0;
    verdict(&Attributes::new().number(1, NF_DROP))
}

fn verdict(verdict: &Attributes) -> Expression {
    const REG_VERDICT: u32 = 0;
    let data = Attributes::new().nest(DATA_VERDICT, verdict);
    Expression("immediate", Attributes::new().number(1, REG_VERDICT).nest(2, &data))
}

fn data(value: &[u8]) -> Attributes {
    Attributes::new().bytes(DATA_VALUE, value)
}

/// A list of expressions, as a rule has it.
pub(super) fn list(expressions: &[Expression]) -> Attributes {
    const LIST_ELEM: u16 = 1;
    expressions.iter().fold(Attributes::new(), |list, Expression(name, attributes)| {
        list.nest(LIST_ELEM, &Attributes::new().text(1, name).nest(2, attributes))
    })
}
