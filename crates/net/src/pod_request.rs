//! What one pod wants besides an address.

use std::net::IpAddr;

use crate::route::{LinkOptions, Shape};
use crate::{HostPort, Mac};

/// What one pod wants of its network besides an address.
#[derive(Debug, Clone, Default)]
pub struct PodRequest {
    /// Ports of the host that lead to the pod.
    pub ports: Vec<HostPort>,
    /// The link-layer address of its interface; `None` for one that is made of its address.
    pub mac: Option<Mac>,
    /// Addresses that it must get, at most one of each set of ranges.
    pub addresses: Vec<IpAddr>,
    /// What people call the pod: shown by `ip link` beside the host's end.
    pub alias: String,
    /// How fast packets may come to the pod.
    pub to_pod: Option<Shape>,
    /// How fast packets may leave the pod.
    pub from_pod: Option<Shape>,
    /// What its interface is like.
    pub link: LinkOptions,
    /// Switches below `/proc/sys/net` of the pod's namespace, with slashes, and their values.
    pub sysctls: Vec<(String, String)>,
}

impl PodRequest {
    /// Nothing but host ports.
    #[must_use]
    pub fn with_ports(ports: &[HostPort]) -> Self {
        Self { ports: ports.to_vec(), ..Self::default() }
    }
}
