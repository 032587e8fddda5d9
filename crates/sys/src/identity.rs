//! Who the calling thread is: ids, capabilities, and what it can never become.
//!
//! Raw calls of one thread, because libc would change all threads of the process and take locks for it. For
//! the cloned child: nothing allocates.

use std::ffi::c_int;

use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::Errno;
use crate::raw::{outcome, outcome_of_int};

/// `setgroups`.
///
/// # Errors
/// `EPERM` without `CAP_SETGID`, `EINVAL` for too many.
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the pointer and the count describe a slice that outlives the call, which only reads it.
    let returned = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    outcome(returned).map(drop)
}

/// `setresgid`, all three.
///
/// # Errors
/// `EINVAL` when the id is not mapped in the user namespace.
pub fn set_gid(gid: u32) -> Result<(), Errno> {
    // SAFETY: no pointers; only the calling thread changes.
    let returned = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    outcome(returned).map(drop)
}

/// `setresuid`, all three.
///
/// # Errors
/// `EINVAL` when the id is not mapped in the user namespace.
pub fn set_uid(uid: u32) -> Result<(), Errno> {
    // SAFETY: no pointers; only the calling thread changes.
    let returned = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    outcome(returned).map(drop)
}

/// `PR_CAPBSET_DROP` of one capability number.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`, `EINVAL` when the kernel does not know the number.
pub fn drop_bounding(capability: u8) -> Result<(), Errno> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0)
}

/// `PR_SET_KEEPCAPS`.
///
/// # Errors
/// `EPERM` when securebits lock it.
pub fn keep_capabilities(keep: bool) -> Result<(), Errno> {
    rustix::thread::set_keep_capabilities(keep)
}

/// `capset` of the calling thread; bit n is capability n.
///
/// # Errors
/// `EPERM` when a set would gain what it may not.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::from_bits_retain(effective),
            permitted: CapabilitySet::from_bits_retain(permitted),
            inheritable: CapabilitySet::from_bits_retain(inheritable),
        },
    )
}

/// The effective capabilities of the calling thread; bit n is capability n.
///
/// # Errors
/// None that is known.
pub fn effective_capabilities() -> Result<u64, Errno> {
    Ok(rustix::thread::capabilities(None)?.effective.bits())
}

/// `PR_CAP_AMBIENT_CLEAR_ALL`.
///
/// # Errors
/// None since 4.3.
pub fn clear_ambient() -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)
}

/// `PR_CAP_AMBIENT_RAISE`.
///
/// # Errors
/// `EPERM` when it is not both permitted and inheritable.
pub fn raise_ambient(capability: u8) -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability.into())
}

/// `PR_SET_NO_NEW_PRIVS`, for ever.
///
/// # Errors
/// None.
pub fn set_no_new_privileges() -> Result<(), Errno> {
    rustix::thread::set_no_new_privs(true)
}

/// `PR_SET_DUMPABLE` 0: nobody without `CAP_SYS_PTRACE` looks into this process, until it executes a program.
///
/// # Errors
/// None.
pub fn forbid_dumps() -> Result<(), Errno> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

fn prctl(option: c_int, second: c_int, third: libc::c_ulong) -> Result<(), Errno> {
    let second = libc::c_ulong::from(second.unsigned_abs());
    let unused: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer.
    outcome_of_int(unsafe { libc::prctl(option, second, third, unused, unused) }).map(drop)
}
