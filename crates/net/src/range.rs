//! Which addresses a network gives to pods.
//!
//! Owns what is in each set of ranges, what is kept back, which IPv6 addresses go along with places of others.
//! Leaves who has an address to `lease`.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::segment::{
    Interval, RANGE_MAX, SEGMENTS_MAX, SLOTS_MAX, Segment, Segments, Span, is_placeholder, number, numbered,
    offset, placeholders, span, subtract,
};
use crate::{Error, Result};

/// The addresses of a pod network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// Each set is one address for every pod. No range overlaps another.
    pub sets: Vec<RangeSet>,
    /// What is not to be given to pods.
    pub exclude: Vec<IpNet>,
}

/// Ranges of one family, at least one. A pod gets one address of all of them.
pub type RangeSet = Vec<Range>;

/// A range of addresses. At most 65,536 are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The subnet that the range is a part of. /8 to /30, or at most /126 of IPv6.
    pub subnet: IpNet,
    /// The first address for pods.
    pub first: IpAddr,
    /// The last address for pods.
    pub last: IpAddr,
    /// The host's address, never a pod's.
    pub gateway: IpAddr,
}

impl Range {
    /// A whole subnet, whose first address is the host's.
    #[must_use]
    pub fn of(subnet: IpNet) -> Self {
        let host = numbered(number(subnet.network()).saturating_add(1));
        let first = if subnet.addr().is_ipv4() { host } else { subnet.network() };
        Self { subnet, first, last: subnet.broadcast(), gateway: host }
    }

    fn is_ipv4(&self) -> bool {
        self.subnet.addr().is_ipv4()
    }

    pub(crate) fn has(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && self.first <= address && address <= self.last
    }

    fn check(&self) -> Result<()> {
        let refuse = |reason| Err(invalid("subnet", self.subnet.to_string(), reason));
        if self.subnet.trunc() != self.subnet {
            return refuse("has host bits set");
        }
        let usable = match self.subnet {
            IpNet::V4(net) => {
                if !(8..=30).contains(&net.prefix_len()) {
                    return refuse("is not between /8 and /30");
                }
                !(net.addr().is_loopback() || net.addr().is_multicast() || is_placeholder(net.addr()))
            }
            IpNet::V6(net) => {
                if net.prefix_len() > 126 {
                    return refuse("is longer than /126");
                }
                !(net.addr().is_loopback() || net.addr().is_multicast() || is_mapped(net))
            }
        };
        if !usable {
            return refuse("is not of unicast addresses");
        }
        for (what, address) in
            [("range start", self.first), ("range end", self.last), ("gateway", self.gateway)]
        {
            if !self.subnet.contains(&address) {
                return Err(invalid(what, address.to_string(), "is not in the subnet"));
            }
        }
        if self.first > self.last {
            return Err(invalid("range start", self.first.to_string(), "is behind the range's end"));
        }
        Ok(())
    }

    fn span(&self) -> Span {
        (number(self.first), number(self.last).saturating_add(1))
    }

    /// The part of the address space that has places in a lease table, at most so many: the whole subnet where
    /// that is small enough, so that a range can be made larger while pods have addresses of it.
    fn segment(&self, most: u32) -> Segment {
        let (first, end) = span(self.subnet);
        let first = if end - first <= u128::from(most) { first } else { number(self.first) };
        Segment::within(self.subnet, (first, end), most)
    }

    /// As [`Self::segment`], of addresses that go along with the places of others.
    fn segment_along(&self) -> Segment {
        Segment::within(self.subnet, self.span(), SLOTS_MAX)
    }

    /// What no pod gets: the subnet's own address, which in IPv6 is that of its routers (RFC 4291, 2.6.1),
    /// broadcast, and the host's.
    fn kept_back(&self) -> Vec<Span> {
        let (first, end) = span(self.subnet);
        let gateway = number(self.gateway);
        let broadcast = if self.is_ipv4() { (end - 1, end) } else { (first, first + 1) };
        vec![(first, first + 1), broadcast, (gateway, gateway.saturating_add(1))]
    }
}

impl Ranges {
    /// One subnet of each family, whose first addresses are the host's.
    #[must_use]
    pub fn of(subnet: Ipv4Net, subnet6: Option<Ipv6Net>) -> Self {
        let nets = [Some(IpNet::V4(subnet)), subnet6.map(IpNet::V6)];
        Self::each(nets.into_iter().flatten())
    }

    /// Subnets of which pods get one address each.
    pub fn each(subnets: impl IntoIterator<Item = IpNet>) -> Self {
        let sets = subnets.into_iter().map(|subnet| vec![Range::of(subnet)]).collect();
        Self { sets, exclude: Vec::new() }
    }

    /// No addresses at all: pods give themselves what they want, or somebody on their bridge does.
    #[must_use]
    pub fn none() -> Self {
        Self { sets: Vec::new(), exclude: Vec::new() }
    }

    /// Whether there is no range of either family.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Refuses what cannot work, by name.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<()> {
        if self.sets.is_empty() || self.sets.iter().any(Vec::is_empty) {
            return Err(invalid("ranges", "[]".to_owned(), "have no address"));
        }
        self.all().try_for_each(Range::check)?;
        let all: Vec<&Range> = self.all().collect();
        for (position, range) in all.iter().enumerate() {
            if all[..position].iter().any(|other| overlap(range, other)) {
                let value = format!("{} to {}", range.first, range.last);
                return Err(invalid("range", value, "overlaps another range of the network"));
            }
        }
        if let Some(range) = self.sets.iter().find_map(|set| odd_one(set)) {
            let reason = "is of another family than the others of its set";
            return Err(invalid("subnet", range.subnet.to_string(), reason));
        }
        // One is for what stands for IPv4.
        if all.len() >= SEGMENTS_MAX {
            return Err(invalid("ranges", all.len().to_string(), "are more than 31"));
        }
        self.check_places()
    }

    /// Each set has an address for a pod.
    fn check_places(&self) -> Result<()> {
        let segments = self.begin(Segment::placeholder(0));
        let refuse = |set: &RangeSet| {
            let value = set[0].subnet.to_string();
            Err(invalid("subnet", value, "has no address left for a pod"))
        };
        if self.places(&segments).is_empty() {
            return refuse(&self.sets[self.first(true).unwrap_or(0)]);
        }
        for set in self.further(&segments) {
            if self.places_of(set, &segments).is_empty() {
                return refuse(&self.sets[set]);
            }
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Range> {
        self.sets.iter().flatten()
    }

    /// The subnets of pods, each once.
    #[must_use]
    pub fn nets(&self) -> Vec<IpNet> {
        let mut nets: Vec<IpNet> = Vec::new();
        for range in self.all() {
            if !nets.contains(&range.subnet) {
                nets.push(range.subnet);
            }
        }
        nets
    }

    /// The host's addresses, with the prefix of their subnets, each once.
    pub(crate) fn gateways(&self) -> Vec<IpNet> {
        let mut gateways: Vec<IpNet> = Vec::new();
        for range in self.all() {
            let gateway = IpNet::new_assert(range.gateway, range.subnet.prefix_len());
            if !gateways.contains(&gateway) {
                gateways.push(gateway);
            }
        }
        gateways
    }

    /// The first set of a family.
    pub(crate) fn first(&self, ipv4: bool) -> Option<usize> {
        self.sets.iter().position(|set| set.iter().any(|range| range.is_ipv4() == ipv4))
    }

    /// The first subnet of a family.
    pub(crate) fn first_range(&self, ipv4: bool) -> Option<&Range> {
        self.all().find(|range| range.is_ipv4() == ipv4)
    }

    pub(crate) fn has_family(&self, ipv4: bool) -> bool {
        self.first(ipv4).is_some()
    }

    /// The set that an address is of.
    pub(crate) fn set_of(&self, address: IpAddr) -> Option<usize> {
        self.sets.iter().position(|set| set.iter().any(|range| range.has(address)))
    }

    /// The range that an address is of, or else one whose subnet has it.
    pub(crate) fn range_of(&self, address: IpAddr) -> Option<&Range> {
        let of = self.all().find(|range| range.has(address));
        of.or_else(|| self.all().find(|range| range.subnet.contains(&address)))
    }

    /// In which order pods have addresses: that of the sets.
    pub(crate) fn position(&self, address: IpAddr) -> usize {
        let near = |set: &RangeSet| set.iter().any(|range| range.subnet.contains(&address));
        let set = self.set_of(address).or_else(|| self.sets.iter().position(near));
        set.unwrap_or(self.sets.len())
    }

    /// What an empty table of the network begins with.
    pub(crate) fn begin(&self, placeholder: Segment) -> Segments {
        let mut segments = Segments::with_along(self.begin_along());
        for segment in self.segments(self.along(&segments), placeholder) {
            segments.append(segment);
        }
        segments
    }

    /// The IPv6 addresses that go along with the places of IPv4 addresses, or with what stands for these: those
    /// of the first set, when it is one range that has enough of them. One place then is both addresses.
    pub(crate) fn begin_along(&self) -> Option<Segment> {
        let set = self.first(false)?;
        let [range] = self.sets[set].as_slice() else { return None };
        let along = range.segment_along();
        let own: u32 = match self.first(true) {
            Some(own) => self.sets[own].iter().map(|range| range.segment(RANGE_MAX).length).sum(),
            None => 0,
        };
        let others = self.sets.iter().enumerate().filter(|(other, _)| *other != set);
        let apart = others.flat_map(|(_, set)| set).all(|range| !range.segment(RANGE_MAX).meets(along));
        (along.length >= own && apart).then_some(along)
    }

    /// The set whose addresses go along in a table: once there, whichever of the sets it is by now.
    pub(crate) fn along(&self, segments: &Segments) -> Option<usize> {
        let along = segments.along?;
        self.sets
            .iter()
            .position(|set| matches!(set.as_slice(), [range] if number(range.first) == along.first))
    }

    /// How far the addresses reach that go along.
    pub(crate) fn reach_along(&self, set: usize) -> Segment {
        self.sets[set][0].segment_along()
    }

    /// The sets whose addresses have places of their own beside the lease's.
    pub(crate) fn further(&self, segments: &Segments) -> Vec<usize> {
        let others = [self.first(true), self.along(segments)];
        (0..self.sets.len()).filter(|set| !others.contains(&Some(*set))).collect()
    }

    /// The parts of a lease table that the network wants, those of leases first. What has no IPv4 has what stands
    /// for it. Where a table has no room for all of them, each is of fewer addresses.
    pub(crate) fn segments(&self, along: Option<usize>, placeholder: Segment) -> Vec<Segment> {
        let own = self.first(true);
        let others = (0..self.sets.len()).filter(|set| Some(*set) != own && Some(*set) != along);
        let ranges: Vec<&Range> =
            own.into_iter().chain(others).flat_map(|set| self.sets[set].iter()).collect();
        let placeholder = own.is_none().then_some(placeholder);
        let mut most = RANGE_MAX;
        loop {
            let segments: Vec<Segment> =
                placeholder.into_iter().chain(ranges.iter().map(|range| range.segment(most))).collect();
            let slots: u64 = segments.iter().map(|segment| u64::from(segment.length)).sum();
            if slots <= u64::from(SLOTS_MAX) || most == 1 {
                return segments;
            }
            most /= 2;
        }
    }

    /// The places of a table that leases may get, in order.
    pub(crate) fn places(&self, segments: &Segments) -> Vec<Interval> {
        let mut places = match self.first(true) {
            Some(set) => self.places_of(set, segments),
            None => segments.places(vec![placeholders()]),
        };
        if let (Some(set), Some(along)) = (self.along(segments), segments.along) {
            self.without_along(&self.sets[set][0], along, &mut places);
        }
        places
    }

    /// The places of a table that are addresses of a set for pods, in order.
    pub(crate) fn places_of(&self, set: usize, segments: &Segments) -> Vec<Interval> {
        let mut addresses: Vec<Span> = self.sets[set].iter().map(Range::span).collect();
        addresses.sort_unstable();
        self.kept_back().for_each(|kept| subtract(&mut addresses, kept));
        segments.places(addresses)
    }

    fn kept_back(&self) -> impl Iterator<Item = Span> {
        self.all().flat_map(Range::kept_back).chain(self.exclude.iter().copied().map(span))
    }

    /// Leaves out the places whose other address is no pod's.
    fn without_along(&self, range: &Range, along: Segment, places: &mut Vec<Interval>) {
        let base = along.first;
        for (first, end) in self.kept_back().filter(|(_, end)| *end > base) {
            subtract(places, (offset(first.saturating_sub(base)), offset(end - base)));
        }
        let length = (range.span().1 - base).min(u128::from(along.length));
        subtract(places, (offset(length), u64::MAX));
    }
}

/// An IPv4 address in another shape.
fn is_mapped(net: Ipv6Net) -> bool {
    net.prefix_len() >= 96 && Ipv6Addr::to_ipv4_mapped(&net.addr()).is_some()
}

fn overlap(one: &Range, other: &Range) -> bool {
    one.has(other.first) || other.has(one.first)
}

/// A range that does not belong to the others of its set.
fn odd_one(set: &RangeSet) -> Option<&Range> {
    set.iter().find(|range| range.is_ipv4() != set[0].is_ipv4())
}

fn invalid(what: &'static str, value: String, reason: &'static str) -> Error {
    Error::Invalid { what, value, reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(subnets: &[&str]) -> RangeSet {
        subnets.iter().map(|net| Range::of(net.parse().unwrap())).collect()
    }

    fn ranges(sets: &[&[&str]]) -> Ranges {
        Ranges { sets: sets.iter().map(|subnets| set(subnets)).collect(), exclude: Vec::new() }
    }

    fn part(subnet: &str, first: &str, last: &str) -> Range {
        let subnet = subnet.parse().unwrap();
        Range { first: first.parse().unwrap(), last: last.parse().unwrap(), ..Range::of(subnet) }
    }

    fn begun(ranges: &Ranges) -> Segments {
        ranges.begin(Segment::placeholder(0))
    }

    fn places(ranges: &Ranges) -> Vec<Interval> {
        ranges.check().unwrap();
        ranges.places(&begun(ranges))
    }

    /// Addresses of a set for pods, so many from the first on.
    fn given(ranges: &Ranges, set: usize, count: usize) -> Vec<String> {
        let segments = begun(ranges);
        let places = ranges.places_of(set, &segments);
        let slots = places.iter().flat_map(|(first, end)| *first..*end).take(count);
        slots.map(|slot| segments.address(u32::try_from(slot).unwrap()).unwrap().to_string()).collect()
    }

    #[test]
    fn network_host_and_broadcast_are_kept_back() {
        assert_eq!(places(&ranges(&[&["10.0.0.0/29", "10.0.1.0/30"]])), [(2, 7), (10, 11)]);
    }

    #[test]
    fn excluded_addresses_of_either_family_take_the_place_away() {
        let mut ranges = Ranges::of("10.0.0.0/24".parse().unwrap(), Some("fd00::/64".parse().unwrap()));
        ranges.exclude = vec!["10.0.0.64/26".parse().unwrap(), "fd00::10/124".parse().unwrap()];
        assert_eq!(places(&ranges), [(2, 16), (32, 64), (128, 255)]);
    }

    #[test]
    fn an_ipv6_range_that_is_too_short_to_go_along_has_places_of_its_own() {
        let mut ranges = ranges(&[&["10.0.0.0/24"]]);
        ranges.sets.push(vec![part("fd00::/64", "fd00::100", "fd00::10f")]);
        assert_eq!(places(&ranges), [(2, 255)]);
        assert_eq!(ranges.along(&begun(&ranges)), None);
        assert_eq!(given(&ranges, 1, 300).len(), 16);
        ranges.sets[1][0].last = "fd00::1ff".parse().unwrap();
        assert_eq!(ranges.along(&begun(&ranges)), Some(1));
        assert_eq!(begun(&ranges).along(2), Some("fd00::102".parse().unwrap()));
        assert_eq!(begun(&ranges).along(256), None);
    }

    #[test]
    fn ipv6_alone_has_places_of_its_own() {
        let mut ranges = ranges(&[&["fd00::/120"]]);
        ranges.exclude = vec!["fd00::10/124".parse().unwrap()];
        assert_eq!(places(&ranges), [(2, 16), (32, 256)]);
        let smallest = self::ranges(&[&["fd00::/126"]]);
        assert_eq!(places(&smallest), [(2, 4)]);
    }

    #[test]
    fn sets_have_their_own_places_whatever_their_ranges_begin_with() {
        let mut ranges = ranges(&[&["10.1.0.0/24"], &["fd00:1::/64", "fd00:2::/64"]]);
        ranges.sets.push(vec![part("10.2.0.0/24", "10.2.0.100", "10.2.0.101")]);
        ranges.sets.push(set(&["fd00:3::/64"]));
        assert_eq!(places(&ranges), [(2, 255)]);
        assert_eq!(ranges.further(&begun(&ranges)), [1, 2, 3]);
        assert_eq!(given(&ranges, 1, 2), ["fd00:1::2", "fd00:1::3"]);
        assert_eq!(given(&ranges, 2, 9), ["10.2.0.100", "10.2.0.101"]);
        assert_eq!(given(&ranges, 3, 1), ["fd00:3::2"]);
        let alone = self::ranges(&[&["fd00:1::/64"], &["fd00:2::/64"]]);
        assert_eq!(alone.along(&begun(&alone)), Some(0));
        assert_eq!(alone.further(&begun(&alone)), [1]);
        assert_eq!(places(&alone), [(2, 65_536)]);
    }

    #[test]
    fn parts_of_one_subnet_can_be_several_sets() {
        let parts = |subnet, ends: [&str; 4]| {
            vec![vec![part(subnet, ends[0], ends[1])], vec![part(subnet, ends[2], ends[3])]]
        };
        let mut sets = parts("10.0.0.0/24", ["10.0.0.0", "10.0.0.9", "10.0.0.10", "10.0.0.255"]);
        sets.extend(parts("fd00::/120", ["fd00::", "fd00::f", "fd00::10", "fd00::ff"]));
        let ranges = Ranges { sets, exclude: Vec::new() };
        assert_eq!(places(&ranges), [(2, 10)]);
        assert_eq!(given(&ranges, 1, 1), ["10.0.0.10"]);
        assert_eq!(given(&ranges, 1, 300).len(), 245);
        assert_eq!(ranges.along(&begun(&ranges)), None, "they share the subnet");
        assert_eq!(given(&ranges, 2, 300).len(), 14);
        assert_eq!(given(&ranges, 3, 300).len(), 240);
    }

    #[test]
    fn ranges_that_cannot_work_are_refused() {
        for (sets, why) in [
            (&[&["0.1.0.0/16"][..]][..], "nobody's"),
            (&[&["10.0.0.0/24", "10.0.0.128/25"]], "overlap"),
            (&[&["10.0.0.0/24"], &["10.0.0.128/25"]], "overlap in another set"),
            (&[&["10.0.0.1/24"]], "host bits"),
            (&[&["10.0.0.0/31"]], "too small"),
            (&[&["fd00::/127"]], "too small"),
            (&[&["::ffff:10.0.0.0/112"]], "IPv4"),
            (&[&["127.0.0.0/24"]], "loopback"),
            (&[&["10.0.0.0/24", "fd00::/64"]], "both families"),
            (&[&["10.0.0.0/24"], &[]], "empty"),
            (&[], "empty"),
        ] {
            assert!(ranges(sets).check().is_err(), "{why}");
        }
        let mut nothing_left = ranges(&[&["10.0.0.0/29"], &["10.1.0.0/29"]]);
        nothing_left.exclude = vec!["10.1.0.0/24".parse().unwrap()];
        assert!(nothing_left.check().is_err());
        let many: Vec<String> = (0..32).map(|number| format!("10.{number}.0.0/24")).collect();
        let many = Ranges::each(many.iter().map(|net| net.parse().unwrap()));
        assert_eq!(many.check().unwrap_err().to_string(), "ranges \"32\": are more than 31");
    }

    #[test]
    fn a_huge_subnet_uses_a_window() {
        let ranges =
            Ranges { sets: vec![vec![part("10.0.0.0/8", "10.1.200.0", "10.1.200.9")]], exclude: vec![] };
        assert_eq!(places(&ranges), [(0, 10)]);
    }

    #[test]
    fn many_large_ranges_share_a_table() {
        let nets: Vec<String> = (0..9).map(|number| format!("10.{number}.0.0/16")).collect();
        let many = Ranges::each(nets.iter().map(|net| net.parse().unwrap()));
        many.check().unwrap();
        assert_eq!(begun(&many).slots(), 9 * 16_384);
    }

    fn any_range() -> impl Strategy<Value = Range> {
        let v4 = (0..4u8, 24..30u8).prop_map(|(net, prefix)| format!("10.0.{net}.0/{prefix}"));
        let v6 = (0..3u8, 118..126u8).prop_map(|(net, prefix)| format!("fd00:{net}::/{prefix}"));
        (prop_oneof![v4, v6], 0..40u128, 0..300u128).prop_map(|(subnet, first, length)| {
            let whole = Range::of(subnet.parse().unwrap());
            let (start, end) = span(whole.subnet);
            let at = |offset: u128| numbered((start + offset).min(end - 1));
            Range { first: at(first), last: at(first + length), ..whole }
        })
    }

    proptest! {
        /// A place is an address of one set, what goes along is nobody's else, and nothing is given that is kept back.
        #[test]
        fn no_address_is_of_two_places(ranges in prop::collection::vec(any_range(), 1..7)) {
            let ranges = Ranges { sets: ranges.into_iter().map(|range| vec![range]).collect(), exclude: vec![] };
            prop_assume!(ranges.check().is_ok());
            let segments = begun(&ranges);
            let slots = |places: Vec<Interval>| places.into_iter().flat_map(|(first, end)| first..end)
                .map(|slot| u32::try_from(slot).unwrap()).collect::<Vec<u32>>();
            let own = slots(ranges.places(&segments));
            let mut addresses = Vec::new();
            for slot in &own {
                addresses.extend(segments.address(*slot));
                if ranges.along(&segments).is_some() {
                    addresses.push(segments.along(*slot).unwrap().into());
                }
            }
            for set in ranges.further(&segments) {
                for slot in slots(ranges.places_of(set, &segments)) {
                    prop_assert_eq!(ranges.set_of(segments.address(slot).unwrap()), Some(set));
                    addresses.extend(segments.address(slot));
                }
            }
            let count = addresses.len();
            for address in &addresses {
                let kept = ranges.all().any(|range| range.gateway == *address);
                prop_assert!(!kept, "{address}");
            }
            addresses.sort_unstable();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), count);
        }
    }
}
