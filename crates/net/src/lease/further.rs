//! Addresses of a pod beyond its lease's own: one slot for each set of ranges that does not go along.

use std::net::{IpAddr, Ipv4Addr};

use dunnage_sys::netns::NetnsId;

use super::free::Free;
use super::locked::{LockedLeases, rested, seconds};
use super::record::{Further, Given, Lease, LeaseKind, LeaseState, Owner, Part, Record};
use super::vacancy::vacancy;
use crate::Result;
use crate::range::Ranges;
use crate::segment::{Interval, rank, ranked};

impl LockedLeases<'_> {
    /// Chooses a slot of each further set, those of `wanted` or any; nothing is written. A set whose addresses are
    /// all free gives the one that has the number in it that the lease's has among `own`.
    pub(super) fn choose_parts(&self, own: &[Interval], slot: u32, wanted: &[IpAddr]) -> Result<Vec<Part>> {
        let ranges = &self.table.ranges;
        let mut parts = Vec::new();
        for set in ranges.further(&self.header.segments) {
            let places = ranges.places_of(set, &self.header.segments);
            let asked = wanted.iter().find(|address| ranges.set_of(**address) == Some(set));
            let slot = match asked {
                Some(address) => self.wanted_slot(&places, *address)?,
                None => {
                    let from = ranked(&places, rank(own, slot)).unwrap_or(0);
                    let found = vacancy(&self.slots.words, &self.slots.file, &places, from, rested())?;
                    found.map_or_else(|| Err(self.exhausted(set, &places)), Ok)?
                }
            };
            parts.push(Part { slot, set, further: self.further(ranges, slot) });
        }
        Ok(parts)
    }

    fn further(&self, ranges: &Ranges, slot: u32) -> Further {
        let address = self.header.segments.address(slot).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Further { address, gateway: ranges.range_of(address).map_or(address, |range| range.gateway) }
    }

    /// Writes down the parts of a lease that is written down already.
    pub(super) fn put_parts(&mut self, owner: &Owner, netns: NetnsId, parts: &[Part]) -> Result<()> {
        for part in parts {
            let record = Record::new(owner, netns, part.further.given());
            self.slots.put(part.slot, &record, LeaseState::Active)?;
        }
        Ok(())
    }

    /// The leases of further addresses that end with this one.
    pub(crate) fn parts(&self, lease: &Lease) -> Result<Vec<Lease>> {
        let (false, Some((owner, _))) = (lease.given.kind.is_part(), &lease.holder) else {
            return Ok(Vec::new());
        };
        let mut parts = Vec::new();
        for (slot, word) in self.slots.indexed(owner.tag())? {
            if slot != lease.slot {
                let other = self.lease(slot, word)?;
                parts.extend((other.given.kind == LeaseKind::Further && other.is_of(owner)).then_some(other));
            }
        }
        Ok(parts)
    }

    pub(super) fn free_part(&mut self, part: &Lease) -> Result<()> {
        self.slots.free(part.slot, Free { since: seconds(), lingers: false })
    }
}

impl Further {
    /// As the record of its slot says it.
    pub(super) fn given(self) -> Given {
        let mut given = Given::nothing(LeaseKind::Further);
        match (self.address, self.gateway) {
            (IpAddr::V6(address), IpAddr::V6(gateway)) => {
                (given.address6, given.gateway6) = (Some(address), Some(gateway));
            }
            (_, IpAddr::V4(gateway)) => given.gateway = gateway,
            _ => {}
        }
        given
    }

    /// What [`Self::given`] was made of.
    pub(super) fn of(lease: &Lease) -> Self {
        let given = &lease.given;
        match (given.address6, given.gateway6) {
            (Some(address), Some(gateway)) => Self { address: address.into(), gateway: gateway.into() },
            _ => Self { address: lease.address.into(), gateway: given.gateway.into() },
        }
    }
}
