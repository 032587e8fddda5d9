//! Duplicate address detection (RFC 4862, 5.4): whether somebody else on a pod's bridge has its IPv6 address.
//!
//! The kernel asks, for one or two seconds. That is waited for without the lock that attaching holds, so that other
//! pods are not kept waiting; an attachment that turns out to be a duplicate is taken back as a whole.

use std::net::{IpAddr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use crate::attachment::Attachment;
use crate::lease::Owner;
use crate::route::{PodAddress, Probe, RouteSocket};
use crate::work::Work;
use crate::{Error, Netns, PodNetwork, Result};

/// The kernel waits for up to a second before it asks, and for another one for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

impl PodNetwork {
    /// Waits until a pod that was just attached may use its IPv6 addresses, or takes the attachment back.
    ///
    /// # Errors
    /// [`Error::Taken`] when somebody else has the address.
    pub(crate) fn await_address(
        &mut self,
        owner: &Owner,
        netns: &Netns,
        attachment: Attachment,
    ) -> Result<Attachment> {
        let addresses: Vec<Ipv6Addr> = attachment.addresses.iter().filter_map(ipv6).collect();
        if addresses.is_empty() || !self.host.config.detects_duplicates() {
            return Ok(attachment);
        }
        let opened = netns.visit(&self.host.home, RouteSocket::open);
        let waited = opened.and_then(|route| {
            let mut route = route?;
            addresses.iter().try_for_each(|address| wait(&mut route, &attachment, *address))
        });
        match waited {
            Ok(()) => Ok(attachment),
            Err(error) => Err(match self.take_back(owner) {
                Ok(()) => error,
                Err(left) => Error::LeftBehind { error: Box::new(error), left: left.to_string() },
            }),
        }
    }

    fn take_back(&mut self, owner: &Owner) -> Result<()> {
        if let Some(detached) = self.release(owner, None)? {
            detached.destroy()?;
        }
        let Some(leases) = self.store.lock_existing()? else { return Ok(()) };
        Work { host: &mut self.host, leases }.remove_if_unused().map(drop)
    }
}

fn ipv6(address: &PodAddress) -> Option<Ipv6Addr> {
    match address.net.addr() {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

fn wait(route: &mut RouteSocket, attachment: &Attachment, address: Ipv6Addr) -> Result<()> {
    let name = &attachment.ifname;
    let started = Instant::now();
    loop {
        let unanswered =
            |reason| Err(Error::Answer { what: format!("detect duplicates of {address}"), reason });
        match route.link(name)?.map(|link| route.probe(link.index, address)).transpose()?.flatten() {
            Some(Probe::Unique) => return Ok(()),
            Some(Probe::Duplicate) => return Err(Error::Taken { address: address.into() }),
            None => return unanswered("the pod does not have it any more"),
            Some(Probe::Asking) if started.elapsed() > PATIENCE => {
                return unanswered("still asking after 10 s");
            }
            Some(Probe::Asking) => thread::sleep(PAUSE),
        }
    }
}
