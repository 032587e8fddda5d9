//! The steps that attaching and detaching are made of, on the host's sockets and the locked lease table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use dunnage_sys::Errno;

use crate::attachment::{Attachment, address_of, host_end, host_ifname};
use crate::frames::checked_pod;
use crate::host::Host;
use crate::lease::{Given, Lease, LeaseKind, LeaseState, LockedLeases, Owner, Part, Wanted};
use crate::mac::end_of;
use crate::nft::{CheckedPod, PodPorts};
use crate::range::Ranges;
use crate::route::{Pair, RouteSocket, Veth};
use crate::segment::Segments;
use crate::{Error, Mac, Netns, PodRequest, Result};

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
        let fits = self.leases.fits()?;
        if !fits || self.leases.is_empty() {
            self.refuse_shared_subnets(fits)?;
        }
        if fits {
            return Ok(());
        }
        self.sweep()?;
        if self.remove_if_unused()? { self.leases.renew() } else { self.leases.extend() }
    }

    /// Two networks would give the same addresses, and links are named after these. Whoever has pods stays; a table that
    /// was only just begun goes.
    fn refuse_shared_subnets(&mut self, fits: bool) -> Result<()> {
        let shared = self.host.check_subnets(&self.leases.subnets_of_others()?);
        if shared.is_err() && fits {
            self.leases.hand_over_switched()?;
            self.leases.remove()?;
        }
        shared
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
        let asked = Asked::of(ranges, self.leases.segments(), &request.addresses)?;
        let own = match (asked.own, self.along_slot(asked.along)?) {
            (Some(address), _) => Some(address),
            (_, Some(slot)) => Some(self.leases.address(slot)),
            _ => None,
        };
        let mac = match request.mac {
            None if ranges.is_empty() => Some(Mac::random_of_pod()?),
            asked => asked,
        };
        let segments = self.leases.segments().clone();
        let goes_along = ranges.along(&segments).is_some();
        let given = |slot, address, parts: &[Part]| {
            // That which goes along is known by the place alone, so it has to be written down with it.
            let first = || parts.iter().find(|part| Some(part.set) == ranges.first(false));
            let address6 = match goes_along {
                true => asked.along.or_else(|| segments.along(slot)),
                false => first().and_then(Part::address6),
            };
            Given {
                address6,
                gateway: gateway4(ranges, address),
                gateway6: address6.and_then(|address| gateway6(ranges, address)),
                mac: mac.unwrap_or_else(|| pod_mac(ranges, &segments, address, address6)),
                checked: self.host.config.checks_sources(),
                kind: LeaseKind::Attached,
            }
        };
        let wanted = Wanted { address: own, further: &asked.further, ports: &request.ports };
        self.leases.reserve_with(owner, netns.id(), &wanted, given)
    }

    /// The place that goes with a wanted IPv6 address.
    fn along_slot(&self, wanted: Option<Ipv6Addr>) -> Result<Option<u32>> {
        let Some(wanted) = wanted else { return Ok(None) };
        let segments = self.leases.segments();
        let places = self.host.config.ranges.places(segments);
        let given = |slot: &u32| places.iter().any(|(first, end)| (*first..*end).contains(&u64::from(*slot)));
        let slot = segments.along_slot(wanted).filter(given);
        slot.map(Some).ok_or_else(|| not_given(wanted.into()))
    }

    /// When both addresses were asked for, and do not go together.
    pub(crate) fn reserve_companion(&mut self, lease: &Lease, request: &PodRequest) -> Result<()> {
        if request.addresses.is_empty() {
            return Ok(());
        }
        let asked = Asked::of(&self.host.config.ranges, self.leases.segments(), &request.addresses)?;
        match (self.along_slot(asked.along)?, lease.given.address6) {
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
        if let Some(link) = route.link(&attachment.host_ifname)? {
            // Detaching takes a link down, and what a crash has left has a lease.
            if link.up {
                let reason = "belongs to a pod of which there is no lease: was the directory of the leases \
                              removed while it ran?";
                return Err(Error::Foreign { what: "link", name: link.name, reason: reason.to_owned() });
            }
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
        if lease.kind().is_part() {
            // Its owner's own lease may have been released since this was read, and this with it.
            let there = self.leases.is_current(lease)?;
            return if there { self.leases.release(lease).map(|()| None) } else { Ok(None) };
        }
        self.leases.set_state(lease, LeaseState::Releasing)?;
        let link = self.host.route.detach(&host_end(lease))?;
        let ports = self.leases.kept_ports(lease);
        if !ports.is_empty() {
            let ports = PodPorts::new(&ports, lease.address4(), lease.given.address6)?;
            self.host.nft.close_ports(&ports)?;
        }
        if let Some(pod) = checked_pod(lease) {
            self.host.nft.forget_frames(&pod)?;
        }
        if lease.kind() == LeaseKind::Imported {
            // Which host ports it had is not known here, nor is it known to whoever made them any more.
            let parts = self.leases.parts(lease)?;
            for address in parts.iter().chain(std::iter::once(&*lease)).flat_map(Lease::addresses) {
                self.host.nft.forget_flows_to(address)?;
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
            (LeaseKind::Companion | LeaseKind::Further, Some((owner, _))) => {
                Ok(self.leases.find(owner)?.is_some())
            }
            _ if self.host.route.link(&host_end(lease))?.is_some() => Ok(true),
            // It may be a further address of a pod that is there.
            (_, None) => self.leases.has_others(lease),
            _ => Ok(false),
        }
    }

    /// Whether there are pods of the network whose leases were lost: nothing that they need is to be removed.
    fn has_lost_pods(&mut self) -> Result<bool> {
        let segments = self.leases.segments();
        let of_network =
            |name: &str| address_of(name).is_some_and(|address| segments.slot(address.into()).is_some());
        Ok(self.host.route.links()?.iter().any(|link| link.up && of_network(&link.name)))
    }

    pub(crate) fn remove_if_unused(&mut self) -> Result<bool> {
        if !self.leases.is_empty() || self.has_lost_pods()? {
            return Ok(false);
        }
        self.host.remove(&mut self.leases)?;
        Ok(true)
    }
}

/// The addresses that a pod asks for, by what they are of; one of each set at most.
#[derive(Debug, Default)]
struct Asked {
    /// Of the set that leases are of.
    own: Option<Ipv4Addr>,
    /// Of the set that goes along with it.
    along: Option<Ipv6Addr>,
    /// Of all others.
    further: Vec<IpAddr>,
}

impl Asked {
    fn of(ranges: &Ranges, segments: &Segments, addresses: &[IpAddr]) -> Result<Self> {
        let (mut asked, mut sets) = (Self::default(), Vec::new());
        for address in addresses {
            let refuse = |reason| Error::Invalid { what: "address", value: address.to_string(), reason };
            let set = match (ranges.set_of(*address), address) {
                (Some(set), _) => set,
                (None, IpAddr::V4(_)) if !ranges.has_family(true) => {
                    return Err(refuse("cannot be given, because the network has no IPv4 range"));
                }
                (None, IpAddr::V6(_)) if !ranges.has_family(false) => {
                    return Err(refuse("cannot be given, because the network has no IPv6 range"));
                }
                (None, _) => return Err(not_given(*address)),
            };
            if sets.contains(&set) {
                return Err(refuse("is a second one of its set of ranges, and a pod has one of each"));
            }
            sets.push(set);
            match address {
                IpAddr::V4(address) if ranges.first(true) == Some(set) => asked.own = Some(*address),
                IpAddr::V6(address) if ranges.along(segments) == Some(set) => asked.along = Some(*address),
                address => asked.further.push(*address),
            }
        }
        Ok(asked)
    }
}

fn not_given(address: IpAddr) -> Error {
    let reason = "is not one that the network's ranges give to pods";
    Error::Invalid { what: "address", value: address.to_string(), reason }
}

fn gateway4(ranges: &Ranges, address: Ipv4Addr) -> Ipv4Addr {
    match ranges.range_of(address.into()).map(|range| range.gateway) {
        Some(IpAddr::V4(gateway)) => gateway,
        _ => address,
    }
}

fn gateway6(ranges: &Ranges, address: Ipv6Addr) -> Option<Ipv6Addr> {
    match ranges.range_of(address.into())?.gateway {
        IpAddr::V6(gateway) => Some(gateway),
        IpAddr::V4(_) => None,
    }
}

/// Made of the IPv4 address, or of the end of the IPv6 address. Where that is of one of several ranges, two of which
/// may have the same ends, it is told apart by the range.
fn pod_mac(ranges: &Ranges, segments: &Segments, address: Ipv4Addr, address6: Option<Ipv6Addr>) -> Mac {
    let Some(address6) = address6.filter(|_| !ranges.has_family(true)) else { return Mac::of_pod(address) };
    let range = segments.position(address6.into()).map_or(0, |range| u8::try_from(range).unwrap_or(0));
    Mac::of_pod(end_of(address6)).in_range(range)
}
