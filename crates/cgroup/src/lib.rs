//! Control groups: v2, v1 and hybrid; limits, statistics, out-of-memory events, freeze, kill.
//!
//! Owns where a container's cgroup is, what is written there and in which order, and what can be read, waited for
//! and signalled. Leaves to the crates above which processes there are, and when to try again. A
//! [`Layout`] says how this machine mounts cgroups; a [`Cgroup`] is one container's directory in each hierarchy.
#![forbid(unsafe_code)]

mod apply;
mod cgroup;
mod controller;
mod devices;
mod error;
mod freeze;
mod layout;
mod limits;
mod oom;
mod path;
mod process;
mod removal;
pub mod stats;
mod systemd;
mod tree;

pub use cgroup::{Cgroup, MountSource};
pub use controller::Controller;
pub use error::{Error, ErrorKind, Refused, Result};
pub use freeze::{FreezeState, Freezing};
pub use layout::{Hierarchy, Layout, Mode};
pub use oom::OomWatch;
pub use process::Pid;
pub use removal::Removal;
pub use stats::Stats;
pub use systemd::UnitStart;
