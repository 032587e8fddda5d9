//! The pod's place on the network: a namespace, and an address on the local bridge.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use dunnage_net::{HostPort, IfName, Mode, Netns, NetworkConfig, Owner, PodNetwork};

use super::folder::Folder;
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
fn config() -> NetworkConfig {
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
    Ok(Place { netns: path, address: attachment.ip(), bridge: attachment.bridge.as_str().to_owned() })
}

/// Takes the pod off the network, and the network away with the last pod. What is not there is no error.
///
/// # Errors
/// The kernel refused.
pub(crate) fn detach(uid: &str, folder: &Folder) -> anyhow::Result<()> {
    let mut network = PodNetwork::open(config())?;
    network.detach(&owner(uid)?).context("detach the pod from its network")?;
    Netns::remove(&folder.netns()).context("remove the network namespace")?;
    network.remove_if_unused().context("remove the network")?;
    Ok(())
}

/// Under which name the pod has its address.
fn owner(uid: &str) -> anyhow::Result<Owner> {
    let eth0: IfName = "eth0".parse()?;
    Ok(Owner::new(uid, eth0)?)
}
