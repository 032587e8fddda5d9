//! The sandbox's one mailbox: what goes into it, and the handle that asks through it.
//!
//! A command is answered through a channel of its own. A caller that goes away loses the answer, never the
//! work.

use dunnage_init::Created;
use dunnage_spec::ContainerId;
use tokio::sync::{mpsc, oneshot};

use crate::command::{Command, Reply, Target};
use crate::error::{Error, Result};
use crate::state::Exit;
use crate::teardown::Outcome;

/// What the mailbox takes.
#[derive(Debug)]
pub(crate) enum Message {
    /// Somebody asks.
    Command(Command),
    /// A watcher tells.
    Notice(Target, Notice),
    /// A child of this process has ended, perhaps an orphan.
    Orphans,
    /// A container is taken down.
    TornDown(ContainerId, Outcome),
}

/// How a birth went.
pub(crate) type Born = std::result::Result<Created, dunnage_init::Error>;

/// What a watcher tells.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The child reached its gate, or could not.
    Born(Born),
    /// systemd has not made the unit of the container.
    NoUnit(dunnage_cgroup::Error),
    /// `execve` succeeded.
    Started,
    /// It did not.
    NotStarted(dunnage_init::Error, Exit),
    /// The process ended.
    Exited(Exit),
    /// Its last output was read, or waited for long enough.
    OutputRead,
    /// Something in the container was killed for its memory limit.
    Oom,
    /// The freezer has stopped every process, or could not.
    Frozen(Result<()>),
}

/// The way into a mailbox for those who must not keep its driver alive.
pub(crate) type Mailbox = mpsc::WeakUnboundedSender<Message>;

/// Tells the mailbox, if anybody still reads it.
pub(crate) fn tell(mailbox: &Mailbox, target: &Target, notice: Notice) {
    if let Some(mailbox) = mailbox.upgrade() {
        let _ = mailbox.send(Message::Notice(target.clone(), notice));
    }
}

/// Asks a sandbox; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    mailbox: mpsc::UnboundedSender<Message>,
}

impl Handle {
    pub(crate) fn new(mailbox: mpsc::UnboundedSender<Message>) -> Self {
        Self { mailbox }
    }

    /// Sends the command that `make` builds around a reply channel, and waits for the answer.
    ///
    /// # Errors
    /// What the sandbox answered, or [`Error::Closing`].
    pub async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Command(make(reply))).map_err(|_| Error::Closing)?;
        answer.await.map_err(|_| Error::Closing)?
    }
}
