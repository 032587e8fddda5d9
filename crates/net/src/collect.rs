//! Taking back what belongs to nobody: leases, links, host ports.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::attachment::address_of;
use crate::lease::{Lease, LeaseState, Owner};
use crate::work::Work;
use crate::{PodNetwork, Result};

/// What was taken back.
#[derive(Debug, Default)]
pub struct Collected {
    /// Leases of attachments that are gone.
    pub leases: Vec<Lease>,
    /// Links of pods, of addresses that nobody has.
    pub links: usize,
    /// Host ports that led to addresses that nobody has.
    pub ports: usize,
    /// What could not be taken back, and why.
    pub left: Vec<String>,
}

impl PodNetwork {
    /// Takes back everything of this network that is not of one of the owners. Nobody may be attaching or
    /// detaching pods of it that the list does not know.
    ///
    /// # Errors
    /// The lease table cannot be read. What fails for one pod does not keep the others.
    pub fn collect(&mut self, keep: &HashSet<Owner>) -> Result<Collected> {
        let Some(leases) = self.store.lock_existing()? else { return Ok(Collected::default()) };
        let mut work = Work { host: &mut self.host, leases };
        let mut collected = Collected::default();
        for mut lease in work.leases.leases()? {
            match work.is_kept(&lease, keep).and_then(|kept| {
                (!kept).then(|| work.release(&mut lease)).transpose().map(|released| released.is_some())
            }) {
                Ok(true) => collected.leases.push(lease),
                Ok(false) => {}
                Err(error) => collected.left.push(format!("address {}: {error}", lease.ip())),
            }
        }
        let active = work.leases.leases()?;
        match work.collect_links(&active) {
            Ok(links) => collected.links = links,
            Err(error) => collected.left.push(error.to_string()),
        }
        match work.collect_ports(&active) {
            Ok(ports) => collected.ports = ports,
            Err(error) => collected.left.push(error.to_string()),
        }
        if let Err(error) = work.collect_frames(&active) {
            collected.left.push(error.to_string());
        }
        if active.is_empty()
            && let Err(error) = work.host.nft.stop_passing(&work.host.config.name)
        {
            collected.left.push(error.to_string());
        }
        work.leases.forget_stray_ports(&active)?;
        Ok(collected)
    }
}

impl Work<'_> {
    fn is_kept(&mut self, lease: &Lease, keep: &HashSet<Owner>) -> Result<bool> {
        match &lease.holder {
            _ if lease.state != LeaseState::Active => Ok(false),
            Some((owner, _)) => Ok(keep.contains(owner)),
            // Whose it was cannot be read any more; the link tells whether there is a pod.
            None => self.is_alive(lease),
        }
    }

    /// Links of ours with an address that nobody has.
    fn collect_links(&mut self, active: &[Lease]) -> Result<usize> {
        let mut count = 0;
        for link in self.host.route.links()? {
            let Some(address) = address_of(&link.name) else { continue };
            let Some(slot) = self.leases.segments().slot(address.into()) else { continue };
            if active.iter().any(|lease| lease.slot == slot) {
                continue;
            }
            self.host.route.delete_at(link.index)?;
            self.leases.link_is_gone(slot)?;
            count += 1;
        }
        Ok(count)
    }

    /// Forgets ports of this network whose pod is gone or is not checked.
    fn collect_frames(&mut self, active: &[Lease]) -> Result<()> {
        let segments = self.leases.segments();
        let is_checked = |slot: u32| active.iter().any(|lease| lease.slot == slot && lease.given.checked);
        let slot = |port: &str| segments.slot(address_of(port)?.into());
        self.host.nft.forget_stale_frames(|port| slot(port).is_some_and(|slot| !is_checked(slot)))
    }

    fn collect_ports(&mut self, active: &[Lease]) -> Result<usize> {
        let segments = self.leases.segments();
        let is_stale = |pod: IpAddr| {
            let is_ours = match pod {
                IpAddr::V4(_) => segments.slot(pod).is_some(),
                IpAddr::V6(_) => self.host.config.ranges.nets().iter().any(|net| net.contains(&pod)),
            };
            is_ours && active.iter().all(|lease| lease.addresses().all(|address| address != pod))
        };
        self.host.nft.close_stale_ports(is_stale)
    }
}
