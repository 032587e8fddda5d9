//! What the table holds: sets, maps, chains and rules.
//!
//! ```text
//! prerouting ─┐ to this host                     postrouting
//! output ─────┴──▶ hp: hpip4/6, then hp4/6        1 redirected, to a pod in hpmasq4/6      ─▶ masquerade
//!                  ─▶ dnat to pod : port          2 redirected, from a pod to a pod        ─▶ masquerade
//!                                                 3 redirected, from loopback to a pod     ─▶ masquerade
//! guard ─ from a pod ─▶ from_pod ──────────▶ drop 4 from a pod to outside, not multicast   ─▶ masquerade
//! ```
//!
//! What is redirected here carries a bit in its mark, so that 1 to 3 leave alone what others redirect.
//! 2 makes a pod's answer to a neighbour that came by a host port pass the host again; 3 is needed because an
//! address of loopback means nothing to a pod, and works because the link there has `route_localnet`, which in
//! turn would let pods reach the host's loopback services (CVE-2020-8558). Neither is for pods in hpkeep4/6. A pod is
//! a neighbour of the host and no router of it: without `from_pod` its router advertisement gave the host an address
//! and a default route through the pod (CVE-2020-10749).

use super::element::{elements, key};
use super::expression::{
    Expression, Header, META_IIFNAME, META_L4PROTO, META_NFPROTO, NFPROTO_IPV4, NFPROTO_IPV6, R, after, and,
    different, drop_packet, equal, go_to, list, look_up, mark_redirected, masquerade, meta, outside, payload,
    redirect, to_this_host, was_redirected, within,
};
use super::{Attributes, TABLE, Verb, message};
use crate::attachment::HOST_END;
use crate::channel::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Request};

/// How the comment of every table of ours begins.
pub(super) const OURS: &str = "dunnage pod networks, layout ";
/// Kept as the table's comment; a table with another number is of another version.
pub(super) const LAYOUT: &str = "dunnage pod networks, layout 6";
/// A set that only a table of this number has: what is added together with its element is added to no other.
const LAYOUT_SET: &str = "layout6";

/// Names of the sets of pods' subnets and of those that are masqueraded, of the bridges' set, of the host port maps,
/// and of the sets of pods whose host ports are source-NATed always and never.
pub(super) const PODS4: &str = "pods4";
pub(super) const PODS6: &str = "pods6";
pub(super) const MASQ4: &str = "masq4";
pub(super) const MASQ6: &str = "masq6";
pub(super) const BRIDGES: &str = "bridges";
pub(super) const HP4: &str = "hp4";
pub(super) const HP6: &str = "hp6";
pub(super) const HPIP4: &str = "hpip4";
pub(super) const HPIP6: &str = "hpip6";
pub(super) const HPMASQ4: &str = "hpmasq4";
pub(super) const HPMASQ6: &str = "hpmasq6";
pub(super) const HPKEEP4: &str = "hpkeep4";
pub(super) const HPKEEP6: &str = "hpkeep6";

/// Datatypes as the `nft` program numbers them; the kernel only keeps the number for it. A concatenation has
/// six bits for each part.
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
const PROTO_PORT: u32 = 12 << 6 | 13;
const MARK: u32 = 19;
pub(super) const ETHER_ADDR: u32 = 9;
pub(super) const IFNAME: u32 = 41;

const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;

pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) flags: u32,
    /// Datatype and bytes.
    pub(super) key: (u32, u32),
    /// Datatype and bytes of the value, for a map.
    pub(super) value: Option<(u32, u32)>,
}

const fn map(name: &'static str, key: (u32, u32), address: (u32, u32)) -> Set {
    Set { name, flags: SET_MAP, key, value: Some((address.0 << 6 | 13, address.1 + 4)) }
}

const SETS: [Set; 14] = [
    Set { name: LAYOUT_SET, flags: 0, key: (MARK, 4), value: None },
    Set { name: PODS4, flags: SET_INTERVAL, key: (IPV4_ADDR, 4), value: None },
    Set { name: PODS6, flags: SET_INTERVAL, key: (IPV6_ADDR, 16), value: None },
    Set { name: MASQ4, flags: SET_INTERVAL, key: (IPV4_ADDR, 4), value: None },
    Set { name: MASQ6, flags: SET_INTERVAL, key: (IPV6_ADDR, 16), value: None },
    Set { name: BRIDGES, flags: 0, key: (IFNAME, 16), value: None },
    map(HP4, (PROTO_PORT, 8), (IPV4_ADDR, 4)),
    map(HP6, (PROTO_PORT, 8), (IPV6_ADDR, 16)),
    map(HPIP4, (IPV4_ADDR << 12 | PROTO_PORT, 12), (IPV4_ADDR, 4)),
    map(HPIP6, (IPV6_ADDR << 12 | PROTO_PORT, 24), (IPV6_ADDR, 16)),
    Set { name: HPMASQ4, flags: 0, key: (IPV4_ADDR, 4), value: None },
    Set { name: HPMASQ6, flags: 0, key: (IPV6_ADDR, 16), value: None },
    Set { name: HPKEEP4, flags: 0, key: (IPV4_ADDR, 4), value: None },
    Set { name: HPKEEP6, flags: 0, key: (IPV6_ADDR, 16), value: None },
];

/// Type, hook and priority of a base chain.
pub(super) type Hook = (&'static str, u32, i32);

const CHAINS: [(&str, Option<Hook>); 6] = [
    ("hp", None),
    ("from_pod", None),
    ("prerouting", Some(("nat", 0, -100))),
    ("output", Some(("nat", 3, -100))),
    ("postrouting", Some(("nat", 4, 100))),
    ("guard", Some(("filter", 0, -300))),
];

/// How many rules these chains have and how many others lead to them, together: fewer, and a rule is gone from them
/// or from a chain that leads to them, which is every one.
pub(super) const USES: [(&str, u32); 3] = [("hp", 6), ("from_pod", 6), ("postrouting", 7)];

/// The requests that make the whole table, for one transaction.
pub(super) fn requests() -> Vec<Request> {
    std::iter::once(table()).chain(contents()).collect()
}

/// The requests that give a table its rules again, whoever took some. What is in sets stays, that of other networks
/// too.
pub(super) fn again() -> Vec<Request> {
    let what = format!("delete rules of nftables table inet {TABLE}");
    let all = message(Verb::DelRule, 0, Attributes::new().text(1, TABLE), what);
    std::iter::once(all).chain(contents()).collect()
}

fn contents() -> Vec<Request> {
    let mut requests = Vec::new();
    requests.extend((1..).zip(&SETS).map(|(id, set)| new_set(id, set)));
    requests.extend(CHAINS.iter().map(|(name, hook)| chain(name, *hook)));
    requests.extend(rules().into_iter().map(|(chain, expressions)| rule(chain, &expressions)));
    requests.push(of_this_layout());
    requests
}

/// Refused where the table is missing, or of another number.
pub(super) fn of_this_layout() -> Request {
    elements(Verb::NewElement, NLM_F_CREATE, LAYOUT_SET, &[key(&[0; 4])])
}

fn table() -> Request {
    let attributes = Attributes::new().text(1, TABLE).number(2, 0).bytes(6, &comment());
    message(
        Verb::NewTable,
        NLM_F_CREATE | NLM_F_EXCL,
        attributes,
        format!("create nftables table inet {TABLE}"),
    )
}

/// The comment of the table.
pub(super) fn comment() -> Vec<u8> {
    userdata(LAYOUT)
}

/// A comment as the `nft` program keeps it: type 0, length, text.
pub(super) fn userdata(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).expect("a short constant");
    let mut bytes = vec![0, length];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

pub(super) fn new_set(id: u32, set: &Set) -> Request {
    let mut attributes = Attributes::new().text(1, TABLE).text(2, set.name).number(3, set.flags);
    attributes = attributes.number(4, set.key.0).number(5, set.key.1);
    if let Some((datatype, length)) = set.value {
        attributes = attributes.number(6, datatype).number(7, length);
    }
    if set.key.0 == IFNAME {
        // Byte order of the key: that of the host. Only the `nft` program reads it, to print names.
        attributes = attributes.bytes(13, &[0, 4, 1, 0, 0, 0]);
    }
    message(
        Verb::NewSet,
        NLM_F_CREATE,
        attributes.number(10, id),
        format!("create nftables set {}", set.name),
    )
}

pub(super) fn chain(name: &str, hook: Option<Hook>) -> Request {
    let mut attributes = Attributes::new().text(1, TABLE).text(3, name);
    if let Some((kind, number, priority)) = hook {
        let hook = Attributes::new().number(1, number).bytes(2, &priority.to_be_bytes());
        attributes = attributes.nest(4, &hook).text(7, kind);
    }
    message(Verb::NewChain, NLM_F_CREATE, attributes, format!("create nftables chain {name}"))
}

pub(super) fn rule(chain: &str, expressions: &[Expression]) -> Request {
    let attributes = Attributes::new().text(1, TABLE).text(2, chain).nest(4, &list(expressions));
    message(
        Verb::NewRule,
        NLM_F_CREATE | NLM_F_APPEND,
        attributes,
        format!("add a rule to nftables chain {chain}"),
    )
}

/// An address family as the rules see it.
struct Family {
    number: u8,
    length: u32,
    source: u32,
    destination: u32,
    pods: &'static str,
    masqueraded: &'static str,
    ports: &'static str,
    ports_by_address: &'static str,
    always: &'static str,
    never: &'static str,
}

const V4: Family = Family {
    number: NFPROTO_IPV4,
    length: 4,
    source: 12,
    destination: 16,
    pods: PODS4,
    masqueraded: MASQ4,
    ports: HP4,
    ports_by_address: HPIP4,
    always: HPMASQ4,
    never: HPKEEP4,
};

const V6: Family = Family {
    number: NFPROTO_IPV6,
    length: 16,
    source: 8,
    destination: 24,
    pods: PODS6,
    masqueraded: MASQ6,
    ports: HP6,
    ports_by_address: HPIP6,
    always: HPMASQ6,
    never: HPKEEP6,
};

impl Family {
    fn only(&self) -> [Expression; 2] {
        [meta(META_NFPROTO, R), equal(&[self.number])]
    }

    fn source(&self) -> Expression {
        payload(Header::Network, self.source, self.length, R)
    }

    fn destination(&self) -> Expression {
        payload(Header::Network, self.destination, self.length, R)
    }

    fn redirect_by_address(&self) -> Vec<Expression> {
        let mut rule = self.only().to_vec();
        rule.push(self.destination());
        rule.push(meta(META_L4PROTO, after(self.length)));
        rule.push(payload(Header::Transport, 2, 2, after(self.length + 4)));
        rule.push(look_up(self.ports_by_address));
        rule.extend(mark_redirected());
        rule.push(redirect(self.number, after(self.length)));
        rule
    }

    fn redirect_any(&self) -> Vec<Expression> {
        let mut rule = self.only().to_vec();
        rule.push(meta(META_L4PROTO, R));
        rule.push(payload(Header::Transport, 2, 2, after(4)));
        rule.push(look_up(self.ports));
        rule.extend(mark_redirected());
        rule.push(redirect(self.number, after(self.length)));
        rule
    }

    fn masquerade_pod_to_pod(&self) -> Vec<Expression> {
        let mut rule = was_redirected().to_vec();
        rule.extend(self.only());
        rule.extend([self.source(), within(self.pods)]);
        rule.extend(self.masquerade_to_pod());
        rule
    }

    fn masquerade_always(&self) -> Vec<Expression> {
        let mut rule = was_redirected().to_vec();
        rule.extend(self.only());
        rule.extend([self.destination(), within(self.always), masquerade()]);
        rule
    }

    /// Unless the pod is to see everybody's own address.
    fn masquerade_to_pod(&self) -> [Expression; 5] {
        let to = self.destination();
        [to.clone(), within(self.pods), to, outside(self.never), masquerade()]
    }

    fn masquerade_outside(&self) -> Vec<Expression> {
        let mut rule = self.only().to_vec();
        rule.extend([self.source(), within(self.masqueraded), self.destination(), outside(self.pods)]);
        // Multicast: 224.0.0.0/4 and ff00::/8.
        if self.number == NFPROTO_IPV4 {
            rule.extend([self.destination(), and(&[0xf0, 0, 0, 0]), different(&[0xe0, 0, 0, 0])]);
        } else {
            rule.extend([payload(Header::Network, self.destination, 1, R), different(&[0xff])]);
        }
        rule.push(masquerade());
        rule
    }
}

fn masquerade_loopback_to_pod() -> Vec<Expression> {
    let mut rule = was_redirected().to_vec();
    rule.extend(V4.only());
    rule.extend([payload(Header::Network, V4.source, 1, R), equal(&[127])]);
    rule.extend(V4.masquerade_to_pod());
    rule
}

fn guard_against(pods: Expression) -> Vec<Expression> {
    vec![meta(META_IIFNAME, R), pods, go_to("from_pod")]
}

fn drop_to_loopback() -> Vec<Expression> {
    let mut rule = V4.only().to_vec();
    rule.extend([payload(Header::Network, V4.destination, 1, R), equal(&[127]), drop_packet()]);
    rule
}

/// Protocol and type of what only routers send.
fn drop_of_routers(family: &Family, protocol: u8, kind: u8) -> Vec<Expression> {
    let mut rule = family.only().to_vec();
    rule.extend([meta(META_L4PROTO, R), equal(&[protocol])]);
    rule.extend([payload(Header::Transport, 0, 1, R), equal(&[kind]), drop_packet()]);
    rule
}

fn redirect_to_host_ports() -> Vec<Expression> {
    let mut rule = to_this_host().to_vec();
    rule.push(go_to("hp"));
    rule
}

pub(super) fn rules() -> Vec<(&'static str, Vec<Expression>)> {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    // RFC 792; RFC 4861.
    const REDIRECT4: u8 = 5;
    const ROUTER_ADVERTISEMENT: u8 = 134;
    const REDIRECT6: u8 = 137;
    vec![
        ("hp", V4.redirect_by_address()),
        ("hp", V6.redirect_by_address()),
        ("hp", V4.redirect_any()),
        ("hp", V6.redirect_any()),
        ("prerouting", redirect_to_host_ports()),
        ("output", redirect_to_host_ports()),
        ("postrouting", V4.masquerade_always()),
        ("postrouting", V4.masquerade_pod_to_pod()),
        ("postrouting", masquerade_loopback_to_pod()),
        ("postrouting", V4.masquerade_outside()),
        ("postrouting", V6.masquerade_always()),
        ("postrouting", V6.masquerade_pod_to_pod()),
        ("postrouting", V6.masquerade_outside()),
        ("from_pod", drop_to_loopback()),
        ("from_pod", drop_of_routers(&V4, ICMP, REDIRECT4)),
        ("from_pod", drop_of_routers(&V6, ICMPV6, ROUTER_ADVERTISEMENT)),
        ("from_pod", drop_of_routers(&V6, ICMPV6, REDIRECT6)),
        ("guard", guard_against(within(BRIDGES))),
        ("guard", guard_against(equal(HOST_END.as_bytes()))),
    ]
}
