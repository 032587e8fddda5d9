//! Frames that pods on a bridge may send where that is checked: those with their own link-layer address as source.
//!
//! ```text
//! table bridge dunnage {
//!     set networks                 whose pods are known here
//!     set checked { ifname }       ports of pods that are checked
//!     set own { ifname . ether }   and what each may have as source
//!     prerouting:  iifname @checked, iifname . ether saddr not in @own  ─▶ drop
//! }
//! ```
//!
//! Frames to the addresses that no bridge forwards (01:80:c2:00:00:0x of IEEE 802.1Q) do not come by there, and go no
//! further than the host. A bridge would learn from them, so it does not learn from ports that are checked.

use dunnage_sys::Errno;

use super::element::{ELEM_KEY, LIST_ELEM, LIST_ELEMENTS, MESSAGE_HEADER, elements, field, key};
use super::expression::{
    Expression, Header, META_IIFNAME, R, after, drop_packet, meta, outside, payload, within,
};
use super::layout::{ETHER_ADDR, Hook, IFNAME, Set, chain, new_set, rule, userdata};
use super::table::{TABLE_USERDATA, chain_lookup, is_used};
use super::{Attributes, NftSocket, TABLE, Verb, message};
use crate::channel::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request, attributes};
use crate::error::or_absent;
use crate::{Error, IfName, Mac, NetworkName, Result};

const NFPROTO_BRIDGE: u8 = 7;
/// How the comment of every table of ours begins.
const OURS: &str = "dunnage frame checks, layout ";
const LAYOUT: &str = "dunnage frame checks, layout 1";

const NETWORKS: &str = "networks";
const CHECKED: &str = "checked";
const OWN: &str = "own";
/// `NF_BR_PRE_ROUTING`, before everybody else's chains.
const CHAIN: (&str, Hook) = ("prerouting", ("filter", 0, -300));
const SETS: [Set; 3] = [
    Set { name: NETWORKS, flags: 0, key: (IFNAME, 16), value: None },
    Set { name: CHECKED, flags: 0, key: (IFNAME, 16), value: None },
    Set { name: OWN, flags: 0, key: (IFNAME << 6 | ETHER_ADDR, 24), value: None },
];
/// Pods that one transaction is about: a list of elements is at most 64 KiB.
const AT_ONCE: usize = 512;

/// A pod that may send nothing but its own frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckedPod {
    /// The host's end of its pair.
    pub(crate) port: IfName,
    /// The link-layer address that it has.
    pub(crate) mac: Mac,
}

impl NftSocket {
    /// Whether the table is there and knows the network.
    ///
    /// # Errors
    /// [`Error::Foreign`] when the table is somebody else's.
    pub(crate) fn checks_frames_of(&mut self, network: &NetworkName) -> Result<bool> {
        Ok(self.frame_table(Some(network))? == Found::Current)
    }

    /// Makes the table when it is missing, and lets it know the network with the pods that are there already.
    pub(crate) fn check_frames_of(&mut self, network: &NetworkName, pods: &[CheckedPod]) -> Result<()> {
        match self.frame_table(None)? {
            Found::Current => {}
            Found::Bare => self.transact(contents().map(of_bridges).collect())?,
            Found::Older => self.transact(std::iter::once(delete()).chain(layout()).collect())?,
            Found::Nothing => self.transact(layout()).map_err(|failed| without_bridges(failed.error))?,
        }
        for pods in pods.chunks(AT_ONCE) {
            self.check_frames(pods)?;
        }
        // Last, so that whoever finds the network here finds its pods.
        Ok(self.transact(vec![of_network(Verb::NewElement, NLM_F_CREATE, network)])?)
    }

    /// Checks what pods send from now on, all of them or none.
    pub(crate) fn check_frames(&mut self, pods: &[CheckedPod]) -> Result<()> {
        Ok(self.transact(of_pods(Verb::NewElement, NLM_F_CREATE, pods))?)
    }

    /// Takes [`Self::check_frames`] back for one pod; what is gone already is no error.
    pub(crate) fn forget_frames(&mut self, pod: &CheckedPod) -> Result<()> {
        let requests = || of_pods(Verb::DelElement, 0, std::slice::from_ref(pod));
        if or_absent(self.transact(requests()).map_err(Error::from))?.is_some() {
            return Ok(());
        }
        // One by one: somebody may have removed one of them, and a batch would keep the other then.
        for request in requests() {
            or_absent(self.transact(vec![request]).map_err(Error::from))?;
        }
        Ok(())
    }

    /// Whether a pod's frames are checked.
    pub(crate) fn checks_frames(&mut self, pod: &CheckedPod) -> Result<bool> {
        match self.frame_table(None) {
            Ok(Found::Current) => {}
            Ok(_) | Err(Error::Foreign { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        let get = of_pods(Verb::GetElement, 0, std::slice::from_ref(pod));
        Ok(or_absent(self.channel.exchange(&get, |_| {}).map_err(Error::from))?.is_some())
    }

    /// Forgets pods by their ports, with whatever they were allowed.
    pub(crate) fn forget_stale_frames(&mut self, is_stale: impl Fn(&str) -> bool) -> Result<()> {
        // What they may send goes last: without it they could send nothing.
        for set in [CHECKED, OWN] {
            let stale: Vec<Attributes> = self
                .keys_of(set)?
                .iter()
                .filter(|found| port_of(found).is_some_and(|port| is_stale(&port)))
                .map(|found| key(found))
                .collect();
            for stale in stale.chunks(AT_ONCE) {
                self.transact(vec![of_bridges(elements(Verb::DelElement, 0, set, stale))])?;
            }
        }
        Ok(())
    }

    /// Forgets that pods of the network were known; no pod of it may be left.
    pub(crate) fn forget_frames_of(&mut self, network: &NetworkName) -> Result<()> {
        let delete = of_network(Verb::DelElement, 0, network);
        or_absent(self.transact(vec![delete]).map_err(Error::from))?;
        Ok(())
    }

    /// Removes the table, if there is one of ours.
    pub(crate) fn remove_frame_table(&mut self) -> Result<()> {
        match self.frame_table(None) {
            Ok(Found::Nothing) | Err(Error::Foreign { .. }) => return Ok(()),
            found => found.map(drop)?,
        }
        or_absent(self.transact(vec![delete()]).map_err(Error::from))?;
        Ok(())
    }

    /// What there is of the table, which is only current when it knows the network, too.
    fn frame_table(&mut self, network: Option<&NetworkName>) -> Result<Found> {
        let what = format!("look up nftables table bridge {TABLE}");
        let mut get = vec![of_bridges(message(Verb::GetTable, 0, Attributes::new().text(1, TABLE), what))];
        let (name, _) = CHAIN;
        get.push(of_bridges(chain_lookup(name)));
        get.extend(network.map(|network| of_network(Verb::GetElement, 0, network)));
        let (mut comment, mut has_its_rule) = (None, false);
        let answer = self.channel.exchange(&get, |reply| {
            // The table is told first.
            if comment.is_none() {
                comment = Some(comment_of(reply));
            } else {
                has_its_rule |= is_used(reply, name, 1);
            }
        });
        let comment = comment.unwrap_or_default();
        match or_absent(answer.map_err(Error::from))? {
            None => Ok(Found::Nothing),
            Some(()) if comment == userdata(LAYOUT) && has_its_rule => Ok(Found::Current),
            Some(()) if comment == userdata(LAYOUT) => Ok(Found::Bare),
            // Behind type and length.
            Some(()) if comment.get(2..).is_some_and(|text| text.starts_with(OURS.as_bytes())) => {
                Ok(Found::Older)
            }
            Some(()) => Err(Error::Foreign {
                what: "nftables table",
                name: format!("bridge {TABLE}"),
                reason: format!("does not have the comment {LAYOUT:?}"),
            }),
        }
    }

    /// Keys of a set; none when the table is not there.
    fn keys_of(&mut self, set: &str) -> Result<Vec<Vec<u8>>> {
        let wanted = Attributes::new().text(1, TABLE).text(2, set);
        let what = format!("list nftables set {set}");
        let dump = of_bridges(message(Verb::GetElement, NLM_F_DUMP, wanted, what));
        let mut found = Vec::new();
        let answer = self.channel.exchange(&[dump], |reply| {
            let body = reply.get(MESSAGE_HEADER..).unwrap_or_default();
            let lists = attributes(body).filter(|(kind, _)| *kind == LIST_ELEMENTS);
            let all = lists.flat_map(|(_, list)| attributes(list).filter(|(kind, _)| *kind == LIST_ELEM));
            found.extend(all.filter_map(|(_, element)| field(element, ELEM_KEY)));
        });
        or_absent(answer.map_err(Error::from))?;
        Ok(found)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Current,
    /// Somebody took its rule.
    Bare,
    /// Made by another version of this program.
    Older,
}

/// The comment in what is told of a table.
fn comment_of(reply: &[u8]) -> Vec<u8> {
    let body = reply.get(MESSAGE_HEADER..).unwrap_or_default();
    let data = attributes(body).find(|(kind, _)| *kind == TABLE_USERDATA);
    data.map(|(_, value)| value.to_vec()).unwrap_or_default()
}

fn layout() -> Vec<Request> {
    let attributes = Attributes::new().text(1, TABLE).number(2, 0).bytes(TABLE_USERDATA, &userdata(LAYOUT));
    let what = format!("create nftables table bridge {TABLE}");
    let table = message(Verb::NewTable, NLM_F_CREATE | NLM_F_EXCL, attributes, what);
    std::iter::once(table).chain(contents()).map(of_bridges).collect()
}

fn contents() -> impl Iterator<Item = Request> {
    let (name, hook) = CHAIN;
    let sets = (1..).zip(&SETS).map(|(id, set)| new_set(id, set));
    sets.chain([chain(name, Some(hook)), rule(name, &drop_of_others_frames())])
}

fn drop_of_others_frames() -> Vec<Expression> {
    // struct ethhdr: destination, source.
    let source = payload(Header::Link, 6, 6, after(16));
    vec![meta(META_IIFNAME, R), within(CHECKED), source, outside(OWN), drop_packet()]
}

fn delete() -> Request {
    let what = format!("delete nftables table bridge {TABLE}");
    of_bridges(message(Verb::DelTable, 0, Attributes::new().text(1, TABLE), what))
}

fn of_pods(verb: Verb, flags: u16, pods: &[CheckedPod]) -> Vec<Request> {
    let ports: Vec<Attributes> = pods.iter().map(|pod| key(&padded(pod.port.as_str()))).collect();
    let own: Vec<Attributes> = pods.iter().map(|pod| key(&own(pod))).collect();
    [(CHECKED, ports), (OWN, own)]
        .into_iter()
        .map(|(set, list)| of_bridges(elements(verb, flags, set, &list)))
        .collect()
}

fn of_network(verb: Verb, flags: u16, network: &NetworkName) -> Request {
    of_bridges(elements(verb, flags, NETWORKS, &[key(&network_key(network))]))
}

/// The beginning of the name for people, and a number made of the whole where it is too long.
fn network_key(network: &NetworkName) -> [u8; 16] {
    match network.as_str() {
        name if name.len() < 16 => padded(name),
        name => {
            let whole = name
                .bytes()
                .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
            padded(&format!("{}-{whole:08x}", &name[..6]))
        }
    }
}

/// The source's part of the key ends at a multiple of four bytes.
fn own(pod: &CheckedPod) -> Vec<u8> {
    [&padded(pod.port.as_str())[..], &pod.mac.0, &[0, 0]].concat()
}

/// At most 15 bytes of ASCII, as both kinds of names are.
fn padded(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

/// The port that a key begins with.
fn port_of(key: &[u8]) -> Option<String> {
    let name = key.get(..16)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn of_bridges(mut request: Request) -> Request {
    request.body[0] = NFPROTO_BRIDGE;
    request
}

/// Says what the kernel lacks, which it does not itself.
fn without_bridges(error: Error) -> Error {
    let lacking = [Errno::NOENT, Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT];
    match error {
        Error::Refused { what, errno, detail: None } if lacking.contains(&errno) => {
            let detail = Some("this kernel is without nftables for bridges (NF_TABLES_BRIDGE)".to_owned());
            Error::Refused { what, errno: Errno::OPNOTSUPP, detail }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_with_a_long_name_has_a_key_of_its_own() {
        let key = |name: &str| port_of(&network_key(&name.parse().unwrap())).unwrap();
        assert_eq!(key("cni-net"), "cni-net");
        assert_eq!(key("exactly-fifteen"), "exactly-fifteen");
        let (a, b) = (key("cni-a-long-name-of-a-network"), key("cni-a-long-name-of-another"));
        assert!(a.starts_with("cni-a-") && b.starts_with("cni-a-") && a != b, "{a} {b}");
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let refused = |errno| Error::Refused { what: "create".to_owned(), errno, detail: None };
        let said = without_bridges(refused(Errno::NOENT)).to_string();
        assert!(said.contains("NF_TABLES_BRIDGE") && said.contains("EOPNOTSUPP"), "{said}");
        let said = without_bridges(refused(Errno::PERM)).to_string();
        assert!(!said.contains("NF_TABLES_BRIDGE") && said.contains("EPERM"), "{said}");
    }
}
