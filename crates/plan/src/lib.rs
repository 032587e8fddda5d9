//! A checked spec lowered to a [`Plan`]: the ordered list of kernel steps that makes a container.
//!
//! Owns the order and the reason of each step, and nothing else: pure, printable, golden-tested. Opens no
//! file, makes no process and holds no descriptor; it names *slots*, which the parent fills before the clone
//! (`dunnage-init`), and *registers*, which the child fills as it goes. What is not in the plan does not happen.
#![forbid(unsafe_code)]

pub mod facts;
pub mod step;

pub use facts::{CgroupMount, HostFacts, RootfsFacts};
pub use step::{Phase, Plan, Planned, Slot, SlotId, Step};
