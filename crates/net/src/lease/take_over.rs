//! Another plugin's leases, written into a table that has no name yet.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use dunnage_sys::netns::NetnsId;

use super::header::Header;
use super::record::{Given, LeaseKind, LeaseState, Owner, Record};
use super::slots::Slots;
use crate::Result;
use crate::range::Ranges;

/// Writes them down. What is not in its ranges has no place, and
/// cannot be given to anybody either.
pub(super) fn take_over(
    slots: &mut Slots,
    ranges: &Ranges,
    header: &Header,
    imported: &[(IpAddr, Owner)],
) -> Result<()> {
    let mut last = None;
    let mut taken = BTreeSet::new();
    let of_owner: HashMap<&Owner, Ipv6Addr> = imported
        .iter()
        .filter_map(|(address, owner)| match address {
            IpAddr::V6(address) => Some((owner, *address)),
            IpAddr::V4(_) => None,
        })
        .collect();
    let slot6 = |address| ranges.v6.as_ref().and_then(|range| range.slot(address));
    let mut put = |slot: u32, owner: &Owner, given: Given| -> Result<()> {
        if !taken.insert(slot) {
            return Ok(());
        }
        let record = Record { owner: owner.clone(), netns: NetnsId { dev: 0, ino: 0 }, given };
        slots.put(slot, &record, LeaseState::Active)
    };
    for (address, owner) in imported {
        let IpAddr::V4(address) = address else { continue };
        let Some(slot) = header.segments.slot(*address) else { continue };
        let mut given = Given::nothing(LeaseKind::Imported);
        given.address6 = of_owner.get(owner).copied();
        given.gateway6 = given.address6.and(ranges.v6.as_ref()).map(|range| range.gateway);
        put(slot, owner, given)?;
        last = last.max(Some(slot));
    }
    for (address, owner) in imported {
        let IpAddr::V6(address) = address else { continue };
        let Some(slot) = slot6(*address).filter(|slot| *slot < header.segments.slots()) else { continue };
        if !ranges.v4.is_empty() {
            put(slot, owner, Given::nothing(LeaseKind::Companion))?;
            continue;
        }
        let mut given = Given::nothing(LeaseKind::Imported);
        given.address6 = Some(*address);
        given.gateway6 = ranges.v6.as_ref().map(|range| range.gateway);
        put(slot, owner, given)?;
        last = last.max(Some(slot));
    }
    last.map_or(Ok(()), |slot| slots.words.advance(&slots.file, slot))
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
