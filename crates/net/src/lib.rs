//! Pod networking in one process: no `ip`, no `nft`, no daemon.
//!
//! [`PodNetwork::attach`] turns a wanted state (a subnet, masquerade, host ports) into an address
//! lease, a veth pair made in its final namespaces, one batch of configuration inside the pod's [`Netns`] and a
//! few nftables elements; [`PodNetwork::detach`] takes it back, and [`PodNetwork::remove_if_unused`] leaves
//! the host as it was found.
//!
//! ```text
//!              netns of the caller              │  Netns of the pod
//!   uplink ── masquerade ── route ── dnp0a580002┼eth0
//!             (inet dunnage)        10.88.0.1   │10.88.0.2/32, default via 10.88.0.1
//! ```
//!
//! A network can have a bridge instead, [`Mode::Bridged`].
//!
//! Owns: netlink messages and who may answer them, the lease tables, the order of steps and their undoing.
//! Everything happens in the network namespace of the calling thread. Leaves to the callers: where a pod's
//! name comes from, how a request is worded on the wire, and logging.
#![forbid(unsafe_code)]

mod addition;
mod attachment;
mod bridge;
mod channel;
mod collect;
mod config;
mod duplicates;
mod error;
mod forward;
mod frames;
mod host;
mod inspect;
mod lease;
mod mac;
mod name;
mod netns;
mod nft;
mod pod;
mod pod_request;
mod range;
mod route;
mod segment;
mod sysctl;
mod undo;
mod work;

pub use attachment::Attachment;
pub use collect::Collected;
pub use config::{Bridging, HostPort, Mode, NetworkConfig, PodRoute, Protocol};
pub use error::{Error, Kind, Result};
pub use lease::{Lease, LeaseKind, LeaseState, LeaseStore, LockedLeases, Owner};
pub use mac::Mac;
pub use name::{IfName, NetworkName};
pub use netns::Netns;
pub use pod::{Detached, PodNetwork, bring_up_loopback, loopback_is_up};
pub use pod_request::{HostPorts, PodRequest, SourceNat};
pub use range::{Range, RangeSet, Ranges};
pub use route::{LinkOptions, PodAddress, Shape};
