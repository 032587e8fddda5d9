//! The address space of a lease table: parts of subnets one behind the other. Slot n is the n-th address of them.
//!
//! Owns the arithmetic of addresses and slots. Leaves to `range` which of the addresses are whose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// Addresses of one range that are used at most.
pub(crate) const RANGE_MAX: u32 = 1 << 16;
/// Segments that a table can have: a header page has room for no more.
pub(crate) const SEGMENTS_MAX: usize = 32;
/// Slots that a table can have.
pub(crate) const SLOTS_MAX: u32 = 1 << 18;

/// Slots: the first, and the one behind the last.
pub(crate) type Interval = (u64, u64);
/// Addresses as [`number`] has them: the first, and the one behind the last.
pub(crate) type Span = (u128, u128);

/// Addresses that name the places of a network without IPv4: 0.0.0.0/8 is nobody's (RFC 1122, 3.2.1.3).
pub(crate) fn is_placeholder(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
}

/// All of them that can name a place: the unspecified address stands for no address at all.
pub(crate) fn placeholders() -> Span {
    let (first, end) = span(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8)));
    (first + 1, end)
}

/// One number for every address of both families: an IPv4 address is the IPv6 address that it is mapped to
/// (RFC 4291, 2.5.5.2), which no subnet of pods has.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address that has the number.
pub(crate) fn numbered(number: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(number)).to_canonical()
}

/// A whole subnet.
pub(crate) fn span(net: IpNet) -> Span {
    (number(net.network()), number(net.broadcast()).saturating_add(1))
}

/// A part of a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) net: IpNet,
    /// The first address, as [`number`] has it.
    pub(crate) first: u128,
    pub(crate) length: u32,
}

/// Segments in the order of their slots. An address that two of them have belongs to the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Segments {
    list: Vec<Segment>,
    /// IPv6 addresses without slots of their own: the n-th goes with slot n, whatever that is the slot of. None of
    /// them is in a segment.
    pub(crate) along: Option<Segment>,
}

impl Segment {
    /// The places of one of the networks without IPv4 that a host can have.
    pub(crate) fn placeholder(number: u8) -> Self {
        let net = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(0, number, 0, 0), 16));
        Self { net, first: span(net).0, length: RANGE_MAX }
    }

    /// So many addresses of a span at most.
    pub(crate) fn within(net: IpNet, (first, end): Span, most: u32) -> Self {
        let length = u32::try_from(end.saturating_sub(first)).map_or(most, |length| length.min(most));
        Self { net, first, length }
    }

    fn end(self) -> u128 {
        self.first.saturating_add(u128::from(self.length))
    }

    fn is_within(self, other: Self) -> bool {
        other.first <= self.first && self.end() <= other.end()
    }

    pub(crate) fn meets(self, other: Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }

    pub(crate) fn is_sound(self, most: u32) -> bool {
        let (first, end) = span(self.net);
        self.length > 0 && self.length <= most && self.end() <= end && self.first >= first
    }

    /// The address with this number in it.
    pub(crate) fn address(self, number: u32) -> Option<IpAddr> {
        (number < self.length).then(|| numbered(self.first + u128::from(number)))
    }

    /// The number that an address has in it.
    pub(crate) fn number(self, address: IpAddr) -> Option<u32> {
        let offset = number(address).checked_sub(self.first)?;
        u32::try_from(offset).ok().filter(|offset| *offset < self.length)
    }

    fn is_placeholder(self) -> bool {
        matches!(self.net, IpNet::V4(net) if is_placeholder(net.addr()))
    }
}

impl Segments {
    /// None but what goes along.
    pub(crate) fn with_along(along: Option<Segment>) -> Self {
        Self { list: Vec::new(), along }
    }

    /// Adds a segment unless its addresses are there already. Whether there was room.
    pub(crate) fn append(&mut self, segment: Segment) -> bool {
        if self.has(segment) {
            return true;
        }
        let room = self.list.len() < SEGMENTS_MAX && self.slots() + segment.length <= SLOTS_MAX;
        if room {
            self.list.push(segment);
        }
        room
    }

    /// Whether every address of a segment has a slot here.
    pub(crate) fn has(&self, segment: Segment) -> bool {
        self.list.iter().any(|other| segment.is_within(*other))
    }

    /// Whether an address of a segment has a slot here.
    pub(crate) fn meets(&self, segment: Segment) -> bool {
        self.list.iter().any(|other| segment.meets(*other))
    }

    pub(crate) fn slots(&self) -> u32 {
        self.list.iter().map(|segment| segment.length).sum()
    }

    /// The address of a slot.
    pub(crate) fn address(&self, slot: u32) -> Option<IpAddr> {
        let mut before = 0;
        for segment in &self.list {
            if slot - before < segment.length {
                return segment.address(slot - before);
            }
            before += segment.length;
        }
        None
    }

    /// The slot of an address.
    pub(crate) fn slot(&self, address: IpAddr) -> Option<u32> {
        let mut before = 0;
        for segment in &self.list {
            if let Some(number) = segment.number(address) {
                return Some(before + number);
            }
            before += segment.length;
        }
        None
    }

    /// Which segment has an address.
    pub(crate) fn position(&self, address: IpAddr) -> Option<usize> {
        self.list.iter().position(|segment| segment.number(address).is_some())
    }

    /// The address that goes along with a slot.
    pub(crate) fn along(&self, slot: u32) -> Option<Ipv6Addr> {
        match self.along?.address(slot)? {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }

    /// The slot that an address goes along with.
    pub(crate) fn along_slot(&self, address: Ipv6Addr) -> Option<u32> {
        self.along?.number(address.into()).filter(|slot| *slot < self.slots())
    }

    /// The slots of addresses, in order.
    pub(crate) fn places(&self, mut addresses: Vec<Span>) -> Vec<Interval> {
        let (mut places, mut before) = (Vec::new(), 0u64);
        for segment in &self.list {
            let (first, end) = (segment.first, segment.end());
            for (from, behind) in &addresses {
                let (from, behind) = ((*from).max(first), (*behind).min(end));
                if from < behind {
                    places.push((before + offset(from - first), before + offset(behind - first)));
                }
            }
            subtract(&mut addresses, (first, end));
            before += u64::from(segment.length);
        }
        places
    }

    /// The part that is of placeholders.
    pub(crate) fn placeholder(&self) -> Option<Segment> {
        self.list.iter().copied().find(|segment| segment.is_placeholder())
    }

    /// Each subnet once.
    pub(crate) fn nets(&self) -> Vec<IpNet> {
        let mut nets: Vec<IpNet> = Vec::new();
        for segment in self.list.iter().chain(&self.along) {
            if !nets.contains(&segment.net) && !segment.is_placeholder() {
                nets.push(segment.net);
            }
        }
        nets
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.list.iter()
    }
}

/// A difference of addresses as one of slots, of which there are far fewer.
pub(crate) fn offset(difference: u128) -> u64 {
    u64::try_from(difference).unwrap_or(u64::MAX)
}

/// Takes an interval out of a list of them.
pub(crate) fn subtract<T: Ord + Copy>(list: &mut Vec<(T, T)>, (from, end): (T, T)) {
    let parts =
        list.iter().flat_map(|&(first, behind)| [(first, behind.min(from)), (first.max(end), behind)]);
    *list = parts.filter(|(first, behind)| first < behind).collect();
}

/// How many slots of a list come before this one.
pub(crate) fn rank(places: &[Interval], slot: u32) -> u64 {
    let slot = u64::from(slot);
    places.iter().map(|(first, end)| slot.min(*end).saturating_sub(*first)).sum()
}

/// The slot that so many others of a list come before, counted round and round.
pub(crate) fn ranked(places: &[Interval], rank: u64) -> Option<u32> {
    let total: u64 = places.iter().map(|(first, end)| end - first).sum();
    let mut rank = rank.checked_rem(total)?;
    for (first, end) in places {
        if rank < end - first {
            return u32::try_from(first + rank).ok();
        }
        rank -= end - first;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(net: &str) -> Segment {
        let net: IpNet = net.parse().unwrap();
        Segment::within(net, span(net), RANGE_MAX)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_that_grows_keeps_its_slots() {
        let mut segments = Segments::default();
        assert!(segments.append(segment("10.0.1.0/24")));
        assert!(segments.append(segment("10.0.0.0/22")));
        assert!(segments.append(segment("10.0.1.128/25")), "is there");
        assert_eq!(segments.slots(), 256 + 1024);
        assert_eq!(segments.slot(address("10.0.1.7")), Some(7));
        assert_eq!(segments.slot(address("10.0.0.7")), Some(256 + 7));
        assert_eq!(segments.address(256 + 7), Some(address("10.0.0.7")));
        // 10.0.1.0/24 in the first segment, the rest in the second.
        let all = vec![span("10.0.0.0/22".parse().unwrap())];
        assert_eq!(segments.places(all), [(0, 256), (256, 512), (768, 1280)]);
    }

    #[test]
    fn both_families_have_slots_of_their_own() {
        let mut segments = Segments::default();
        assert!(segments.append(segment("10.0.0.0/24")) && segments.append(segment("fd00::/120")));
        assert_eq!(segments.slot(address("fd00::7")), Some(256 + 7));
        assert_eq!(segments.address(256 + 7), Some(address("fd00::7")));
        assert_eq!(segments.address(512), None);
        assert_eq!(segments.slot(address("::a00:7")), None, "is no IPv4 address");
        assert_eq!(segments.places(vec![span("fd00::10/124".parse().unwrap())]), [(272, 288)]);
        assert_eq!(segments.position(address("fd00::7")), Some(1));
    }

    #[test]
    fn a_full_table_says_so() {
        let mut segments = Segments::default();
        for i in 0..4 {
            assert!(segments.append(segment(&format!("10.{i}.0.0/16"))));
        }
        assert!(!segments.append(segment("10.9.0.0/30")));
    }

    #[test]
    fn ranks_count_the_places_of_a_list_and_begin_again() {
        let places = [(2, 5), (10, 12)];
        for (rank_, slot) in [(0, 2), (2, 4), (3, 10), (4, 11)] {
            assert_eq!(rank(&places, slot), rank_);
            assert_eq!(ranked(&places, rank_), Some(slot));
            assert_eq!(ranked(&places, rank_ + 5), Some(slot));
        }
        assert_eq!(ranked(&[], 3), None);
    }
}
