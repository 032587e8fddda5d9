//! OCI bundles as containerd's CRI plugin writes them: one for the pod's sandbox, one for each container.
//!
//! Owns the documents and the files they mount. Starts nothing and reads no manifest.

mod capabilities;
mod container;
mod document;
mod files;
mod sandbox;
mod seccomp;
mod volumes;

pub(crate) use container::ContainerBundle;
pub(crate) use document::{Machine, PodFrame};
pub(crate) use files::PodFiles;
pub(crate) use sandbox::SandboxBundle;
pub(crate) use volumes::{Prepared, prepare};
