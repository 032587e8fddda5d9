//! Addresses given back, with what goes with them.

use super::free::Free;
use super::host_local;
use super::locked::{LockedLeases, seconds};
use super::record::{Given, Lease, LeaseKind, LeaseState, Record};
use super::words::is_used;
use crate::Result;

impl LockedLeases<'_> {
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
        self.forget_ports(lease)?;
        if let Some(slot) = self.companion(lease)? {
            self.slots.free(slot, Free { since: seconds(), lingers: false })?;
        }
        let parts = self.parts(lease)?;
        if lease.given.kind == LeaseKind::Imported
            && let Some(dir) = &self.table.import
        {
            let addresses = std::iter::once(lease).chain(&parts).flat_map(Lease::addresses);
            addresses.for_each(|address| host_local::forget(dir, address));
        }
        parts.iter().try_for_each(|part| self.free_part(part))?;
        if lease.given.kind == LeaseKind::Imported && self.pass_on(lease)? {
            return Ok(());
        }
        self.slots.free(lease.slot, Free { since: seconds(), lingers })
    }

    /// The place that is kept for the IPv6 address of a lease, where that is another one.
    fn companion(&self, lease: &Lease) -> Result<Option<u32>> {
        let slot = lease.given.address6.and_then(|address| self.header.segments.along_slot(address));
        let Some(slot) = slot.filter(|slot| *slot != lease.slot) else { return Ok(None) };
        let Some((owner, _)) = &lease.holder else { return Ok(None) };
        let word = self.slots.word(slot)?;
        if !is_used(word) {
            return Ok(None);
        }
        let other = self.lease(slot, word)?;
        let kept = other.given.kind == LeaseKind::Companion && other.is_of(owner);
        Ok(kept.then_some(slot))
    }

    /// Two pods of another plugin may have each the IPv6 address that goes with the other's IPv4 address: the
    /// place is free only when both are gone.
    fn pass_on(&mut self, lease: &Lease) -> Result<bool> {
        let Some(address6) = self.header.segments.along(lease.slot) else { return Ok(false) };
        let has = |other: &Lease| other.slot != lease.slot && other.given.address6 == Some(address6);
        let Some(other) = self.leases()?.into_iter().find(has) else { return Ok(false) };
        let Some((owner, netns)) = other.holder else { return Ok(false) };
        let record = Record::new(&owner, netns, Given::nothing(LeaseKind::Companion));
        let mut kept = self.put(lease.slot, record)?;
        self.set_state(&mut kept, LeaseState::Active)?;
        Ok(true)
    }

    /// The link of a free place is gone.
    pub(crate) fn link_is_gone(&mut self, slot: u32) -> Result<()> {
        self.slots.free(slot, Free { since: seconds(), lingers: false })
    }
}
