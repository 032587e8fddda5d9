//! A pod's containers while they live: commands in, events out, in one order.
//!
//! ```text
//! Handle ──Command──▶ mailbox ──▶ Driver ──▶ state::next ──▶ effects: cgroup, birth, signals
//!                        ▲          │
//!     watch (pidfd, gate, OOM) ─────┘──▶ EventSink, in the order in which things happened
//! ```
//!
//! Owns the sandbox, its containers and their processes: who may do what when, who
//! waits for whom, what must be taken down. One mailbox takes commands, exits and out-of-memory notices, and
//! the same loop tells of them, so that order needs no lock. Leaves wire types and codes to the shim, and
//! everything the kernel does to the crates below.
#![forbid(unsafe_code)]

pub mod command;
mod container;
mod create;
mod error;
pub mod event;
mod freeze;
pub mod host;
mod last_output;
pub mod leftover;
mod mailbox;
mod orphan;
pub mod record;
pub mod rootfs;
mod sandbox;
pub mod state;
pub mod stdio;
mod teardown;
mod terminal;
mod watch;

pub use command::{Command, Target};
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, EventSink, Stamped};
pub use host::Host;
pub use mailbox::Handle;
pub use sandbox::spawn;
pub use state::{Exit, State};
