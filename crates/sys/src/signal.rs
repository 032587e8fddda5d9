//! Signal masks and dispositions around a clone.
//!
//! Owns the raw calls: libc hides two signals from its callers, and a handler that runs in the child of a
//! clone would run code of the parent in the wrong process.

use std::ffi::{c_int, c_long};

use crate::Errno;
use crate::raw::outcome;

/// The kernel's `sigset_t`, one bit for each of 64 signals; libc's is larger.
type KernelSet = u64;

/// All signals of this thread are blocked until this is dropped.
#[derive(Debug)]
pub struct Blocked {
    before: KernelSet,
}

impl Blocked {
    /// Blocks every signal of the calling thread.
    ///
    /// # Errors
    /// None that a correct kernel gives.
    pub fn all() -> Result<Self, Errno> {
        Ok(Self { before: set_mask(KernelSet::MAX)? })
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // Cannot fail: the arguments are those of the call that succeeded.
        let _ = set_mask(self.before);
    }
}

/// In a fresh child: every signal to its default and none blocked, as a program may expect of whoever executes
/// it. `CLONE_CLEAR_SIGHAND` has cleared handlers but leaves ignored signals ignored, and the Rust runtime
/// ignores `SIGPIPE`.
///
/// # Errors
/// None that a correct kernel gives.
pub fn reset() -> Result<(), Errno> {
    for signal in 1..=64 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            set_default(signal)?;
        }
    }
    set_mask(0).map(drop)
}

/// `struct sigaction` as the kernel has it on x86-64 and aarch64: large enough for both.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: KernelSet,
}

fn set_default(signal: c_int) -> Result<(), Errno> {
    // SIG_DFL is 0, and so is everything else of the default.
    let action = KernelAction::default();
    let action = std::ptr::from_ref(&action);
    let before = std::ptr::null_mut::<KernelAction>();
    // SAFETY: `action` outlives the call, which only reads it; SIG_DFL runs no code of this program.
    let returned = unsafe {
        libc::syscall(libc::SYS_rt_sigaction, c_long::from(signal), action, before, size_of::<KernelSet>())
    };
    outcome(returned).map(drop)
}

fn set_mask(mask: KernelSet) -> Result<KernelSet, Errno> {
    let mut before: KernelSet = 0;
    let new = std::ptr::from_ref(&mask);
    let old = std::ptr::from_mut(&mut before);
    // SAFETY: both pointers are to sets of the given size that outlive the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            c_long::from(libc::SIG_SETMASK),
            new,
            old,
            size_of::<KernelSet>(),
        )
    };
    outcome(returned)?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocking_is_undone_when_the_guard_goes() {
        let start = set_mask(0).unwrap();
        {
            let _blocked = Blocked::all().unwrap();
            let all = set_mask(KernelSet::MAX).unwrap();
            // The kernel never blocks KILL and STOP.
            assert_eq!(all.count_ones(), 62);
        }
        assert_eq!(set_mask(start).unwrap(), 0);
    }
}
