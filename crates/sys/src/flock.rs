//! Whole-file locks that the kernel releases when their holder dies.

use std::os::fd::AsFd;

use rustix::fs::FlockOperation;

use crate::{Call, Errno, Result};

/// Holds an exclusive `flock` on an open file or directory until dropped.
#[derive(Debug)]
pub struct Flock<F: AsFd>(F);

impl<F: AsFd> Flock<F> {
    /// Waits for the lock. It belongs to the open file description: two threads exclude each other only when
    /// each opened the file itself.
    ///
    /// # Errors
    /// `ENOLCK` when the kernel is out of memory for locks.
    pub fn exclusive(file: F) -> Result<Self> {
        loop {
            match rustix::fs::flock(file.as_fd(), FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).call(|| "flock"),
            }
        }
    }

    /// Takes the lock, or gives `None` when somebody else has it.
    ///
    /// # Errors
    /// `ENOLCK` when the kernel is out of memory for locks.
    pub fn try_exclusive(file: F) -> Result<Option<Self>> {
        loop {
            match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self(file))),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno).call(|| "flock"),
            }
        }
    }
}

impl<F: AsFd> Drop for Flock<F> {
    fn drop(&mut self) {
        // Closing would do as well, but not while a forked child still has a copy of the descriptor.
        let _ = rustix::fs::flock(self.0.as_fd(), FlockOperation::Unlock);
    }
}
