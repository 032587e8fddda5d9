//! What differs on the host: the pod's link there, and what its packets need beside it.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

use super::with_kept;
use crate::attachment::Attachment;
use crate::host::{FORWARD4, FORWARD6, Host};
use crate::lease::Lease;
use crate::nft::PodPorts;
use crate::route::{LOOPBACK, Link, Neighbour, Place};
use crate::work::Work;
use crate::{HostPorts, IfName, Mode, PodRequest, Result, sysctl};

/// The switch of a link by which addresses of loopback pass it.
const ROUTE_LOCALNET: &str = "route_localnet";

impl Work<'_> {
    /// What differs of the host's end, of what a bridge or the routes have for it, and of forwarding.
    pub(super) fn host_differences(
        &mut self,
        attachment: &Attachment,
        request: &PodRequest,
        checked: bool,
    ) -> Result<Vec<String>> {
        let name = &attachment.host_ifname;
        let mut found = self.host_end_differences(attachment, request)?;
        let Some(link) = self.host.route.link(name)? else { return Ok(found) };
        if !link.up {
            found.push(format!("link {name} of the host is down"));
        }
        if link.mac != Some(attachment.host_mac) {
            found.push(format!("link {name} of the host has another link-layer address"));
        }
        found.extend(match self.host.config.mode {
            Mode::Bridged => self.bridge_differences(attachment, &link, checked)?,
            Mode::Routed => self.route_differences(attachment, link.index)?,
        });
        let families = self.host.families();
        for family in self.host.route.unforwarded(&families)? {
            let switch = if family == AddressFamily::Inet { FORWARD4 } else { FORWARD6 };
            found.push(format!("the host does not forward: /proc/sys/net/{switch} is 0"));
        }
        Ok(found)
    }

    /// Of the host's end, what a pod can also be given that is attached already.
    pub(super) fn host_end_differences(
        &mut self,
        attachment: &Attachment,
        request: &PodRequest,
    ) -> Result<Vec<String>> {
        let name = &attachment.host_ifname;
        let Some(link) = self.host.route.link(name)? else {
            return Ok(vec![format!("link {name} of the host is gone")]);
        };
        let mut found = Vec::new();
        if let Some(shape) = request.to_pod {
            let wrong = self.host.route.wrong_shape(&link, shape)?;
            found.extend(wrong.map(|wrong| format!("link {name} of the host {wrong}")));
        }
        if request.link.mtu.is_some() && link.mtu != request.link.mtu {
            found.push(format!("link {name} of the host has another MTU"));
        }
        Ok(found)
    }

    /// The host ports that do not lead to the lease's pod, be they said or kept.
    pub(super) fn port_differences(
        &mut self,
        lease: &Lease,
        attachment: &Attachment,
        said: &HostPorts,
    ) -> Result<Vec<String>> {
        let ports = with_kept(said, self.leases.kept_ports(lease));
        let elements = PodPorts::new(&ports, lease.address4(), lease.given.address6)?;
        let mut found = self.host.nft.wrong_ports(&elements)?;
        let config = &self.host.config;
        let link = match config.mode {
            Mode::Routed => Some(attachment.host_ifname.clone()),
            Mode::Bridged if config.bridging.gateway => Some(self.host.gateway_link()?),
            Mode::Bridged => None,
        };
        if let Some(link) = link.filter(|_| lease.address4().is_some() && ports.open_to_loopback())
            && is_closed_to_loopback(&link)
        {
            found.push(format!(
                "host ports on 127.0.0.1 lead nowhere: /proc/sys/net/{} is 0",
                sysctl::of_link("ipv4", &link, ROUTE_LOCALNET)
            ));
        }
        Ok(found)
    }

    fn bridge_differences(
        &mut self,
        attachment: &Attachment,
        link: &Link,
        checked: bool,
    ) -> Result<Vec<String>> {
        let (name, bridge_name) = (&link.name, &attachment.bridge);
        let bridge = self.host.route.link(bridge_name)?;
        let Some(bridge) = bridge.filter(|bridge| link.controller == Some(bridge.index)) else {
            return Ok(vec![format!("link {name} is not a port of bridge {bridge_name}")]);
        };
        let mut found = Vec::new();
        if !bridge.up {
            found.push(format!("bridge {bridge_name} is down"));
        }
        if self.host.config.bridging.promiscuous && !bridge.promiscuous {
            found.push(format!("bridge {bridge_name} does not receive every frame"));
        }
        if self.host.config.bridging.isolated && !link.isolated {
            found.push(format!("link {name} is not isolated from other ports"));
        }
        if self.host.sends_back() && !link.hairpin {
            found.push(format!("link {name} does not let frames leave by the port they came from (hairpin)"));
        }
        found.extend(self.vlan_differences(link)?);
        if checked {
            found.extend(self.place_differences(attachment, link, &bridge)?);
        }
        if self.host.config.bridging.gateway {
            let gateway = self.host.gateway_link()?;
            let index = self.host.route.link(&gateway)?.map(|link| link.index);
            found.extend(self.gateway_differences(attachment, index, gateway.as_str())?);
        }
        Ok(found)
    }

    fn vlan_differences(&mut self, link: &Link) -> Result<Vec<String>> {
        let Host { config, route, .. } = &mut *self.host;
        if !config.bridging.has_vlans() {
            return Ok(Vec::new());
        }
        let joined = route.vlans(link.index)?;
        let gone = config.bridging.vlans().filter(|vlan| !joined.contains(vlan));
        Ok(gone.map(|vlan| format!("link {} is not in VLAN {vlan}", link.name)).collect())
    }

    /// Whether nobody can take over the one link-layer address that is to be behind the port.
    fn place_differences(
        &mut self,
        attachment: &Attachment,
        link: &Link,
        bridge: &Link,
    ) -> Result<Vec<String>> {
        let Host { config, route, .. } = &mut *self.host;
        let (port, mac) = (&link.name, attachment.mac);
        let mut found = Vec::new();
        if link.learns {
            found.push(format!("bridge {} learns what is behind {port}", bridge.name));
        }
        let places = route.places(link.index, bridge.index)?;
        let said =
            |within: String| format!("bridge {} does not keep {mac} behind {port}{within}", bridge.name);
        if !config.bridging.has_vlans() {
            let there = places.contains(&Place { mac, vlan: None });
            found.extend((!there).then(|| said(String::new())));
            return Ok(found);
        }
        let gone = config.bridging.vlans().filter(|vlan| !places.contains(&Place { mac, vlan: Some(*vlan) }));
        found.extend(gone.map(|vlan| said(format!(" in VLAN {vlan}"))));
        Ok(found)
    }

    fn route_differences(&mut self, attachment: &Attachment, index: u32) -> Result<Vec<String>> {
        let name = &attachment.host_ifname;
        let routes = self.host.route.listed(index)?.routes;
        let neighbours = self.host.route.neighbours(index)?;
        let mut found = Vec::new();
        for address in attachment.addresses.iter().map(|address| address.net.addr()) {
            let leads = |net: &IpNet| net.addr() == address && net.prefix_len() == net.max_prefix_len();
            if !routes.iter().any(|route| leads(&route.destination)) {
                found.push(format!("the host's route to {address} by {name} is gone"));
            }
            if !neighbours.contains(&Neighbour { address, mac: attachment.mac }) {
                found.push(format!(
                    "the host's permanent neighbour {address} with {} on {name} is gone",
                    attachment.mac
                ));
            }
        }
        let unreachable = self.host.route.unreachable()?;
        let nets = self.host.elements(&self.leases).pods;
        let open = nets.iter().filter(|net| !unreachable.contains(net));
        found.extend(open.map(|net| format!("the host's unreachable route to {net} is gone")));
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
        let mut gateways: Vec<IpAddr> = attachment.addresses.iter().map(|address| address.gateway).collect();
        // Two addresses of one subnet have one.
        gateways.sort();
        gateways.dedup();
        let gone = gateways.iter().filter(|gateway| there.iter().all(|net| net.addr() != **gateway));
        let mut found: Vec<String> = gone
            .map(|gateway| format!("address {gateway}, the pod's gateway, is gone from {name}"))
            .collect();
        let asks = self.host.config.mode == Mode::Bridged && gateways.iter().any(IpAddr::is_ipv6);
        let link_local = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
        if asks && !there.iter().any(link_local) {
            found.push(format!(
                "{name} has no link-local address, without which the host finds no IPv6 neighbour"
            ));
        }
        Ok(found)
    }

    pub(super) fn table_differences(&mut self) -> Result<Option<String>> {
        let elements = self.host.elements(&self.leases);
        if elements.is_empty() {
            return Ok(None);
        }
        if !self.host.nft.knows(&elements)? {
            return Ok(Some("nftables table inet dunnage is gone or does not know the network".to_owned()));
        }
        let lost = "nftables table inet dunnage has lost rules, which STATUS makes again, or the next ADD once it is deleted";
        Ok((!self.host.nft.has_its_rules()?).then(|| lost.to_owned()))
    }
}

/// Whether a link is there and drops packets with addresses of loopback. Either of the two switches being on means on.
fn is_closed_to_loopback(link: &IfName) -> bool {
    let off = |key: &str| sysctl::read(key).is_ok_and(|value| value == "0");
    off(&sysctl::of_link("ipv4", link, ROUTE_LOCALNET)) && off("ipv4/conf/all/route_localnet")
}
