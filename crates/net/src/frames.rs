//! Which pods may send frames in nobody's name but their own, after a flush as well.
//!
//! Owns when the check begins and ends, and what is stale of it. Leaves the table to `nft`.

use crate::attachment::{address_of, host_end};
use crate::host::Host;
use crate::lease::{Lease, LeaseState, LockedLeases};
use crate::nft::CheckedPod;
use crate::work::Work;
use crate::{Mode, NetworkConfig, Result};

/// Whether frames of the network's next pods are checked. Routed there is nobody who could be deceived: both ends
/// of a pair know the other's address and learn none.
pub(crate) fn are_checked(config: &NetworkConfig) -> bool {
    config.mode == Mode::Bridged && config.bridging.checks_sources
}

/// The pod that has the lease, if its frames are checked. That was decided when it was attached.
pub(crate) fn checked_pod(lease: &Lease) -> Option<CheckedPod> {
    lease.given.checked.then(|| CheckedPod { port: host_end(lease), mac: lease.given.mac })
}

impl Host {
    /// Makes sure that the table knows the network, with the pods of it that run.
    pub(crate) fn ensure_frames(&mut self, leases: &LockedLeases<'_>) -> Result<()> {
        let name = self.config.name.clone();
        if self.nft.checks_frames_of(&name)? {
            return Ok(());
        }
        let active = leases.leases()?.into_iter().filter(|lease| lease.state == LeaseState::Active);
        let pods: Vec<CheckedPod> = active.filter_map(|lease| checked_pod(&lease)).collect();
        self.nft.check_frames_of(&name, &pods)
    }
}

impl Work<'_> {
    /// Checks the frames of the pod that is being attached, before it can send any.
    pub(crate) fn check_frames(&mut self, pod: &CheckedPod) -> Result<()> {
        self.host.ensure_frames(&self.leases)?;
        self.host.nft.check_frames(std::slice::from_ref(pod))
    }

    /// Forgets ports of this network whose pod is gone or is not checked.
    pub(crate) fn collect_frames(&mut self, active: &[Lease]) -> Result<usize> {
        let segments = self.leases.segments();
        let is_checked = |slot: u32| active.iter().any(|lease| lease.slot == slot && lease.given.checked);
        let slot = |port: &str| segments.slot(address_of(port)?.into());
        self.host.nft.forget_stale_frames(|port| slot(port).is_some_and(|slot| !is_checked(slot)))
    }
}
