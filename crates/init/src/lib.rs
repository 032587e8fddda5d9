//! Both ends of a process's birth: the parent spawns, the child executes the plan.
//!
//! ```text
//!  parent                              child
//!  spawn: open slots, clone3 ────────▶ Isolate
//!                                      Rootfs … Identity
//!  poll_created ◀── terminal, created  Ready
//!  start ────────────────────────────▶ (AwaitStart)
//!  poll_started ◀── end of file        Execute
//!  release: the pidfd is the caller's
//! ```
//!
//! At any point the child may answer with a failure instead: the step, the call, the errno and the kernel's
//! own words. Dropping a [`Newborn`] before it is released kills and reaps the child, and the kernel takes its
//! namespaces and mounts apart: nothing is left behind.
//!
//! Does not read a spec: what is not in the [`dunnage_plan::Plan`] does not happen. Leaves making cgroups to the
//! caller.
#![forbid(unsafe_code)]

mod birth;
mod child;
mod error;
pub mod fault;
mod interpreter;
mod newborn;
mod slots;
mod streams;
mod text;
mod wire;

pub use birth::{Birth, spawn};
pub use error::{Error, ErrorKind};
pub use newborn::{Created, Newborn};
pub use streams::Streams;
