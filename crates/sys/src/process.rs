//! What a process tells the kernel about itself: who it is, who its orphans belong to, how it is seen.

use std::ffi::CStr;

use crate::{Call, Result};

/// Effective user and group of this process.
#[must_use]
pub fn effective_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Makes orphans below this process its children, so that it can reap them (prctl(2),
/// `PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// None that Linux documents.
pub fn become_subreaper() -> Result<()> {
    // Any pid means "on" to the call.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .call(|| "prctl PR_SET_CHILD_SUBREAPER")
}

/// Keeps every process without `CAP_SYS_PTRACE` in our user namespace out of `/proc/<pid>` of this one, and
/// with it out of its memory, its descriptors and its executable (prctl(2), `PR_SET_DUMPABLE`).
///
/// # Errors
/// None that Linux documents.
pub fn become_undumpable() -> Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .call(|| "prctl PR_SET_DUMPABLE 0")
}

/// Name of this thread as `ps` and `/proc/<pid>/comm` show it; the kernel keeps 15 bytes.
///
/// # Errors
/// None that Linux documents.
pub fn set_name(name: &CStr) -> Result<()> {
    rustix::thread::set_name(name).call(|| "prctl PR_SET_NAME")
}

/// Gives this thread a core scheduling cookie of its own, which children inherit: only they share a core with
/// it (prctl(2), `PR_SCHED_CORE`, Linux 5.14).
///
/// # Errors
/// `ENODEV` when the machine has no hyperthreads, `EINVAL` when the kernel has no core scheduling.
pub fn make_core_scheduling_cookie() -> Result<()> {
    let own = rustix::process::getpid();
    rustix::thread::create_core_scheduling_cookie(own, rustix::thread::CoreSchedulingScope::Thread)
        .call(|| "prctl PR_SCHED_CORE_CREATE")
}
