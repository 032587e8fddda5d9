//! Waiting as PID 1 of a pod: to be told to end, and to bury orphans meanwhile.
//!
//! Owns the waiting. Everything it uses is async-signal-safe by construction: signals stay blocked and are
//! taken one by one, so no handler runs.

use rustix::process::{WaitOptions, wait};

use crate::signal::Blocked;
use crate::{Call, Errno, Result};

/// Returns when SIGTERM or SIGINT has come. Children that ended before that are reaped.
///
/// As PID 1 of a namespace a process ignores every signal it has no handler for, except blocked ones: those
/// wait until they are taken (kernel/signal.c, `sig_ignored`).
///
/// # Errors
/// None that a correct kernel gives.
pub fn until_told_to_end() -> Result<()> {
    let _blocked = Blocked::all().call(|| "block all signals")?;
    loop {
        match next_signal().call(|| "wait for a signal")? {
            libc::SIGTERM | libc::SIGINT => return Ok(()),
            _ => reap(),
        }
    }
}

/// Takes the next SIGTERM, SIGINT or SIGCHLD; several SIGCHLD are one.
fn next_signal() -> std::result::Result<i32, Errno> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset writes the whole set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD] {
        // SAFETY: the set was initialised by sigemptyset above, and the signal number is one of Linux'.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    loop {
        // SAFETY: the set is initialised, and a null pointer for the details means that none are wanted.
        let signal = unsafe { libc::sigwaitinfo(set.as_ptr(), std::ptr::null_mut()) };
        if signal > 0 {
            return Ok(signal);
        }
        let error = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        // Stopped and continued.
        if error != Errno::INTR {
            return Err(error);
        }
    }
}

/// Reaps every child that has ended.
fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
