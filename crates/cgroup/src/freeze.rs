//! Stopping and continuing all processes of a cgroup, in steps that never wait.
//!
//! v2 freezes by itself, reports the end in `cgroup.events`, and its frozen processes can be killed. v1 may stay
//! `FREEZING` for as long as a task forks or sits in the kernel, has to be told again, and lets nobody die before the
//! thaw. So the unified tree is used wherever there is one, also on hybrid machines, where it has no controllers but
//! all processes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use dunnage_sys::kernfs::Dir;
use dunnage_sys::{Call, Errno, inotify};

use crate::cgroup::Cgroup;
use crate::controller::Controller;
use crate::error::{Error, Result};

/// Whether the processes of a cgroup run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeState {
    /// They run.
    Thawed,
    /// Some have stopped.
    Freezing,
    /// All have stopped.
    Frozen,
}

/// A freeze under way. Dropping it leaves the cgroup as it is then; [`Cgroup::thaw`] takes it back.
#[derive(Debug)]
pub struct Freezing<'a> {
    dir: &'a Dir,
    how: How,
    steps: u32,
}

#[derive(Debug)]
enum How {
    /// Readable when `cgroup.events` has changed.
    V2(OwnedFd),
    V1,
}

/// The directory that freezes.
enum Freezer<'a> {
    V1(&'a Dir),
    V2(&'a Dir),
}

/// How often v1 is asked before it is thawed for a moment, which frees it when a task was caught between two
/// states (runc does the same).
const RETHAW: u32 = 50;

impl Freezing<'_> {
    /// Looks once, and on v1 pushes once more.
    ///
    /// # Errors
    /// The state could not be read or written; `NotFound` when the cgroup is gone.
    pub fn step(&mut self) -> Result<FreezeState> {
        self.steps += 1;
        match &self.how {
            How::V2(watch) => {
                inotify::drain(watch).call(|| "read inotify of cgroup.events")?;
                state_v2(self.dir)
            }
            How::V1 => {
                if self.steps.is_multiple_of(RETHAW) {
                    write_v1(self.dir, "THAWED")?;
                }
                write_v1(self.dir, "FROZEN")?;
                state_v1(self.dir)
            }
        }
    }

    /// Readable when another [`Freezing::step`] is worth while; on v1 there is nothing to wait for but time (some
    /// milliseconds).
    #[must_use]
    pub fn changed(&self) -> Option<BorrowedFd<'_>> {
        match &self.how {
            How::V2(watch) => Some(watch.as_fd()),
            How::V1 => None,
        }
    }

    /// Steps until it is done or `timeout` has passed, for callers that may block.
    ///
    /// # Errors
    /// As [`Freezing::step`].
    pub fn wait(&mut self, timeout: Duration) -> Result<FreezeState> {
        let end = Instant::now() + timeout;
        loop {
            let state = self.step()?;
            if state == FreezeState::Frozen || Instant::now() >= end {
                return Ok(state);
            }
            // Short, as v1 tells nobody; v2 is asked a few times more than needed.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Cgroup {
    /// Begins to stop all processes. New ones stop as soon as they come.
    ///
    /// # Errors
    /// There is no freezer, or it could not be told.
    pub fn freeze(&self) -> Result<Freezing<'_>> {
        let wanting = || self.no_controller("freezing", Controller::Freezer, &[]);
        match self.freezer().ok_or_else(wanting)? {
            Freezer::V2(dir) => {
                // Watched before told, so that the end cannot be missed.
                let watch = dir.open_name("cgroup.events").and_then(inotify::watch);
                let watch = watch.call(|| "watch cgroup.events")?;
                dir.write("cgroup.freeze", "1").call(|| "write 1 to cgroup.freeze")?;
                Ok(Freezing { dir, how: How::V2(watch), steps: 0 })
            }
            Freezer::V1(dir) => {
                write_v1(dir, "FROZEN")?;
                Ok(Freezing { dir, how: How::V1, steps: 0 })
            }
        }
    }

    fn freezer(&self) -> Option<Freezer<'_>> {
        // Before Linux 5.2 the unified tree had no freezer.
        let v2 = self.unified().filter(|dir| dir.open_name("cgroup.freeze").is_ok());
        v2.map(Freezer::V2).or_else(|| self.v1(Controller::Freezer).map(Freezer::V1))
    }

    /// Lets all processes go on. A cgroup that is gone has nothing to thaw.
    ///
    /// # Errors
    /// The freezer could not be told.
    pub fn thaw(&self) -> Result<()> {
        let written = match self.freezer() {
            Some(Freezer::V1(dir)) => {
                dir.write("freezer.state", "THAWED").call(|| "write THAWED to freezer.state")
            }
            Some(Freezer::V2(dir)) => dir.write("cgroup.freeze", "0").call(|| "write 0 to cgroup.freeze"),
            None => return Ok(()),
        };
        match written {
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NODEV) => Ok(()),
            written => Ok(written?),
        }
    }

    /// Whether the processes run. A cgroup that is gone, or has no freezer, is thawed.
    ///
    /// # Errors
    /// The state could not be read.
    pub fn freeze_state(&self) -> Result<FreezeState> {
        let state = match self.freezer() {
            Some(Freezer::V1(dir)) => state_v1(dir),
            Some(Freezer::V2(dir)) => state_v2(dir),
            None => return Ok(FreezeState::Thawed),
        };
        match state {
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => {
                Ok(FreezeState::Thawed)
            }
            state => state,
        }
    }
}

fn write_v1(dir: &Dir, state: &str) -> Result<()> {
    Ok(dir.write("freezer.state", state).call(|| format!("write {state} to freezer.state"))?)
}

fn state_v1(dir: &Dir) -> Result<FreezeState> {
    let mut text = Vec::new();
    dir.read("freezer.state", &mut text).call(|| "read freezer.state")?;
    match text.trim_ascii() {
        b"THAWED" => Ok(FreezeState::Thawed),
        b"FREEZING" => Ok(FreezeState::Freezing),
        b"FROZEN" => Ok(FreezeState::Frozen),
        other => Err(Error::Invalid(format!("freezer.state says {:?}", String::from_utf8_lossy(other)))),
    }
}

fn state_v2(dir: &Dir) -> Result<FreezeState> {
    let mut text = Vec::new();
    dir.read("cgroup.events", &mut text).call(|| "read cgroup.events")?;
    if text.split(|byte| *byte == b'\n').any(|line| line == b"frozen 1") {
        return Ok(FreezeState::Frozen);
    }
    dir.read("cgroup.freeze", &mut text).call(|| "read cgroup.freeze")?;
    Ok(if text.trim_ascii() == b"1" { FreezeState::Freezing } else { FreezeState::Thawed })
}
