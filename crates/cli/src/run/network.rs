//! The pod's place on the network: a namespace, and an address on the local bridge.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use dunnage_net::{HostPort, Mode, Netns, NetworkConfig, PodNetwork};

use super::folder::Folder;
use super::teardown::owner;
use crate::manifest::Pod;

/// Where a pod can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The pinned namespace.
    pub(crate) netns: PathBuf,
    pub(crate) address: IpAddr,
    pub(crate) bridge: String,
}

/// The local network: pods on a bridge, so that what runs here looks like what `bridge` of the reference
/// plugins makes. A run has few pods, so the limits of a bridge do not matter.
pub(crate) fn config() -> NetworkConfig {
    NetworkConfig { mode: Mode::Bridged, ..NetworkConfig::local() }
}

/// Makes the namespace and attaches it. Undone with the run.
///
/// # Errors
/// The kernel refused, or a host port is taken.
pub(crate) fn attach(pod: &Pod, uid: &str, folder: &Folder) -> anyhow::Result<Place> {
    let path = folder.netns();
    let netns = Netns::create(folder.path(), "netns").context("make the network namespace")?;
    let mut network = PodNetwork::open(config())?;
    let ports: Vec<HostPort> =
        pod.containers.iter().flat_map(|container| &container.ports).filter_map(|port| port.host).collect();
    let attachment =
        network.attach(&owner(uid)?, &netns, &ports).context("attach the pod to the local network")?;
    Ok(Place {
        netns: path,
        address: attachment.address.addr().into(),
        bridge: attachment.bridge.as_str().to_owned(),
    })
}
