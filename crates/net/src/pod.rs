//! Attaching pods to a network and detaching them: the order of steps, and what is public of it.

use dunnage_sys::Errno;

use crate::attachment::{Attachment, address_of};
use crate::error::or_absent;
use crate::frames::checked_pod;
use crate::host::{Bridged, Host};
use crate::lease::{Lease, LeaseKind, LeaseState, LeaseStore, Owner};
use crate::nft::{Elements, PodPorts};
use crate::route::{HostEnd, Pair, PodEnd, RouteSocket, Way};
use crate::undo::Undo;
use crate::work::Work;
use crate::{
    Error, HostPort, HostPorts, IfName, LinkOptions, Mode, Netns, NetworkConfig, PodRequest, Result, sysctl,
};

/// One pod network, in the network namespace of the thread that opened it; to be used by threads of that namespace.
#[derive(Debug)]
pub struct PodNetwork {
    pub(crate) host: Host,
    pub(crate) store: LeaseStore,
}

/// A pod's interface that is off the network and has still to be removed, which takes some 20 ms.
#[derive(Debug)]
#[must_use = "the link stays until its network namespace goes"]
pub struct Detached {
    link: Option<u32>,
}

impl PodNetwork {
    /// Checks the configuration and opens sockets; nothing is changed.
    ///
    /// # Errors
    /// [`Error::Invalid`], or the kernel has no nftables.
    pub fn open(config: NetworkConfig) -> Result<Self> {
        config.check()?;
        let store = LeaseStore::new(&config.state_dir, &config.name, config.ranges.clone())?;
        let store = store.import_from(config.import.clone());
        Ok(Self { host: Host::open(config)?, store })
    }

    /// The wanted state.
    #[must_use]
    pub fn config(&self) -> &NetworkConfig {
        &self.host.config
    }

    /// As [`Self::attach_pod`], with nothing but host ports.
    ///
    /// # Errors
    /// As [`Self::attach_pod`].
    pub fn attach(&mut self, owner: &Owner, netns: &Netns, ports: &[HostPort]) -> Result<Attachment> {
        self.attach_pod(owner, netns, &PodRequest::with_ports(ports))
    }

    /// Gives the owner an interface in `netns`, configured and up, and what it wants besides.
    ///
    /// # Errors
    /// Anything that goes wrong is undone, in reverse. [`Error::Attached`] when the owner has the interface,
    /// [`Error::Exhausted`] when there is no address, [`Error::Taken`] when somebody has the address that is
    /// wanted, [`Error::PortTaken`] when another pod has a host port.
    pub fn attach_pod(&mut self, owner: &Owner, netns: &Netns, request: &PodRequest) -> Result<Attachment> {
        if netns.id() == self.host.home.id() {
            return Err(Error::OwnNetns(netns.path().to_owned()));
        }
        let leases = self.store.lock()?;
        let mut undo = Undo::new(Work { host: &mut self.host, leases });
        match attach(&mut undo, owner, netns, request) {
            Ok(attachment) => {
                undo.commit();
                self.await_address(owner, netns, attachment)
            }
            Err(error) => Err(undo.roll_back(error)),
        }
    }

    /// Opens host ports of a pod that is attached already and has none.
    ///
    /// # Errors
    /// [`Error::PortTaken`]; [`Error::Invalid`] when the owner is not attached or has ports.
    pub fn open_ports(&mut self, owner: &Owner, ports: &HostPorts) -> Result<()> {
        let leases = self.store.lock_existing()?;
        let refuse = |reason| Error::Invalid { what: "host ports of", value: owner.to_string(), reason };
        let leases = leases.ok_or_else(|| refuse("which is not attached to the network"))?;
        let mut undo = Undo::new(Work { host: &mut self.host, leases });
        let lease = undo.leases.find(owner)?;
        let lease = lease.ok_or_else(|| refuse("which is not attached to the network"))?;
        if !undo.leases.kept_ports(&lease).is_empty() {
            return Err(refuse("which has some already"));
        }
        let attachment = Attachment::new(&undo.host.config, &lease, owner.ifname());
        if undo.host.config.mode == Mode::Routed && ports.open_to_loopback() {
            undo.host.route.route_localnet(&attachment.host_ifname)?;
        }
        // The firewall knows the network from its own entry in the list: whoever only adds does not know what is wanted.
        let elements = Elements::default();
        match open_ports(&mut undo, &lease, &elements, ports, false) {
            Ok(()) => {
                undo.commit();
                Ok(())
            }
            Err(error) => Err(undo.roll_back(error)),
        }
    }

    /// Takes the owner's interface off the network and gives its address and host ports back. Whether it had
    /// any. The interface itself goes with its network namespace.
    ///
    /// # Errors
    /// The kernel refused; what is missing already is no error.
    pub fn detach(&mut self, owner: &Owner) -> Result<bool> {
        Ok(self.release(owner, None)?.is_some())
    }

    /// As [`Self::detach`]; gives what is left to do, which nobody has to wait for. The interface of a pod that
    /// another plugin attached is removed in `netns`.
    ///
    /// # Errors
    /// As [`Self::detach`].
    pub fn release(&mut self, owner: &Owner, netns: Option<&Netns>) -> Result<Option<Detached>> {
        let Some(leases) = self.store.lock_existing()? else { return Ok(None) };
        let mut work = Work { host: &mut self.host, leases };
        let Some(mut lease) = work.leases.find(owner)? else { return Ok(None) };
        if lease.kind() == LeaseKind::Imported
            && let Some(netns) = netns
        {
            netns.run(|| RouteSocket::open()?.delete(owner.ifname()))??;
        }
        let link = work.release(&mut lease)?;
        Ok(Some(Detached { link }))
    }

    /// What the owner was given, or `None` when it is not attached.
    ///
    /// # Errors
    /// The lease table cannot be read.
    pub fn attachment(&self, owner: &Owner) -> Result<Option<Attachment>> {
        let Some(leases) = self.store.lock_existing()? else { return Ok(None) };
        let active = leases.find(owner)?.filter(|lease| lease.state == LeaseState::Active);
        Ok(active.map(|lease| Attachment::new(&self.host.config, &lease, owner.ifname())))
    }

    /// How the owner's lease came about, if it has one.
    ///
    /// # Errors
    /// The lease table cannot be read.
    pub fn lease_kind(&self, owner: &Owner) -> Result<Option<LeaseKind>> {
        let Some(leases) = self.store.lock_existing()? else { return Ok(None) };
        Ok(leases.find(owner)?.map(|lease| lease.kind()))
    }

    /// Every lease of the network, by place in the table.
    ///
    /// # Errors
    /// The lease table cannot be read.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        self.store.lock_existing()?.map_or_else(|| Ok(Vec::new()), |leases| leases.leases())
    }

    /// Gives back what the dead have left: the addresses of pods whose network namespace is gone, and of
    /// attachments that a crash cut short. Gives the leases that were released.
    ///
    /// # Errors
    /// The lease table or a link cannot be read.
    pub fn sweep(&mut self) -> Result<Vec<Lease>> {
        let Some(leases) = self.store.lock_existing()? else { return Ok(Vec::new()) };
        Work { host: &mut self.host, leases }.sweep()
    }

    /// Removes bridge or route, nftables table and lease table, and switches forwarding back, when no pod is left.
    /// Whether the network is gone. Nobody can be attached meanwhile.
    ///
    /// # Errors
    /// The kernel refused; what is missing already is no error.
    pub fn remove_if_unused(&mut self) -> Result<bool> {
        let Some(leases) = self.store.lock_existing()? else { return Ok(true) };
        let mut work = Work { host: &mut self.host, leases };
        work.sweep()?;
        let removed = work.remove_if_unused()?;
        if removed {
            work.leases.remove_empty_dir()?;
        }
        Ok(removed)
    }
}

impl Detached {
    /// Removes the interface now, unless that has happened.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn destroy(self) -> Result<()> {
        let Some(index) = self.link else { return Ok(()) };
        let mut route = RouteSocket::open()?;
        // Indexes are given in turn, so nobody has this one by now; but being sure costs little.
        match route.link_at(index)? {
            Some(link) if !link.up && address_of(&link.name).is_some() => route.delete_at(index),
            _ => Ok(()),
        }
    }
}

fn attach(
    undo: &mut Undo<Work<'_>>,
    owner: &Owner,
    netns: &Netns,
    request: &PodRequest,
) -> Result<Attachment> {
    undo.clean_up()?;
    undo.fit_ranges()?;
    let first = undo.leases.is_empty();
    if first {
        undo.push("remove the network", |work| work.remove_if_unused().map(drop));
    }
    let mut lease = undo.reserve(owner, netns, request)?;
    let reserved = lease.clone();
    undo.push("release the address", move |work| work.leases.release(&reserved));
    undo.reserve_companion(&lease, request)?;

    let attachment = Attachment::new(&undo.host.config, &lease, owner.ifname());
    // Refused before anything is made; opened when everything is.
    PodPorts::new(&request.ports, lease.address4(), lease.given.address6)?;
    let elements = undo.host.elements(&undo.leases);
    let Work { host, leases } = &mut **undo;
    let bridged = host.ensure(leases, &elements, first)?;

    if let Some(pod) = checked_pod(&lease) {
        let undone = pod.clone();
        undo.push("forget the pod's frames", move |work| work.host.nft.forget_frames(&undone));
        undo.check_frames(&pod)?;
    }
    let pair = undo.create_veth(&attachment, netns, bridged.as_ref().map(|bridged| bridged.bridge.index))?;
    let host_ifname = attachment.host_ifname.clone();
    undo.push("delete the veth pair", move |work| work.host.route.delete(&host_ifname));
    configure_host_end(undo, &attachment, &elements, bridged.as_ref(), pair, request)?;
    configure_pod_end(undo.host, &attachment, netns, pair, request)?;
    // The end that came up first has carrier now, but drops packets until a work queue of the kernel has seen
    // it. Asking settles that at once (since 6.8), so that the pod's first packet is not lost.
    undo.host.route.settle(&attachment.host_ifname)?;

    open_ports(undo, &lease, &elements, &request.ports, first)?;
    undo.leases.set_state(&mut lease, LeaseState::Active)?;
    Ok(attachment)
}

fn configure_host_end(
    Work { host, leases }: &mut Work<'_>,
    attachment: &Attachment,
    elements: &Elements,
    bridged: Option<&Bridged>,
    pair: Pair,
    request: &PodRequest,
) -> Result<()> {
    let bridging = &host.config.bridging;
    let way = match host.config.mode {
        Mode::Routed => Way::Route { pod_mac: attachment.mac },
        Mode::Bridged => Way::Port {
            hairpin: host.sends_back(),
            isolated: bridging.isolated,
            sole: host.config.checks_sources().then_some(attachment.mac),
        },
    };
    if host.config.mode == Mode::Bridged && bridging.has_vlans() {
        host.route.join_vlans(pair.host, &attachment.host_ifname, bridging)?;
    }
    let routed = host.config.mode == Mode::Routed;
    let unforwarded = host.route.configure_host_end(&HostEnd {
        name: &attachment.host_ifname,
        index: pair.host,
        way,
        addresses: &attachment.addresses,
        localnet: routed && request.ports.open_to_loopback(),
        ipv6: host.ipv6,
        alias: &request.alias,
        closed: if routed { &elements.pods } else { &[] },
        gateways: bridged.and_then(|bridged| host.gateways(bridged)),
        families: &host.families(),
    })?;
    for family in unforwarded {
        host.switch_on(leases, family)?;
    }
    match request.to_pod {
        Some(shape) => host.route.shape(pair.host, attachment.host_ifname.as_str(), shape),
        None => Ok(()),
    }
}

/// Redirects the host ports, and has the firewall know the network. For clients on the host's loopback the pod's link
/// lets addresses of it pass.
fn open_ports(
    undo: &mut Undo<Work<'_>>,
    lease: &Lease,
    elements: &Elements,
    ports: &HostPorts,
    first: bool,
) -> Result<()> {
    let opened = PodPorts::new(ports, lease.address4(), lease.given.address6)?;
    if !ports.is_empty() {
        let undone = lease.clone();
        undo.push("forget the host ports", move |work| work.leases.forget_ports(&undone));
        undo.leases.keep_ports(lease, ports)?;
        let undone = opened.clone();
        undo.push("close the host ports", move |work| work.host.nft.close_ports(&undone));
    }
    let Work { host, leases } = &mut **undo;
    host.add_ports(leases, elements, &opened, first)
}

/// Configures the pod's end, with a socket of the pod's namespace.
fn configure_pod_end(
    host: &Host,
    attachment: &Attachment,
    netns: &Netns,
    pair: Pair,
    request: &PodRequest,
) -> Result<()> {
    let config = &host.config;
    let name = &attachment.ifname;
    let gateway_mac = (config.mode == Mode::Routed).then_some(attachment.host_mac);
    // A pod without addresses is left to itself, as the kernel makes interfaces.
    let has_neighbours = gateway_mac.is_none() && !attachment.addresses.is_empty();
    if has_neighbours || !request.sysctls.is_empty() {
        netns.run(|| {
            if has_neighbours {
                let ipv6 = attachment.first(false).map(|_| config.detects_duplicates());
                switches(name, host.ipv6, ipv6)?;
            }
            write_sysctls(request)
        })??;
    }
    let mut route = netns.visit(&host.home, RouteSocket::open)??;
    let index = match pair.pod {
        Some(index) => index,
        None => index_of(&mut route, name)?,
    };
    route.configure_pod_end(&PodEnd {
        name,
        index,
        addresses: &attachment.addresses,
        mac: attachment.mac,
        gateway_mac,
        routes: &config.routes,
        ipv6: host.ipv6,
        up: !config.bridging.leaves_down,
        probes: config.detects_duplicates(),
    })?;
    if request.link != LinkOptions::default()
        && let Some(link) = route.link_at(index)?
    {
        route.set_options(&link, &request.link)?;
    }
    if !request.sysctls.is_empty() {
        // They counted for what was made here, and count more than what was set here.
        netns.run(|| write_sysctls(request))??;
    }
    match request.from_pod {
        Some(shape) => route.shape(index, name.as_str(), shape),
        None => Ok(()),
    }
}

fn write_sysctls(request: &PodRequest) -> Result<()> {
    request.sysctls.iter().try_for_each(|(key, value)| sysctl::write(key, value))
}

/// On a bridge, where other pods can send what they want, before the interface is up: no redirects, which would
/// lead past the host; IPv6 only when it is wanted, and then with nothing but the address of the lease and a
/// link-local one, usable at once unless duplicates are to be detected, which `ipv6` says.
fn switches(ifname: &IfName, has_ipv6: bool, ipv6: Option<bool>) -> Result<()> {
    // Either of the two being on means on.
    sysctl::write("ipv4/conf/all/accept_redirects", "0")?;
    sysctl::write(&sysctl::of_link("ipv4", ifname, "accept_redirects"), "0")?;
    if !has_ipv6 {
        return Ok(());
    }
    let Some(probes) = ipv6 else {
        return sysctl::write(&sysctl::of_link("ipv6", ifname, "disable_ipv6"), "1");
    };
    for key in ["accept_redirects", "accept_ra"] {
        sysctl::write(&sysctl::of_link("ipv6", ifname, key), "0")?;
    }
    if probes {
        // A port that sends frames back (hairpin) must not make a pod the duplicate of itself (RFC 7527).
        or_absent(sysctl::write(&sysctl::of_link("ipv6", ifname, "enhanced_dad"), "1"))?;
    }
    sysctl::write(&sysctl::of_link("ipv6", ifname, "accept_dad"), if probes { "1" } else { "0" })
}

fn index_of(route: &mut RouteSocket, ifname: &IfName) -> Result<u32> {
    let link = route.link(ifname)?;
    let gone = || Error::Answer { what: format!("look up link {ifname}"), reason: "it has just been made" };
    link.map(|link| link.index).ok_or_else(gone)
}

/// Brings loopback up in a network namespace; again is fine.
///
/// # Errors
/// The kernel refused.
pub fn bring_up_loopback(netns: &Netns) -> Result<()> {
    netns.run(|| {
        let mut route = RouteSocket::open()?;
        let lo: IfName = "lo".parse()?;
        let gone =
            || Error::Refused { what: "look up link lo".to_owned(), errno: Errno::NODEV, detail: None };
        let link = route.link(&lo)?.ok_or_else(gone)?;
        route.bring_up(&link, &[])
    })?
}

/// Whether loopback is up in a network namespace.
///
/// # Errors
/// The kernel refused.
pub fn loopback_is_up(netns: &Netns) -> Result<bool> {
    netns.run(|| {
        let lo: IfName = "lo".parse()?;
        Ok(RouteSocket::open()?.link(&lo)?.is_some_and(|link| link.up))
    })?
}
