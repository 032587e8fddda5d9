//! Who has a slot, what was given with it, and which host ports, where there is room: 192 bytes with a checksum.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dunnage_sys::netns::NetnsId;

use super::port_text;
use crate::name::check_file_name;
use crate::segment::is_placeholder;
use crate::{HostPorts, IfName, Mac, Result};

/// Bytes of a record.
pub(super) const SIZE: usize = 192;
const NAMES_AT: usize = 80;
const NAMES_MAX: usize = 96;
/// Longest id that is written as it is: that of a container of containerd. nerdctl puts the namespace before it.
const ID_MAX: usize = 76;
const _: () = assert!(ID_MAX + crate::name::IFNAME_MAX <= NAMES_MAX);

const HAS_IPV6: u8 = 1;
const IMPORTED: u8 = 2;
const COMPANION: u8 = 4;
const FURTHER: u8 = 8;
const CHECKED: u8 = 16;

/// What an address is leased to: one interface of one container or pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    id: String,
    ifname: IfName,
}

impl Owner {
    /// # Errors
    /// [`crate::Error::Invalid`] when `id` has other characters than letters, digits, `_`, `.` and `-`, or more than 1024.
    /// One that is longer than a record has room for is known by its beginning and a checksum.
    pub fn new(id: &str, ifname: IfName) -> Result<Self> {
        check_file_name("container id", id, 1024)?;
        let id = match id.get(..ID_MAX - 17).filter(|_| id.len() > ID_MAX) {
            Some(beginning) => format!("{beginning}-{:016x}", checksum(&[id.as_bytes()])),
            None => id.to_owned(),
        };
        Ok(Self { id, ifname })
    }

    /// The container or pod.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The interface inside it.
    #[must_use]
    pub fn ifname(&self) -> &IfName {
        &self.ifname
    }

    /// The owner's part of a word: equal for equal owners, and mostly not for others.
    pub(super) fn tag(&self) -> u32 {
        let hash = checksum(&[self.id.as_bytes(), b"/", self.ifname.as_str().as_bytes()]);
        let [a, b, c, d, ..] = hash.to_le_bytes();
        u32::from_le_bytes([a, b, c, d]) << 2
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.ifname, self.id)
    }
}

/// What goes with an address, as it was decided when the address was given: a configuration that changes later
/// does not change what a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    /// What goes along, or else the first of IPv6, which then has a place of its own, too. Host ports lead to it.
    pub(crate) address6: Option<Ipv6Addr>,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) gateway6: Option<Ipv6Addr>,
    /// Of the pod's interface.
    pub(crate) mac: Mac,
    /// Whether the pod's frames must have that address as source.
    pub(crate) checked: bool,
    pub(crate) kind: LeaseKind,
}

/// How a lease came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaseKind {
    /// A pod was attached.
    #[default]
    Attached,
    /// Another plugin's lease, of a pod that it attached; nothing of it on the host is known here.
    Imported,
    /// The IPv6 address that goes along with this place was given together with another IPv4 address.
    Companion,
    /// One more address of a pod whose own lease is another: of another set of ranges.
    Further,
}

impl LeaseKind {
    /// Whether it ends with another lease of its owner.
    pub(crate) fn is_part(self) -> bool {
        matches!(self, Self::Companion | Self::Further)
    }
}

/// One more address of a pod, and the host's next to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Further {
    pub(crate) address: IpAddr,
    pub(crate) gateway: IpAddr,
}

/// A slot that is to be given together with a lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(super) slot: u32,
    /// Which set of the network's ranges it is of.
    pub(crate) set: usize,
    pub(crate) further: Further,
}

impl Part {
    pub(crate) fn address6(&self) -> Option<Ipv6Addr> {
        match self.further.address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }
}

impl Given {
    /// Nothing but the address.
    pub(crate) fn nothing(kind: LeaseKind) -> Self {
        let gateway = Ipv4Addr::UNSPECIFIED;
        Self { address6: None, gateway, gateway6: None, mac: Mac([0; 6]), checked: false, kind }
    }
}

/// The state is in the two lowest bits of a word, the owner's tag in the others.
pub(super) const STATE_MASK: u32 = 0b11;

/// Where a lease is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Being attached.
    Reserved = 1,
    /// In use.
    Active = 2,
    /// Being detached.
    Releasing = 3,
}

impl LeaseState {
    pub(super) fn of(word: u32) -> Option<Self> {
        match word & STATE_MASK {
            1 => Some(Self::Reserved),
            2 => Some(Self::Active),
            3 => Some(Self::Releasing),
            _ => None,
        }
    }
}

/// An address that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its place in the table.
    pub slot: u32,
    /// The IPv4 address, or what stands for it in a network without: see [`Self::address4`]. Unspecified for a
    /// further address of IPv6, see [`Self::ip`].
    pub address: Ipv4Addr,
    /// Where it is in its life.
    pub state: LeaseState,
    /// Who has it and in which network namespace; `None` when that part of the table is damaged.
    pub holder: Option<(Owner, NetnsId)>,
    pub(crate) given: Given,
    /// What else its owner has, of sets of ranges beyond the first of each family; empty in lists of all leases.
    pub(crate) further: Vec<Further>,
    /// The host ports that its record has room for, or else none.
    pub(super) ports: HostPorts,
}

impl Lease {
    /// Of a record that cannot be read, nothing is known but the address.
    pub(super) fn of(slot: u32, address: Ipv4Addr, state: LeaseState, record: Option<Record>) -> Self {
        let nothing = Given::nothing(LeaseKind::Attached);
        let (holder, given, ports) = match record {
            Some(record) => (Some((record.owner, record.netns)), record.given, record.ports),
            None => (None, nothing, HostPorts::default()),
        };
        Self { slot, address, state, holder, given, further: Vec::new(), ports }
    }

    /// How it came about.
    #[must_use]
    pub fn kind(&self) -> LeaseKind {
        self.given.kind
    }

    /// The IPv4 address, if the network has such.
    #[must_use]
    pub fn address4(&self) -> Option<Ipv4Addr> {
        Some(self.address).filter(|address| !is_placeholder(*address))
    }

    /// The addresses of its own slot, and what goes along with it.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v6 = self.given.address6.map(IpAddr::V6);
        self.address4().map(IpAddr::V4).into_iter().chain(v6)
    }

    /// The address that people know it by: of IPv4, if there is one.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        let v6 = self.given.address6.map(IpAddr::V6);
        self.address4().map(IpAddr::V4).or(v6).unwrap_or(IpAddr::V4(self.address))
    }

    /// Whether it is this owner's.
    pub(crate) fn is_of(&self, owner: &Owner) -> bool {
        self.holder.as_ref().is_some_and(|(holder, _)| holder == owner)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) owner: Owner,
    pub(super) netns: NetnsId,
    pub(super) given: Given,
    /// Empty where they do not fit.
    pub(super) ports: HostPorts,
}

impl Record {
    pub(super) fn new(owner: &Owner, netns: NetnsId, given: Given) -> Self {
        Self { owner: owner.clone(), netns, given, ports: HostPorts::default() }
    }

    /// As it is when there is no room for them.
    pub(super) fn with_ports(self, ports: &HostPorts) -> Self {
        let names = self.owner.id.len() + self.owner.ifname.as_str().len();
        let fits = NAMES_AT + names + port_text::text(ports).len() <= SIZE;
        if fits { Self { ports: ports.clone(), ..self } } else { self }
    }

    pub(super) fn encode(&self, slot: u32) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let (id, ifname) = (self.owner.id.as_bytes(), self.owner.ifname.as_str().as_bytes());
        let given = &self.given;
        bytes[8..16].copy_from_slice(&self.netns.dev.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.netns.ino.to_le_bytes());
        // Both fit in a byte: `Owner::new` checked that together they are at most 96 bytes.
        bytes[24] = u8::try_from(id.len()).unwrap_or(u8::MAX);
        bytes[25] = u8::try_from(ifname.len()).unwrap_or(u8::MAX);
        bytes[26] = self.flags();
        // Behind the names, where `Record::with_ports` saw room for them.
        let ports = port_text::text(&self.ports);
        bytes[27] = u8::try_from(ports.len()).unwrap_or(u8::MAX);
        bytes[28..32].copy_from_slice(&slot.to_le_bytes());
        bytes[32..48].copy_from_slice(&given.address6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
        bytes[48..52].copy_from_slice(&given.gateway.octets());
        bytes[52..58].copy_from_slice(&given.mac.0);
        bytes[64..80].copy_from_slice(&given.gateway6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
        let names = [id, ifname, ports.as_bytes()].concat();
        bytes[NAMES_AT..][..names.len()].copy_from_slice(&names);
        let sum = checksum(&[&bytes[8..]]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn flags(&self) -> u8 {
        let ipv6 = if self.given.address6.is_some() { HAS_IPV6 } else { 0 };
        let checked = if self.given.checked { CHECKED } else { 0 };
        ipv6 | checked
            | match self.given.kind {
                LeaseKind::Attached => 0,
                LeaseKind::Imported => IMPORTED,
                LeaseKind::Companion => COMPANION,
                LeaseKind::Further => FURTHER,
            }
    }

    /// `None` for a torn or misplaced record.
    pub(super) fn decode(bytes: &[u8; SIZE], slot: u32) -> Option<Self> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let sound = number(0) == checksum(&[&bytes[8..]]) && bytes[28..32] == slot.to_le_bytes();
        if !sound {
            return None;
        }
        let names = std::str::from_utf8(&bytes[NAMES_AT..]).ok()?;
        let (id, names) = names.split_at_checked(bytes[24].into())?;
        let (ifname, names) = names.split_at_checked(bytes[25].into())?;
        let ports = port_text::of_text(names.get(..bytes[27].into())?)?;
        let owner = Owner::new(id, ifname.parse().ok()?).ok()?;
        let netns = NetnsId { dev: number(8), ino: number(16) };
        Some(Self { owner, netns, given: given(bytes), ports })
    }
}

fn given(bytes: &[u8; SIZE]) -> Given {
    let ipv6 = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).expect("sixteen bytes"));
    let has_ipv6 = bytes[26] & HAS_IPV6 != 0;
    Given {
        address6: has_ipv6.then(|| ipv6(32)),
        gateway: Ipv4Addr::new(bytes[48], bytes[49], bytes[50], bytes[51]),
        gateway6: has_ipv6.then(|| ipv6(64)),
        mac: Mac(bytes[52..58].try_into().expect("six bytes")),
        checked: bytes[26] & CHECKED != 0,
        kind: match bytes[26] & (IMPORTED | COMPANION | FURTHER) {
            IMPORTED => LeaseKind::Imported,
            COMPANION => LeaseKind::Companion,
            FURTHER => LeaseKind::Further,
            _ => LeaseKind::Attached,
        },
    }
}

/// FNV-1a of 64 bits: stable across versions, and any change of one byte changes it. It guards against torn
/// writes and chance, not against an attacker, who would have to be root to write here.
pub(super) fn checksum(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().copied().flatten();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{HostPort, Protocol, SourceNat};

    proptest! {
        #[test]
        fn a_record_reads_back_and_any_changed_byte_is_noticed(
            id in "[a-z0-9][a-zA-Z0-9_.-]{0,75}",
            ifname in "[a-z][a-z0-9]{0,14}",
            ino: u64,
            slot: u32,
            ports in prop::collection::vec(1u16.., 0..6),
            at in 0..SIZE,
            change in 1u8..,
        ) {
            let owner = Owner::new(&id, ifname.parse().unwrap()).unwrap();
            let mut given = Given::nothing(LeaseKind::Imported);
            given.address6 = Some("fd00::7".parse().unwrap());
            given.gateway6 = Some("fd00::1".parse().unwrap());
            given.checked = ino % 2 == 0;
            let port = |host_port| HostPort {
                host_ip: (host_port % 3 == 0).then(|| [192, 0, 2, 1].into()),
                host_port,
                container_port: 80,
                protocol: Protocol::Tcp,
            };
            let list: Vec<HostPort> = ports.into_iter().map(port).collect();
            let ports = HostPorts { list, source_nat: SourceNat::Always };
            let record = Record::new(&owner, NetnsId { dev: 4, ino }, given).with_ports(&ports);
            prop_assert!(record.ports == ports || record.ports.is_empty());
            let mut bytes = record.encode(slot);
            prop_assert_eq!(Record::decode(&bytes, slot), Some(record));
            prop_assert_eq!(Record::decode(&bytes, slot.wrapping_add(1)), None);
            bytes[at] ^= change;
            prop_assert_eq!(Record::decode(&bytes, slot), None);
        }
    }

    #[test]
    fn three_ports_of_a_pod_of_kubernetes_have_room_in_the_record_and_a_dozen_have_not() {
        let owner = Owner::new(&"a".repeat(64), "eth0".parse().unwrap()).unwrap();
        let port = |host_port| HostPort {
            host_ip: None,
            host_port,
            container_port: host_port,
            protocol: Protocol::Tcp,
        };
        let kept = |list: &[u16]| {
            let ports = HostPorts { list: list.iter().copied().map(port).collect(), ..HostPorts::default() };
            let nothing = Given::nothing(LeaseKind::Attached);
            Record::new(&owner, NetnsId { dev: 4, ino: 1 }, nothing).with_ports(&ports).ports.list.len()
        };
        assert_eq!(kept(&[80, 443, 8443]), 3);
        assert_eq!(kept(&(8000..8012).collect::<Vec<u16>>()), 0);
    }

    #[test]
    fn an_owner_that_does_not_fit_is_refused() {
        let ifname: IfName = "eth0".parse().unwrap();
        assert!(Owner::new(&"a".repeat(1025), ifname.clone()).is_err());
        assert!(Owner::new("../x", ifname.clone()).is_err());
        assert_eq!(Owner::new(&"a".repeat(76), ifname.clone()).unwrap().id(), "a".repeat(76));
        let long = |end| Owner::new(&format!("{}{end}", "a".repeat(76)), ifname.clone()).unwrap();
        assert_eq!(long("b").id().len(), ID_MAX);
        assert_ne!(long("b"), long("c"));
    }
}
