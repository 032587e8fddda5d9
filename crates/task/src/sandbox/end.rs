//! What ends: exits are told, in order and once, and what is deleted is taken down.

use std::time::{Duration, SystemTime};

use dunnage_spec::{ContainerId, ExecId, Namespace};
use dunnage_sys::pidfd::Pid;
use dunnage_sys::{heap, process};
use tokio::sync::oneshot;

use super::control::SIGKILL;
use super::{Driver, answer};
use crate::command::{Command, Deleted, Reply, Target};
use crate::container::{Container, Process};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::mailbox::{Message, Notice, tell};
use crate::state::{Effects, Exit, Input, Request};
use crate::{orphan, teardown, terminal};

impl Driver {
    /// What follows from something that happened to a process.
    pub(super) fn moved(&mut self, target: &Target, input: Input, not_started: Option<dunnage_init::Error>) {
        let Some(container) = self.containers.get_mut(&target.id) else { return };
        let Ok(process) = container.process_mut(target.exec.as_ref()) else { return };
        // Whatever the kernel reports fits every state.
        let Ok(effects) = process.apply(input) else { return };
        let starting = process.starting.take_if(|_| effects.publish_start || effects.ended.is_some());
        let pid = process.pid;
        if effects.publish_start {
            self.emit(started(target, pid));
            if target.exec.is_none() {
                // Reading the specification and planning took more than the container needs from now on: a fifth
                // of the shim's own memory.
                heap::trim();
            }
        }
        if let Some(reply) = starting {
            let verb = if target.exec.is_some() { "exec" } else { "start" };
            let answered = match not_started {
                Some(source) => Err(Error::Birth { verb, source }),
                None if effects.publish_start => Ok(pid),
                None => Err(Error::Finished(target.id.clone())),
            };
            let failed_exec = answered.is_err() && target.exec.is_some();
            answer(reply, answered);
            if failed_exec {
                return self.exec_over(target);
            }
        }
        self.ended(target, effects);
    }

    fn ended(&mut self, target: &Target, effects: Effects) {
        let Some(exit) = effects.ended else { return };
        let Some(container) = self.containers.get_mut(&target.id) else { return };
        let Ok(process) = container.process_mut(target.exec.as_ref()) else { return };
        let (mailbox, ended) = (self.mailbox.clone(), target.clone());
        process.over(exit, move || tell(&mailbox, &ended, Notice::OutputRead));
        if target.exec.is_none() {
            init_over(container, effects.thaw);
        }
        self.tell_exit(target);
    }

    pub(super) fn output_read(&mut self, target: &Target) {
        let Some(container) = self.containers.get_mut(&target.id) else { return };
        let Ok(process) = container.process_mut(target.exec.as_ref()) else { return };
        process.unread = false;
        self.tell_exit(target);
    }

    fn tell_exit(&mut self, target: &Target) {
        if let Some(exec) = &target.exec {
            self.tell_exec_exit(&target.id, exec);
        }
        // That of an exec may have been the last thing that the init's waited for.
        self.tell_init_exit(&target.id);
    }

    fn tell_exec_exit(&mut self, id: &ContainerId, exec: &ExecId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Ok(process) = container.process_mut(Some(exec)) else { return };
        let Some(exit) = process.untold_exit.take_if(|_| !process.unread) else { return };
        self.tell_oom(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        let Ok(process) = container.process_mut(Some(exec)) else { return };
        let pid = process.pid;
        process.tell_waiters(exit);
        self.emit(Event::Exited { id: id.clone(), exec: Some(exec.clone()), pid, exit });
    }

    // One that never ran: whoever started it knows, and everybody else hears nothing.
    fn exec_over(&mut self, target: &Target) {
        if let Some(container) = self.containers.get_mut(&target.id)
            && let Ok(process) = container.process_mut(target.exec.as_ref())
            && let Some(exit) = process.state.exit()
        {
            process.tell_waiters(exit);
        }
        self.tell_init_exit(&target.id);
    }

    fn tell_init_exit(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.init.unread || container.has_live_execs() {
            return;
        }
        let Some(exit) = container.init.untold_exit.take() else { return };
        self.tell_oom(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Some(cgroup) = &container.held.cgroup {
            cgroup.keep_counters();
        }
        if let Some(record) = &mut container.held.record
            && let Err(error) = record.set_exit(exit)
        {
            tracing::warn!(container = %id, %error, "end of the container");
        }
        let pid = container.init.pid;
        container.init.tell_waiters(exit);
        self.emit(Event::Exited { id: id.clone(), exec: None, pid, exit });
        self.take_down_if_over(id);
    }

    pub(super) fn tell_oom(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(cgroup) = &container.held.cgroup else { return };
        let kills = cgroup.oom_kills();
        if kills > container.oom_kills {
            container.oom_kills = kills;
            self.emit(Event::Oom { id: id.clone() });
        }
    }

    /// Children that nobody watches were left by a container in the pid namespace of the host.
    pub(super) fn bury_orphans(&self) {
        // Stops at the first one that has a watcher: it is reaped there in a moment, and that is a reason to
        // look again.
        while let Ok(Some(pid)) = process::any_zombie() {
            if self.is_watched(pid) {
                return orphan::look_again(self.mailbox.clone());
            }
            // Nobody else could have waited for it: this is the only thread.
            let _ = process::bury(pid);
        }
    }

    fn is_watched(&self, pid: Pid) -> bool {
        let number = pid.as_raw_nonzero().get().unsigned_abs();
        self.containers.values().any(|container| {
            let execs = container.execs.values().map(|exec| &exec.process);
            execs.chain([&container.init]).any(|process| process.pid == number)
        })
    }

    pub(super) fn delete(&mut self, target: &Target, reply: Reply<Deleted>) {
        match &target.exec {
            Some(exec) => self.delete_exec(&target.id, exec, reply),
            None => self.delete_container(&target.id, reply),
        }
    }

    fn delete_exec(&mut self, id: &ContainerId, exec: &ExecId, reply: Reply<Deleted>) {
        match self.take_exec(id, exec) {
            Ok(process) => {
                let never_ran = Exit { status: 0, at: SystemTime::now() };
                let deleted = Deleted { pid: process.pid, exit: process.state.exit().unwrap_or(never_ran) };
                tokio::task::spawn_local(async move {
                    terminal::drain(process.terminal).await;
                    answer(reply, Ok(deleted));
                });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn take_exec(&mut self, id: &ContainerId, exec: &ExecId) -> Result<Process> {
        let container = self.container_mut(id)?;
        let process = container.process(Some(exec))?;
        process.state.allows(Request::Delete).map_err(|denied| container.denied(denied))?;
        // Who removes it waits for no output any more, but everybody still hears of its end.
        container.process_mut(Some(exec))?.unread = false;
        self.tell_exec_exit(id, exec);
        let taken = self.container_mut(id)?.execs.remove(exec).map(|exec| exec.process);
        self.tell_init_exit(id);
        taken.ok_or_else(|| Error::ExecNotFound(id.clone(), exec.clone()))
    }

    fn delete_container(&mut self, id: &ContainerId, reply: Reply<Deleted>) {
        let Some(container) = self.containers.get_mut(id) else {
            return answer(reply, Err(Error::NotFound(id.clone())));
        };
        if container.deleting.is_some() {
            return answer(reply, Err(Error::NotFound(id.clone())));
        }
        if let Err(denied) = container.init.state.allows(Request::Delete) {
            let error = container.denied(denied);
            return answer(reply, Err(error));
        }
        container.deleting = Some(reply);
        if container.init.state.exit().is_none() {
            // It never ran. Its end comes back through the mailbox and goes on with the removal; that of a birth
            // that was still going on as a failure, since whoever asked for it has left.
            drop(container.init.signal(id, SIGKILL));
        }
        self.take_down_if_over(id);
    }

    // Removal begins once it was asked for and the end was told.
    fn take_down_if_over(&mut self, id: &ContainerId) {
        let Some(mailbox) = self.mailbox.upgrade() else { return };
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.deleting.is_none() || container.init.told_exit().is_none() {
            return;
        }
        let execs = std::mem::take(&mut container.execs).into_values().map(|exec| exec.process.terminal);
        let terminals: Vec<_> = execs.chain([container.init.terminal.take()]).collect();
        let held = std::mem::take(&mut container.held);
        let id = id.clone();
        tokio::task::spawn_local(async move {
            let outcome = teardown::take_down(held).await;
            for terminal in terminals {
                terminal::drain(terminal).await;
            }
            // The driver outlives its containers; if it is gone all the same, nobody waits for the answer.
            let _ = mailbox.send(Message::TornDown(id, outcome));
        });
    }

    pub(super) fn torn_down(&mut self, id: &ContainerId, outcome: teardown::Outcome) {
        let Some(mut container) = self.containers.remove(id) else { return };
        if let Err(error) = outcome {
            tracing::error!(container = %id, %error, "delete left something behind");
        }
        if container.spec.namespaces.pid == Namespace::Host {
            // Those that the removal killed.
            self.bury_orphans();
        }
        let Some(exit) = container.init.state.exit() else { return };
        let pid = container.init.pid;
        self.emit(Event::Deleted { id: id.clone(), pid, exit });
        if let Some(reply) = container.deleting.take() {
            answer(reply, Ok(Deleted { pid, exit }));
        }
        if self.leave_when_empty && self.containers.is_empty() {
            self.leave_soon();
        }
    }

    // Later, because the shutdown that belongs to this very removal is usually on its way.
    fn leave_soon(&self) {
        let Some(mailbox) = self.mailbox.upgrade() else { return };
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let (reply, _) = oneshot::channel();
            let _ = mailbox.send(Message::Command(Command::Shutdown(reply)));
        });
    }
}

fn started(target: &Target, pid: u32) -> Event {
    match &target.exec {
        None => Event::Started { id: target.id.clone(), pid },
        Some(exec) => Event::ExecStarted { id: target.id.clone(), exec: exec.clone(), pid },
    }
}

fn init_over(container: &Container, thaw: bool) {
    let Some(cgroup) = &container.held.cgroup else { return };
    let thawed = if thaw { cgroup.thaw() } else { Ok(()) };
    // In a pid namespace of its own the kernel kills the rest; in a shared one nobody else does
    // (containerd/containerd#10589).
    let own = matches!(container.spec.namespaces.pid, Namespace::New);
    let killed = if own { Ok(()) } else { cgroup.kill() };
    for error in [thawed.err(), killed.err()].into_iter().flatten() {
        tracing::warn!(container = %container.id, %error, "end of the container");
    }
}
