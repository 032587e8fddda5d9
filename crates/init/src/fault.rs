//! Faults on purpose, for tests: does nothing without the feature `fault-injection`.

#[cfg(feature = "fault-injection")]
pub use injected::{Fault, inject};

pub(crate) use injected::{check, clone_refused};

#[cfg(not(feature = "fault-injection"))]
mod injected {
    use crate::wire::Failure;

    #[expect(clippy::unnecessary_wraps, reason = "the same signature as with the feature")]
    pub(crate) fn check(_step: u16) -> Result<(), Failure> {
        Ok(())
    }

    pub(crate) fn clone_refused() -> bool {
        false
    }
}

#[cfg(feature = "fault-injection")]
mod injected {
    use std::sync::atomic::{AtomicU32, Ordering};

    use dunnage_sys::Errno;

    use crate::wire::{Call, Failure};

    /// Step in the low half, kind in the high one; 0 is none.
    static FAULT: AtomicU32 = AtomicU32::new(0);
    const FAIL: u32 = 1 << 16;
    const ALLOCATE: u32 = 2 << 16;
    const DIE: u32 = 3 << 16;
    const CLONE: u32 = 4 << 16;

    /// What goes wrong.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// The step fails with EIO.
        Fail(u16),
        /// The child allocates before the step, which it must never do.
        Allocate(u16),
        /// The child exits without a word.
        Die(u16),
        /// The kernel cannot clone into a cgroup.
        CloneIntoCgroup,
    }

    /// Every child cloned from now on has this fault.
    pub fn inject(fault: Option<Fault>) {
        let value = match fault {
            None => 0,
            Some(Fault::Fail(step)) => FAIL | u32::from(step),
            Some(Fault::Allocate(step)) => ALLOCATE | u32::from(step),
            Some(Fault::Die(step)) => DIE | u32::from(step),
            Some(Fault::CloneIntoCgroup) => CLONE,
        };
        FAULT.store(value, Ordering::Relaxed);
    }

    pub(crate) fn clone_refused() -> bool {
        FAULT.load(Ordering::Relaxed) == CLONE
    }

    pub(crate) fn check(step: u16) -> Result<(), Failure> {
        let (kind, number) = {
            let fault = FAULT.load(Ordering::Relaxed);
            (fault & !0xffff, fault & 0xffff)
        };
        if number != u32::from(step) {
            return Ok(());
        }
        match kind {
            FAIL => Err(Failure { call: Call::Injected, errno: Errno::IO }),
            ALLOCATE => {
                std::hint::black_box(vec![step; 100]);
                Ok(())
            }
            DIE => dunnage_sys::clone::exit(3),
            _ => Ok(()),
        }
    }
}
