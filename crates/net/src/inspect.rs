//! Whether a pod and its network are as they were made, and whether the network can take pods at all.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

use crate::attachment::Attachment;
use crate::frames::checked_pod;
use crate::host::{FORWARD4, FORWARD6, Host};
use crate::lease::{LeaseKind, LeaseState, Owner};
use crate::nft::PodPorts;
use crate::route::{LOOPBACK, Link, RouteSocket};
use crate::work::Work;
use crate::{HostPorts, IfName, Mode, Netns, PodNetwork, PodRequest, Result};

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
        let mut found = work.host_differences(&attachment, request)?;
        found.extend(work.table_differences()?);
        let ports = with_kept(&request.ports, work.leases.kept_ports(&lease));
        let ports = PodPorts::new(&ports, lease.address4(), lease.given.address6)?;
        found.extend(work.host.nft.wrong_ports(&ports)?);
        if let Some(pod) = checked_pod(&lease)
            && !work.host.nft.checks_frames(&pod)?
        {
            found.push("nobody checks whether frames of the pod have its link-layer address".to_owned());
        }
        found.extend(self.pod_differences(&attachment, netns, request)?);
        Ok(found)
    }

    fn pod_differences(
        &self,
        attachment: &Attachment,
        netns: &Netns,
        request: &PodRequest,
    ) -> Result<Vec<String>> {
        let config = &self.host.config;
        let name = &attachment.ifname;
        netns.run(|| {
            let mut found = Vec::new();
            let mut route = RouteSocket::open()?;
            let lo: IfName = "lo".parse()?;
            if route.link(&lo)?.is_none_or(|link| !link.up) {
                found.push("loopback is down in the pod".to_owned());
            }
            let Some(link) = route.link(name)? else {
                found.push(format!("interface {name} is gone from the pod"));
                return Ok(found);
            };
            if !link.up && !config.bridging.leaves_down {
                found.push(format!("interface {name} of the pod is down"));
            }
            if link.mac != Some(attachment.mac) {
                found.push(format!("interface {name} of the pod has another link-layer address"));
            }
            if config.mtu.is_some() && link.mtu != config.mtu {
                found.push(format!("interface {name} of the pod has another MTU"));
            }
            if request.from_pod.is_some() && !link.shaped {
                found.push(format!("interface {name} of the pod does not limit bandwidth"));
            }
            let listed = route.listed(link.index)?;
            for address in &attachment.addresses {
                if !listed.addresses.contains(&address.net) {
                    found.push(format!("address {} is gone from {name} of the pod", address.net));
                }
            }
            for wanted in config.routes.iter().filter(|route| route.table.is_none()) {
                let destination = wanted.destination.trunc();
                let there = listed.routes.iter().any(|route| route.destination == destination);
                if attachment.first(destination.addr().is_ipv4()).is_some() && !there {
                    found.push(format!("route to {destination} is gone from the pod"));
                }
            }
            Ok(found)
        })?
    }

    /// Whether pods can be attached now; repairs the firewall when somebody flushed it. Waits for nobody.
    ///
    /// # Errors
    /// What attaching would fail with.
    pub fn health(&mut self) -> Result<()> {
        self.store.check()?;
        let wanted = self.host.wanted_elements();
        let knows = wanted.is_empty() || self.host.nft.knows(&wanted)?;
        let checks = !self.host.config.checks_sources() || self.checks_frames()?;
        if knows && checks {
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
        let chains = self.host.nft.forward_chains_that_drop()?;
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

    /// Which of the host ports do not lead to the owner's pod: a sentence for each.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn wrong_ports(&mut self, owner: &Owner, ports: &HostPorts) -> Result<Vec<String>> {
        let none = || Ok(vec![format!("{owner} has no address lease")]);
        let Some(leases) = self.store.lock_existing()? else { return none() };
        let Some(lease) = leases.find(owner)? else { return none() };
        let ports = with_kept(ports, leases.kept_ports(&lease));
        let ports = PodPorts::new(&ports, lease.address4(), lease.given.address6)?;
        self.host.nft.wrong_ports(&ports)
    }
}

/// The ports that a pod is said to have, and those that it was given: how it was given them counts.
fn with_kept(said: &HostPorts, kept: HostPorts) -> HostPorts {
    let source_nat = if kept.is_empty() { said.source_nat } else { kept.source_nat };
    let mut list = said.list.clone();
    list.extend(kept.list.into_iter().filter(|port| !said.list.contains(port)));
    HostPorts { list, source_nat }
}

impl Work<'_> {
    /// What differs on the host: the pod's link there, and what its packets need beside it.
    fn host_differences(&mut self, attachment: &Attachment, request: &PodRequest) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let name = &attachment.host_ifname;
        let Some(link) = self.host.route.link(name)? else {
            return Ok(vec![format!("link {name} of the host is gone")]);
        };
        if !link.up {
            found.push(format!("link {name} of the host is down"));
        }
        if link.mac != Some(attachment.host_mac) {
            found.push(format!("link {name} of the host has another link-layer address"));
        }
        if request.to_pod.is_some() && !link.shaped {
            found.push(format!("link {name} of the host does not limit bandwidth"));
        }
        found.extend(match self.host.config.mode {
            Mode::Bridged => self.bridge_differences(attachment, &link)?,
            Mode::Routed => self.route_differences(attachment, link.index)?,
        });
        let families = self.host.families();
        let forwards = self.host.route.close_nets(&[], &families)?;
        for (family, _) in families.into_iter().zip(forwards).filter(|(_, forwards)| !forwards) {
            let switch = if family == AddressFamily::Inet { FORWARD4 } else { FORWARD6 };
            found.push(format!("the host does not forward: /proc/sys/net/{switch} is 0"));
        }
        Ok(found)
    }

    fn bridge_differences(&mut self, attachment: &Attachment, link: &Link) -> Result<Vec<String>> {
        let (name, bridge_name) = (&link.name, &attachment.bridge);
        let Host { config, route, .. } = &mut *self.host;
        let bridging = &config.bridging;
        let mut found = Vec::new();
        match route.link(bridge_name)? {
            Some(bridge) if link.controller == Some(bridge.index) => {
                if !bridge.up {
                    found.push(format!("bridge {bridge_name} is down"));
                }
            }
            _ => found.push(format!("link {name} is not a port of bridge {bridge_name}")),
        }
        if bridging.isolated && !link.isolated {
            found.push(format!("link {name} is not isolated from other ports"));
        }
        if bridging.has_vlans() {
            let joined = route.vlans(link.index)?;
            let wanted = bridging.trunk.iter().cloned().flatten().chain(bridging.vlan);
            found.extend(
                wanted
                    .filter(|vlan| !joined.contains(vlan))
                    .map(|vlan| format!("link {name} is not in VLAN {vlan}")),
            );
        }
        if bridging.gateway {
            let gateway = self.host.gateway_link()?;
            let index = self.host.route.link(&gateway)?.map(|link| link.index);
            found.extend(self.gateway_differences(attachment, index, gateway.as_str())?);
        }
        Ok(found)
    }

    fn route_differences(&mut self, attachment: &Attachment, index: u32) -> Result<Vec<String>> {
        let routes = self.host.route.listed(index)?.routes;
        let leads_to = |ip: IpAddr| {
            routes.iter().any(|route| route.destination.addr() == ip && is_alone(&route.destination))
        };
        let addresses = attachment.addresses.iter().map(|address| address.net.addr());
        let gone = addresses.filter(|ip| !leads_to(*ip));
        let said = |ip| format!("the host's route to {ip} by {} is gone", attachment.host_ifname);
        let mut found: Vec<String> = gone.map(said).collect();
        found.extend(self.gateway_differences(attachment, Some(LOOPBACK), "lo")?);
        Ok(found)
    }

    /// The pod's gateways that the host does not have on the link where they belong.
    fn gateway_differences(
        &mut self,
        attachment: &Attachment,
        index: Option<u32>,
        name: &str,
    ) -> Result<Vec<String>> {
        let there = match index {
            Some(index) => self.host.route.listed(index)?.addresses,
            None => Vec::new(),
        };
        let gateways = attachment.addresses.iter().map(|address| address.gateway);
        let gone = gateways.filter(|gateway| there.iter().all(|net| net.addr() != *gateway));
        Ok(gone.map(|gateway| format!("address {gateway}, the pod's gateway, is gone from {name}")).collect())
    }

    fn table_differences(&mut self) -> Result<Option<String>> {
        let elements = self.host.elements(&self.leases);
        if elements.is_empty() {
            return Ok(None);
        }
        if !self.host.nft.knows(&elements)? {
            return Ok(Some("nftables table inet dunnage is gone or does not know the network".to_owned()));
        }
        let lost =
            "nftables table inet dunnage has lost rules; once it is deleted, the next ADD makes it anew";
        Ok((!self.host.nft.has_its_rules()?).then(|| lost.to_owned()))
    }
}

/// Whether it is one address.
fn is_alone(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}
