//! What one pod wants besides an address.

use std::net::IpAddr;

use crate::route::{LinkOptions, Shape};
use crate::{HostPort, Mac};

/// Which connections by a host port reach the pod from an address of the host instead of that of who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceNat {
    /// Those whose answers would not find back: from a pod, and from the host's loopback.
    #[default]
    Needed,
    /// None. From the pod itself and from the host's loopback nobody gets through then.
    Never,
    /// All of them.
    Always,
}

/// The host ports of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPorts {
    /// Each of them.
    pub list: Vec<HostPort>,
    /// As whom the pod sees those who connect.
    pub source_nat: SourceNat,
}

impl HostPorts {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether the host's loopback can connect.
    pub(crate) fn open_to_loopback(&self) -> bool {
        !self.is_empty() && self.source_nat != SourceNat::Never
    }
}

/// What one pod wants of its network besides an address.
#[derive(Debug, Clone, Default)]
pub struct PodRequest {
    /// Ports of the host that lead to the pod.
    pub ports: HostPorts,
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
        let ports = HostPorts { list: ports.to_vec(), source_nat: SourceNat::default() };
        Self { ports, ..Self::default() }
    }
}
