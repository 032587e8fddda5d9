//! A Kubernetes v1 Pod manifest, checked: what `dunnage pod run` will do, with nothing left open.
//!
//! Owns the reading of the file and every rule that needs nothing but the file. Leaves images, kernel and
//! host paths to those who use them.
//!
//! Fields are decoded from a tree with positions (`yaml`, on the event parser `granit-parser`) by hand and not
//! through serde structs or `k8s-openapi`: those types ignore fields they do not know, forget lines, and have
//! no room for the second fault. Here a field that nobody reads is refused by name with its line and column,
//! because each ignored field would be a Pod that runs differently from what it says.

mod container;
mod expand;
mod field;
mod name;
mod pod;
mod problem;
mod resources;
mod security;
mod volume;
mod yaml;

pub(crate) use container::Container;
pub(crate) use pod::{Pod, RestartPolicy};
pub(crate) use problem::{ManifestError, Problem};
pub(crate) use resources::{Amounts, Resources};
#[cfg(test)]
pub(crate) use security::CapabilityList;
pub(crate) use security::{Seccomp, Security};
pub(crate) use volume::{HostPathKind, Source, Volume, VolumeMount};
