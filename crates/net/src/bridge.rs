//! The bridge of a network, and the host's addresses there: made for the first pod, and put back when somebody took
//! them.

use std::net::IpAddr;

use dunnage_sys::Errno;
use ipnet::IpNet;

use crate::host::{Bridged, Host};
use crate::mac::end_of;
use crate::route::{Bridge, Link, link_local};
use crate::{Error, IfName, LinkOptions, Mac, Result, sysctl};

impl Host {
    /// The link that has the gateways' addresses, and these; it may have lost some.
    pub(crate) fn gateways<'a>(&self, bridged: &'a Bridged) -> Option<(&'a Link, Vec<IpNet>)> {
        let link = bridged.vlan.as_ref().unwrap_or(&bridged.bridge);
        self.config.bridging.gateway.then(|| (link, self.addresses_of(link)))
    }

    /// The addresses of the link that has the gateways'. Neighbour solicitations for forwarded packets need a
    /// link-local source.
    fn addresses_of(&self, link: &Link) -> Vec<IpNet> {
        let source = link.mac.filter(|_| self.config.ranges.has_family(false)).map(link_local);
        self.config.ranges.gateways().into_iter().chain(source).collect()
    }

    /// Whether the name of the bridge is free, or that of one.
    pub(crate) fn check_bridge_name(&mut self) -> Result<()> {
        self.route.link(&self.config.bridge)?.as_ref().map_or(Ok(()), check_bridge)
    }

    /// Makes the bridge and what belongs to it, as far as that is missing.
    pub(crate) fn ensure_bridge(&mut self, again: bool) -> Result<Bridged> {
        let name = self.config.bridge.clone();
        let bridging = &self.config.bridging;
        let (has_vlans, promiscuous) = (bridging.has_vlans(), bridging.promiscuous);
        let has_vlan_link = bridging.gateway && bridging.vlan.is_some();
        let [link, vlan] = match has_vlan_link {
            true => self.route.links_named([&name, &self.gateway_link()?])?,
            false => [self.route.link(&name)?, None],
        };
        let bridge = link.map_or_else(|| self.create_bridge(), Ok)?;
        check_bridge(&bridge)?;
        let lets_vlans_mix = has_vlans && !bridge.filters_vlans;
        let has_no_gateway = has_vlan_link && !vlan.as_ref().is_some_and(|link| link.up);
        // It comes up last, so what a bridge of ours that is up has lost was taken by somebody.
        let is_ours = bridge.up && bridge.mac.is_some_and(Mac::is_of_bridge);
        let vlan = if again || !is_ours || lets_vlans_mix || has_no_gateway {
            self.set_up_bridge(&bridge)?
        } else {
            vlan
        };
        if promiscuous && !bridge.promiscuous {
            self.route.set_options(&bridge, &LinkOptions { promiscuous: true, ..Default::default() })?;
        }
        Ok(Bridged { bridge, vlan })
    }

    fn create_bridge(&mut self) -> Result<Link> {
        let name = &self.config.bridge;
        let vlans = self.config.bridging.has_vlans();
        let (mac, mtu) = (self.bridge_mac()?, self.config.mtu);
        let made = self.route.create_bridge(&Bridge { name, mac, mtu, vlans });
        made.map_err(|error| without_vlans(error, vlans))?;
        let gone = || Error::Answer { what: format!("look up link {name}"), reason: "it has just been made" };
        self.route.link(name)?.ok_or_else(gone)
    }

    /// Gives the host's link into the VLAN of the pods, if it has one.
    fn set_up_bridge(&mut self, bridge: &Link) -> Result<Option<Link>> {
        let name = self.config.bridge.clone();
        let vlan = self.config.bridging.vlan;
        if self.config.bridging.has_vlans() {
            self.route.filter_vlans(&name).map_err(|error| without_vlans(error, true))?;
        }
        if !self.config.bridging.gateway {
            return self.set_up_link(bridge, &name, false).map(|()| None);
        }
        let Some(vlan) = vlan else { return self.set_up_link(bridge, &name, true).map(|()| None) };
        self.set_up_link(bridge, &name, false)?;
        let name = self.gateway_link()?;
        if self.route.link(&name)?.is_none() {
            let mac = self.bridge_mac()?;
            self.route.create_vlan_link(&name, bridge, vlan, mac)?;
        }
        let gone = || Error::Answer { what: format!("look up link {name}"), reason: "it has just been made" };
        let link = self.route.link(&name)?.ok_or_else(gone)?;
        self.set_up_link(&link, &name, true)?;
        Ok(Some(link))
    }

    /// Brings a link up, with the gateways' addresses or with none.
    fn set_up_link(&mut self, link: &Link, name: &IfName, gateway: bool) -> Result<()> {
        if !gateway {
            // Somebody else's bridge may have addresses of its own.
            if self.ipv6 && link.mac.is_some_and(Mac::is_of_bridge) {
                self.route.without_link_local(name)?;
                if self.config.ranges.is_empty() {
                    // No rule drops what pods say to be routers of.
                    sysctl::write(&sysctl::of_link("ipv6", name, "accept_ra"), "0")?;
                }
            }
            return self.route.bring_up(link, &[]);
        }
        // For host ports on 127.0.0.1; the guard chain keeps pods from using it the other way.
        self.route.route_localnet(name)?;
        if self.config.ranges.has_family(false) {
            // Neighbour solicitations for forwarded packets need a link-local source: it stays, but unprobed.
            sysctl::write(&sysctl::of_link("ipv6", name, "accept_dad"), "0")?;
        } else if self.ipv6 {
            self.route.without_link_local(name)?;
        }
        self.route.bring_up(link, &self.config.ranges.gateways())
    }

    /// Its first bytes tell a bridge of ours from a stranger's of the same name.
    fn bridge_mac(&self) -> Result<Mac> {
        let gateway = |ipv4| self.config.ranges.first_range(ipv4).map(|range| range.gateway);
        match gateway(true).or(gateway(false)) {
            Some(IpAddr::V4(gateway)) => Ok(Mac::of_bridge(gateway)),
            Some(IpAddr::V6(gateway)) => Ok(Mac::of_bridge(end_of(gateway))),
            None => Mac::random_of_bridge(),
        }
    }
}

fn check_bridge(link: &Link) -> Result<()> {
    if link.kind.as_deref() == Some("bridge") {
        return Ok(());
    }
    let reason = "is not a bridge".to_owned();
    Err(Error::Foreign { what: "link", name: link.name.clone(), reason })
}

/// Says what the kernel lacks, which it does not itself.
fn without_vlans(error: Error, vlans: bool) -> Error {
    match error {
        Error::Refused { what, errno: Errno::OPNOTSUPP, detail: None } if vlans => {
            let detail = Some("this kernel is without VLANs on bridges (BRIDGE_VLAN_FILTERING)".to_owned());
            Error::Refused { what, errno: Errno::OPNOTSUPP, detail }
        }
        error => error,
    }
}
