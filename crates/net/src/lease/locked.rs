//! One lease table while nobody else can change it.

use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use dunnage_sys::flock::Flock;
use dunnage_sys::netns::NetnsId;
use dunnage_sys::{Call, clock};
use ipnet::Ipv4Net;

use super::header::{self, Header};
use super::record::{self, Given, Lease, LeaseKind, LeaseState, Owner, Record, STATE_MASK};
use super::table::{Table, write_header};
use super::words::{Free, Words, read_or_zero};
use super::{host_local, kept_ports};
use crate::segment::Segments;
use crate::{Error, HostPort, Result};

/// An address that was given back rests for so long, as long as there are others: whoever talked to its last pod
/// has noticed by then.
const REST: Duration = Duration::from_secs(30);
/// After so long a detached link is gone with its namespace, or nobody else removes it.
const LINGER: Duration = Duration::from_secs(3);

/// A table that nobody else can change until this is dropped.
#[derive(Debug)]
pub struct LockedLeases<'a> {
    table: &'a Table,
    header: Header,
    file: File,
    words: Words,
    _lock: Flock<File>,
}

impl<'a> LockedLeases<'a> {
    pub(super) fn new(table: &'a Table, (file, header): (File, Header), lock: Flock<File>) -> Result<Self> {
        let words = load(table, &file, &header)?;
        Ok(Self { table, header, file, words, _lock: lock })
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
        (self.file, self.header) = self.table.create()?;
        self.words = load(self.table, &self.file, &self.header)?;
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
        write_header(&self.file, &header).call(|| format!("write {}", name()))?;
        self.header = header;
        Ok(())
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
        if let Some(lease) = self.find(owner)? {
            let address = lease.ip();
            return Err(Error::Attached { owner: owner.to_string(), address });
        }
        let places = self.table.ranges.places(&self.header.segments);
        let slot = match address {
            Some(address) => self.wanted_slot(&places, address)?,
            None => {
                let rested = seconds().saturating_sub(as_seconds(REST));
                let slot = self.words.free_from(self.word(header::CURSOR_AT)?, &places, rested);
                slot.ok_or_else(|| self.exhausted(&places))?
            }
        };
        if address.is_none() {
            self.set(header::CURSOR_AT, slot + 1)?;
        }
        let given = given(slot, self.address(slot));
        self.put(slot, owner, netns, given)
    }

    /// Keeps the place of an IPv6 address that was asked for from being given to somebody else.
    pub(crate) fn reserve_companion(&mut self, of: &Lease, slot: u32, address: Ipv6Addr) -> Result<()> {
        if !self.words.is_free(slot) {
            return Err(Error::Taken { address: address.into() });
        }
        let Some((owner, netns)) = &of.holder else { return Ok(()) };
        let (owner, netns) = (owner.clone(), *netns);
        let mut kept = self.put(slot, &owner, netns, Given::nothing(LeaseKind::Companion))?;
        self.set_state(&mut kept, LeaseState::Active)
    }

    /// The order of writes matters: see the module.
    fn put(&mut self, slot: u32, owner: &Owner, netns: NetnsId, given: Given) -> Result<Lease> {
        let record = Record { owner: owner.clone(), netns, given };
        if slot >= self.words.end() {
            self.set(header::END_AT, slot + 1)?;
        }
        self.write(&record.encode(slot), header::record_at(slot))?;
        self.set_slot(slot, owner.tag() << 2 | LeaseState::Reserved as u32)?;
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
        if self.words.is_free(slot) { Ok(slot) } else { Err(Error::Taken { address: address.into() }) }
    }

    fn exhausted(&self, places: &[(u64, u64)]) -> Error {
        let ranges = &self.table.ranges;
        let mut nets: Vec<String> = ranges.v4.iter().map(|range| range.subnet.to_string()).collect();
        if nets.is_empty() {
            nets.extend(ranges.v6.as_ref().map(|range| range.subnet.to_string()));
        }
        let total: u64 = places.iter().map(|(first, end)| end - first).sum();
        let used = self
            .words
            .used()
            .filter(|(slot, _)| places.iter().any(|(first, end)| (*first..*end).contains(&u64::from(*slot))));
        Error::Exhausted {
            subnet: nets.join(", "),
            used: u32::try_from(used.count()).unwrap_or(u32::MAX),
            total: u32::try_from(total).unwrap_or(u32::MAX),
        }
    }

    /// The lease of this owner.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn find(&self, owner: &Owner) -> Result<Option<Lease>> {
        let tag = owner.tag() << 2;
        for (slot, word) in self.words.used().filter(|(_, word)| word & !STATE_MASK == tag) {
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
        self.words.used().map(|(slot, word)| self.lease(slot, word)).collect()
    }

    /// The leases that a crash has left in the middle of a change.
    pub(crate) fn debris(&self) -> Result<Vec<Lease>> {
        let cut_short =
            self.words.used().filter(|(_, word)| LeaseState::of(*word) != Some(LeaseState::Active));
        cut_short.map(|(slot, word)| self.lease(slot, word)).collect()
    }

    /// Whether no address is leased.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.used().next().is_none()
    }

    /// Moves a lease to another state.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn set_state(&mut self, lease: &mut Lease, state: LeaseState) -> Result<()> {
        self.set_slot(lease.slot, self.words.word(lease.slot) & !STATE_MASK | state as u32)?;
        lease.state = state;
        Ok(())
    }

    /// Gives an address back.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn release(&mut self, lease: &Lease) -> Result<()> {
        self.give_back(lease, false)
    }

    /// Gives an address back whose link is detached, but may be there for a while.
    pub(crate) fn release_lingering(&mut self, lease: &Lease) -> Result<()> {
        self.give_back(lease, true)
    }

    fn give_back(&mut self, lease: &Lease, lingers: bool) -> Result<()> {
        self.forget_ports(lease.slot)?;
        if let Some(slot) = self.companion(lease)? {
            self.set_slot(slot, Free { since: seconds(), lingers: false }.encode())?;
        }
        if lease.given.kind == LeaseKind::Imported {
            if let Some(dir) = &self.table.import {
                let addresses = [lease.address4().map(IpAddr::V4), lease.given.address6.map(IpAddr::V6)];
                addresses.into_iter().flatten().for_each(|address| host_local::forget(dir, address));
            }
            if self.pass_on(lease)? {
                return Ok(());
            }
        }
        self.set_slot(lease.slot, Free { since: seconds(), lingers }.encode())
    }

    /// The place that is kept for the IPv6 address of a lease, where that is another one.
    fn companion(&self, lease: &Lease) -> Result<Option<u32>> {
        let slot = lease.given.address6.and_then(|address| self.slot6(address));
        let Some(slot) = slot.filter(|slot| *slot != lease.slot) else { return Ok(None) };
        let Some((owner, _)) = &lease.holder else { return Ok(None) };
        let word = self.words.word(slot);
        if LeaseState::of(word).is_none() {
            return Ok(None);
        }
        let other = self.lease(slot, word)?;
        let kept = other.given.kind == LeaseKind::Companion && other.is_of(owner);
        Ok(kept.then_some(slot))
    }

    /// Two pods of another plugin may have each the IPv6 address that goes with the other's IPv4 address: the
    /// place is free only when both are gone.
    fn pass_on(&mut self, lease: &Lease) -> Result<bool> {
        let Some(address6) = self.address6(lease.slot) else { return Ok(false) };
        let has = |other: &Lease| other.slot != lease.slot && other.given.address6 == Some(address6);
        let Some(other) = self.leases()?.into_iter().find(has) else { return Ok(false) };
        let Some((owner, netns)) = other.holder else { return Ok(false) };
        let mut kept = self.put(lease.slot, &owner, netns, Given::nothing(LeaseKind::Companion))?;
        self.set_state(&mut kept, LeaseState::Active)?;
        Ok(true)
    }

    /// Places whose detached link should be gone by now, at most `limit`.
    pub(crate) fn lingering(&self, limit: usize) -> Vec<(u32, Ipv4Addr)> {
        let before = seconds().saturating_sub(as_seconds(LINGER));
        self.words.lingering(before).take(limit).map(|slot| (slot, self.address(slot))).collect()
    }

    /// The link of a free place is gone.
    pub(crate) fn link_is_gone(&mut self, slot: u32) -> Result<()> {
        self.set_slot(slot, Free { since: seconds(), lingers: false }.encode())
    }

    /// Writes down which host ports a pod is to have.
    pub(crate) fn keep_ports(&mut self, slot: u32, ports: &[HostPort]) -> Result<()> {
        let path = self.ports_path(slot);
        Ok(std::fs::write(&path, kept_ports::encode(ports)).call(|| format!("write {}", path.display()))?)
    }

    /// The host ports that a pod may have.
    pub(crate) fn kept_ports(&self, slot: u32) -> Vec<HostPort> {
        let text = std::fs::read_to_string(self.ports_path(slot)).unwrap_or_default();
        kept_ports::decode(&text).unwrap_or_default()
    }

    pub(crate) fn forget_ports(&mut self, slot: u32) -> Result<()> {
        let path = self.ports_path(slot);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Ok(Err(error).call(|| format!("remove {}", path.display()))?)
            }
            _ => Ok(()),
        }
    }

    /// Removes the notes about host ports of places that nobody has.
    pub(crate) fn forget_stray_ports(&mut self, active: &[Lease]) -> Result<()> {
        let name = self.table.path.file_stem().unwrap_or_default().to_owned();
        let name = name.to_string_lossy();
        let dir = &self.table.dir;
        let mut stray = Vec::new();
        for entry in std::fs::read_dir(dir).call(|| format!("list {}", dir.display()))?.flatten() {
            let file = entry.file_name();
            let slot = file.to_str().and_then(|file| {
                file.strip_prefix(&*name)?.strip_prefix('.')?.strip_suffix(".ports")?.parse::<u32>().ok()
            });
            stray.extend(slot.filter(|slot| active.iter().all(|lease| lease.slot != *slot)));
        }
        stray.into_iter().try_for_each(|slot| self.forget_ports(slot))
    }

    fn ports_path(&self, slot: u32) -> PathBuf {
        self.table.path.with_extension(format!("{slot}.ports"))
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

    /// Bits that say what was switched on in the kernel for this network.
    pub(crate) fn switched(&self) -> Result<u32> {
        self.word(header::SWITCHED_AT)
    }

    pub(crate) fn set_switched(&mut self, bits: u32) -> Result<()> {
        self.set(header::SWITCHED_AT, bits)
    }

    /// Hands those bits to another network of the directory; `false` when there is none.
    pub(crate) fn hand_over_switched(&self) -> Result<bool> {
        let Some((other, _)) = self.table.others()?.into_iter().next() else { return Ok(false) };
        let named = || format!("write {}", other.display());
        let file = OpenOptions::new().read(true).write(true).open(&other).call(named)?;
        let mut word = [0; 4];
        file.read_exact_at(&mut word, header::SWITCHED_AT).call(named)?;
        let both = u32::from_le_bytes(word) | self.switched()?;
        file.write_all_at(&both.to_le_bytes(), header::SWITCHED_AT).call(named)?;
        Ok(true)
    }

    /// The address of a slot.
    #[must_use]
    pub fn address(&self, slot: u32) -> Ipv4Addr {
        self.header.segments.address(slot).unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    fn address6(&self, slot: u32) -> Option<Ipv6Addr> {
        self.header.base6.map(|base| Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(slot))))
    }

    fn slot6(&self, address: Ipv6Addr) -> Option<u32> {
        let offset = u128::from(address).checked_sub(u128::from(self.header.base6?))?;
        u32::try_from(offset).ok().filter(|slot| *slot < self.header.segments.slots())
    }

    fn lease(&self, slot: u32, word: u32) -> Result<Lease> {
        let mut bytes = [0; record::SIZE];
        self.read(&mut bytes, header::record_at(slot))?;
        let record = Record::decode(&bytes, slot);
        let given = record.as_ref().map_or(Given::nothing(LeaseKind::Attached), |record| record.given);
        let holder = record.map(|record| (record.owner, record.netns));
        let state = LeaseState::of(word).expect("only slots with a state are used");
        Ok(Lease { slot, address: self.address(slot), state, holder, given })
    }

    fn word(&self, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(&mut bytes, at)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn set_slot(&mut self, slot: u32, word: u32) -> Result<()> {
        self.set(header::word_at(slot), word)?;
        self.words.set(slot, word);
        Ok(())
    }

    fn set(&mut self, at: u64, word: u32) -> Result<()> {
        self.write(&word.to_le_bytes(), at)
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        Ok(read_or_zero(&self.file, bytes, at).call(|| format!("read {}", self.table.path.display()))?)
    }

    fn write(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        Ok(self.file.write_all_at(bytes, at).call(|| format!("write {}", self.table.path.display()))?)
    }
}

fn load(table: &Table, file: &File, header: &Header) -> Result<Words> {
    let words = Words::load(header.segments.slots(), file);
    Ok(words.call(|| format!("read {}", table.path.display()))?)
}

fn seconds() -> u32 {
    as_seconds(clock::since_boot()).max(1)
}

fn as_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
