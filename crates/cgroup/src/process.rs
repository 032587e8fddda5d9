//! Processes of a cgroup: letting them in, listing them, killing all of them.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use dunnage_sys::kernfs::{Access, Dir};
use dunnage_sys::pidfd::{self, Signal};
use dunnage_sys::{Call, Errno};

pub use dunnage_sys::pidfd::Pid;

use crate::cgroup::Cgroup;
use crate::controller::Controller;
use crate::error::Result;
use crate::layout::Hierarchy;
use crate::tree;

/// A task is briefly unknown to the cgroup code while it is being made; runc waits the same five times.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(30);

impl Cgroup {
    /// For each hierarchy that [`Cgroup::clone_into`] does not cover, the open file into which the process itself
    /// writes `0` to join, as long as it has one thread.
    ///
    /// This is the fast way. Moving another process, or any process by `cgroup.procs`, takes a lock against all
    /// forks and waits for an RCU grace period (11 ms when starts are some time apart); a thread that moves itself
    /// by `tasks` does not (kernel/cgroup/cgroup.c, cgroup_procs_write_start). Whether the writer may is decided
    /// by who opened the file.
    ///
    /// # Errors
    /// A file could not be opened.
    pub fn join_files(&self) -> Result<Vec<OwnedFd>> {
        let v1 = self.members().filter(|(hierarchy, _)| !hierarchy.is_unified());
        let open = |(hierarchy, dir): (&Hierarchy, &Dir)| {
            let place = || format!("open tasks of {}", hierarchy.mount_point().join(self.path()).display());
            Ok(dir.open_file("tasks", Access::Write).call(place)?)
        };
        v1.map(open).collect()
    }

    /// Moves a process into the hierarchies that [`Cgroup::clone_into`] does not cover. Waits for an RCU grace
    /// period, and up to 120 ms for a task that is still being made; [`Cgroup::join_files`] is the faster way.
    ///
    /// # Errors
    /// The first hierarchy that refused it, after retrying what a new task may meet.
    pub fn attach(&self, pid: Pid) -> Result<()> {
        self.attach_where(pid, |unified| !unified)
    }

    /// Moves a process into all hierarchies, for kernels without `CLONE_INTO_CGROUP` (before 5.7) and processes
    /// that somebody else made.
    ///
    /// # Errors
    /// As [`Cgroup::attach`].
    pub fn attach_all(&self, pid: Pid) -> Result<()> {
        self.attach_where(pid, |_| true)
    }

    fn attach_where(&self, pid: Pid, wanted: impl Fn(bool) -> bool) -> Result<()> {
        let value = pid.as_raw_nonzero().to_string();
        for (hierarchy, dir) in self.members().filter(|(hierarchy, _)| wanted(hierarchy.is_unified())) {
            let place = || {
                let procs = hierarchy.mount_point().join(self.path()).join("cgroup.procs");
                format!("write {value} to {}", procs.display())
            };
            move_to(dir, &value).call(place)?;
        }
        Ok(())
    }

    /// The processes in the cgroup and below it, in no order.
    ///
    /// # Errors
    /// The lists could not be read. A cgroup that is gone has none.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        // On hybrid the unified tree is where processes are born; whoever has joined nothing else yet is there.
        let Some((_, dir)) = self.members().next_back() else { return Ok(Vec::new()) };
        let (mut text, mut found) = (Vec::new(), Vec::new());
        match tree::processes(dir, &mut text, &mut found) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => {
                let call = format!("read cgroup.procs of {}", self.path().display());
                return Err(dunnage_sys::Error::new(call, errno).into());
            }
        }
        Ok(found.into_iter().filter_map(Pid::from_raw).collect())
    }

    /// Whether a process is in the cgroup or below it.
    #[must_use]
    pub fn populated(&self) -> bool {
        let mut text = Vec::new();
        match self.unified().map(|dir| dir.read("cgroup.events", &mut text)) {
            Some(Ok(())) => text.split(|byte| *byte == b'\n').any(|line| line == b"populated 1"),
            Some(Err(Errno::NODEV)) => false,
            // Legacy has no such file. What cannot be read is not known to be empty.
            _ => self.pids().is_ok_and(|pids| !pids.is_empty()),
        }
    }

    /// Kills every process in the cgroup and below it, also frozen ones; does not wait for them to be gone.
    ///
    /// # Errors
    /// The processes could not be listed or signalled. A cgroup that is gone has none to kill.
    pub fn kill(&self) -> Result<()> {
        match self.unified().map(|dir| dir.write("cgroup.kill", "1")) {
            // Of a hybrid cgroup, that is everybody who was born in it or has joined it.
            Some(Ok(()) | Err(Errno::NODEV)) => {}
            // Before Linux 5.14, and on legacy.
            Some(Err(Errno::NOENT)) | None => self.kill_one_by_one()?,
            Some(Err(errno)) => {
                let call = format!("write 1 to cgroup.kill of {}", self.path().display());
                return Err(dunnage_sys::Error::new(call, errno).into());
            }
        }
        self.kill_v1_strays()
    }

    /// Who is in the freezer's tree but not in the unified one, and whoever is frozen there: on v1 a signal waits
    /// until the thaw.
    fn kill_v1_strays(&self) -> Result<()> {
        let Some(dir) = self.v1(Controller::Freezer) else { return Ok(()) };
        let (mut text, mut pids) = (Vec::new(), Vec::new());
        match tree::processes(dir, &mut text, &mut pids) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => {
                let call = format!("read cgroup.procs of {}", self.path().display());
                return Err(dunnage_sys::Error::new(call, errno).into());
            }
        }
        signal(&pids)?;
        // Nobody is left to thaw when the directory is gone.
        let _ = dir.write("freezer.state", "THAWED");
        Ok(())
    }

    /// Frozen, nobody can fork while the list is read; thawed again whatever happens.
    fn kill_one_by_one(&self) -> Result<()> {
        let freezer = self.unified().map(|dir| (dir, "cgroup.freeze", "1", "0"));
        let freezer = freezer
            .or_else(|| self.v1(Controller::Freezer).map(|dir| (dir, "freezer.state", "FROZEN", "THAWED")));
        let pause = |state: usize| {
            if let Some((dir, file, frozen, thawed)) = freezer {
                // Best effort: without it, the loop catches up with who forked meanwhile.
                let _ = dir.write(file, [thawed, frozen][state]);
            }
        };
        for _ in 0..8 {
            pause(1);
            let pids = self.pids().and_then(|pids| {
                let raw: Vec<i32> = pids.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
                signal(&raw).map(|()| raw)
            });
            pause(0);
            if pids?.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

fn signal(pids: &[i32]) -> Result<()> {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        let sent = pidfd::open(pid)
            .and_then(|process| pidfd::send_signal(process, Signal::KILL).call(|| format!("kill {pid}")));
        match sent {
            // It ended by itself.
            Err(error) if error.errno() == Errno::SRCH => {}
            sent => sent?,
        }
    }
    Ok(())
}

fn move_to(dir: &Dir, pid: &str) -> Result<(), Errno> {
    let mut tries = 1;
    loop {
        match dir.write("cgroup.procs", pid) {
            Err(Errno::INVAL) if tries < TRIES => {
                tries += 1;
                thread::sleep(PAUSE);
            }
            written => return written,
        }
    }
}
