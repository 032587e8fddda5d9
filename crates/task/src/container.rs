//! One container and its processes, as the driver keeps them in memory.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use dunnage_cgroup::Cgroup;
use dunnage_spec::{ContainerId, ExecId, Spec};
use dunnage_sys::Errno;
use dunnage_sys::pidfd;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::command::{self, Deleted, Reply, Status};
use crate::error::{Error, Result};
use crate::last_output::{self, LastOutput};
use crate::record::Record;
use crate::rootfs::{MountedRootfs, RootfsMount};
use crate::state::{self, Effects, Exit, Input, Request, State};
use crate::stdio::{self, KeptEnds, StdioPaths};
use crate::terminal::Terminal;

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) bundle: PathBuf,
    pub(crate) spec: Rc<Spec>,
    pub(crate) rootfs: Vec<RootfsMount>,
    pub(crate) no_new_keyring: bool,
    pub(crate) init: Process,
    pub(crate) execs: BTreeMap<ExecId, Exec>,
    pub(crate) held: Held,
    /// Kills that were told; the cgroup's counter never goes back.
    pub(crate) oom_kills: u64,
    /// Who waits for the removal. Present from the request on, so that a second one is refused.
    pub(crate) deleting: Option<Reply<Deleted>>,
    /// Who waits for the freezer.
    pub(crate) pausing: Option<Reply<()>>,
    /// Who waits for the creation.
    pub(crate) creating: Option<Reply<u32>>,
}

/// What a container holds of the host; taken down by [`crate::teardown`].
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) cgroup: Option<Rc<Cgroup>>,
    pub(crate) rootfs: Option<MountedRootfs>,
    pub(crate) record: Option<Record>,
    pub(crate) oom_watch: Option<AbortHandle>,
    pub(crate) orphan_watch: Option<AbortHandle>,
}

/// A process executed in a container.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) wanted: dunnage_spec::Process,
    pub(crate) process: Process,
}

/// An init or an exec.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) state: State,
    pub(crate) pid: u32,
    pub(crate) pidfd: Option<Rc<OwnedFd>>,
    pub(crate) stdio: StdioPaths,
    pub(crate) kept: KeptEnds,
    pub(crate) terminal: Option<Terminal>,
    pub(crate) gate: Option<oneshot::Sender<()>>,
    pub(crate) starting: Option<Reply<u32>>,
    /// The process has ended. Told once its last output was read, and that of an init once no exec runs any
    /// more, since clients stop listening after it.
    pub(crate) untold_exit: Option<Exit>,
    /// Present as long as the last output is awaited or held for a reader.
    pub(crate) last_output: Option<LastOutput>,
    /// Whether the exit waits for the reader.
    pub(crate) unread: bool,
    waiters: Vec<Reply<Exit>>,
}

impl Process {
    pub(crate) fn new(state: State, stdio: StdioPaths) -> Self {
        Self {
            state,
            pid: 0,
            pidfd: None,
            stdio,
            kept: KeptEnds::default(),
            terminal: None,
            gate: None,
            starting: None,
            untold_exit: None,
            last_output: None,
            unread: false,
            waiters: Vec::new(),
        }
    }

    /// Connects the terminal with the client's fifos.
    pub(crate) fn attach(&mut self, master: OwnedFd) -> std::result::Result<(), stdio::Error> {
        self.terminal = Some(Terminal::attach(master, &self.stdio, &mut self.kept)?);
        Ok(())
    }

    /// The process has ended: its exit is to be told, as soon as its last output was read. `tell` is called then,
    /// unless that is now.
    pub(crate) fn over(&mut self, exit: Exit, tell: impl FnOnce() + 'static) {
        self.untold_exit = Some(exit);
        let relay = self.terminal.as_ref().and_then(Terminal::relay);
        self.last_output = last_output::hold(self.kept.take_outputs(), relay, tell);
        self.unread = self.last_output.is_some();
    }

    /// The exit, once it was told.
    pub(crate) fn told_exit(&self) -> Option<Exit> {
        if self.untold_exit.is_some() { None } else { self.state.exit() }
    }

    /// Moves the state on.
    pub(crate) fn apply(&mut self, input: Input) -> std::result::Result<Effects, state::Denied> {
        let (state, effects) = state::next(self.state, input)?;
        self.state = state;
        Ok(effects)
    }

    /// Answers `reply` now, or when the exit is told.
    pub(crate) fn wait(&mut self, reply: Reply<Exit>) {
        match self.told_exit() {
            Some(exit) => drop(reply.send(Ok(exit))),
            None => {
                self.waiters.retain(|waiter| !waiter.is_closed());
                self.waiters.push(reply);
            }
        }
    }

    pub(crate) fn tell_waiters(&mut self, exit: Exit) {
        for waiter in self.waiters.drain(..) {
            drop(waiter.send(Ok(exit)));
        }
    }

    /// Sends a signal to this very process.
    pub(crate) fn signal(&self, id: &ContainerId, signal: i32) -> Result<()> {
        let Some(pidfd) = &self.pidfd else { return Err(Error::Finished(id.clone())) };
        let sent = match pidfd::signal(signal) {
            Some(signal) => pidfd::send_signal(pidfd.as_ref(), signal),
            None => Err(Errno::INVAL),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(Error::Finished(id.clone())),
            Err(errno) => {
                Err(dunnage_sys::Error::new(format!("send signal {signal} to {}", self.pid), errno).into())
            }
        }
    }
}

impl Container {
    /// The process a command is about.
    pub(crate) fn process(&self, exec: Option<&ExecId>) -> Result<&Process> {
        match exec {
            None => Ok(&self.init),
            Some(exec) => Ok(&self.execs.get(exec).ok_or_else(|| self.no_exec(exec))?.process),
        }
    }

    /// The same, to change it.
    pub(crate) fn process_mut(&mut self, exec: Option<&ExecId>) -> Result<&mut Process> {
        match exec {
            None => Ok(&mut self.init),
            Some(exec) if !self.execs.contains_key(exec) => Err(self.no_exec(exec)),
            Some(exec) => match self.execs.get_mut(exec) {
                Some(entry) => Ok(&mut entry.process),
                None => Err(Error::NotFound(self.id.clone())),
            },
        }
    }

    fn no_exec(&self, exec: &ExecId) -> Error {
        Error::ExecNotFound(self.id.clone(), exec.clone())
    }

    pub(crate) fn status(&self, exec: Option<&ExecId>) -> Result<Status> {
        let process = self.process(exec)?;
        Ok(Status {
            bundle: self.bundle.clone(),
            pid: process.pid,
            state: process.state,
            paused: matches!(self.init.state, State::Paused),
            pausing: self.pausing.is_some(),
            stdio: process.stdio.clone(),
        })
    }

    /// Whether the end of an exec is still to be told, so that the end of the init must not be told yet.
    pub(crate) fn has_live_execs(&self) -> bool {
        self.execs.values().map(|exec| &exec.process).any(|exec| {
            let runs =
                matches!(exec.state, State::Creating | State::Starting | State::Running | State::Paused);
            runs || exec.untold_exit.is_some()
        })
    }

    pub(crate) fn denied(&self, denied: state::Denied) -> Error {
        Error::Denied { id: self.id.clone(), denied }
    }

    pub(crate) fn cgroup(&self) -> Result<&Rc<Cgroup>> {
        self.held.cgroup.as_ref().ok_or_else(|| Error::NotFound(self.id.clone()))
    }

    /// Keeps the name and what to run; no process yet.
    pub(crate) fn register(&mut self, exec: command::Exec) -> Result<()> {
        self.init.state.allows(Request::Exec).map_err(|denied| self.denied(denied))?;
        if self.execs.contains_key(&exec.exec) {
            return Err(Error::ExecExists(exec.id, exec.exec));
        }
        let process = Process::new(State::Created, exec.stdio);
        self.execs.insert(exec.exec, Exec { wanted: exec.process, process });
        Ok(())
    }
}
