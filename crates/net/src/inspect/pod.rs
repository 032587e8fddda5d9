//! What differs inside a pod.

use crate::attachment::Attachment;
use crate::route::{Link, Listed, Neighbour, RouteSocket};
use crate::{IfName, LinkOptions, Mode, Netns, NetworkConfig, PodNetwork, PodRequest, Result};

impl PodNetwork {
    pub(super) fn pod_differences(
        &self,
        attachment: &Attachment,
        netns: &Netns,
        request: &PodRequest,
    ) -> Result<Vec<String>> {
        let config = &self.host.config;
        netns.run(|| {
            let mut route = RouteSocket::open()?;
            let mut found = Vec::new();
            let lo: IfName = "lo".parse()?;
            if route.link(&lo)?.is_none_or(|link| !link.up) {
                found.push("loopback is down in the pod".to_owned());
            }
            let Some(link) = route.link(&attachment.ifname)? else {
                found.push(gone(attachment));
                return Ok(found);
            };
            found.extend(link_differences(config, attachment, &link));
            found.extend(option_differences(&mut route, &link, request)?);
            found.extend(list_differences(config, attachment, &route.listed(link.index)?));
            if config.mode == Mode::Routed {
                found.extend(neighbour_differences(attachment, &route.neighbours(link.index)?));
            }
            Ok(found)
        })?
    }
}

/// What differs of what a pod can also be given that is attached already.
pub(super) fn addition_differences(
    attachment: &Attachment,
    netns: &Netns,
    request: &PodRequest,
) -> Result<Vec<String>> {
    netns.run(|| {
        let mut route = RouteSocket::open()?;
        match route.link(&attachment.ifname)? {
            Some(link) => option_differences(&mut route, &link, request),
            None => Ok(vec![gone(attachment)]),
        }
    })?
}

fn gone(attachment: &Attachment) -> String {
    format!("interface {} is gone from the pod", attachment.ifname)
}

fn link_differences(config: &NetworkConfig, attachment: &Attachment, link: &Link) -> Vec<String> {
    let differs = [
        (!link.up && !config.bridging.leaves_down, "is down"),
        (link.mac != Some(attachment.mac), "has another link-layer address"),
        (config.mtu.is_some() && link.mtu != config.mtu, "has another MTU"),
    ];
    said(link, &differs)
}

fn option_differences(route: &mut RouteSocket, link: &Link, request: &PodRequest) -> Result<Vec<String>> {
    let limit = request.from_pod.map(|shape| route.wrong_shape(link, shape)).transpose()?.flatten();
    let LinkOptions { promiscuous, all_multicast, queue_length, mtu } = request.link;
    let differs = [
        (limit.is_some(), limit.unwrap_or_default()),
        (promiscuous && !link.promiscuous, "does not receive every frame"),
        (all_multicast && !link.all_multicast, "does not receive every multicast frame"),
        (queue_length.is_some() && link.queue_length != queue_length, "has another length of its queue"),
        (mtu.is_some() && link.mtu != mtu, "has another MTU"),
    ];
    Ok(said(link, &differs))
}

fn said(link: &Link, differs: &[(bool, &str)]) -> Vec<String> {
    let told = differs.iter().filter(|(differs, _)| *differs);
    told.map(|(_, what)| format!("interface {} of the pod {what}", link.name)).collect()
}

fn list_differences(config: &NetworkConfig, attachment: &Attachment, listed: &Listed) -> Vec<String> {
    let addresses = attachment.addresses.iter().map(|address| address.net);
    let gone = addresses.filter(|net| !listed.addresses.contains(net));
    let said = |net| format!("address {net} is gone from {} of the pod", attachment.ifname);
    let mut found: Vec<String> = gone.map(said).collect();
    for wanted in config.routes.iter().filter(|route| route.table.is_none()) {
        let destination = wanted.destination.trunc();
        let there = listed.routes.iter().any(|route| route.destination == destination);
        if attachment.first(destination.addr().is_ipv4()).is_some() && !there {
            found.push(format!("route to {destination} is gone from the pod"));
        }
    }
    found
}

fn neighbour_differences(attachment: &Attachment, there: &[Neighbour]) -> Vec<String> {
    let mut found = Vec::new();
    for address in attachment.addresses.iter().map(|address| address.gateway) {
        let wanted = Neighbour { address, mac: attachment.host_mac };
        let says = format!(
            "the pod's permanent neighbour {address} with {}, its gateway, is gone",
            attachment.host_mac
        );
        // Two addresses of one subnet have one gateway.
        if !there.contains(&wanted) && !found.contains(&says) {
            found.push(says);
        }
    }
    found
}
