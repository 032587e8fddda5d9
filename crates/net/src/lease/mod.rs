//! Address leases: a table file for each network, slots of fixed size, one lock for all.
//!
//! Slot number n is the n-th address of the network's subnets, so an address is allocated, found and released
//! without a search structure that could be damaged. The tables live on a tmpfs and are worthless after a reboot,
//! which the boot id in the header tells.
//!
//! ```text
//! 0        4096                       4096 + 4·slots
//! │ header │ state and tag, 4 bytes/slot │ who has it and what was given, 192 bytes/slot │
//! ```
//!
//! Crash safety without a journal: who has it is written before the state says that anyone has; the state and
//! tag of a slot are one aligned word. Whoever holds the lock and sees a state other than active sees the
//! debris of a crash, because attaching and detaching hold the lock from the first change to the last.
//!
//! Beside a table there is a small file for each pod that has host ports, so that they can be opened again when
//! somebody flushed the firewall.

mod header;
mod host_local;
mod kept_ports;
mod locked;
mod record;
mod store;
mod table;
mod take_over;
mod words;

pub use locked::LockedLeases;
pub(crate) use record::Given;
pub use record::{Lease, LeaseKind, LeaseState, Owner};
pub use store::LeaseStore;
