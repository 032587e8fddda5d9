//! The host's side of a pod network: route or bridge, nftables table, forwarding. Made by the first pod, checked by
//! every pod, removed when no pod is left.

use dunnage_sys::Errno;
use ipnet::{IpNet, Ipv4Net};

use crate::config::gateway_of;
use crate::lease::LockedLeases;
use crate::nft::NftSocket;
use crate::route::{Bridge, Link, RouteSocket};
use crate::{Error, IfName, Mac, Mode, NetworkConfig, Result, sysctl};

const FORWARD4: &str = "ipv4/ip_forward";
const FORWARD6: &str = "ipv6/conf/all/forwarding";
/// Bits kept in the lease table: which switches were off before.
const SWITCHED_FORWARD4: u32 = 1;
const SWITCHED_FORWARD6: u32 = 2;

/// The sockets of the host's network namespace, and what is wanted there.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) config: NetworkConfig,
    pub(crate) route: RouteSocket,
    pub(crate) nft: NftSocket,
    pub(crate) ipv6: bool,
}

impl Host {
    pub(crate) fn open(config: NetworkConfig) -> Result<Self> {
        let ipv6 = sysctl::has_ipv6();
        if !ipv6 && let Some(subnet6) = config.subnet6 {
            let reason = "this kernel has IPv6 switched off";
            return Err(Error::Invalid { what: "subnet", value: subnet6.to_string(), reason });
        }
        Ok(Self { config, route: RouteSocket::open()?, nft: NftSocket::open()?, ipv6 })
    }

    /// Makes what is missing and gives the index of the bridge, if the network has one.
    ///
    /// The table comes first: its guard must stand before the bridge lets loopback addresses pass.
    pub(crate) fn ensure(&mut self, leases: &mut LockedLeases<'_>) -> Result<Option<u32>> {
        let masqueraded = self.masqueraded(leases.subnet());
        self.nft.ensure(&self.config.bridge, &masqueraded)?;
        let bridge = match self.config.mode {
            Mode::Bridged => Some(self.ensure_bridge()?),
            Mode::Routed => {
                self.nets(leases.subnet()).try_for_each(|net| self.route.close_net(net))?;
                None
            }
        };
        switch_on(leases, FORWARD4, SWITCHED_FORWARD4)?;
        if self.config.subnet6.is_some() {
            ensure_forward6(leases)?;
        }
        Ok(bridge)
    }

    /// Takes back all of [`Self::ensure`] that was made for the subnet of the leases, and the lease table.
    pub(crate) fn remove(&mut self, leases: &mut LockedLeases<'_>) -> Result<()> {
        // Another network of the host goes on using the table and forwarding.
        if leases.hand_over_switched()? {
            let masqueraded = self.masqueraded(leases.subnet());
            self.nft.remove_network(&self.config.bridge, &masqueraded)?;
            self.remove_links_and_routes(leases.subnet())?;
        } else {
            self.nft.remove_table()?;
            self.remove_links_and_routes(leases.subnet())?;
            switch_back(leases)?;
        }
        leases.remove()
    }

    fn ensure_bridge(&mut self) -> Result<u32> {
        let name = self.config.bridge.clone();
        let link = match self.route.link(&name)? {
            Some(link) => link,
            None => self.create_bridge()?,
        };
        if link.kind.as_deref() != Some("bridge") {
            let reason = "is not a bridge".to_owned();
            return Err(Error::Foreign { what: "link", name: name.to_string(), reason });
        }
        // It comes up last, so a bridge that is up has its addresses.
        if !link.up {
            self.set_up_bridge(&link)?;
        }
        Ok(link.index)
    }

    fn create_bridge(&mut self) -> Result<Link> {
        let name = &self.config.bridge;
        self.route.create_bridge(&Bridge {
            name,
            mac: bridge_mac(self.config.subnet),
            mtu: self.config.mtu,
        })?;
        let gone = || Error::Answer { what: format!("look up link {name}"), reason: "it has just been made" };
        self.route.link(name)?.ok_or_else(gone)
    }

    fn set_up_bridge(&mut self, link: &Link) -> Result<()> {
        let name = &self.config.bridge;
        // For host ports on 127.0.0.1; the guard chain keeps pods from using it the other way.
        sysctl::write(&route_localnet(name), "1")?;
        let mut addresses =
            vec![IpNet::new_assert(self.config.gateway().into(), self.config.subnet.prefix_len())];
        if let Some((gateway, subnet)) = self.config.gateway6().zip(self.config.subnet6) {
            addresses.push(IpNet::new_assert(gateway.into(), subnet.prefix_len()));
            // Neighbour solicitations for forwarded packets need a link-local source: it stays, but unprobed.
            sysctl::write(&format!("ipv6/conf/{name}/accept_dad"), "0")?;
        } else if self.ipv6 {
            self.route.without_link_local(name)?;
        }
        self.route.bring_up(link, &addresses)
    }

    /// Those of either mode, because it may have been changed; and only a bridge that was made here, which its
    /// link-layer address tells.
    fn remove_links_and_routes(&mut self, subnet: Ipv4Net) -> Result<()> {
        self.nets(subnet).try_for_each(|net| self.route.open_net(net))?;
        match self.route.link(&self.config.bridge)? {
            Some(link) if link.mac == Some(bridge_mac(subnet)) => self.route.delete(&self.config.bridge),
            _ => Ok(()),
        }
    }

    fn masqueraded(&self, subnet: Ipv4Net) -> Vec<IpNet> {
        if !self.config.masquerade {
            return Vec::new();
        }
        self.nets(subnet).collect()
    }

    /// Where the pods are, IPv4 first.
    fn nets(&self, subnet: Ipv4Net) -> impl Iterator<Item = IpNet> + use<> {
        std::iter::once(IpNet::V4(subnet)).chain(self.config.subnet6.map(IpNet::V6))
    }
}

/// What tells a bridge of ours from a stranger's of the same name.
fn bridge_mac(subnet: Ipv4Net) -> Mac {
    Mac::of_bridge(gateway_of(subnet))
}

/// The switch that lets addresses of loopback pass a link.
pub(crate) fn route_localnet(link: &IfName) -> String {
    format!("ipv4/conf/{link}/route_localnet")
}

/// Switches on what is off, and writes down first that it was.
fn switch_on(leases: &mut LockedLeases<'_>, key: &str, bit: u32) -> Result<()> {
    if sysctl::read(key)? != "0" {
        return Ok(());
    }
    leases.set_switched(leases.switched()? | bit)?;
    sysctl::write(key, "1")
}

/// A host that forwards ignores router advertisements on links whose `accept_ra` is 1, and would lose its own
/// default route; 2 means "even when forwarding", and the same as 1 when not, so it is not taken back.
fn ensure_forward6(leases: &mut LockedLeases<'_>) -> Result<()> {
    if sysctl::read(FORWARD6)? != "0" {
        return Ok(());
    }
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
    switch_on(leases, FORWARD6, SWITCHED_FORWARD6)
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
