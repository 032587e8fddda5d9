//! What is asked of containers that are there: state, signals, numbers, limits, the freezer, streams.

use std::rc::Rc;

use dunnage_cgroup::Cgroup;
use dunnage_spec::ContainerId;
use dunnage_spec::process::WindowSize;
use dunnage_sys::pidfd::{self, Signal};
use dunnage_sys::{Call, Errno};

use super::{Driver, answer};
use crate::command::{Exec, Kill, Member, Reply, Status, Target};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::freeze;
use crate::state::{self, Exit, Input, Request, State};

/// The one signal that nothing can ignore.
pub(super) const SIGKILL: i32 = Signal::KILL.as_raw();

impl Driver {
    pub(super) fn wait(&mut self, target: &Target, reply: Reply<Exit>) {
        let Some(container) = self.containers.get_mut(&target.id) else {
            return answer(reply, Err(Error::NotFound(target.id.clone())));
        };
        match container.process_mut(target.exec.as_ref()) {
            Ok(process) => process.wait(reply),
            Err(error) => answer(reply, Err(error)),
        }
    }

    pub(super) fn status(&self, target: &Target) -> Result<Status> {
        self.container(&target.id)?.status(target.exec.as_ref())
    }

    pub(super) fn kill(&self, kill: &Kill) -> Result<()> {
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

    pub(super) fn pids(&self, id: &ContainerId) -> Result<Vec<Member>> {
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

    pub(super) fn stats(&self, id: &ContainerId) -> Result<Box<dunnage_cgroup::Stats>> {
        Ok(Box::new(self.container(id)?.cgroup()?.stats()))
    }

    pub(super) fn update(&self, id: &ContainerId, resources: &dunnage_spec::Resources) -> Result<()> {
        let container = self.container(id)?;
        container.init.state.allows(Request::Update).map_err(|denied| container.denied(denied))?;
        for refused in container.cgroup()?.update(resources)? {
            tracing::warn!(container = %id, %refused, "update");
        }
        Ok(())
    }

    // Freezing takes as long as the processes need to leave the kernel, so it is waited for beside the loop.
    pub(super) fn pause(&mut self, id: &ContainerId, reply: Reply<()>) {
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

    pub(super) fn frozen(&mut self, id: &ContainerId, frozen: Result<()>) {
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

    pub(super) fn resume(&mut self, id: &ContainerId) -> Result<()> {
        let container = self.container_mut(id)?;
        let (running, _) =
            state::next(container.init.state, Input::Resume).map_err(|denied| container.denied(denied))?;
        container.cgroup()?.thaw()?;
        container.init.state = running;
        self.emit(Event::Resumed { id: id.clone() });
        Ok(())
    }

    pub(super) fn resize(&self, target: &Target, size: WindowSize) -> Result<()> {
        let process = self.container(&target.id)?.process(target.exec.as_ref())?;
        // Without a terminal there is nothing to resize, and containerd's shims take that silently.
        process.terminal.as_ref().map_or(Ok(()), |terminal| Ok(terminal.resize(size)?))
    }

    pub(super) fn close_stdin(&mut self, target: &Target) -> Result<()> {
        let process = self.container_mut(&target.id)?.process_mut(target.exec.as_ref())?;
        process.kept.close_stdin();
        if let Some(terminal) = &mut process.terminal {
            terminal.close_input();
        }
        Ok(())
    }

    pub(super) fn register(&mut self, exec: Exec) -> Result<()> {
        let event = Event::ExecAdded { id: exec.id.clone(), exec: exec.exec.clone() };
        self.container_mut(&exec.id)?.register(exec)?;
        self.emit(event);
        Ok(())
    }
}

// A member may end between the listing and the signal: it wanted nothing more then.
fn signal_member(pid: pidfd::Pid, signal: i32) -> Result<()> {
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
