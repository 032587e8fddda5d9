//! The address space of a lease table: subnets one behind the other. Slot n is the n-th address of them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Addresses of one range that are used at most.
pub(crate) const RANGE_MAX: u32 = 1 << 16;
/// Segments that a table can have: a header page has room for no more.
pub(crate) const SEGMENTS_MAX: usize = 32;
/// Slots that a table can have.
pub(crate) const SLOTS_MAX: u32 = 1 << 18;

/// Addresses that name the places of a network without IPv4: 0.0.0.0/8 is nobody's (RFC 1122, 3.2.1.3).
pub(crate) fn is_placeholder(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
}

/// All of them, as numbers.
pub(crate) const PLACEHOLDERS: Interval = (0, 1 << 24);

/// First, and behind the last.
pub(crate) type Interval = (u64, u64);

/// A part of a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) net: Ipv4Net,
    /// The first address, as a number.
    pub(crate) first: u32,
    pub(crate) length: u32,
}

/// Segments in the order of their slots. An address that two of them have belongs to the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Segments(Vec<Segment>);

impl Segment {
    /// The places of one of the networks without IPv4 that a host can have.
    pub(crate) fn placeholder(number: u8) -> Self {
        let net = Ipv4Net::new_assert(Ipv4Addr::new(0, number, 0, 0), 16);
        Self { net, first: u32::from(net.network()), length: RANGE_MAX }
    }

    fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.length)
    }

    fn is_within(self, other: Self) -> bool {
        other.first <= self.first && self.end() <= other.end()
    }

    pub(crate) fn is_sound(self) -> bool {
        self.length > 0
            && self.length <= RANGE_MAX
            && self.end() <= u64::from(u32::from(self.net.broadcast())) + 1
            && self.first >= u32::from(self.net.network())
    }
}

impl Segments {
    /// Adds a segment unless its addresses are there already. Whether there was room.
    pub(crate) fn append(&mut self, segment: Segment) -> bool {
        if self.0.iter().any(|other| segment.is_within(*other)) {
            return true;
        }
        let room = self.0.len() < SEGMENTS_MAX && self.slots() + segment.length <= SLOTS_MAX;
        if room {
            self.0.push(segment);
        }
        room
    }

    /// Whether every address of the others has a slot here.
    pub(crate) fn include(&self, others: &Self) -> bool {
        others.0.iter().all(|segment| self.0.iter().any(|other| segment.is_within(*other)))
    }

    pub(crate) fn slots(&self) -> u32 {
        self.0.iter().map(|segment| segment.length).sum()
    }

    /// The address of a slot.
    pub(crate) fn address(&self, slot: u32) -> Option<Ipv4Addr> {
        let mut before = 0;
        for segment in &self.0 {
            if slot - before < segment.length {
                return Some(Ipv4Addr::from(segment.first + (slot - before)));
            }
            before += segment.length;
        }
        None
    }

    /// The slot of an address.
    pub(crate) fn slot(&self, address: Ipv4Addr) -> Option<u32> {
        let (address, mut before) = (u32::from(address), 0);
        for segment in &self.0 {
            if address >= segment.first && address - segment.first < segment.length {
                return Some(before + (address - segment.first));
            }
            before += segment.length;
        }
        None
    }

    /// The slots of intervals of addresses, in order.
    pub(crate) fn places(&self, mut addresses: Vec<Interval>) -> Vec<Interval> {
        let (mut places, mut before) = (Vec::new(), 0u64);
        for segment in &self.0 {
            let (first, end) = (u64::from(segment.first), segment.end());
            for (from, behind) in &addresses {
                let (from, behind) = ((*from).max(first), (*behind).min(end));
                if from < behind {
                    places.push((before + from - first, before + behind - first));
                }
            }
            subtract(&mut addresses, (first, end));
            before += u64::from(segment.length);
        }
        places
    }

    /// The part that is of placeholders.
    pub(crate) fn placeholder(&self) -> Option<Segment> {
        self.0.iter().copied().find(|segment| is_placeholder(segment.net.addr()))
    }

    /// Each subnet once.
    pub(crate) fn nets(&self) -> Vec<Ipv4Net> {
        let mut nets: Vec<Ipv4Net> = Vec::new();
        for segment in &self.0 {
            if !nets.contains(&segment.net) && !is_placeholder(segment.net.addr()) {
                nets.push(segment.net);
            }
        }
        nets
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.0.iter()
    }
}

/// Takes an interval out of a list of them.
pub(crate) fn subtract(list: &mut Vec<Interval>, (from, end): Interval) {
    let parts =
        list.iter().flat_map(|&(first, behind)| [(first, behind.min(from)), (first.max(end), behind)]);
    *list = parts.filter(|(first, behind)| first < behind).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(net: &str) -> Segment {
        let net: Ipv4Net = net.parse().unwrap();
        Segment { net, first: u32::from(net.network()), length: 1 << (32 - net.prefix_len()) }
    }

    #[test]
    fn a_subnet_that_grows_keeps_its_slots() {
        let mut segments = Segments::default();
        assert!(segments.append(segment("10.0.1.0/24")));
        assert!(segments.append(segment("10.0.0.0/22")));
        assert!(segments.append(segment("10.0.1.128/25")), "is there");
        assert_eq!(segments.slots(), 256 + 1024);
        assert_eq!(segments.slot("10.0.1.7".parse().unwrap()), Some(7));
        assert_eq!(segments.slot("10.0.0.7".parse().unwrap()), Some(256 + 7));
        assert_eq!(segments.address(256 + 7), Some("10.0.0.7".parse().unwrap()));
        let all = vec![(
            u64::from(u32::from(Ipv4Addr::new(10, 0, 0, 0))),
            u64::from(u32::from(Ipv4Addr::new(10, 0, 4, 0))),
        )];
        // 10.0.1.0/24 in the first segment, the rest in the second.
        assert_eq!(segments.places(all), [(0, 256), (256, 512), (768, 1280)]);
    }

    #[test]
    fn a_full_table_says_so() {
        let mut segments = Segments::default();
        for i in 0..4 {
            assert!(segments.append(segment(&format!("10.{i}.0.0/16"))));
        }
        assert!(!segments.append(segment("10.9.0.0/30")));
    }
}
