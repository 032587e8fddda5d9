//! Container images on this machine: found by name, verified, unpacked, stacked.
//!
//! Owns everything between the `image:` of a manifest and the directories an overlay is made of. Pulls nothing
//! (`docs/architecture.md`, deliberately absent) and mounts nothing but for a look at the users of an image;
//! the root file system itself is mounted by the shim.

mod blobs;
mod config;
#[cfg(test)]
pub(crate) mod fixture;
mod layer;
mod layout;
mod overlay;
mod reference;
mod store;
mod users;
mod zstd;

#[cfg(test)]
pub(crate) use config::Config;
pub(crate) use overlay::Overlay;
pub(crate) use reference::Reference;
pub(crate) use store::{Image, Store};
pub(crate) use users::{Identity, Users};
