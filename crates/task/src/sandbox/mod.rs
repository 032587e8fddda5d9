//! The sandbox's driver: one loop that owns every container and does everything in the order of its mailbox.
//!
//! The verbs are apart by meaning: what begins ([`begin`], [`exec`]), what is asked of what runs
//! ([`control`]), and what ends ([`end`]).

mod begin;
mod control;
mod end;
mod exec;

use std::collections::BTreeMap;
use std::time::SystemTime;

use dunnage_spec::ContainerId;
use tokio::sync::mpsc;

use crate::command::{Command, Reply, Target};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::event::{Event, EventSink, Stamped};
use crate::host::Host;
use crate::mailbox::{Handle, Message, Notice};
use crate::state::Input;

/// Starts the driver on the current `LocalSet`. It ends after [`Command::Shutdown`] of an empty sandbox, or
/// when the last [`Handle`] is gone; the returned task ends with it.
pub fn spawn(host: Host, events: EventSink) -> (Handle, tokio::task::JoinHandle<()>) {
    let (mailbox, inbox) = mpsc::unbounded_channel();
    let driver = Driver {
        host,
        containers: BTreeMap::new(),
        events,
        mailbox: mailbox.downgrade(),
        leave_when_empty: false,
    };
    (Handle::new(mailbox), tokio::task::spawn_local(driver.run(inbox)))
}

struct Driver {
    host: Host,
    containers: BTreeMap<ContainerId, Container>,
    events: EventSink,
    mailbox: mpsc::WeakUnboundedSender<Message>,
    // containerd asks the shim to leave when it removes the pod's first container; if others remain then
    // (only after errors), the answer is to leave with the last of them, or nobody would ever ask again.
    leave_when_empty: bool,
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>) {
        while let Some(message) = inbox.recv().await {
            match message {
                Message::Command(Command::Shutdown(reply)) => {
                    if self.shutdown(reply) {
                        return;
                    }
                }
                Message::Command(command) => self.command(command),
                Message::Notice(target, notice) => self.notice(&target, notice),
                Message::Orphans => self.bury_orphans(),
                Message::TornDown(id, outcome) => self.torn_down(&id, outcome),
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Create(create, reply) => self.create(*create, reply),
            Command::Start(target, reply) => self.start(&target, reply),
            Command::Delete(target, reply) => self.delete(&target, reply),
            Command::Wait(target, reply) => self.wait(&target, reply),
            Command::Exec(exec, reply) => answer(reply, self.register(*exec)),
            Command::Kill(kill, reply) => answer(reply, self.kill(&kill)),
            Command::Status(target, reply) => answer(reply, self.status(&target)),
            Command::InitPid(id, reply) => {
                answer(reply, Ok(self.containers.get(&id).map_or(0, |container| container.init.pid)));
            }
            Command::Pids(id, reply) => answer(reply, self.pids(&id)),
            Command::Stats(id, reply) => answer(reply, self.stats(&id)),
            Command::Update(id, resources, reply) => answer(reply, self.update(&id, &resources)),
            Command::Pause(id, reply) => self.pause(&id, reply),
            Command::Resume(id, reply) => answer(reply, self.resume(&id)),
            Command::Resize(target, size, reply) => answer(reply, self.resize(&target, size)),
            Command::CloseStdin(target, reply) => answer(reply, self.close_stdin(&target)),
            Command::Shutdown(reply) => drop(self.shutdown(reply)),
        }
    }

    fn emit(&self, event: Event) {
        // A sink that is gone means that the shim is on its way out.
        let _ = self.events.send(Stamped { at: SystemTime::now(), event });
    }

    fn container(&self, id: &ContainerId) -> Result<&Container> {
        self.containers.get(id).ok_or_else(|| Error::NotFound(id.clone()))
    }

    fn container_mut(&mut self, id: &ContainerId) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| Error::NotFound(id.clone()))
    }

    fn shutdown(&mut self, reply: Reply<bool>) -> bool {
        let empty = self.containers.is_empty();
        self.leave_when_empty = !empty;
        answer(reply, Ok(empty));
        empty
    }

    fn notice(&mut self, target: &Target, notice: Notice) {
        match notice {
            Notice::Born(born) => self.born(target, born),
            Notice::NoUnit(error) => self.unborn(&target.id, error.into()),
            Notice::Started => self.moved(target, Input::Started, None),
            Notice::NotStarted(error, exit) => self.moved(target, Input::NotStarted(exit), Some(error)),
            Notice::Exited(exit) => self.moved(target, Input::Exit(exit), None),
            Notice::OutputRead => self.output_read(target),
            Notice::Oom => self.tell_oom(&target.id),
            Notice::Frozen(frozen) => self.frozen(&target.id, frozen),
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("containers", &self.containers.keys()).finish_non_exhaustive()
    }
}

/// Answers, unless the caller has left.
fn answer<T>(reply: Reply<T>, result: Result<T>) {
    drop(reply.send(result));
}
