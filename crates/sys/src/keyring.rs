//! The session keyring (keyctl(2)).

use std::ffi::CStr;

use crate::Errno;
use crate::raw::outcome;

/// Joins a session keyring of this name, made when there is none, so that the process does not hold the keys
/// of whoever started it. Its owner may also search it, which a process that changes its user needs.
///
/// # Errors
/// `ENOSYS` without key support, `EPERM` and `EACCES` where a policy or a user namespace refuses, `EDQUOT`.
pub fn join_session(name: &CStr) -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    const KEYCTL_SETPERM: libc::c_long = 5;
    // The possessor may do everything, the user view, read, search and link (linux/key.h).
    const PERMISSIONS: u32 = 0x3f1b_0000;

    // SAFETY: the string outlives the call, which only reads it.
    let returned = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    let keyring = outcome(returned)?;
    // SAFETY: no pointers.
    let returned = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, keyring, PERMISSIONS) };
    outcome(returned).map(drop)
}
