//! Who this process is.

use rustix::process::{getegid, geteuid};

/// The effective user and group ids.
#[must_use]
pub fn effective_ids() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}
