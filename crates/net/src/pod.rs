//! Attaching pods to a network and detaching them: the order of steps.

use std::os::fd::AsFd;

use dunnage_sys::Errno;

use crate::attachment::{Attachment, host_ifname};
use crate::host::{Host, route_localnet};
use crate::lease::{Lease, LeaseState, LeaseStore, LockedLeases, Owner};
use crate::nft::PodPorts;
use crate::route::{HostEnd, Pair, PodEnd, RouteSocket, Veth, Way};
use crate::undo::Undo;
use crate::{Error, HostPort, IfName, Mode, Netns, NetworkConfig, Result, sysctl};

/// Whether bridged frames pass the rules for IP (module br_netfilter, which Kubernetes long asked for).
const BRIDGE_NETFILTER: &str = "bridge/bridge-nf-call-iptables";

/// One pod network, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct PodNetwork {
    host: Host,
    store: LeaseStore,
}

/// What the steps work on: the host's sockets and the locked lease table.
#[derive(Debug)]
struct Work<'a> {
    host: &'a mut Host,
    leases: LockedLeases<'a>,
}

impl PodNetwork {
    /// Checks the configuration and opens sockets; nothing is changed.
    ///
    /// # Errors
    /// [`Error::Invalid`], or the kernel has no nftables.
    pub fn open(config: NetworkConfig) -> Result<Self> {
        config.check()?;
        let store = LeaseStore::new(&config.state_dir, &config.name, config.subnet)?;
        Ok(Self { host: Host::open(config)?, store })
    }

    /// The wanted state.
    #[must_use]
    pub fn config(&self) -> &NetworkConfig {
        &self.host.config
    }

    /// Gives the owner an interface in `netns`, configured and up, and its host ports.
    ///
    /// # Errors
    /// Anything that goes wrong is undone, in reverse. [`Error::Attached`] when the owner has the interface,
    /// [`Error::Exhausted`] when there is no address, [`Error::PortTaken`] when another pod has a host port.
    pub fn attach(&mut self, owner: &Owner, netns: &Netns, ports: &[HostPort]) -> Result<Attachment> {
        if netns.is_own()? {
            let value = netns.path().display().to_string();
            return Err(Error::Invalid { what: "network namespace", value, reason: "is that of the host" });
        }
        let leases = self.store.lock()?;
        let mut undo = Undo::new(Work { host: &mut self.host, leases });
        match attach(&mut undo, owner, netns, ports) {
            Ok(attachment) => {
                undo.commit();
                Ok(attachment)
            }
            Err(error) => Err(undo.roll_back(error)),
        }
    }

    /// Takes the owner's interface off the network and gives its address and host ports back. Whether it had
    /// any. The interface itself goes with its network namespace, because removing it takes 20 ms.
    ///
    /// # Errors
    /// The kernel refused; what is missing already is no error.
    pub fn detach(&mut self, owner: &Owner) -> Result<bool> {
        let Some(leases) = self.store.lock_existing()? else { return Ok(false) };
        let mut work = Work { host: &mut self.host, leases };
        let Some(mut lease) = work.leases.find(owner)? else { return Ok(false) };
        work.release(&mut lease)?;
        Ok(true)
    }

    /// What the owner was given, or `None` when it is not attached.
    ///
    /// # Errors
    /// The lease table cannot be read.
    pub fn attachment(&self, owner: &Owner) -> Result<Option<Attachment>> {
        let Some(leases) = self.store.lock_existing()? else { return Ok(None) };
        let active = leases.find(owner)?.filter(|lease| lease.state == LeaseState::Active);
        Ok(active.map(|lease| Attachment::new(&self.host.config, &leases, lease.slot, owner.ifname())))
    }

    /// Every lease of the network, by address.
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
        work.remove_if_unused()
    }
}

fn attach(undo: &mut Undo<Work<'_>>, owner: &Owner, netns: &Netns, ports: &[HostPort]) -> Result<Attachment> {
    undo.change_subnet()?;
    if undo.leases.is_empty()? {
        undo.push("remove the network", |work| work.remove_if_unused().map(drop));
    }
    let mut lease = undo.reserve(owner, netns)?;
    let reserved = lease.clone();
    undo.push("release the address", move |work| work.leases.release(&reserved));

    let attachment = Attachment::new(&undo.host.config, &undo.leases, lease.slot, owner.ifname());
    let ports = PodPorts::new(ports, attachment.address.addr(), attachment.address6.map(|net| net.addr()))?;
    let Work { host, leases } = &mut **undo;
    let bridge = host.ensure(leases)?;

    let pair = undo.create_veth(&attachment, netns, bridge)?;
    let host_ifname = attachment.host_ifname.clone();
    undo.push("delete the veth pair", move |work| work.host.route.delete(&host_ifname));
    undo.configure_host_end(&attachment, pair)?;
    configure_pod_end(&attachment, netns, pair, undo.host.config.mode)?;
    // The end that came up first has carrier now, but drops packets until a work queue of the kernel has seen
    // it. Asking for the link settles that at once (since 6.8), so that the pod's first packet is not lost.
    undo.host.route.link(&attachment.host_ifname)?;

    if !ports.is_empty() {
        let pod = attachment.clone();
        undo.push("remove the host ports", move |work| work.remove_ports(&pod));
        undo.open_ports(&attachment, &ports)?;
    }
    undo.leases.set_state(&mut lease, LeaseState::Active)?;
    Ok(attachment)
}

impl Work<'_> {
    /// Goes over to the wanted subnet, once nobody has an address of the one before.
    fn change_subnet(&mut self) -> Result<()> {
        let (has, wanted) = (self.leases.subnet(), self.host.config.subnet);
        if has == wanted {
            return Ok(());
        }
        self.sweep()?;
        if !self.remove_if_unused()? {
            let name = self.host.config.name.to_string();
            return Err(Error::Foreign {
                what: "network",
                name,
                reason: format!("has pods in {has}, so it cannot be {wanted}"),
            });
        }
        self.leases.renew()
    }

    /// Reserves an address. What the dead have left is swept when there is no other, or when the owner itself
    /// left it.
    fn reserve(&mut self, owner: &Owner, netns: &Netns) -> Result<Lease> {
        match self.leases.reserve(owner, netns.id()) {
            Err(Error::Exhausted { .. } | Error::Attached { .. }) if !self.sweep()?.is_empty() => {
                self.leases.reserve(owner, netns.id())
            }
            reserved => reserved,
        }
    }

    fn create_veth(&mut self, attachment: &Attachment, netns: &Netns, bridge: Option<u32>) -> Result<Pair> {
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
        // Either name can be the one that exists. The host's belongs to the last pod with this address when
        // its namespace is still alive: that pod is detached, so its link is in nobody's use.
        match made {
            Err(error) if error.errno() == Some(Errno::EXIST) => {
                if self.host.route.link(&attachment.host_ifname)?.is_none() {
                    return Err(error);
                }
                self.host.route.delete(&attachment.host_ifname)?;
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

    fn configure_host_end(&mut self, attachment: &Attachment, pair: Pair) -> Result<()> {
        let way = match self.host.config.mode {
            Mode::Routed => Way::Route { pod_mac: attachment.mac },
            // With br_netfilter a frame of a pod to its own host port is redirected while it is still in the
            // bridge, and has to leave by the port it came from.
            Mode::Bridged => {
                Way::Port { hairpin: sysctl::read(BRIDGE_NETFILTER).is_ok_and(|value| value != "0") }
            }
        };
        let addresses = attachment.pod_addresses();
        self.host.route.configure_host_end(&HostEnd {
            name: &attachment.host_ifname,
            index: pair.host,
            way,
            addresses: &addresses,
            ipv6: self.host.ipv6,
        })
    }

    /// Redirects the host ports, also for clients on the host's loopback.
    fn open_ports(&mut self, attachment: &Attachment, ports: &PodPorts) -> Result<()> {
        if self.host.config.mode == Mode::Routed {
            sysctl::write(&route_localnet(&attachment.host_ifname), "1")?;
        }
        self.host.nft.add_ports(ports)
    }

    /// Takes the lease's pod off the network and gives its address back.
    fn release(&mut self, lease: &mut Lease) -> Result<()> {
        self.leases.set_state(lease, LeaseState::Releasing)?;
        let address = self.leases.address(lease.slot);
        self.host.route.detach(&host_ifname(address))?;
        self.host.nft.remove_ports(address, self.host.config.address6(lease.slot))?;
        self.leases.release(lease)
    }

    fn sweep(&mut self) -> Result<Vec<Lease>> {
        let mut dead = Vec::new();
        for mut lease in self.leases.leases()? {
            let name = host_ifname(self.leases.address(lease.slot));
            match lease.state {
                // The kernel removes the pair when the pod's namespace goes.
                LeaseState::Active if self.host.route.link(&name)?.is_some() => continue,
                LeaseState::Active => {}
                // Nobody but a holder of the lock has these, and we hold it: a crash left them.
                LeaseState::Reserved | LeaseState::Releasing => self.host.route.delete(&name)?,
            }
            self.release(&mut lease)?;
            dead.push(lease);
        }
        Ok(dead)
    }

    fn remove_if_unused(&mut self) -> Result<bool> {
        if !self.leases.is_empty()? {
            return Ok(false);
        }
        self.host.remove(&mut self.leases)?;
        Ok(true)
    }

    fn remove_ports(&mut self, pod: &Attachment) -> Result<()> {
        self.host.nft.remove_ports(pod.address.addr(), pod.address6.map(|net| net.addr()))
    }
}

/// Configures the pod's end: from a thread inside the pod's namespace, with a socket of it.
fn configure_pod_end(attachment: &Attachment, netns: &Netns, pair: Pair, mode: Mode) -> Result<()> {
    let addresses = attachment.pod_addresses();
    let name = &attachment.ifname;
    let gateway_mac = (mode == Mode::Routed).then_some(attachment.host_mac);
    netns.run(|| {
        switches(name, attachment.address6.is_some())?;
        let mut route = RouteSocket::open()?;
        let index = match pair.pod {
            Some(index) => index,
            None => index_of(&mut route, name)?,
        };
        route.configure_pod_end(&PodEnd { name, index, addresses: &addresses, gateway_mac })
    })?
}

/// Before the interface is up: no redirects, which would lead past the host; IPv6 only when it is wanted, and
/// then with nothing but the address of the lease and a link-local one, usable at once.
fn switches(ifname: &IfName, ipv6: bool) -> Result<()> {
    // Either of the two being on means on.
    sysctl::write("ipv4/conf/all/accept_redirects", "0")?;
    sysctl::write(&format!("ipv4/conf/{ifname}/accept_redirects"), "0")?;
    if !sysctl::has_ipv6() {
        return Ok(());
    }
    if !ipv6 {
        return sysctl::write(&format!("ipv6/conf/{ifname}/disable_ipv6"), "1");
    }
    for key in ["accept_redirects", "accept_ra", "accept_dad"] {
        sysctl::write(&format!("ipv6/conf/{ifname}/{key}"), "0")?;
    }
    Ok(())
}

fn index_of(route: &mut RouteSocket, ifname: &IfName) -> Result<u32> {
    let link = route.link(ifname)?;
    let gone = || Error::Answer { what: format!("look up link {ifname}"), reason: "it has just been made" };
    link.map(|link| link.index).ok_or_else(gone)
}
