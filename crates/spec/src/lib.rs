//! An OCI bundle on disk, read once into a checked [`Spec`].
//!
//! Owns the reading of `config.json`, the meaning of absent fields, the refusal of what dunnage does not do
//! (by its name), ids, the CRI annotations and the pod's [`QosClass`]. Never touches the kernel beyond opening
//! the bundle. After [`Bundle::load`] no `Option` means "default" and no string means "flag".
#![forbid(unsafe_code)]

pub mod annotation;
pub mod bundle;
mod document;
mod error;
pub mod features;
pub mod id;
mod json;
pub mod mount;
pub mod namespace;
mod path;
pub mod process;
pub mod qos;
pub mod resources;
pub mod seccomp;
mod spec;

pub use bundle::Bundle;
pub use error::{Error, ErrorKind, Refusal};
pub use id::{ContainerId, ContainerdNamespace, ExecId};
pub use mount::{Mount, MountSource, Propagation};
pub use namespace::{Namespace, NamespaceKind, Namespaces};
pub use process::Process;
pub use qos::{Qos, QosClass, QosEvidence};
pub use resources::Resources;
pub use spec::{Device, DeviceKind, Root, Spec, Sysctl};
