//! Every system call dunnage makes, typed, once; the only home of `unsafe`.
//!
//! Owns the calls, their flags and descriptors, and how a failed call reads. Leaves OCI words, policy and
//! logging to the crates above.
//!
//! Two callers use it: the parent, which wants a sentence when a call fails ([`Error`]), and the child
//! between `clone3` and `execve`, which must not allocate, lock or panic. So whatever the child can use takes
//! borrowed C strings and descriptors and returns a bare [`Errno`]; the parent adds the sentence with
//! [`Call::call`].

pub mod background;
pub mod bpf;
pub mod classic_mount;
pub mod clock;
pub mod clone;
pub mod error;
pub mod eventfd;
pub mod fifo;
pub mod flock;
#[cfg(feature = "guard-allocator")]
pub mod guard;
pub mod heap;
pub mod hold;
pub mod identity;
pub mod image_file;
pub mod inotify;
pub mod kernel;
pub mod kernfs;
pub mod keyring;
pub mod message;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod netns;
pub mod open;
pub mod pidfd;
pub mod process;
mod raw;
#[cfg(feature = "ready")]
pub mod ready;
pub mod room;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod stream;
pub mod surroundings;
pub mod tree;
pub mod tty;
pub mod xattr;

pub use error::{Call, Errno, Error, Result};
