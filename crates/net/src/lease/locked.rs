//! One lease table while nobody else can change it.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dunnage_sys::flock::Flock;
use dunnage_sys::netns::NetnsId;
use dunnage_sys::{Call, clock};
use ipnet::Ipv4Net;

use super::header::Header;
use super::record::{Given, Lease, LeaseKind, LeaseState, Owner, Record};
use super::slots::Slots;
use super::table::{Table, write_header};
use super::vacancy::vacancy;
use super::words::is_used;
use crate::segment::Segments;
use crate::{Error, Result};

/// An address that was given back rests for so long, as long as there are others: whoever talked to its last pod
/// has noticed by then.
const REST: Duration = Duration::from_secs(30);
/// After so long a detached link is gone with its namespace, or nobody else removes it.
const LINGER: Duration = Duration::from_secs(3);

/// A table that nobody else can change until this is dropped.
#[derive(Debug)]
pub struct LockedLeases<'a> {
    pub(super) table: &'a Table,
    pub(super) header: Header,
    pub(super) slots: Slots,
    _lock: Flock<File>,
}

impl<'a> LockedLeases<'a> {
    pub(super) fn new(table: &'a Table, (header, slots): (Header, Slots), lock: Flock<File>) -> Self {
        Self { table, header, slots, _lock: lock }
    }

    /// The subnets that leases can be of: those of the store, and those it had before while pods are in them.
    #[must_use]
    pub fn subnets(&self) -> Vec<Ipv4Net> {
        self.header.segments.nets()
    }

    pub(crate) fn segments(&self) -> &Segments {
        &self.header.segments
    }

    /// Whether every wanted address has a slot.
    pub(crate) fn fits(&self) -> Result<bool> {
        let wanted = self.table.wanted(&self.header.segments)?;
        Ok(self.header.segments.include(&wanted) && self.header.base6 == self.table.base6())
    }

    /// Begins an empty table, of the network's subnets.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn renew(&mut self) -> Result<()> {
        (self.header, self.slots) = self.table.create()?;
        Ok(())
    }

    /// Adds the network's subnets; the slots that there are stay what they are.
    pub(crate) fn extend(&mut self) -> Result<()> {
        let mut header = self.header.clone();
        let name = || self.table.path.display().to_string();
        for segment in self.table.wanted(&self.header.segments)?.iter() {
            if !header.segments.append(*segment) {
                let reason = format!("has no room for {} beside the pods in it", segment.net);
                return Err(Error::Foreign { what: "lease table", name: name(), reason });
            }
        }
        let wanted = self.table.base6();
        if wanted.is_some() && wanted != header.base6 {
            if self.leases()?.iter().any(|lease| lease.given.address6.is_some()) {
                let had = header.base6.unwrap_or(Ipv6Addr::UNSPECIFIED);
                let reason = format!("has pods in the IPv6 range from {had}, so it cannot be another one");
                return Err(Error::Foreign { what: "lease table", name: name(), reason });
            }
            header.base6 = wanted;
        }
        let slots = header.segments.slots();
        let index = self.slots.index_for(slots)?;
        write_header(&self.slots.file, &header)?;
        self.header = header;
        self.slots.grow(slots, index)
    }

    /// Reserves an address; the one after the last that was given, so that one that was given back rests as
    /// long as possible.
    ///
    /// # Errors
    /// [`Error::Exhausted`]; [`Error::Attached`] when the owner has a lease in any state.
    pub fn reserve(&mut self, owner: &Owner, netns: NetnsId) -> Result<Lease> {
        self.reserve_with(owner, netns, None, |_, _| Given::nothing(LeaseKind::Attached))
    }

    /// Reserves a certain address, or any; `given` says what goes with it.
    pub(crate) fn reserve_with(
        &mut self,
        owner: &Owner,
        netns: NetnsId,
        address: Option<Ipv4Addr>,
        given: impl FnOnce(u32, Ipv4Addr) -> Given,
    ) -> Result<Lease> {
        // Who asks this finds nothing mostly, so it is not asked of all the words as well.
        if let Some(lease) = self.first_of(owner, self.slots.indexed(owner.tag())?)? {
            let address = lease.ip();
            return Err(Error::Attached { owner: owner.to_string(), address });
        }
        let places = self.table.ranges.places(&self.header.segments);
        let slot = match address {
            Some(address) => self.wanted_slot(&places, address)?,
            None => {
                let rested = seconds().saturating_sub(as_seconds(REST));
                let slot = vacancy(&self.slots.words, &self.slots.file, &places, rested)?;
                slot.map_or_else(|| Err(self.exhausted(&places)), Ok)?
            }
        };
        if address.is_none() {
            self.slots.words.advance(&self.slots.file, slot)?;
        }
        let given = given(slot, self.address(slot));
        self.put(slot, owner, netns, given)
    }

    /// Keeps the place of an IPv6 address that was asked for from being given to somebody else.
    pub(crate) fn reserve_companion(&mut self, of: &Lease, slot: u32, address: Ipv6Addr) -> Result<()> {
        if is_used(self.slots.word(slot)?) {
            return Err(Error::Taken { address: address.into() });
        }
        let Some((owner, netns)) = &of.holder else { return Ok(()) };
        let (owner, netns) = (owner.clone(), *netns);
        let mut kept = self.put(slot, &owner, netns, Given::nothing(LeaseKind::Companion))?;
        self.set_state(&mut kept, LeaseState::Active)
    }

    pub(super) fn put(&mut self, slot: u32, owner: &Owner, netns: NetnsId, given: Given) -> Result<Lease> {
        let record = Record { owner: owner.clone(), netns, given };
        self.slots.put(slot, &record, LeaseState::Reserved)?;
        let holder = Some((record.owner, netns));
        Ok(Lease { slot, address: self.address(slot), state: LeaseState::Reserved, holder, given })
    }

    fn wanted_slot(&self, places: &[(u64, u64)], address: Ipv4Addr) -> Result<u32> {
        let slot = self.header.segments.slot(address);
        let given = |slot: &u32| places.iter().any(|(first, end)| (*first..*end).contains(&u64::from(*slot)));
        let slot = slot.filter(given).ok_or_else(|| Error::Invalid {
            what: "address",
            value: address.to_string(),
            reason: "is not one that the network's ranges give to pods",
        })?;
        if is_used(self.slots.word(slot)?) { Err(Error::Taken { address: address.into() }) } else { Ok(slot) }
    }

    fn exhausted(&self, places: &[(u64, u64)]) -> Error {
        let ranges = &self.table.ranges;
        let mut nets: Vec<String> = ranges.v4.iter().map(|range| range.subnet.to_string()).collect();
        if nets.is_empty() {
            nets.extend(ranges.v6.as_ref().map(|range| range.subnet.to_string()));
        }
        let total: u64 = places.iter().map(|(first, end)| end - first).sum();
        let used = match self.slots.used() {
            Ok(used) => used,
            Err(error) => return error,
        };
        let used = used
            .iter()
            .filter(|(slot, _)| places.iter().any(|(first, end)| (*first..*end).contains(&u64::from(*slot))));
        Error::Exhausted {
            subnet: nets.join(", "),
            used: u32::try_from(used.count()).unwrap_or(u32::MAX),
            total: u32::try_from(total).unwrap_or(u32::MAX),
        }
    }

    /// The lease of this owner. What the index does not know is looked for among all words before it counts as
    /// gone, and known to the index from then on.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn find(&self, owner: &Owner) -> Result<Option<Lease>> {
        let tag = owner.tag();
        if let Some(lease) = self.first_of(owner, self.slots.indexed(tag)?)? {
            return Ok(Some(lease));
        }
        let Some(lease) = self.first_of(owner, self.slots.tagged(tag)?)? else { return Ok(None) };
        self.slots.enter(tag, lease.slot)?;
        Ok(Some(lease))
    }

    fn first_of(&self, owner: &Owner, slots: Vec<(u32, u32)>) -> Result<Option<Lease>> {
        for (slot, word) in slots {
            let lease = self.lease(slot, word)?;
            if lease.is_of(owner) && lease.given.kind != LeaseKind::Companion {
                return Ok(Some(lease));
            }
        }
        Ok(None)
    }

    /// Every lease, by address.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        self.slots.used()?.into_iter().map(|(slot, word)| self.lease(slot, word)).collect()
    }

    /// The leases that a crash has left in the middle of a change.
    pub(crate) fn debris(&self) -> Result<Vec<Lease>> {
        let cut_short = self.slots.cut_short()?;
        cut_short.into_iter().map(|(slot, word)| self.lease(slot, word)).collect()
    }

    /// Whether no address is leased. A table that cannot be read is not empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.words.is_empty(&self.slots.file).unwrap_or(false)
    }

    /// Moves a lease to another state.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn set_state(&mut self, lease: &mut Lease, state: LeaseState) -> Result<()> {
        self.slots.set_state(lease.slot, state)?;
        lease.state = state;
        Ok(())
    }

    /// Places whose detached link should be gone by now, at most `limit`; none of a table that cannot be read, which
    /// whoever reserves an address is told.
    pub(crate) fn lingering(&self, limit: usize) -> Vec<(u32, Ipv4Addr)> {
        let before = seconds().saturating_sub(as_seconds(LINGER));
        let slots = self.slots.lingering(before, limit).unwrap_or_default();
        slots.into_iter().map(|slot| (slot, self.address(slot))).collect()
    }

    /// Removes the table itself.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&mut self) -> Result<()> {
        let path = &self.table.path;
        Ok(std::fs::remove_file(path).call(|| format!("remove {}", path.display()))?)
    }

    /// Removes the directory, which has the lock, unless other networks have tables there.
    pub(crate) fn remove_empty_dir(&self) -> Result<()> {
        let dir = &self.table.dir;
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => {
                Ok(Err(error).call(|| format!("remove directory {}", dir.display()))?)
            }
            _ => Ok(()),
        }
    }

    /// The address of a slot.
    #[must_use]
    pub fn address(&self, slot: u32) -> Ipv4Addr {
        self.header.segments.address(slot).unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    pub(super) fn lease(&self, slot: u32, word: u32) -> Result<Lease> {
        let record = self.slots.record(slot)?;
        let given = record.as_ref().map_or(Given::nothing(LeaseKind::Attached), |record| record.given);
        let holder = record.map(|record| (record.owner, record.netns));
        let state = LeaseState::of(word).expect("only slots with a state are used");
        Ok(Lease { slot, address: self.address(slot), state, holder, given })
    }
}

/// Since boot, at least one.
pub(super) fn seconds() -> u32 {
    as_seconds(clock::since_boot()).max(1)
}

fn as_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
