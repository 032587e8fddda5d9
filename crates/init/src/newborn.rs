//! A child between its clone and its program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use dunnage_plan::step::Program;
use dunnage_plan::{Plan, Step};
use dunnage_sys::pidfd::{self, Pid, Signal};
use dunnage_sys::{Call, Errno, message};

use crate::Error;
use crate::wire::{self, Record};

/// What a created process brings along.
#[derive(Debug, Default)]
pub struct Created {
    /// The master of its terminal, when the plan opens one.
    pub terminal: Option<OwnedFd>,
}

/// A child that executes its plan. Dropping it kills and reaps the child.
#[derive(Debug)]
pub struct Newborn {
    /// `None` once released.
    child: Option<(Pid, OwnedFd)>,
    socket: OwnedFd,
    /// The plan without its secrets, for the words of an error.
    plan: Plan,
    born_in_cgroup: bool,
    awaits_start: bool,
    created: bool,
    terminal: Option<OwnedFd>,
}

/// What the child said.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Created,
    /// End of file: it executes its program, or is dead.
    End,
}

impl Newborn {
    pub(crate) fn new(child: (Pid, OwnedFd), socket: OwnedFd, plan: &Plan, born_in_cgroup: bool) -> Self {
        Self {
            child: Some(child),
            socket,
            plan: without_arguments(plan),
            born_in_cgroup,
            awaits_start: plan.steps.iter().any(|planned| planned.step == Step::AwaitStart),
            created: false,
            terminal: None,
        }
    }

    fn child(&self) -> &(Pid, OwnedFd) {
        self.child.as_ref().expect("only `release` takes the child, and it takes `self`")
    }

    /// In the pid namespace of the parent.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.child().0
    }

    /// Opened by the clone itself; readable when the process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child().1.as_fd()
    }

    /// Whether the clone put it into [`crate::Birth::clone_into`]. If not, it moved itself there, which waits
    /// for an RCU grace period: the kernel is older than 5.7, or the state of the cgroup did not allow it.
    #[must_use]
    pub fn born_in_cgroup(&self) -> bool {
        self.born_in_cgroup
    }

    /// Whether the child is created; does not block. `None`: not yet.
    ///
    /// # Errors
    /// The step that failed, or how the child died.
    pub fn poll_created(&mut self) -> Result<Option<Created>, Error> {
        if !self.created {
            match self.news()? {
                None => return Ok(None),
                Some(News::Created) => self.created = true,
                Some(News::End) => return Err(self.death()),
            }
        }
        Ok(Some(Created { terminal: self.terminal.take() }))
    }

    /// Opens the gate: the child executes its program. Does nothing when it does not wait for that.
    ///
    /// # Errors
    /// The step that failed, or how the child died.
    pub fn start(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.awaits_start) { self.go() } else { Ok(()) }
    }

    /// Whether `execve` succeeded; does not block. `false`: not yet.
    ///
    /// # Errors
    /// As [`Self::poll_created`].
    pub fn poll_started(&mut self) -> Result<bool, Error> {
        loop {
            match self.news()? {
                None => return Ok(false),
                Some(News::Created) => self.created = true,
                // Whatever ends it from now on, the pidfd tells.
                Some(News::End) if pidfd::has_executed(self.pid()).unwrap_or(false) => return Ok(true),
                Some(News::End) => return Err(self.death()),
            }
        }
    }

    /// [`Self::poll_created`], waiting.
    ///
    /// # Errors
    /// Also when `timeout` has passed.
    pub fn wait_created(&mut self, timeout: Duration) -> Result<Created, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.poll_created()? {
                Some(created) => return Ok(created),
                None => self.await_news(deadline, "created")?,
            }
        }
    }

    /// [`Self::poll_started`], waiting.
    ///
    /// # Errors
    /// Also when `timeout` has passed.
    pub fn wait_started(&mut self, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        while !self.poll_started()? {
            self.await_news(deadline, "started")?;
        }
        Ok(())
    }

    /// Hands the running process over, once it is started.
    #[must_use]
    pub fn release(mut self) -> (Pid, OwnedFd) {
        self.child.take().expect("only `release` takes the child, and it takes `self`")
    }

    fn await_news(&self, deadline: Instant, state: &str) -> Result<(), Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        if message::await_readable(&self.socket, left).call(|| "poll the socket of the child")? {
            Ok(())
        } else {
            Err(Error::late(state))
        }
    }

    fn go(&mut self) -> Result<(), Error> {
        match message::send(&self.socket, &[wire::GO]) {
            Ok(()) => Ok(()),
            // It is dead, and has perhaps said why.
            Err(Errno::PIPE | Errno::CONNRESET) => {
                while self.news()?.is_some_and(|news| news != News::End) {}
                Err(self.death())
            }
            Err(errno) => Ok(Err(errno).call(|| "send to the child")?),
        }
    }

    /// The next thing that changes anything; `None` when there is nothing yet.
    fn news(&mut self) -> Result<Option<News>, Error> {
        let mut buffer = [0; wire::LONGEST];
        loop {
            let (length, descriptor) = match message::receive(&self.socket, &mut buffer) {
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => (0, None),
                Err(errno) => return Ok(Err(errno).call(|| "receive from the child")?),
            };
            match buffer.get(..length) {
                None | Some([]) => return Ok(Some(News::End)),
                Some([wire::CREATED]) => return Ok(Some(News::Created)),
                // The kernel drops a descriptor for which there is no room.
                Some([wire::TERMINAL]) if descriptor.is_none() => {
                    return Ok(Err(Errno::MFILE).call(|| "receive the terminal of the child")?);
                }
                Some([wire::TERMINAL]) => self.terminal = descriptor,
                Some(message) => return Err(self.failure(message)),
            }
        }
    }

    fn failure(&self, message: &[u8]) -> Error {
        match Record::decode(message) {
            Some(record) => Error::from_record(&record, &self.plan, self.pid()),
            None => Error::strange(message),
        }
    }

    /// Nothing more will come from the child: it is dying or dead.
    fn death(&self) -> Error {
        Error::death(pidfd::await_exit(self.pidfd()).ok(), self.created)
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some((_, pidfd)) = &self.child {
            // Both fail only when somebody else has ended and reaped it.
            let _ = pidfd::send_signal(pidfd, Signal::KILL);
            let _ = pidfd::reap(pidfd);
        }
    }
}

/// The socket to the child: readable when a `poll_*` has news.
impl AsFd for Newborn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The environment holds secrets, and can be long.
fn without_arguments(plan: &Plan) -> Plan {
    let program = plan.program.as_ref().map(|program| Program {
        name: program.name.clone(),
        candidates: program.candidates.clone(),
        args: Vec::new(),
        env: Vec::new(),
    });
    Plan {
        new_namespaces: plan.new_namespaces.clone(),
        pid_namespace: plan.pid_namespace,
        slots: plan.slots.clone(),
        steps: plan.steps.clone(),
        program,
    }
}
