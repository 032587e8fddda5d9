//! Whether a pod and its network are as they were made, and whether the network can take pods at all.
//!
//! Owns the questions and whom they are about; what is asked on the host is in `host`, inside a pod in `pod`.

mod host;
mod pod;

use crate::attachment::Attachment;
use crate::frames::checked_pod;
use crate::lease::{LeaseKind, LeaseState, Owner};
use crate::work::Work;
use crate::{HostPorts, Mode, Netns, PodNetwork, PodRequest, Result};

impl PodNetwork {
    /// What differs from what the owner was given: a sentence for each difference. Routes and addresses that
    /// others have added are none.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn differences(&mut self, owner: &Owner, netns: &Netns, request: &PodRequest) -> Result<Vec<String>> {
        let Some(leases) = self.store.lock_existing()? else {
            return Ok(vec!["the network has no lease table".to_owned()]);
        };
        let mut work = Work { host: &mut self.host, leases };
        let lease = work.leases.find(owner)?.filter(|lease| lease.state == LeaseState::Active);
        let Some(lease) = lease else { return Ok(vec![format!("{owner} has no address lease")]) };
        if lease.kind() == LeaseKind::Imported {
            return Ok(Vec::new());
        }
        let attachment = Attachment::new(&work.host.config, &lease, owner.ifname());
        let mut found = work.host_differences(&attachment, request, lease.given.checked)?;
        found.extend(work.table_differences()?);
        found.extend(work.port_differences(&lease, &attachment, &request.ports)?);
        if let Some(pod) = checked_pod(&lease)
            && !work.host.nft.checks_frames(&pod)?
        {
            found.push("nobody checks whether frames of the pod have its link-layer address".to_owned());
        }
        found.extend(self.pod_differences(&attachment, netns, request)?);
        Ok(found)
    }

    /// What differs from what [`Self::add_to_pod`] gave the owner: a sentence for each difference.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn addition_differences(
        &mut self,
        owner: &Owner,
        netns: &Netns,
        request: &PodRequest,
    ) -> Result<Vec<String>> {
        let none = || Ok(vec![format!("{owner} has no address lease")]);
        let Some(leases) = self.store.lock_existing()? else { return none() };
        let mut work = Work { host: &mut self.host, leases };
        let Some(lease) = work.leases.find(owner)? else { return none() };
        let attachment = Attachment::new(&work.host.config, &lease, owner.ifname());
        let mut found = work.host_end_differences(&attachment, request)?;
        found.extend(work.port_differences(&lease, &attachment, &request.ports)?);
        found.extend(pod::addition_differences(&attachment, netns, request)?);
        Ok(found)
    }

    /// Whether pods can be attached now; repairs the firewall when somebody flushed it, or took rules of it. Waits for
    /// nobody.
    ///
    /// # Errors
    /// What attaching would fail with.
    pub fn health(&mut self) -> Result<()> {
        self.store.check()?;
        if self.host.config.mode == Mode::Bridged {
            self.host.check_bridge_name()?;
        }
        if self.store.is_unused()? {
            self.host.check_subnets(&self.store.subnets_of_others()?)?;
            self.host.check_routes()?;
        }
        let wanted = self.host.wanted_elements();
        let nft = &mut self.host.nft;
        let knows = wanted.is_empty() || nft.knows(&wanted)?;
        let has_rules = wanted.is_empty() || nft.has_its_rules()?;
        let checks = !self.host.config.checks_sources() || self.checks_frames()?;
        if knows && has_rules && checks {
            return Ok(());
        }
        // Before the first pod there is nothing to repair, and whoever has the lock is attaching one, which does.
        let Some(leases) = self.store.try_lock_existing()? else { return Ok(()) };
        if leases.is_empty() {
            return Ok(());
        }
        let elements = self.host.elements(&leases);
        if !knows && self.host.nft.ensure(&elements)? {
            self.host.restore_ports(&leases)?;
        }
        if !has_rules && !self.host.nft.has_its_rules()? {
            self.host.nft.restore_rules()?;
        }
        if checks { Ok(()) } else { self.host.ensure_frames(&leases) }
    }

    fn checks_frames(&mut self) -> Result<bool> {
        self.host.nft.checks_frames_of(&self.host.config.name)
    }

    /// What does not keep pods from being attached, but their packets from passing: a sentence for each.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn warnings(&mut self) -> Result<Vec<String>> {
        let chains = self.host.nft.forward_chains_that_drop(&self.host.config.name)?;
        let say = |chain| {
            format!(
                "nftables chain {chain} drops what it forwards unless a rule of it says otherwise: \
                 packets of pods may not pass this host"
            )
        };
        Ok(chains.into_iter().map(say).collect())
    }

    /// Whether there has been a pod on the network since the machine started.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.store.has_begun()
    }
}

/// The ports that a pod is said to have, and those that it was given: how it was given them counts.
fn with_kept(said: &HostPorts, kept: HostPorts) -> HostPorts {
    let source_nat = if kept.is_empty() { said.source_nat } else { kept.source_nat };
    let mut list = said.list.clone();
    list.extend(kept.list.into_iter().filter(|port| !said.list.contains(port)));
    HostPorts { list, source_nat }
}
