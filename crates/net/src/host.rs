//! The host's side of a pod network: route or bridge, nftables table, forwarding. Made by the first pod, checked by
//! every pod, removed when no pod is left.

use dunnage_sys::Errno;
use dunnage_sys::identity::effective_capabilities;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

use crate::attachment::HOST_END;
use crate::config::IPV6_MTU;
use crate::lease::{LeaseState, LockedLeases};
use crate::netns::Home;
use crate::nft::{Elements, NftSocket, PodPorts};
use crate::route::{Link, RouteSocket};
use crate::{Error, IfName, Mac, Mode, NetworkConfig, Result, sysctl};

pub(crate) const FORWARD4: &str = "ipv4/ip_forward";
pub(crate) const FORWARD6: &str = "ipv6/conf/all/forwarding";
/// Whether bridged frames pass the rules for IP (module br_netfilter, which Kubernetes long asked for).
const BRIDGE_NETFILTER: &str = "bridge/bridge-nf-call-iptables";
/// Bits kept in the lease table: which switches were off before.
const SWITCHED_FORWARD4: u32 = 1;
const SWITCHED_FORWARD6: u32 = 2;

/// The sockets of the host's network namespace, and what is wanted there.
#[derive(Debug)]
pub(crate) struct Host {
    /// That namespace.
    pub(crate) home: Home,
    pub(crate) config: NetworkConfig,
    pub(crate) route: RouteSocket,
    pub(crate) nft: NftSocket,
    pub(crate) ipv6: bool,
}

/// Links of the host that all pods of a bridged network share.
#[derive(Debug)]
pub(crate) struct Bridged {
    pub(crate) bridge: Link,
    /// That into the VLAN of the pods, which has the gateways' addresses then.
    pub(crate) vlan: Option<Link>,
}

impl Host {
    pub(crate) fn open(config: NetworkConfig) -> Result<Self> {
        check_capabilities()?;
        // Which a link with a smaller MTU does without (RFC 8200).
        let ipv6 = sysctl::has_ipv6() && config.mtu.is_none_or(|mtu| mtu >= IPV6_MTU);
        if !ipv6 && let Some(range) = config.ranges.first_range(false) {
            let reason = "this kernel has IPv6 switched off";
            return Err(Error::Invalid { what: "subnet", value: range.subnet.to_string(), reason });
        }
        Ok(Self {
            home: Home::of_this_thread()?,
            config,
            route: RouteSocket::open()?,
            nft: NftSocket::open()?,
            ipv6,
        })
    }

    /// Makes what is missing, but for a table that [`Self::relies_on_table`], and gives the bridge, if the network has
    /// one.
    ///
    /// The table comes first: its guard must stand before the bridge lets loopback addresses pass.
    pub(crate) fn ensure(
        &mut self,
        leases: &LockedLeases<'_>,
        elements: &Elements,
        first: bool,
    ) -> Result<Option<Bridged>> {
        let anew = !self.relies_on_table(first) && self.ensure_table(leases, elements, first)?;
        match self.config.mode {
            Mode::Bridged => self.ensure_bridge(anew).map(Some),
            Mode::Routed => Ok(None),
        }
    }

    /// Whether the table is thought to be as the network wants it until the pod's own elements are added. A network that
    /// is not masqueraded has to look whether it was, and one with a bridge whether the guard stands.
    fn relies_on_table(&self, first: bool) -> bool {
        !first && self.config.masquerade && self.config.mode == Mode::Routed
    }

    /// Whether the table was not as the network wants it, and is now. Where it has to be made for the first pod, nobody
    /// else may have a route into the subnets.
    fn ensure_table(&mut self, leases: &LockedLeases<'_>, elements: &Elements, first: bool) -> Result<bool> {
        if elements.is_empty() {
            return Ok(false);
        }
        let Some(lack) = self.nft.lacks(elements)? else { return Ok(false) };
        if first {
            self.check_routes()?;
        }
        self.nft.make(elements, lack)?;
        self.restore_ports(leases)?;
        Ok(true)
    }

    /// Adds the host ports of a pod that is being attached, all or none, to a table that is as the network wants it then.
    pub(crate) fn add_ports(
        &mut self,
        leases: &LockedLeases<'_>,
        elements: &Elements,
        ports: &PodPorts,
        first: bool,
    ) -> Result<()> {
        if self.relies_on_table(first) && !elements.is_empty() {
            if self.nft.add_ports_to(elements, ports)? {
                return Ok(());
            }
            self.ensure_table(leases, elements, first)?;
        }
        if ports.is_empty() { Ok(()) } else { self.nft.add_ports(ports) }
    }

    /// Those of the pods' addresses.
    pub(crate) fn families(&self) -> Vec<AddressFamily> {
        let both = [(true, AddressFamily::Inet), (false, AddressFamily::Inet6)];
        let there = both.into_iter().filter(|(ipv4, _)| self.config.ranges.has_family(*ipv4));
        there.map(|(_, family)| family).collect()
    }

    /// Takes back all of [`Self::ensure`] that was made for the subnets of the leases, and the lease table.
    pub(crate) fn remove(&mut self, leases: &mut LockedLeases<'_>) -> Result<()> {
        self.nft.stop_passing(&self.config.name)?;
        let mut elements = self.elements(leases);
        // Once it had no pods, a network of another name can have come there.
        let others = leases.subnets_of_others()?;
        for nets in [&mut elements.pods, &mut elements.masqueraded] {
            nets.retain(|net| !others.iter().any(|(other, _)| other == net));
        }
        if self.config.mode == Mode::Bridged {
            // Also where the network itself had no use of it: whoever shared the bridge may be gone.
            elements.bridge = self.gateway_link().ok();
        }
        // Another network of the host goes on using the table and forwarding.
        if leases.hand_over_switched()? {
            if !self.remove_links_and_routes(&elements.pods)? {
                elements.bridge = None;
            }
            self.nft.remove_network(&elements)?;
            self.nft.forget_frames_of(&self.config.name)?;
        } else {
            self.nft.remove_table()?;
            self.nft.remove_frame_table()?;
            self.remove_links_and_routes(&elements.pods)?;
            switch_back(leases)?;
        }
        leases.remove()
    }

    /// Switches forwarding on, which is off, and writes down first that it was.
    pub(crate) fn switch_on(&self, leases: &mut LockedLeases<'_>, family: AddressFamily) -> Result<()> {
        let ipv6 = family == AddressFamily::Inet6;
        if ipv6 {
            keep_router_advertisements()?;
        }
        let (key, bit) = if ipv6 { (FORWARD6, SWITCHED_FORWARD6) } else { (FORWARD4, SWITCHED_FORWARD4) };
        let before = leases.switched()?;
        leases.set_switched(before | bit)?;
        // What could not be switched on is not to be switched off again.
        sysctl::write(key, "1").or_else(|error| leases.set_switched(before).and(Err(error)))
    }

    /// What the firewall is to know of this network.
    pub(crate) fn elements(&self, leases: &LockedLeases<'_>) -> Elements {
        self.elements_of(&leases.subnets())
    }

    /// As [`Self::elements`], with nothing but what is wanted.
    pub(crate) fn wanted_elements(&self) -> Elements {
        self.elements_of(&[])
    }

    /// Wanted subnets, and those that pods are still in.
    fn elements_of(&self, leased: &[IpNet]) -> Elements {
        let mut pods = self.config.ranges.nets();
        for net in leased {
            if !pods.contains(net) {
                pods.push(*net);
            }
        }
        // The sets of the kernel hold no interval twice, neither whole nor in part.
        let all = pods.clone();
        let mut replaced = pods.clone();
        pods.retain(|net| !all.iter().any(|other| other != net && other.contains(net)));
        replaced.retain(|net| !pods.contains(net));
        let masqueraded = if self.config.masquerade { pods.clone() } else { Vec::new() };
        // Pods without addresses are no neighbours of the host; where frames of a bridge pass the rules for IP
        // (br_netfilter), these would keep a router on the bridge from them.
        let guarded = self.config.mode == Mode::Bridged && !pods.is_empty();
        let bridge = guarded.then(|| self.gateway_link().ok()).flatten();
        Elements { pods, masqueraded, replaced, bridge }
    }

    /// The link that has the gateways' addresses: the bridge, or the host's link into a VLAN of it.
    pub(crate) fn gateway_link(&self) -> Result<IfName> {
        match self.config.bridging.vlan {
            None => Ok(self.config.bridge.clone()),
            Some(vlan) => format!("{}.{vlan}", self.config.bridge).parse(),
        }
    }

    /// Whether frames may leave by the port they came from: with br_netfilter a frame of a pod to its own host port is
    /// redirected while it is still in the bridge, and has to.
    pub(crate) fn sends_back(&self) -> bool {
        let asked = self.config.bridging.hairpin;
        asked.unwrap_or_else(|| sysctl::read(BRIDGE_NETFILTER).is_ok_and(|on| on != "0"))
    }

    /// Opens the ports of running pods again after somebody flushed the table.
    pub(crate) fn restore_ports(&mut self, leases: &LockedLeases<'_>) -> Result<()> {
        for lease in leases.leases()?.iter().filter(|lease| lease.state == LeaseState::Active) {
            let ports = leases.kept_ports(lease);
            if !ports.is_empty() {
                self.nft.restore_ports(&PodPorts::new(&ports, lease.address4(), lease.given.address6)?)?;
            }
        }
        Ok(())
    }

    /// Whether no other network has pods in a subnet of this one: by the names of these, with their subnets.
    pub(crate) fn check_subnets(&self, others: &[(IpNet, String)]) -> Result<()> {
        let wanted = self.config.ranges.nets();
        let meets = |net: &IpNet| wanted.iter().find(|wanted| wanted.contains(net) || net.contains(*wanted));
        let Some((net, other)) = others.iter().find_map(|(net, name)| Some((meets(net)?, name))) else {
            return Ok(());
        };
        let reason = format!("overlaps that of another pod network of this host: {other} has pods there");
        Err(Error::Foreign { what: "subnet", name: net.to_string(), reason })
    }

    /// Somebody else's network in a subnet of ours would lose packets to it, or take them away.
    pub(crate) fn check_routes(&mut self) -> Result<()> {
        let nets = self.config.ranges.nets();
        let inside = |other: &IpNet| other.prefix_len() > 0 && nets.iter().any(|net| net.contains(other));
        for route in self.route.routes()?.iter().filter(|route| inside(&route.destination)) {
            let Some(index) = route.link else { continue };
            let Some(link) = self.route.link_at(index)? else { continue };
            // IPv6 has a route to each address of the host: the gateway's.
            let own_address =
                link.name == "lo" && route.destination.prefix_len() == route.destination.max_prefix_len();
            let ours = own_address
                || link.name.starts_with(HOST_END)
                || link.name == self.config.bridge.as_str()
                || link.name == self.gateway_link()?.as_str();
            if !ours {
                return Err(Error::Foreign {
                    what: "route to",
                    name: route.destination.to_string(),
                    reason: format!("leads to {}, so the subnet cannot be that of pods", link.name),
                });
            }
        }
        Ok(())
    }

    /// Those of either mode, because it may have been changed; and only a bridge that was made here, which its
    /// link-layer address tells, and that nobody else is on. Whether there is no such bridge any more.
    fn remove_links_and_routes(&mut self, nets: &[IpNet]) -> Result<bool> {
        for net in nets {
            self.route.open_net(*net)?;
            self.route.disown_addresses(*net)?;
        }
        let name = self.config.bridge.clone();
        let Some(bridge) = self.route.link(&name)? else { return Ok(true) };
        // A network without addresses has none, but another one of the bridge may.
        if self.config.bridging.vlan.is_some()
            && !self.config.ranges.is_empty()
            && let Ok(link) = self.gateway_link()
        {
            self.route.delete(&link)?;
        }
        // A pod that was detached has no bridge any more.
        if self.route.links()?.iter().any(|link| link.controller == Some(bridge.index)) {
            return Ok(false);
        }
        if bridge.mac.is_some_and(Mac::is_of_bridge) {
            self.route.delete(&name)?;
        }
        Ok(true)
    }
}

/// A host that forwards ignores router advertisements on links whose `accept_ra` is 1, and would lose its own
/// default route; 2 means "even when forwarding", and the same as 1 when not, so it is not taken back.
fn keep_router_advertisements() -> Result<()> {
    let dir = "/proc/sys/net/ipv6/conf";
    let links = std::fs::read_dir(dir).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        dunnage_sys::Error::new(format!("list {dir}"), errno)
    })?;
    for link in links.flatten() {
        let key = format!("ipv6/conf/{}/accept_ra", link.file_name().to_string_lossy());
        // A link can vanish while the list is walked.
        if sysctl::read(&key).is_ok_and(|value| value == "1") {
            let _ = sysctl::write(&key, "2");
        }
    }
    Ok(())
}

fn switch_back(leases: &LockedLeases<'_>) -> Result<()> {
    let switched = leases.switched()?;
    for (bit, key) in [(SWITCHED_FORWARD4, FORWARD4), (SWITCHED_FORWARD6, FORWARD6)] {
        if switched & bit != 0 {
            sysctl::write(key, "0")?;
        }
    }
    Ok(())
}

/// Without either, some call in the middle would be refused.
fn check_capabilities() -> Result<()> {
    // linux/capability.h: to configure the network, and to enter network namespaces.
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    let needed = NET_ADMIN | SYS_ADMIN;
    if effective_capabilities().is_ok_and(|has| has & needed == needed) {
        return Ok(());
    }
    let detail = Some("without the capabilities CAP_NET_ADMIN and CAP_SYS_ADMIN".to_owned());
    Err(Error::Refused { what: "configure networks of pods".to_owned(), errno: Errno::PERM, detail })
}
