//! A checked spec lowered to a [`Plan`]: the ordered list of kernel steps that makes a container.
//!
//! Owns the order and the reason of each step, and nothing else: pure, printable, golden-tested. Opens no
//! file, makes no process and holds no descriptor; it names *slots*, which the parent fills before the clone
//! (`dunnage-init`), and *registers*, which the child fills as it goes. What is not in the plan does not happen.
//!
//! [`lower`] is the order of a container's birth as one list of calls, each into the module that knows the
//! reasons of its part; [`lower_exec`] is the same for a process executed later.
#![forbid(unsafe_code)]

mod attributes;
mod cgroup;
mod devices;
mod draft;
mod entry;
mod environment;
mod error;
pub mod facts;
mod filter;
mod identity;
mod isolate;
mod lower;
mod mounts;
mod program;
mod protect;
mod render;
mod rootfs;
pub mod step;
mod text;

pub use error::{Error, ErrorKind};
pub use facts::{CgroupMount, HostFacts, RootfsFacts};
pub use filter::FilterCache;
pub use lower::{lower, lower_exec};
pub use step::{Phase, Plan, Planned, Slot, SlotId, Step};
