//! What a pod gets that is attached already: from plugins behind the one that made its interface.

use crate::lease::Owner;
use crate::route::RouteSocket;
use crate::{Error, LinkOptions, Netns, PodNetwork, PodRequest, Result, sysctl};

impl PodNetwork {
    /// Gives a pod that is attached host ports, limits of bandwidth, switches and options of its interface. Its
    /// addresses stay what they are.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the owner is not attached, or as for [`Self::open_ports`]. What was done for the
    /// interface before that stays, and goes with it.
    pub fn add_to_pod(&mut self, owner: &Owner, netns: &Netns, request: &PodRequest) -> Result<()> {
        let attachment = self.attachment(owner)?.ok_or_else(|| Error::Invalid {
            what: "interface",
            value: owner.to_string(),
            reason: "is not attached to the network",
        })?;
        let host = self.host.route.link(&attachment.host_ifname)?;
        if let Some(host) = host {
            self.host
                .route
                .set_options(&host, &LinkOptions { mtu: request.link.mtu, ..Default::default() })?;
            if let Some(shape) = request.to_pod {
                self.host.route.shape(host.index, &host.name, shape)?;
            }
        }
        netns.run(|| {
            for (key, value) in &request.sysctls {
                sysctl::write(key, value)?;
            }
            let mut route = RouteSocket::open()?;
            let Some(link) = route.link(owner.ifname())? else { return Ok(()) };
            route.set_options(&link, &request.link)?;
            request.from_pod.map_or(Ok(()), |shape| route.shape(link.index, &link.name, shape))
        })??;
        if request.ports.is_empty() { Ok(()) } else { self.open_ports(owner, &request.ports) }
    }
}
