//! Which pods may send frames in nobody's name but their own, after a flush as well.
//!
//! Owns which pods the table must know. Leaves the table to `nft`, and when a pod comes and goes to `work`.

use crate::Result;
use crate::attachment::host_end;
use crate::host::Host;
use crate::lease::{Lease, LeaseState, LockedLeases};
use crate::nft::CheckedPod;

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
