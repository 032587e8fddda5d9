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
