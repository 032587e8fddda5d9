//! The steps that attaching and detaching are made of, on the host's sockets and the locked lease table.

use std::net::IpAddr;
use std::os::fd::AsFd;

use dunnage_sys::Errno;

use crate::attachment::{Attachment, address_of, host_end, host_ifname};
use crate::frames::checked_pod;
use crate::host::Host;
use crate::lease::{Given, Lease, LeaseKind, LeaseState, LockedLeases, Owner};
use crate::mac::end_of;
use crate::nft::{CheckedPod, PodPorts};
use crate::route::{Pair, RouteSocket, Veth};
use crate::{Error, Mac, Mode, Netns, PodRequest, Result};

/// Links of detached pods that one attachment looks after: each that is still there costs 20 ms.
const LINGERING_AT_ONCE: usize = 16;

/// What the steps work on.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    pub(crate) host: &'a mut Host,
    pub(crate) leases: LockedLeases<'a>,
}

impl Work<'_> {
    /// Takes back what a crash has left, and links whose removal was left to a process that died.
    pub(crate) fn clean_up(&mut self) -> Result<()> {
        for mut lease in self.leases.debris()? {
            self.host.route.delete(&host_end(&lease))?;
            self.release(&mut lease)?;
        }
        for (slot, address) in self.leases.lingering(LINGERING_AT_ONCE) {
            self.host.route.delete(&host_ifname(address))?;
            self.leases.link_is_gone(slot)?;
        }
        Ok(())
    }

    /// Goes over to the wanted ranges: anew once nobody has an address, and otherwise beside those that pods have.
    pub(crate) fn fit_ranges(&mut self) -> Result<()> {
        if self.leases.fits()? {
            return Ok(());
        }
        self.sweep()?;
        if self.remove_if_unused()? { self.leases.renew() } else { self.leases.extend() }
    }

    /// Reserves an address. What the dead have left is swept when there is no other, or when the owner itself
    /// left it.
    pub(crate) fn reserve(&mut self, owner: &Owner, netns: &Netns, request: &PodRequest) -> Result<Lease> {
        match self.try_reserve(owner, netns, request) {
            Err(Error::Exhausted { .. } | Error::Attached { .. } | Error::Taken { .. })
                if !self.sweep()?.is_empty() =>
            {
                self.try_reserve(owner, netns, request)
            }
            reserved => reserved,
        }
    }

    fn try_reserve(&mut self, owner: &Owner, netns: &Netns, request: &PodRequest) -> Result<Lease> {
        let ranges = &self.host.config.ranges;
        let wanted4 = request.address(true)?;
        let wanted6 = request.address(false)?;
        if let (Some(wanted), None) = (wanted6, &ranges.v6) {
            let reason = "cannot be given, because the network has no IPv6 range";
            return Err(Error::Invalid { what: "address", value: wanted.to_string(), reason });
        }
        if let (Some(wanted), true) = (wanted4, ranges.v4.is_empty()) {
            let reason = "cannot be given, because the network has no IPv4 range";
            return Err(Error::Invalid { what: "address", value: wanted.to_string(), reason });
        }
        let address = match (wanted4, self.slot6(wanted6)?) {
            (Some(IpAddr::V4(address)), _) => Some(address),
            (_, Some(slot)) => Some(self.leases.address(slot)),
            _ => None,
        };
        let mac = match request.mac {
            None if ranges.is_empty() => Some(Mac::random_of_pod()?),
            asked => asked,
        };
        self.leases.reserve_with(owner, netns.id(), address, |slot, address| {
            let address6 = match wanted6 {
                Some(IpAddr::V6(address)) => Some(address),
                _ => ranges.v6.as_ref().and_then(|range| range.address(slot)),
            };
            let of_mac = address6.filter(|_| ranges.v4.is_empty()).map_or(address, end_of);
            Given {
                address6,
                gateway: ranges.gateway(address).unwrap_or(address),
                gateway6: ranges.v6.as_ref().map(|range| range.gateway),
                mac: mac.unwrap_or_else(|| Mac::of_pod(of_mac)),
                checked: self.host.config.checks_sources(),
                kind: LeaseKind::Attached,
            }
        })
    }

    /// The place that goes with a wanted IPv6 address.
    fn slot6(&self, wanted: Option<IpAddr>) -> Result<Option<u32>> {
        let (Some(IpAddr::V6(wanted)), Some(range)) = (wanted, &self.host.config.ranges.v6) else {
            return Ok(None);
        };
        let places = self.host.config.ranges.places(self.leases.segments());
        let given = |slot: &u32| places.iter().any(|(first, end)| (*first..*end).contains(&u64::from(*slot)));
        let slot = range.slot(wanted).filter(given).ok_or_else(|| Error::Invalid {
            what: "address",
            value: wanted.to_string(),
            reason: "is not one that the network's ranges give to pods",
        })?;
        Ok(Some(slot))
    }

    /// When both addresses were asked for, and do not go together.
    pub(crate) fn reserve_companion(&mut self, lease: &Lease, request: &PodRequest) -> Result<()> {
        let wanted = request.address(false)?;
        match (self.slot6(wanted)?, lease.given.address6) {
            (Some(slot), Some(address)) if slot != lease.slot => {
                self.leases.reserve_companion(lease, slot, address)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn create_veth(
        &mut self,
        attachment: &Attachment,
        netns: &Netns,
        bridge: Option<u32>,
    ) -> Result<Pair> {
        let veth = Veth {
            host_name: &attachment.host_ifname,
            host_mac: attachment.host_mac,
            pod_name: &attachment.ifname,
            pod_mac: attachment.mac,
            pod_netns: netns.as_fd(),
            bridge,
            mtu: self.host.config.mtu,
        };
        let made = self.host.route.create_veth(&veth);
        // Either name can be the one that exists.
        match made {
            Err(error) if error.errno() == Some(Errno::EXIST) => {
                if !self.remove_leftover(attachment, netns)? {
                    return Err(error);
                }
                self.host.route.create_veth(&veth)
            }
            Err(error) if error.errno() == Some(Errno::XFULL) => Err(Error::Foreign {
                what: "bridge",
                name: self.host.config.bridge.to_string(),
                reason: "has all the 1023 ports that a bridge can have".to_owned(),
            }),
            made => made,
        }
    }

    /// Removes the links of the wanted names that pods which were detached have left. Whether there were any.
    ///
    /// The host's name belongs to the last pod with this address, when its namespace is still alive. The pod's
    /// name belongs to whoever was attached to this namespace before.
    fn remove_leftover(&mut self, attachment: &Attachment, netns: &Netns) -> Result<bool> {
        let route = &mut self.host.route;
        let mut removed = false;
        if route.link(&attachment.host_ifname)?.is_some() {
            route.delete(&attachment.host_ifname)?;
            removed = true;
        }
        let inside = netns.run(|| RouteSocket::open()?.link(&attachment.ifname))??;
        let Some((index, peer)) = inside.and_then(|link| Some((link.index, link.peer?))) else {
            return Ok(removed);
        };
        let Some(other) = route.link_at(peer)? else { return Ok(removed) };
        let nobodys = address_of(&other.name).is_some() && other.peer == Some(index) && !other.up;
        if nobodys {
            route.delete_at(other.index)?;
        }
        Ok(removed || nobodys)
    }

    /// Checks the frames of the pod that is being attached, before it can send any.
    pub(crate) fn check_frames(&mut self, pod: &CheckedPod) -> Result<()> {
        self.host.ensure_frames(&self.leases)?;
        self.host.nft.check_frames(std::slice::from_ref(pod))
    }

    /// Takes the lease's pod off the network and gives its address back. The link that is left, if there is one.
    pub(crate) fn release(&mut self, lease: &mut Lease) -> Result<Option<u32>> {
        self.leases.set_state(lease, LeaseState::Releasing)?;
        let link = self.host.route.detach(&host_end(lease))?;
        let ports = self.leases.kept_ports(lease.slot);
        if !ports.is_empty() {
            let ports = PodPorts::new(&ports, lease.address4(), lease.given.address6)?;
            self.host.nft.close_ports(&ports)?;
        }
        if let Some(pod) = checked_pod(lease) {
            self.host.nft.forget_frames(&pod)?;
        }
        if lease.kind() == LeaseKind::Imported {
            // Which host ports it had is not known here, nor is it known to whoever made them any more.
            for address in [lease.address4().map(IpAddr::V4), lease.given.address6.map(IpAddr::V6)] {
                address.map_or(Ok(()), |address| self.host.nft.forget_flows_to(address))?;
            }
        }
        if link.is_some() {
            self.leases.release_lingering(lease)?;
        } else {
            self.leases.release(lease)?;
        }
        Ok(link)
    }

    pub(crate) fn sweep(&mut self) -> Result<Vec<Lease>> {
        let mut dead = Vec::new();
        for mut lease in self.leases.leases()? {
            if lease.state == LeaseState::Active && self.is_alive(&lease)? {
                continue;
            }
            if lease.state != LeaseState::Active {
                // Nobody but a holder of the lock has these, and we hold it: a crash left them.
                self.host.route.delete(&host_end(&lease))?;
            }
            self.release(&mut lease)?;
            dead.push(lease);
        }
        Ok(dead)
    }

    /// The kernel removes the pair when the pod's namespace goes.
    pub(crate) fn is_alive(&mut self, lease: &Lease) -> Result<bool> {
        match (lease.kind(), &lease.holder) {
            // Where its links are is not known here: it ends when somebody says so.
            (LeaseKind::Imported, _) => Ok(true),
            (LeaseKind::Companion, Some((owner, _))) => Ok(self.leases.find(owner)?.is_some()),
            _ => Ok(self.host.route.link(&host_end(lease))?.is_some()),
        }
    }

    pub(crate) fn remove_if_unused(&mut self) -> Result<bool> {
        if !self.leases.is_empty() {
            return Ok(false);
        }
        self.host.remove(&mut self.leases)?;
        Ok(true)
    }

    /// What differs on the host from what the lease says.
    pub(crate) fn host_differences(&mut self, lease: &Lease) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let attachment =
            lease.holder.as_ref().map(|(owner, _)| Attachment::new(&self.host.config, lease, owner.ifname()));
        let Some(attachment) = attachment else { return Ok(vec!["its lease is damaged".to_owned()]) };
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
        match self.host.config.mode {
            Mode::Bridged => {
                let bridge = self.host.route.link(&attachment.bridge)?;
                if bridge.is_none_or(|bridge| link.controller != Some(bridge.index)) {
                    found.push(format!("link {name} is not a port of bridge {}", attachment.bridge));
                }
            }
            Mode::Routed => {
                let routes = self.host.route.listed(link.index)?.routes;
                for address in attachment.pod_addresses() {
                    let ip = address.net.addr();
                    if !routes
                        .iter()
                        .any(|route| route.destination.addr() == ip && is_alone(&route.destination))
                    {
                        found.push(format!("the host's route to {ip} by {name} is gone"));
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Whether it is one address.
pub(crate) fn is_alone(net: &ipnet::IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}
