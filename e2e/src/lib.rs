//! The rig of the end-to-end tests: a private piece of the machine, a real containerd or a bare shim in it,
//! clients that are not our code, and a census that finds what was left behind.
//!
//! Owns everything a test needs to act as a user of containers does. Imports none of dunnage's crates: it
//! starts the built programs and speaks to them over the wire, so the same suite runs on the reference shim
//! (`RUNTIME=runc`) and a test that is red on dunnage alone means dunnage.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod census;
pub mod cgroup;
pub mod command;
pub mod containerd;
pub mod cri;
pub mod ctr;
pub mod events;
pub mod fault;
pub mod footprint;
pub mod history;
pub mod image;
pub mod line;
pub mod load;
pub mod process;
pub mod programs;
pub mod shim;
pub mod task;
pub mod wait;
pub mod world;
