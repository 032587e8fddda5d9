//! Which addresses a network gives to pods.
//!
//! Owns the arithmetic of ranges: what is in them, what is kept back, which IPv6 address goes with which place.
//! Leaves who has an address to `lease`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::segment::{Interval, PLACEHOLDERS, RANGE_MAX, Segment, Segments, is_placeholder, subtract};
use crate::{Error, Result};

/// The addresses of a pod network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// IPv4 addresses; no range overlaps another. A pod gets one address of all of them.
    pub v4: Vec<Range4>,
    /// IPv6 addresses, of which a pod gets one. A network has ranges of one family at least.
    pub v6: Option<Range6>,
    /// What is not to be given to pods.
    pub exclude: Vec<IpNet>,
}

/// A range of IPv4 addresses. At most 65,536 are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range4 {
    /// The subnet that the range is a part of. /8 to /30.
    pub subnet: Ipv4Net,
    /// The first address for pods.
    pub first: Ipv4Addr,
    /// The last address for pods.
    pub last: Ipv4Addr,
    /// The host's address, never a pod's.
    pub gateway: Ipv4Addr,
}

/// A range of IPv6 addresses: the pod with the n-th IPv4 address gets the n-th of them. At most 65,536 are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range6 {
    /// The subnet that the range is a part of. At most /125.
    pub subnet: Ipv6Net,
    /// The address that the places of IPv4 addresses are added to.
    pub first: Ipv6Addr,
    /// The last address for pods.
    pub last: Ipv6Addr,
    /// The host's address, never a pod's.
    pub gateway: Ipv6Addr,
}

impl Range4 {
    /// A whole subnet, whose first address is the host's.
    #[must_use]
    pub fn of(subnet: Ipv4Net) -> Self {
        let host = Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1));
        Self { subnet, first: host, last: subnet.broadcast(), gateway: host }
    }

    /// The part of the address space that has places in a lease table: the whole subnet where that is small
    /// enough, so that a range can be made larger while pods have addresses of it.
    pub(crate) fn segment(&self) -> Segment {
        let whole = self.subnet.prefix_len() >= 16;
        let first = if whole { self.subnet.network() } else { self.first };
        let last = if whole { self.subnet.broadcast() } else { self.last };
        let count = u64::from(u32::from(last)) - u64::from(u32::from(first)) + 1;
        let length = u32::try_from(count).unwrap_or(RANGE_MAX).min(RANGE_MAX);
        Segment { net: self.subnet, first: u32::from(first), length }
    }

    fn check(&self) -> Result<()> {
        let refuse = |value: String, reason| Err(invalid("subnet", value, reason));
        let subnet = self.subnet.to_string();
        if self.subnet.trunc() != self.subnet {
            return refuse(subnet, "has host bits set");
        }
        if !(8..=30).contains(&self.subnet.prefix_len()) {
            return refuse(subnet, "is not between /8 and /30");
        }
        let address = self.subnet.addr();
        if address.is_loopback() || address.is_multicast() || is_placeholder(address) {
            return refuse(subnet, "is not of unicast addresses");
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

    fn interval(&self) -> Interval {
        (number4(self.first), number4(self.last) + 1)
    }
}

impl Range6 {
    /// A whole subnet, whose first address is the host's.
    #[must_use]
    pub fn of(subnet: Ipv6Net) -> Self {
        let host = Ipv6Addr::from(u128::from(subnet.network()) + 1);
        Self { subnet, first: subnet.network(), last: subnet.broadcast(), gateway: host }
    }

    fn check(&self) -> Result<()> {
        let subnet = self.subnet.to_string();
        if self.subnet.trunc() != self.subnet {
            return Err(invalid("subnet", subnet, "has host bits set"));
        }
        if self.subnet.prefix_len() > 125 {
            return Err(invalid("subnet", subnet, "is longer than /125"));
        }
        if self.subnet.addr().is_loopback() || self.subnet.addr().is_multicast() {
            return Err(invalid("subnet", subnet, "is not of unicast addresses"));
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

    /// The address of a place, if the range goes that far.
    pub(crate) fn address(&self, slot: u32) -> Option<Ipv6Addr> {
        let address = u128::from(self.first).checked_add(u128::from(slot))?;
        (address <= u128::from(self.last)).then(|| Ipv6Addr::from(address))
    }

    /// The place that an address goes with, whether a pod can have it or not.
    pub(crate) fn slot(&self, address: Ipv6Addr) -> Option<u32> {
        u32::try_from(u128::from(address).checked_sub(u128::from(self.first))?).ok()
    }

    /// The places whose address lies in the interval.
    fn places(&self, first: Ipv6Addr, last: Ipv6Addr) -> Option<Interval> {
        let base = u128::from(self.first);
        let end = (u128::from(last) + 1).checked_sub(base)?;
        let start = u128::from(first).saturating_sub(base);
        let limit = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
        Some((limit(start), limit(end)))
    }
}

impl Ranges {
    /// One subnet of each family, whose first addresses are the host's.
    #[must_use]
    pub fn of(subnet: Ipv4Net, subnet6: Option<Ipv6Net>) -> Self {
        Self { v4: vec![Range4::of(subnet)], v6: subnet6.map(Range6::of), exclude: Vec::new() }
    }

    /// No addresses at all: pods give themselves what they want, or somebody on their bridge does.
    #[must_use]
    pub fn none() -> Self {
        Self { v4: Vec::new(), v6: None, exclude: Vec::new() }
    }

    /// Whether there is no range of either family.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_none()
    }

    /// Refuses what cannot work, by name.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<()> {
        if self.is_empty() {
            return Err(invalid("ranges", "[]".to_owned(), "have no address"));
        }
        self.v4.iter().try_for_each(Range4::check)?;
        self.v6.as_ref().map_or(Ok(()), Range6::check)?;
        for (number, range) in self.v4.iter().enumerate() {
            if self.v4[..number].iter().any(|other| overlap(range, other)) {
                let value = format!("{} to {}", range.first, range.last);
                return Err(invalid("range", value, "overlaps another range of the network"));
            }
        }
        if self.places(&self.segments()).is_empty() {
            let value = self.nets().first().map(ToString::to_string).unwrap_or_default();
            return Err(invalid("subnet", value, "has no address left for a pod"));
        }
        Ok(())
    }

    /// The subnets of pods, IPv4 first, each once.
    pub(crate) fn nets(&self) -> Vec<IpNet> {
        let mut nets: Vec<IpNet> = self.v4.iter().map(|range| IpNet::V4(range.subnet)).collect();
        nets.extend(self.v6.as_ref().map(|range| IpNet::V6(range.subnet)));
        nets.dedup();
        nets
    }

    /// The parts of a lease table that the network wants, or what stands for them when it has no IPv4.
    pub(crate) fn segments(&self) -> Segments {
        let mut segments = Segments::default();
        if self.v4.is_empty() {
            segments.append(Segment::placeholder(0));
        }
        for range in &self.v4 {
            segments.append(range.segment());
        }
        segments
    }

    /// The host's address next to a pod's.
    pub(crate) fn gateway(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        let within = |range: &&Range4| range.first <= address && address <= range.last;
        let range = self.v4.iter().find(within);
        let range = range.or_else(|| self.v4.iter().find(|range| range.subnet.contains(&address)));
        range.map(|range| range.gateway)
    }

    /// The places of a table that pods may get, in order.
    pub(crate) fn places(&self, segments: &Segments) -> Vec<Interval> {
        let mut addresses: Vec<Interval> = self.v4.iter().map(Range4::interval).collect();
        if addresses.is_empty() {
            addresses.push(PLACEHOLDERS);
        }
        addresses.sort_unstable();
        for range in &self.v4 {
            let (first, end) = net4(range.subnet);
            // The network's own address, broadcast, and the host's.
            for address in [first, end - 1, number4(range.gateway)] {
                subtract(&mut addresses, (address, address + 1));
            }
        }
        for net in &self.exclude {
            if let IpNet::V4(net) = net {
                subtract(&mut addresses, net4(*net));
            }
        }
        let mut places = segments.places(addresses);
        if let Some(range) = &self.v6 {
            self.without_ipv6(range, &mut places);
        }
        places
    }

    /// Leaves out the places whose IPv6 address is no pod's.
    fn without_ipv6(&self, range: &Range6, places: &mut Vec<Interval>) {
        let mut unwanted = vec![
            // Zero is the subnet-router anycast address (RFC 4291, 2.6.1).
            (range.subnet.network(), range.subnet.network()),
            (range.gateway, range.gateway),
        ];
        unwanted.extend(self.exclude.iter().filter_map(|net| match net {
            IpNet::V6(net) => Some((net.network(), net.broadcast())),
            IpNet::V4(_) => None,
        }));
        for (first, last) in unwanted {
            if let Some(interval) = range.places(first, last) {
                subtract(places, interval);
            }
        }
        let end = u128::from(range.last) - u128::from(range.first) + 1;
        subtract(places, (u64::try_from(end).unwrap_or(u64::MAX), u64::MAX));
    }
}

fn overlap(one: &Range4, other: &Range4) -> bool {
    one.first <= other.last && other.first <= one.last
}

fn number4(address: Ipv4Addr) -> u64 {
    u64::from(u32::from(address))
}

fn net4(net: Ipv4Net) -> Interval {
    (number4(net.network()), number4(net.broadcast()) + 1)
}

fn invalid(what: &'static str, value: String, reason: &'static str) -> Error {
    Error::Invalid { what, value, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(v4: &[&str]) -> Ranges {
        let v4 = v4.iter().map(|net| Range4::of(net.parse().unwrap())).collect();
        Ranges { v4, v6: None, exclude: Vec::new() }
    }

    #[test]
    fn network_host_and_broadcast_are_kept_back() {
        let ranges = ranges(&["10.0.0.0/29", "10.0.1.0/30"]);
        ranges.check().unwrap();
        assert_eq!(ranges.places(&ranges.segments()), [(2, 7), (10, 11)]);
    }

    #[test]
    fn excluded_addresses_of_either_family_take_the_place_away() {
        let mut ranges = Ranges::of("10.0.0.0/24".parse().unwrap(), Some("fd00::/64".parse().unwrap()));
        ranges.exclude = vec!["10.0.0.64/26".parse().unwrap(), "fd00::10/124".parse().unwrap()];
        assert_eq!(ranges.places(&ranges.segments()), [(2, 16), (32, 64), (128, 255)]);
    }

    #[test]
    fn an_ipv6_range_that_ends_early_ends_the_places() {
        let mut ranges = Ranges::of("10.0.0.0/24".parse().unwrap(), Some("fd00::/64".parse().unwrap()));
        let v6 = ranges.v6.as_mut().unwrap();
        v6.first = "fd00::100".parse().unwrap();
        v6.last = "fd00::10f".parse().unwrap();
        assert_eq!(ranges.places(&ranges.segments()), [(2, 16)]);
        assert_eq!(ranges.v6.as_ref().unwrap().address(2), Some("fd00::102".parse().unwrap()));
        assert_eq!(ranges.v6.as_ref().unwrap().address(16), None);
    }

    #[test]
    fn ipv6_alone_has_places_of_its_own() {
        let v6 = Range6::of("fd00::/120".parse().unwrap());
        let ranges = Ranges { v4: Vec::new(), v6: Some(v6), exclude: vec!["fd00::10/124".parse().unwrap()] };
        ranges.check().unwrap();
        assert_eq!(ranges.places(&ranges.segments()), [(2, 16), (32, 256)]);
    }

    #[test]
    fn ranges_that_cannot_work_are_refused() {
        assert!(ranges(&["0.1.0.0/16"]).check().is_err(), "nobody's");
        assert!(ranges(&["10.0.0.0/24", "10.0.0.128/25"]).check().is_err(), "overlap");
        assert!(ranges(&["10.0.0.1/24"]).check().is_err(), "host bits");
        assert!(ranges(&["10.0.0.0/31"]).check().is_err(), "too small");
        assert!(ranges(&["127.0.0.0/24"]).check().is_err(), "loopback");
        assert!(ranges(&[]).check().is_err());
        let mut nothing_left = ranges(&["10.0.0.0/29"]);
        nothing_left.exclude = vec!["10.0.0.0/24".parse().unwrap()];
        assert!(nothing_left.check().is_err());
    }

    #[test]
    fn a_huge_subnet_uses_a_window() {
        let mut ranges = ranges(&["10.0.0.0/8"]);
        ranges.v4[0].first = "10.1.200.0".parse().unwrap();
        ranges.v4[0].last = "10.1.200.9".parse().unwrap();
        ranges.check().unwrap();
        assert_eq!(ranges.places(&ranges.segments()), [(0, 10)]);
    }
}
