//! Address leases: a table file for each network, slots of fixed size, one lock for all.
//!
//! Slot number n is the n-th address of the network's subnets. The tables live on a tmpfs and are worthless after a
//! reboot, which the boot id in the header tells.
//!
//! A pod's lease is a slot of the network's first set of IPv4 ranges, or of placeholders in a network without. An
//! IPv6 range that is long enough goes along with the slots, the n-th address with the n-th slot, so that two
//! addresses cost what one does. Every other set of ranges has slots of its own: a pod gets one of each of them,
//! marked as a further one of its lease's owner, and the index finds them by that owner. They are written after the
//! lease and freed before it, so that what a crash leaves of them has a lease in the middle of a change, too. Sets are
//! free to have ranges of any size, to change places and to come and go while pods have addresses of them, because a
//! slot is an address whatever set it is of.
//!
//! ```text
//! │ header, hints │ words                   │ index               │ records                         │
//! │ 4096 bytes    │ state and owner's tag   │ owner's tag → slot  │ who has it, what was given      │
//! │               │ 4 bytes/slot            │ 16 bytes/slot, more │ 192 bytes/slot                  │
//! ```
//!
//! The words say what is taken, the records by whom. Hints and index save reading all words, so that attaching and
//! detaching cost the same in a full table as in an empty one: they read a page or a few of words, the
//! cells of the index around one place, and one record. Neither is believed alone. What the index says counts
//! when word and record say it as well, and before something is destroyed or refused because nothing was found (a
//! network without pods is removed, no address is left, a pod that is to be detached has no lease) all words are
//! read. A DEL that comes twice, which is usual, reads them the second time: 256 KiB in a table of 65,536
//! addresses that have all been used, some fifty microseconds. An ADD does not: whether its pod is attached
//! already it asks the index alone.
//!
//! Crash safety without a journal, by the order of writes: hint, record, index, word, so that what the word says is
//! true and can be found; and when an address is given back, hint, word, index. A crash leaves a hint that allows
//! more than there is or a cell of nobody, which cost a look. The state and tag of a slot are one aligned word.
//! Whoever holds the lock and sees a state other than active sees the debris of a crash, because attaching and
//! detaching hold the lock from the first change to the last.
//!
//! Which host ports a pod has is written down as well, so that they can be closed, and opened again when somebody
//! flushed the firewall: in its record, or in a small file beside the table where they are more than a few or came
//! later than the lease.

#[cfg(test)]
mod changes;
#[cfg(test)]
mod crashes;
mod file;
mod free;
mod further;
mod give_back;
mod header;
mod hint;
mod host_local;
mod index;
mod kept_ports;
mod locked;
mod record;
mod slots;
mod store;
mod switched;
mod table;
mod take_over;
mod vacancy;
mod words;

pub use locked::LockedLeases;
pub(crate) use locked::Wanted;
pub(crate) use record::{Given, Part};
pub use record::{Lease, LeaseKind, LeaseState, Owner};
pub use store::LeaseStore;
