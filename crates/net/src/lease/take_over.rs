//! Another plugin's leases, written into a table that has no name yet.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use dunnage_sys::netns::NetnsId;

use super::header::Header;
use super::record::{Further, Given, LeaseKind, LeaseState, Owner, Record};
use super::slots::Slots;
use super::words::is_used;
use crate::Result;
use crate::range::Ranges;
use crate::segment::Segments;

/// Writes them down. What is not in its ranges has no place, and
/// cannot be given to anybody either.
pub(super) fn take_over(
    slots: &mut Slots,
    ranges: &Ranges,
    header: &Header,
    imported: &[(IpAddr, Owner)],
) -> Result<()> {
    let segments = &header.segments;
    let mut last = None;
    let mut leased: HashSet<&Owner> = HashSet::new();
    let along_of: HashMap<&Owner, Ipv6Addr> = imported
        .iter()
        .filter_map(|(address, owner)| match address {
            IpAddr::V6(address) => segments.along_slot(*address).map(|_| (owner, *address)),
            IpAddr::V4(_) => None,
        })
        .collect();
    // What leases are of comes first, so that everything else finds the lease that it is a part of.
    let own = |address: IpAddr| {
        let first = ranges.first(address.is_ipv4());
        first.is_some() && ranges.set_of(address) == first
    };
    let mut ordered: Vec<&(IpAddr, Owner)> = imported.iter().collect();
    ordered.sort_by_key(|(address, _)| (!address.is_ipv4() && ranges.has_family(true), !own(*address)));
    for (address, owner) in ordered {
        let along = along_slot(segments, *address);
        let Some(slot) = along.or_else(|| segments.slot(*address)) else { continue };
        if is_used(slots.word(slot)?) {
            continue;
        }
        let mut given = further(ranges, *address).given();
        if along.is_some() && ranges.has_family(true) {
            given = Given::nothing(LeaseKind::Companion);
        } else if leased.insert(owner) {
            given.kind = LeaseKind::Imported;
            if address.is_ipv4() {
                given.address6 = along_of.get(owner).copied();
                given.gateway6 = given.address6.map(|address| gateway6(ranges, address));
            }
            let of_lease = own(*address) && (along.is_some() || address.is_ipv4());
            last = last.max(of_lease.then_some(slot));
        }
        let record = Record::new(owner, NetnsId { dev: 0, ino: 0 }, given);
        slots.put(slot, &record, LeaseState::Active)?;
    }
    last.map_or(Ok(()), |slot| slots.words.advance(&slots.file, slot))
}

fn along_slot(segments: &Segments, address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V6(address) => segments.along_slot(address),
        IpAddr::V4(_) => None,
    }
}

fn further(ranges: &Ranges, address: IpAddr) -> Further {
    let gateway = ranges.range_of(address).map_or(address, |range| range.gateway);
    Further { address, gateway }
}

fn gateway6(ranges: &Ranges, address: Ipv6Addr) -> Ipv6Addr {
    match further(ranges, address.into()).gateway {
        IpAddr::V6(gateway) => gateway,
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::super::crashes::check;
    use super::super::{LeaseStore, Owner};
    use super::*;

    #[test]
    fn what_is_taken_over_is_known_to_the_index_and_to_hints() {
        let dir = tempfile::tempdir().unwrap();
        let import = dir.path().join("host-local");
        std::fs::create_dir(&import).unwrap();
        for (address, id) in
            [("10.0.0.9", "a"), ("fd00::9", "a"), ("10.0.7.1", "b"), ("fd00::11", "b"), ("10.9.9.9", "c")]
        {
            std::fs::write(import.join(address), format!("{id}\neth0")).unwrap();
        }
        let ranges = Ranges::of("10.0.0.0/16".parse().unwrap(), Some("fd00::/64".parse().unwrap()));
        let tables = dir.path().join("tables");
        let store = LeaseStore::new(&tables, &"pods".parse().unwrap(), ranges).unwrap();
        let store = store.import_from(Some(import));
        let owner = |id| Owner::new(id, "eth0".parse().unwrap()).unwrap();
        // As it was begun, and as it is read.
        for _ in 0..2 {
            let leases = store.lock().unwrap();
            check(&leases);
            assert_eq!(leases.find(&owner("a")).unwrap().unwrap().address.to_string(), "10.0.0.9");
            assert_eq!(leases.find(&owner("b")).unwrap().unwrap().address.to_string(), "10.0.7.1");
            assert_eq!(leases.find(&owner("c")).unwrap(), None, "is of no subnet of the network");
        }
        let mut leases = store.lock().unwrap();
        let next = leases.reserve(&owner("next"), NetnsId { dev: 4, ino: 1 }).unwrap();
        assert_eq!(next.address.to_string(), "10.0.7.2");
        for id in ["a", "b", "next"] {
            let lease = leases.find(&owner(id)).unwrap().unwrap();
            leases.release(&lease).unwrap();
            check(&leases);
        }
        assert!(leases.is_empty() && leases.slots.cells().unwrap() == 0);
    }
}
