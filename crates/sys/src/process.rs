//! What a process tells the kernel about itself: who it is, who its orphans belong to, how it is seen.

use std::ffi::CStr;

use rustix::process::{Pid, WaitIdOptions, WaitOptions};

use crate::{Call, Errno, Result};

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

/// A child that has ended and was not waited for yet, whoever it is; it stays so.
///
/// # Errors
/// `ECHILD` when this process has no child at all.
pub fn any_zombie() -> std::result::Result<Option<Pid>, Errno> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // rustix gives the status of the child but not its pid.
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = i32::try_from(options.bits()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `info` is large enough for what waitid writes, and lives until it returns.
    let answer = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) };
    if answer != 0 {
        return Err(std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error));
    }
    // SAFETY: all zeroes is a valid siginfo_t, and waitid has written nothing else than valid fields.
    let info = unsafe { info.assume_init() };
    // SAFETY: the fields of SIGCHLD are the ones that waitid fills; they are zero when nobody has ended.
    Ok(Pid::from_raw(unsafe { info.si_pid() }))
}

/// Waits for a child that has ended.
///
/// # Errors
/// `ECHILD` when it is no child, or was waited for.
pub fn bury(pid: Pid) -> std::result::Result<(), Errno> {
    rustix::process::waitpid(Some(pid), WaitOptions::NOHANG).map(drop)
}
