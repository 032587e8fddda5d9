//! Processes executed in a container that runs: registered by one command, made by the next.

use std::os::fd::AsFd;
use std::time::SystemTime;

use dunnage_plan::RootfsFacts;
use dunnage_spec::{ContainerId, ExecId};

use super::Driver;
use crate::command::Target;
use crate::create::birth;
use crate::error::{Error, Result};
use crate::host::home;
use crate::mailbox::Born;
use crate::state::{Exit, Input, State};
use crate::stdio;
use crate::watch::not_started_status;

impl Driver {
    /// Makes the process; the answer to the start waits for `execve`.
    pub(super) fn start_exec(&mut self, id: &ContainerId, exec: &ExecId) -> Result<()> {
        let Self { host, containers, mailbox, .. } = self;
        let container = containers.get_mut(id).ok_or_else(|| Error::NotFound(id.clone()))?;
        // From the moment the init was reaped, even while others still see it as running.
        if !matches!(container.init.state, State::Running) {
            return Err(Error::InitGone(id.clone()));
        }
        let entry = container.execs.get_mut(exec);
        let entry = entry.ok_or_else(|| Error::ExecNotFound(id.clone(), exec.clone()))?;
        entry.process.apply(Input::Start).map_err(|denied| Error::Denied { id: id.clone(), denied })?;
        let cgroup = container.held.cgroup.as_ref().ok_or_else(|| Error::NotFound(id.clone()))?;
        let pidfd = container.init.pidfd.as_ref().ok_or_else(|| Error::InitGone(id.clone()))?;
        let facts = RootfsFacts {
            home: home(&container.spec.root.path, &entry.wanted),
            cgroups: Vec::new(),
            keyring: (!container.no_new_keyring).then(|| format!("_ses.{id}")),
        };
        let made =
            dunnage_plan::lower_exec(&entry.wanted, &container.spec, &host.facts, &facts, &mut host.filters)
                .map_err(Error::from)
                .and_then(|plan| {
                    let (ends, kept) = stdio::open(&entry.process.stdio)?;
                    Ok((birth(&plan, &ends, cgroup, Some(pidfd.as_fd()))?, kept))
                });
        match made {
            Ok((newborn, kept)) => {
                entry.process.kept = kept;
                let target = Target { id: id.clone(), exec: Some(exec.clone()) };
                entry.process.watch(newborn, None, target, mailbox.clone());
                Ok(())
            }
            Err(error) => {
                let exit = Exit { status: 255, at: SystemTime::now() };
                // Always fits: the state is Starting.
                let _ = entry.process.apply(Input::NotStarted(exit));
                Err(error)
            }
        }
    }

    /// The child stands at its gate: nobody asked it to wait there.
    pub(super) fn exec_born(&mut self, id: &ContainerId, exec: &ExecId, born: Born) {
        let target = Target { id: id.clone(), exec: Some(exec.clone()) };
        let Some(process) = self.containers.get_mut(id).and_then(|container| container.execs.get_mut(exec))
        else {
            return;
        };
        let process = &mut process.process;
        let attached = born.map(|created| created.terminal.map_or(Ok(()), |master| process.attach(master)));
        match attached {
            Ok(Ok(())) => {
                // The watcher is there until the process has ended.
                let _ = process.gate.take().map(|gate| gate.send(()));
            }
            Ok(Err(error)) => {
                tracing::error!(container = %id, exec = %exec, %error, "terminal");
                // Dropping the gate ends the process; its end comes back through the mailbox.
                process.gate = None;
            }
            Err(error) => {
                let exit = Exit { status: not_started_status(&error), at: SystemTime::now() };
                self.moved(&target, Input::NotStarted(exit), Some(error));
            }
        }
    }
}
