//! One lease table while nobody else can change it.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dunnage_sys::flock::Flock;
use dunnage_sys::netns::NetnsId;
use dunnage_sys::{Call, clock};
use ipnet::IpNet;

use super::header::Header;
use super::record::{Further, Given, Lease, LeaseKind, LeaseState, Owner, Part, Record, STATE_MASK};
use super::slots::Slots;
use super::table::{Table, write_header};
use super::vacancy::vacancy;
use super::words::is_used;
use crate::segment::{Interval, Segment, Segments, numbered};
use crate::{Error, HostPorts, Result};

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

/// What is to go with a lease.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// Its own address, or any.
    pub(crate) address: Option<Ipv4Addr>,
    /// Those of further sets.
    pub(crate) further: &'a [IpAddr],
    /// To be known when the pod is detached.
    pub(crate) ports: &'a HostPorts,
}

impl<'a> LockedLeases<'a> {
    pub(super) fn new(table: &'a Table, (header, slots): (Header, Slots), lock: Flock<File>) -> Self {
        Self { table, header, slots, _lock: lock }
    }

    /// The subnets that leases can be of: those of the store, and those it had before while pods are in them.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        self.header.segments.nets()
    }

    pub(crate) fn segments(&self) -> &Segments {
        &self.header.segments
    }

    /// Whether every wanted address has a slot, or goes along with one; a table that nobody has an address of is to
    /// be as it would be begun.
    pub(crate) fn fits(&self) -> Result<bool> {
        let segments = &self.header.segments;
        if *segments == self.table.begin(segments)? {
            return Ok(true);
        }
        if self.is_empty() {
            return Ok(false);
        }
        let fits = self.table.wanted(segments)?.into_iter().all(|segment| segments.has(segment));
        Ok(fits && self.table.ranges.along(segments).is_none_or(|set| self.reaches(set)))
    }

    /// Whether what goes along reaches as far as it should, or cannot because others have what is behind.
    fn reaches(&self, set: usize) -> bool {
        let wanted = self.table.ranges.reach_along(set);
        let segments = &self.header.segments;
        segments.along.is_some_and(|along| wanted.length <= along.length) || segments.meets(wanted)
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
        let segments = &mut header.segments;
        self.extend_along(segments)?;
        for segment in self.table.wanted(segments)? {
            if segments.along.is_some_and(|along| along.meets(segment)) {
                let had =
                    segments.along.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |along| numbered(along.first));
                let reason = format!("has pods in the IPv6 range from {had}, so it cannot be another one");
                return Err(self.cannot_extend(reason));
            }
            if !segments.append(segment) {
                let reason = format!("has no room for {} beside the pods in it", segment.net);
                return Err(self.cannot_extend(reason));
            }
        }
        let slots = header.segments.slots();
        let index = self.slots.index_for(slots)?;
        write_header(&self.slots.file, &header)?;
        self.header = header;
        self.slots.grow(slots, index)
    }

    /// What goes along with slots stays while a pod has one of its addresses; it can only reach farther.
    fn extend_along(&self, segments: &mut Segments) -> Result<()> {
        let ranges = &self.table.ranges;
        if let Some(along) = segments.along {
            // Of whom nothing can be read any more, it is not known.
            let of_it = |lease: &Lease| {
                let address6 = lease.given.address6;
                lease.holder.is_none()
                    || address6.is_some_and(|address| along.number(address.into()).is_some())
            };
            if !self.leases()?.iter().any(of_it) {
                segments.along = None;
            }
        }
        let wanted = match (segments.along, ranges.along(segments)) {
            (None, _) => self.new_along(segments)?,
            (Some(along), Some(set)) => {
                Some(ranges.reach_along(set)).filter(|wanted| wanted.length > along.length)
            }
            (Some(_), None) => None,
        };
        if let Some(wanted) = wanted.filter(|wanted| !segments.meets(*wanted)) {
            segments.along = Some(wanted);
        }
        Ok(())
    }

    /// What can go along with the slots that there will be, all of them.
    fn new_along(&self, segments: &Segments) -> Result<Option<Segment>> {
        let Some(wanted) = self.table.ranges.begin_along() else { return Ok(None) };
        let mut grown = segments.clone();
        grown.along = Some(wanted);
        for segment in self.table.wanted(&grown)? {
            grown.append(segment);
        }
        Ok((wanted.length >= grown.slots()).then_some(wanted))
    }

    fn cannot_extend(&self, reason: String) -> Error {
        Error::Foreign { what: "lease table", name: self.table.path.display().to_string(), reason }
    }

    /// Reserves an address; the one after the last that was given, so that one that was given back rests as
    /// long as possible.
    ///
    /// # Errors
    /// [`Error::Exhausted`]; [`Error::Attached`] when the owner has a lease in any state.
    pub fn reserve(&mut self, owner: &Owner, netns: NetnsId) -> Result<Lease> {
        let wanted = Wanted { address: None, further: &[], ports: &HostPorts::default() };
        self.reserve_with(owner, netns, &wanted, |_, _, _| Given::nothing(LeaseKind::Attached))
    }

    /// Reserves a certain address, or any, and one of each further set; `given` says what goes with them.
    pub(crate) fn reserve_with(
        &mut self,
        owner: &Owner,
        netns: NetnsId,
        wanted: &Wanted<'_>,
        given: impl FnOnce(u32, Ipv4Addr, &[Part]) -> Given,
    ) -> Result<Lease> {
        // Who asks this finds nothing mostly, so it is not asked of all the words as well.
        if let Some(lease) = self.first_of(owner, self.slots.indexed(owner.tag())?)? {
            let address = lease.ip();
            return Err(Error::Attached { owner: owner.to_string(), address });
        }
        let ranges = &self.table.ranges;
        let places = ranges.places(&self.header.segments);
        let slot = match wanted.address {
            Some(address) => self.wanted_slot(&places, address.into())?,
            None => {
                let cursor = self.slots.words.cursor();
                let slot = vacancy(&self.slots.words, &self.slots.file, &places, cursor, rested())?;
                let set = ranges.first(true).or(ranges.first(false)).unwrap_or(0);
                slot.map_or_else(|| Err(self.exhausted(set, &places)), Ok)?
            }
        };
        let parts = self.choose_parts(&places, slot, wanted.further)?;
        if wanted.address.is_none() {
            self.slots.words.advance(&self.slots.file, slot)?;
        }
        let given = given(slot, self.address(slot), &parts);
        let record = Record::new(owner, netns, given);
        let mut lease = self.put(slot, record.with_ports(wanted.ports))?;
        self.put_parts(owner, netns, &parts)?;
        lease.further.extend(parts.iter().map(|part| part.further));
        Ok(lease)
    }

    /// Keeps the place of an IPv6 address that was asked for from being given to somebody else.
    pub(crate) fn reserve_companion(&mut self, of: &Lease, slot: u32, address: Ipv6Addr) -> Result<()> {
        if is_used(self.slots.word(slot)?) {
            return Err(Error::Taken { address: address.into() });
        }
        let Some((owner, netns)) = &of.holder else { return Ok(()) };
        let mut kept = self.put(slot, Record::new(owner, *netns, Given::nothing(LeaseKind::Companion)))?;
        self.set_state(&mut kept, LeaseState::Active)
    }

    pub(super) fn put(&mut self, slot: u32, record: Record) -> Result<Lease> {
        self.slots.put(slot, &record, LeaseState::Reserved)?;
        Ok(Lease::of(slot, self.address(slot), LeaseState::Reserved, Some(record)))
    }

    pub(super) fn wanted_slot(&self, places: &[Interval], address: IpAddr) -> Result<u32> {
        let slot = self.header.segments.slot(address);
        let given = |slot: &u32| places.iter().any(|(first, end)| (*first..*end).contains(&u64::from(*slot)));
        let slot = slot.filter(given).ok_or_else(|| Error::Invalid {
            what: "address",
            value: address.to_string(),
            reason: "is not one that the network's ranges give to pods",
        })?;
        if is_used(self.slots.word(slot)?) { Err(Error::Taken { address }) } else { Ok(slot) }
    }

    pub(super) fn exhausted(&self, set: usize, places: &[Interval]) -> Error {
        let set = self.table.ranges.sets.get(set);
        let nets: Vec<String> = set.into_iter().flatten().map(|range| range.subnet.to_string()).collect();
        // Pods of a network without addresses have places all the same.
        let subnet = if nets.is_empty() { "what stands for addresses".to_owned() } else { nets.join(", ") };
        let total: u64 = places.iter().map(|(first, end)| end - first).sum();
        let used = match self.slots.used() {
            Ok(used) => used,
            Err(error) => return error,
        };
        let used = used
            .iter()
            .filter(|(slot, _)| places.iter().any(|(first, end)| (*first..*end).contains(&u64::from(*slot))));
        Error::Exhausted {
            subnet,
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
        let slots = self.slots.tagged(tag)?;
        let Some(lease) = self.first_of(owner, slots.clone())? else { return Ok(None) };
        slots.into_iter().try_for_each(|(slot, _)| self.slots.enter(tag, slot))?;
        Ok(Some(lease))
    }

    /// Its own lease, with the further addresses that are among the slots.
    fn first_of(&self, owner: &Owner, slots: Vec<(u32, u32)>) -> Result<Option<Lease>> {
        let (mut own, mut further) = (None, Vec::new());
        for (slot, word) in slots {
            let lease = self.lease(slot, word)?;
            match lease.given.kind {
                _ if !lease.is_of(owner) => {}
                LeaseKind::Companion => {}
                LeaseKind::Further => further.push(Further::of(&lease)),
                LeaseKind::Attached | LeaseKind::Imported => own = own.or(Some(lease)),
            }
        }
        Ok(own.map(|own| Lease { further, ..own }))
    }

    /// Whether a used slot is still of the owner that a lease of it says, which ends with another of that owner.
    pub(crate) fn is_current(&self, lease: &Lease) -> Result<bool> {
        let word = self.slots.word(lease.slot)?;
        let tag = lease.holder.as_ref().map(|(owner, _)| owner.tag());
        Ok(is_used(word) && tag.is_none_or(|tag| word & !STATE_MASK == tag))
    }

    /// Whether somebody has a slot and others with it, as far as can be told without what was written of who it is.
    pub(crate) fn has_others(&self, lease: &Lease) -> Result<bool> {
        let tag = self.slots.word(lease.slot)? & !STATE_MASK;
        Ok(self.slots.indexed(tag)?.iter().any(|(slot, _)| *slot != lease.slot))
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

    /// The IPv4 address of a slot; unspecified for one of IPv6.
    #[must_use]
    pub fn address(&self, slot: u32) -> Ipv4Addr {
        match self.header.segments.address(slot) {
            Some(IpAddr::V4(address)) => address,
            _ => Ipv4Addr::UNSPECIFIED,
        }
    }

    pub(super) fn lease(&self, slot: u32, word: u32) -> Result<Lease> {
        let record = self.slots.record(slot)?;
        let state = LeaseState::of(word).expect("only slots with a state are used");
        Ok(Lease::of(slot, self.address(slot), state, record))
    }
}

/// Since boot, at least one.
pub(super) fn seconds() -> u32 {
    as_seconds(clock::since_boot()).max(1)
}

/// What was given back before has rested.
pub(super) fn rested() -> u32 {
    seconds().saturating_sub(as_seconds(REST))
}

fn as_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
