//! Letting a network's pods pass other people's forward chains, for networks that ask for it.
//!
//! Owns whose packets those are. Leaves the rules to `nft`. There are as many for one pod as for all, so a pod that goes
//! takes none away, but the last one.

use ipnet::IpNet;

use crate::attachment::host_end;
use crate::host::Host;
use crate::lease::{LeaseState, Owner};
use crate::nft::{Passage, PodLinks};
use crate::work::Work;
use crate::{Error, PodNetwork, Result};

/// Tables of the old iptables (xtables) in the network namespace of the calling thread; missing where there is none.
const OLD_TABLES: &str = "/proc/thread-self/net/ip_tables_names";
const OLD_TABLES6: &str = "/proc/thread-self/net/ip6_tables_names";

impl PodNetwork {
    /// Lets packets of the owner's network pass the chains `FORWARD` that iptables has in nftables: what pods send,
    /// answers to it, and what comes by their host ports. Nothing is done where there is no such chain.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the owner is not attached; the kernel refused.
    pub fn let_pass(&mut self, owner: &Owner) -> Result<()> {
        let not_attached = || Error::Invalid {
            what: "owner",
            value: owner.to_string(),
            reason: "is not attached to the network",
        };
        let leases = self.store.lock_existing()?.ok_or_else(not_attached)?;
        let mut work = Work { host: &mut self.host, leases };
        let passage = work.passage(owner)?.ok_or_else(not_attached)?;
        work.host.nft.let_pass(&passage)
    }

    /// What [`Self::let_pass`] made and is gone: a sentence for each rule.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn passage_differences(&mut self, owner: &Owner) -> Result<Vec<String>> {
        let Some(leases) = self.store.lock_existing()? else { return Ok(Vec::new()) };
        let mut work = Work { host: &mut self.host, leases };
        let Some(passage) = work.passage(owner)? else { return Ok(Vec::new()) };
        work.host.nft.passage_differences(&passage)
    }

    /// Takes [`Self::let_pass`] back when the network has no pod any more.
    ///
    /// # Errors
    /// The kernel refused; what is missing already is no error.
    pub fn stop_passing_if_unused(&mut self) -> Result<()> {
        let leases = self.store.lock_existing()?;
        if leases.as_ref().is_some_and(|leases| !leases.is_empty()) {
            return Ok(());
        }
        self.host.nft.stop_passing(&self.host.config.name)
    }

    /// Why packets may not pass although [`Self::let_pass`] succeeded.
    #[must_use]
    pub fn passage_warning() -> Option<String> {
        let has_filter = |path| {
            let names = std::fs::read_to_string(path).unwrap_or_default();
            names.lines().any(|name| name == "filter")
        };
        (has_filter(OLD_TABLES) || has_filter(OLD_TABLES6)).then(|| {
            "the old iptables (xtables) has a table filter on this host, where no rules are made: \
             if its chain FORWARD drops, packets of pods do not pass"
                .to_owned()
        })
    }
}

impl Work<'_> {
    /// Whose packets are to pass, as the owner's link and the lease table tell: whoever only adds to a pod does not know
    /// how its network is configured. `None` when it is not attached.
    fn passage(&mut self, owner: &Owner) -> Result<Option<Passage>> {
        let Some(lease) = self.leases.find(owner)?.filter(|lease| lease.state == LeaseState::Active) else {
            return Ok(None);
        };
        let nets = self.leases.subnets();
        let links = match self.host.route.link(&host_end(&lease))?.and_then(|link| link.controller) {
            None => vec![PodLinks::Own],
            Some(bridge) => self.host.links_of_bridge(bridge, &nets)?,
        };
        Ok(Some(Passage { network: self.host.config.name.clone(), nets, links }))
    }
}

impl Host {
    /// The bridge, and the host's link into a VLAN of it where that has the gateways: frames that stay in the bridge may
    /// pass the rules for IP, too (br_netfilter).
    fn links_of_bridge(&mut self, bridge: u32, nets: &[IpNet]) -> Result<Vec<PodLinks>> {
        let mut indexes = vec![bridge];
        for found in self.route.routes()?.iter().filter(|found| nets.contains(&found.destination)) {
            indexes.extend(found.link.filter(|index| !indexes.contains(index)));
        }
        let mut links = Vec::new();
        for index in indexes {
            let link = self.route.link_at(index)?;
            links.extend(link.map(|link| link.name.parse().map(PodLinks::Bridge)).transpose()?);
        }
        Ok(links)
    }
}
