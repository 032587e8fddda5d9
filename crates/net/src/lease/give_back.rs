//! Addresses given back, with what goes with them.

use std::net::{IpAddr, Ipv6Addr};

use super::free::Free;
use super::host_local;
use super::locked::{LockedLeases, seconds};
use super::record::{Given, Lease, LeaseKind, LeaseState};
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
        self.forget_ports(lease.slot)?;
        if let Some(slot) = self.companion(lease)? {
            self.slots.free(slot, Free { since: seconds(), lingers: false })?;
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
        self.slots.free(lease.slot, Free { since: seconds(), lingers })
    }

    /// The place that is kept for the IPv6 address of a lease, where that is another one.
    fn companion(&self, lease: &Lease) -> Result<Option<u32>> {
        let slot = lease.given.address6.and_then(|address| self.slot6(address));
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
        let Some(address6) = self.address6(lease.slot) else { return Ok(false) };
        let has = |other: &Lease| other.slot != lease.slot && other.given.address6 == Some(address6);
        let Some(other) = self.leases()?.into_iter().find(has) else { return Ok(false) };
        let Some((owner, netns)) = other.holder else { return Ok(false) };
        let mut kept = self.put(lease.slot, &owner, netns, Given::nothing(LeaseKind::Companion))?;
        self.set_state(&mut kept, LeaseState::Active)?;
        Ok(true)
    }

    /// The link of a free place is gone.
    pub(crate) fn link_is_gone(&mut self, slot: u32) -> Result<()> {
        self.slots.free(slot, Free { since: seconds(), lingers: false })
    }

    fn address6(&self, slot: u32) -> Option<Ipv6Addr> {
        self.header.base6.map(|base| Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(slot))))
    }

    fn slot6(&self, address: Ipv6Addr) -> Option<u32> {
        let offset = u128::from(address).checked_sub(u128::from(self.header.base6?))?;
        u32::try_from(offset).ok().filter(|slot| *slot < self.header.segments.slots())
    }
}
