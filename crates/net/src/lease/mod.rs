//! Address leases: a table file for each network, slots of fixed size, one lock for all.
//!
//! Slot number n is the n-th address of the subnet, of both families, so an address is allocated, found and
//! released without a search structure that could be damaged. The tables live on a tmpfs and are worthless
//! after a reboot, which the boot id in the header tells.
//!
//! ```text
//! 0        4096                      4096 + 4·slots
//! │ header │ state and tag, 4 bytes/slot │ who has it, 128 bytes/slot │
//! ```
//!
//! Crash safety without a journal: who has it is written before the state says that anyone has; the state and
//! tag of a slot are one aligned word. Whoever holds the lock and sees a state other than active sees the
//! debris of a crash, because attaching and detaching hold the lock from the first change to the last.

mod header;
mod record;
mod store;
mod words;

pub use record::Owner;
pub use store::{Lease, LeaseStore, LockedLeases};
pub use words::LeaseState;
