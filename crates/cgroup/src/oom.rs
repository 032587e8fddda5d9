//! Out-of-memory kills: a descriptor to wait on and a counter to read.
//!
//! The counter is `oom_kill`, which rises where a process was killed, and not `oom`, which rises where a limit was
//! hit and may be the pod's (containerd pull request 6323).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dunnage_sys::kernfs::{Access, Dir, read_again};
use dunnage_sys::{Call, Errno, eventfd, inotify};

use crate::cgroup::Cgroup;
use crate::controller::Controller;
use crate::error::Result;
use crate::stats::kills;

/// Readable when something happened that may have been an out-of-memory kill. Outlives its [`Cgroup`].
#[derive(Debug)]
pub struct OomWatch {
    signal: Signal,
    counter: OwnedFd,
    last: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Signal {
    /// inotify on `memory.events`; also wakes at every other event in it.
    V2(OwnedFd),
    /// eventfd on `memory.oom_control`; also wakes when the cgroup is removed.
    V1(OwnedFd),
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.signal {
            Signal::V2(fd) | Signal::V1(fd) => fd.as_fd(),
        }
    }
}

impl OomWatch {
    /// How many processes have been killed since the cgroup was made; never falls, and keeps the last value when
    /// the cgroup is gone. Makes the descriptor unreadable until something new happens.
    #[must_use]
    pub fn kills(&self) -> u64 {
        // Before the counter is read: what happens in between makes it readable again. A failure only means
        // another waking.
        let _ = match &self.signal {
            Signal::V2(fd) => inotify::drain(fd),
            Signal::V1(fd) => eventfd::take(fd).map(|count| count > 0),
        };
        let mut text = Vec::new();
        if read_again(&self.counter, &mut text).is_ok()
            && let Some(kills) = kills(&text)
        {
            self.last.fetch_max(kills, Ordering::Relaxed);
        }
        self.last.load(Ordering::Relaxed)
    }
}

impl Cgroup {
    /// Watches for out-of-memory kills in the cgroup and below it.
    ///
    /// # Errors
    /// There is no memory controller, or the watch was refused.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        if let Some(dir) = self.v1(Controller::Memory) {
            return watch_v1(dir);
        }
        let missing = || self.no_controller("memory.events", Controller::Memory, &[]);
        let dir = self.dir(Controller::Memory).ok_or_else(missing)?;
        let counter = match dir.open_file("memory.events", Access::Read) {
            Err(Errno::NOENT) => return Err(missing()),
            opened => opened.call(|| "open memory.events")?,
        };
        let name = dir.open_name("memory.events").call(|| "open memory.events")?;
        let signal = Signal::V2(inotify::watch(name).call(|| "watch memory.events")?);
        let last = self.scope().map(|scope| Arc::clone(scope.oom_kills())).unwrap_or_default();
        Ok(OomWatch { signal, counter, last })
    }

    /// How many processes have been killed so far for want of memory; 0 where nobody counts.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let (dir, file) = match self.v1(Controller::Memory) {
            Some(dir) => (Some(dir), "memory.oom_control"),
            None => (self.dir(Controller::Memory), "memory.events"),
        };
        let mut text = Vec::new();
        let read = dir.is_some_and(|dir| dir.read(file, &mut text).is_ok());
        let kills = if read { kills(&text).unwrap_or(0) } else { 0 };
        let Some(scope) = self.scope() else { return kills };
        // systemd may have taken the directory away already.
        if !read {
            scope.recover_kills();
        }
        scope.oom_kills().fetch_max(kills, Ordering::Relaxed).max(kills)
    }
}

/// The kernel ties the two descriptors together by a line in `cgroup.event_control` (cgroup-v1/memory.rst).
fn watch_v1(dir: &Dir) -> Result<OomWatch> {
    let counter = dir.open_file("memory.oom_control", Access::Read).call(|| "open memory.oom_control")?;
    let event = eventfd::eventfd().call(|| "eventfd")?;
    let line = format!("{} {}", event.as_raw_fd(), counter.as_raw_fd());
    dir.write("cgroup.event_control", line).call(|| "write to cgroup.event_control")?;
    Ok(OomWatch { signal: Signal::V1(event), counter, last: Arc::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_the_line_that_counts_processes_and_not_those_that_begin_alike() {
        assert_eq!(kills(b"oom_kill_disable 0\nunder_oom 1\noom_kill 3\n"), Some(3));
        assert_eq!(kills(b"low 0\noom 9\noom_kill 2\noom_group_kill 1\n"), Some(2));
        assert_eq!(kills(b"oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
