//! The sandbox's driver: one loop that owns every container and does everything in the order of its mailbox.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;
use std::time::SystemTime;

use dunnage_cgroup::Cgroup;
use dunnage_spec::{ContainerId, ExecId};
use dunnage_sys::pidfd::{self, Signal};
use tokio::sync::mpsc;

use crate::command::{Command, Create, Deleted, Handle, Kill, Member, Reply, Status, Target};
use crate::container::{Container, Process};
use crate::error::{Error, Result};
use crate::event::{Event, EventSink, Stamped};
use crate::exec;
use crate::host::Host;
use crate::state::{self, Effects, Exit, Input, Request, State};
use crate::watch::Notice;
use crate::{create, freeze, teardown, terminal};

const SIGKILL: i32 = Signal::KILL.as_raw();

/// What the mailbox takes.
#[derive(Debug)]
pub(crate) enum Message {
    Command(Command),
    Notice(Target, Notice),
    TornDown(ContainerId, teardown::Outcome),
}

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
    (Handle { mailbox }, tokio::task::spawn_local(driver.run(inbox)))
}

pub(crate) struct Driver {
    pub(crate) host: Host,
    pub(crate) containers: BTreeMap<ContainerId, Container>,
    events: EventSink,
    pub(crate) mailbox: mpsc::WeakUnboundedSender<Message>,
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

    pub(crate) fn emit(&self, event: Event) {
        // A sink that is gone means that the shim is on its way out.
        let _ = self.events.send(Stamped { at: SystemTime::now(), event });
    }

    pub(crate) fn container(&self, id: &ContainerId) -> Result<&Container> {
        self.containers.get(id).ok_or_else(|| Error::NotFound(id.clone()))
    }

    pub(crate) fn container_mut(&mut self, id: &ContainerId) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| Error::NotFound(id.clone()))
    }

    fn create(&mut self, create: Create, reply: Reply<u32>) {
        let Entry::Vacant(place) = self.containers.entry(create.id.clone()) else {
            return answer(reply, Err(Error::Exists(create.id)));
        };
        match create::prepare(&mut self.host, create) {
            Ok((mut container, newborn)) => {
                container.creating = Some(reply);
                let target = Target { id: container.id.clone(), exec: None };
                container.init.watch(newborn, target, self.mailbox.clone());
                place.insert(container);
            }
            Err(failed) => self.undo(*failed, reply),
        }
    }

    // The answer waits until everything that was made is gone again; until then the id is free, since nothing
    // of the container is visible.
    fn undo(&mut self, failed: create::Failed, reply: Reply<u32>) {
        tokio::task::spawn_local(async move {
            let outcome = teardown::take_down(failed.held).await;
            if let Err(error) = outcome {
                tracing::warn!(%error, "create failed and left something behind");
            }
            answer(reply, Err(failed.error));
        });
    }

    fn start(&mut self, target: &Target, reply: Reply<u32>) {
        if let Err((error, reply)) = self.try_start(target, reply) {
            answer(reply, Err(error));
        }
    }

    fn try_start(
        &mut self,
        target: &Target,
        reply: Reply<u32>,
    ) -> std::result::Result<(), (Error, Reply<u32>)> {
        let Some(exec) = &target.exec else { return self.start_init(&target.id, reply) };
        match exec::start(self, &target.id, exec) {
            Ok(()) => self.expect_start(target, reply),
            Err(error) => Err((error, reply)),
        }
    }

    fn start_init(
        &mut self,
        id: &ContainerId,
        reply: Reply<u32>,
    ) -> std::result::Result<(), (Error, Reply<u32>)> {
        let gate = self.container_mut(id).and_then(|container| {
            if container.spec.process.is_none() {
                return Err(Error::NoProcess(id.clone()));
            }
            container.init.apply(Input::Start).map_err(|denied| container.denied(denied))?;
            Ok(container.init.gate.take())
        });
        match gate {
            Ok(gate) => {
                // The watcher is gone only when the process has ended; it told so then.
                let _ = gate.map(|gate| gate.send(()));
                self.expect_start(&Target { id: id.clone(), exec: None }, reply)
            }
            Err(error) => Err((error, reply)),
        }
    }

    fn expect_start(
        &mut self,
        target: &Target,
        reply: Reply<u32>,
    ) -> std::result::Result<(), (Error, Reply<u32>)> {
        let found = self.containers.get_mut(&target.id).map(|c| c.process_mut(target.exec.as_ref()));
        match found {
            Some(Ok(process)) => {
                process.starting = Some(reply);
                Ok(())
            }
            Some(Err(error)) => Err((error, reply)),
            None => Err((Error::NotFound(target.id.clone()), reply)),
        }
    }

    fn wait(&mut self, target: &Target, reply: Reply<Exit>) {
        let Some(container) = self.containers.get_mut(&target.id) else {
            return answer(reply, Err(Error::NotFound(target.id.clone())));
        };
        let told = match &target.exec {
            None => container.told_exit(),
            Some(exec) => container.execs.get(exec).and_then(|exec| exec.process.state.exit()),
        };
        match container.process_mut(target.exec.as_ref()) {
            Ok(process) => process.wait(told, reply),
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn status(&self, target: &Target) -> Result<Status> {
        self.container(&target.id)?.status(target.exec.as_ref())
    }

    fn kill(&self, kill: &Kill) -> Result<()> {
        let Target { id, exec } = &kill.target;
        let container = self.container(id)?;
        let process = container.process(exec.as_ref())?;
        process.state.allows(Request::Kill).map_err(|denied| container.denied(denied))?;
        if exec.is_some() && process.pidfd.is_none() {
            return Err(container.denied(state::Denied::Wrong { verb: "kill", state: "created" }));
        }
        if kill.all && exec.is_none() {
            return self.kill_members(container, kill.signal);
        }
        process.signal(id, kill.signal)?;
        // A frozen v1 cgroup keeps even SIGKILL waiting (cgroup-v1 freezer-subsystem.rst).
        if kill.signal == SIGKILL && matches!(container.init.state, State::Paused) {
            container.cgroup()?.thaw()?;
        }
        Ok(())
    }

    fn kill_members(&self, container: &Container, signal: i32) -> Result<()> {
        let cgroup = container.cgroup()?;
        if signal == SIGKILL {
            return Ok(cgroup.kill()?);
        }
        for pid in cgroup.pids()? {
            signal_member(pid, signal)?;
        }
        Ok(())
    }

    fn pids(&self, id: &ContainerId) -> Result<Vec<Member>> {
        let container = self.container(id)?;
        let mut pids: Vec<u32> =
            container.cgroup()?.pids()?.iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()).collect();
        // containerd takes an empty answer for a leaked shim and forgets the task with its exit code; a task
        // that has ended and is not deleted yet therefore still names its init.
        if pids.is_empty() {
            pids.push(container.init.pid);
        }
        let exec_of = |pid| container.execs.iter().find(|(_, exec)| exec.process.pid == pid);
        Ok(pids
            .into_iter()
            .map(|pid| Member { pid, exec: exec_of(pid).map(|(exec, _)| exec.clone()) })
            .collect())
    }

    fn stats(&self, id: &ContainerId) -> Result<Box<dunnage_cgroup::Stats>> {
        Ok(Box::new(self.container(id)?.cgroup()?.stats()))
    }

    fn update(&self, id: &ContainerId, resources: &dunnage_spec::Resources) -> Result<()> {
        let container = self.container(id)?;
        container.init.state.allows(Request::Update).map_err(|denied| container.denied(denied))?;
        for refused in container.cgroup()?.update(resources)? {
            tracing::warn!(container = %id, %refused, "update");
        }
        Ok(())
    }

    // Freezing takes as long as the processes need to leave the kernel, so it is waited for beside the loop.
    fn pause(&mut self, id: &ContainerId, reply: Reply<()>) {
        match self.try_pause(id) {
            Ok(cgroup) => {
                if let Ok(container) = self.container_mut(id) {
                    container.pausing = Some(reply);
                }
                freeze::watch(cgroup, Target { id: id.clone(), exec: None }, self.mailbox.clone());
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn try_pause(&self, id: &ContainerId) -> Result<Rc<Cgroup>> {
        let container = self.container(id)?;
        // Asked first, so that nothing is frozen that is not in the state for it.
        state::next(container.init.state, Input::Pause).map_err(|denied| container.denied(denied))?;
        if container.pausing.is_some() {
            return Err(container.denied(state::Denied::Wrong { verb: "pause", state: "pausing" }));
        }
        Ok(Rc::clone(container.cgroup()?))
    }

    fn frozen(&mut self, id: &ContainerId, frozen: Result<()>) {
        let Ok(container) = self.container_mut(id) else { return };
        let Some(reply) = container.pausing.take() else { return };
        let paused = frozen.and_then(|()| {
            container.init.apply(Input::Pause).map_err(|denied| container.denied(denied))?;
            Ok(())
        });
        if paused.is_ok() {
            self.emit(Event::Paused { id: id.clone() });
        }
        answer(reply, paused);
    }

    fn resume(&mut self, id: &ContainerId) -> Result<()> {
        let container = self.container_mut(id)?;
        let (running, _) =
            state::next(container.init.state, Input::Resume).map_err(|denied| container.denied(denied))?;
        container.cgroup()?.thaw()?;
        container.init.state = running;
        self.emit(Event::Resumed { id: id.clone() });
        Ok(())
    }

    fn resize(&self, target: &Target, size: dunnage_spec::process::WindowSize) -> Result<()> {
        let process = self.container(&target.id)?.process(target.exec.as_ref())?;
        // Without a terminal there is nothing to resize, and containerd's shims take that silently.
        process.terminal.as_ref().map_or(Ok(()), |terminal| Ok(terminal.resize(size)?))
    }

    fn close_stdin(&mut self, target: &Target) -> Result<()> {
        let process = self.container_mut(&target.id)?.process_mut(target.exec.as_ref())?;
        process.kept.close_stdin();
        if let Some(terminal) = &mut process.terminal {
            terminal.close_input();
        }
        Ok(())
    }

    fn register(&mut self, exec: crate::command::Exec) -> Result<()> {
        let event = Event::ExecAdded { id: exec.id.clone(), exec: exec.exec.clone() };
        exec::register(self.container_mut(&exec.id)?, exec)?;
        self.emit(event);
        Ok(())
    }

    fn delete(&mut self, target: &Target, reply: Reply<Deleted>) {
        match &target.exec {
            Some(exec) => answer(reply, self.delete_exec(&target.id, exec)),
            None => self.delete_container(&target.id, reply),
        }
    }

    fn delete_exec(&mut self, id: &ContainerId, exec: &ExecId) -> Result<Deleted> {
        let container = self.container_mut(id)?;
        let process = container.process(Some(exec))?;
        process.state.allows(Request::Delete).map_err(|denied| container.denied(denied))?;
        let never_ran = Exit { status: 0, at: SystemTime::now() };
        let deleted = Deleted { pid: process.pid, exit: process.state.exit().unwrap_or(never_ran) };
        container.execs.remove(exec);
        Ok(deleted)
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
            // Created: it never ran. Its end comes back through the mailbox and goes on with the removal.
            drop(container.init.signal(id, SIGKILL));
        }
        self.take_down_if_over(id);
    }

    // Removal begins once it was asked for and the end was told.
    fn take_down_if_over(&mut self, id: &ContainerId) {
        let Some(mailbox) = self.mailbox.upgrade() else { return };
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.deleting.is_none() || container.told_exit().is_none() {
            return;
        }
        let terminals = terminal::drain(&mut container.init);
        container.execs.clear();
        let held = std::mem::take(&mut container.held);
        let id = id.clone();
        tokio::task::spawn_local(async move {
            terminals.await;
            let outcome = teardown::take_down(held).await;
            // The driver outlives its containers; if it is gone all the same, nobody waits for the answer.
            let _ = mailbox.send(Message::TornDown(id, outcome));
        });
    }

    fn torn_down(&mut self, id: &ContainerId, outcome: teardown::Outcome) {
        let Some(mut container) = self.containers.remove(id) else { return };
        if let Err(error) = outcome {
            tracing::error!(container = %id, %error, "delete left something behind");
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
            tokio::time::sleep(std::time::Duration::from_secs(3)).await;
            let (reply, _) = tokio::sync::oneshot::channel();
            let _ = mailbox.send(Message::Command(Command::Shutdown(reply)));
        });
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
            Notice::Started => self.moved(target, Input::Started, None),
            Notice::NotStarted(error, exit) => self.moved(target, Input::NotStarted(exit), Some(error)),
            Notice::Exited(exit) => self.moved(target, Input::Exit(exit), None),
            Notice::Oom => self.tell_oom(&target.id),
            Notice::Frozen(frozen) => self.frozen(&target.id, frozen),
        }
    }

    fn born(
        &mut self,
        target: &Target,
        born: std::result::Result<dunnage_init::Created, dunnage_init::Error>,
    ) {
        match (&target.exec, born) {
            (Some(exec), born) => exec::born(self, &target.id, exec, born),
            (None, Ok(created)) => self.init_born(&target.id, created),
            (None, Err(source)) => {
                let Some(mut container) = self.containers.remove(&target.id) else { return };
                let Some(reply) = container.creating.take() else { return };
                let error = Error::Birth { verb: "create", source };
                let held = std::mem::take(&mut container.held);
                self.undo(create::Failed { error, held }, reply);
            }
        }
    }

    fn init_born(&mut self, id: &ContainerId, created: dunnage_init::Created) {
        let mailbox = self.mailbox.clone();
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(reply) = container.creating.take() else { return };
        if let Err(error) = create::complete(container, created, mailbox) {
            let Some(mut container) = self.containers.remove(id) else { return };
            let held = std::mem::take(&mut container.held);
            return self.undo(create::Failed { error, held }, reply);
        }
        let event = Event::Created {
            id: id.clone(),
            bundle: container.bundle.clone(),
            rootfs: container.rootfs.clone(),
            stdio: container.init.stdio.clone(),
            pid: container.init.pid,
        };
        let pid = container.init.pid;
        self.emit(event);
        answer(reply, Ok(pid));
    }

    /// What follows from something that happened to a process.
    pub(crate) fn moved(&mut self, target: &Target, input: Input, not_started: Option<dunnage_init::Error>) {
        let Some(container) = self.containers.get_mut(&target.id) else { return };
        let Ok(process) = container.process_mut(target.exec.as_ref()) else { return };
        // Whatever the kernel reports fits every state.
        let Ok(effects) = process.apply(input) else { return };
        let starting = process.starting.take_if(|_| effects.publish_start || effects.ended.is_some());
        let pid = process.pid;
        if effects.publish_start {
            self.emit(started(target, pid));
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
        match &target.exec {
            Some(_) => {
                self.tell_exec_exit(target, exit);
                self.exec_over(target);
            }
            None => self.init_over(&target.id, exit, effects.thaw),
        }
    }

    fn tell_exec_exit(&mut self, target: &Target, exit: Exit) {
        self.tell_oom(&target.id);
        let Some(container) = self.containers.get_mut(&target.id) else { return };
        let Ok(process) = container.process_mut(target.exec.as_ref()) else { return };
        let pid = process.pid;
        process.tell_waiters(exit);
        self.emit(Event::Exited { id: target.id.clone(), exec: target.exec.clone(), pid, exit });
    }

    fn exec_over(&mut self, target: &Target) {
        if let Some(container) = self.containers.get_mut(&target.id)
            && let Ok(process) = container.process_mut(target.exec.as_ref())
            && let Some(exit) = process.state.exit()
        {
            process.tell_waiters(exit);
        }
        self.tell_init_exit(&target.id);
    }

    fn init_over(&mut self, id: &ContainerId, exit: Exit, thaw: bool) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.untold_exit = Some(exit);
        if let Some(cgroup) = &container.held.cgroup {
            let thawed = if thaw { cgroup.thaw() } else { Ok(()) };
            // In a pid namespace of its own the kernel kills the rest; in a shared one nobody else does
            // (containerd/containerd#10589).
            let own = matches!(container.spec.namespaces.pid, dunnage_spec::Namespace::New);
            let killed = if own { Ok(()) } else { cgroup.kill() };
            for error in [thawed.err(), killed.err()].into_iter().flatten() {
                tracing::warn!(container = %id, %error, "end of the container");
            }
        }
        self.tell_init_exit(id);
    }

    // Once no exec runs any more: clients stop listening after the end of the init.
    fn tell_init_exit(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.has_live_execs() {
            return;
        }
        let Some(exit) = container.untold_exit.take() else { return };
        self.tell_oom(id);
        let Some(container) = self.containers.get_mut(id) else { return };
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

    fn tell_oom(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(cgroup) = &container.held.cgroup else { return };
        let kills = cgroup.oom_kills();
        if kills > container.oom_kills {
            container.oom_kills = kills;
            self.emit(Event::Oom { id: id.clone() });
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("containers", &self.containers.keys()).finish_non_exhaustive()
    }
}

impl Process {
    /// Keeps what is needed to reach the child, and hands it to its watcher.
    pub(crate) fn watch(
        &mut self,
        newborn: dunnage_init::Newborn,
        target: Target,
        mailbox: mpsc::WeakUnboundedSender<Message>,
    ) {
        let (gate, opened) = tokio::sync::oneshot::channel();
        self.gate = Some(gate);
        self.pid = newborn.pid().as_raw_nonzero().get().unsigned_abs();
        self.pidfd = newborn.pidfd().try_clone_to_owned().ok().map(Rc::new);
        crate::watch::process(newborn, target, opened, mailbox);
    }
}

fn started(target: &Target, pid: u32) -> Event {
    match &target.exec {
        None => Event::Started { id: target.id.clone(), pid },
        Some(exec) => Event::ExecStarted { id: target.id.clone(), exec: exec.clone(), pid },
    }
}

// A member may end between the listing and the signal: it wanted nothing more then.
fn signal_member(pid: pidfd::Pid, signal: i32) -> Result<()> {
    use dunnage_sys::{Call, Errno};
    let known =
        pidfd::signal(signal).ok_or(Errno::INVAL).call(|| format!("send signal {signal} to {pid}"))?;
    let sent = pidfd::open(pid).and_then(|pidfd| {
        pidfd::send_signal(&pidfd, known).call(|| format!("send signal {signal} to {pid}"))
    });
    match sent {
        Err(error) if error.errno() == Errno::SRCH => Ok(()),
        sent => Ok(sent?),
    }
}

/// Answers, unless the caller has left.
pub(crate) fn answer<T>(reply: Reply<T>, result: Result<T>) {
    drop(reply.send(result));
}
