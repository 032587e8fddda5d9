//! A child between its clone and its program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use dunnage_sys::pidfd::Pid;

use crate::Error;

/// What a created process brings along.
#[derive(Debug, Default)]
pub struct Created {
    /// The master of its terminal, when the plan opens one.
    pub terminal: Option<OwnedFd>,
}

/// A child that executes its plan. Dropping it kills and reaps the child.
#[derive(Debug)]
pub struct Newborn {
    pid: Pid,
    pidfd: OwnedFd,
    socket: OwnedFd,
    born_in_cgroup: bool,
}

impl Newborn {
    /// In the pid namespace of the parent.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Opened by the clone itself; readable when the process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether the clone put it into [`crate::Birth::clone_into`]. If not, the caller writes its pid to
    /// `cgroup.procs` before [`Self::place`].
    #[must_use]
    pub fn born_in_cgroup(&self) -> bool {
        self.born_in_cgroup
    }

    /// Whether the child is created; does not block. `None`: not yet.
    ///
    /// # Errors
    /// The step that failed, or how the child died.
    pub fn poll_created(&mut self) -> Result<Option<Created>, Error> {
        Err(Error::unfinished())
    }

    /// Opens the gate: the child executes its program.
    ///
    /// # Errors
    /// The child is gone.
    pub fn start(&mut self) -> Result<(), Error> {
        Err(Error::unfinished())
    }

    /// Whether `execve` succeeded; does not block. `false`: not yet.
    ///
    /// # Errors
    /// As [`Self::poll_created`].
    pub fn poll_started(&mut self) -> Result<bool, Error> {
        Err(Error::unfinished())
    }

    /// [`Self::poll_created`], waiting.
    ///
    /// # Errors
    /// Also when `timeout` has passed.
    pub fn wait_created(&mut self, timeout: Duration) -> Result<Created, Error> {
        let _ = timeout;
        Err(Error::unfinished())
    }

    /// [`Self::poll_started`], waiting.
    ///
    /// # Errors
    /// Also when `timeout` has passed.
    pub fn wait_started(&mut self, timeout: Duration) -> Result<(), Error> {
        let _ = timeout;
        Err(Error::unfinished())
    }

    /// Hands the running process over, once it is started.
    #[must_use]
    pub fn release(self) -> (Pid, OwnedFd) {
        (self.pid, self.pidfd)
    }
}

/// The socket to the child: readable when a `poll_*` has news.
impl AsFd for Newborn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
