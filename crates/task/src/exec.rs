//! Processes executed in a container that runs: registered by one command, made by the next.

use dunnage_init::Created;
use dunnage_plan::RootfsFacts;
use dunnage_spec::{ContainerId, ExecId};
use std::os::fd::AsFd;

use crate::command::{self, Target};
use crate::container::{Container, Exec, Process};
use crate::create::birth;
use crate::error::{Error, Result};
use crate::host::home;
use crate::sandbox::Driver;
use crate::state::{Exit, Input, Request, State};
use crate::stdio;
use crate::terminal::Terminal;

/// Keeps the name and what to run; no process yet.
pub(crate) fn register(container: &mut Container, exec: command::Exec) -> Result<()> {
    container.init.state.allows(Request::Exec).map_err(|denied| container.denied(denied))?;
    if container.execs.contains_key(&exec.exec) {
        return Err(Error::ExecExists(exec.id, exec.exec));
    }
    let process = Process::new(State::Created, exec.stdio);
    container.execs.insert(exec.exec, Exec { wanted: exec.process, process });
    Ok(())
}

/// Makes the process; the answer to the start waits for `execve`.
pub(crate) fn start(driver: &mut Driver, id: &ContainerId, exec: &ExecId) -> Result<()> {
    let Driver { host, containers, mailbox, .. } = driver;
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
            entry.process.watch(newborn, target, mailbox.clone());
            Ok(())
        }
        Err(error) => {
            let exit = Exit { status: 255, at: std::time::SystemTime::now() };
            // Always fits: the state is Starting.
            let _ = entry.process.apply(Input::NotStarted(exit));
            Err(error)
        }
    }
}

/// The child stands at its gate: nobody asked it to wait there.
pub(crate) fn born(
    driver: &mut Driver,
    id: &ContainerId,
    exec: &ExecId,
    born: std::result::Result<Created, dunnage_init::Error>,
) {
    let target = Target { id: id.clone(), exec: Some(exec.clone()) };
    let Some(process) = driver.containers.get_mut(id).and_then(|container| container.execs.get_mut(exec))
    else {
        return;
    };
    let process = &mut process.process;
    let attached = born
        .map(|created| created.terminal.map(|master| Terminal::attach(master, &process.stdio)).transpose());
    match attached {
        Ok(Ok(terminal)) => {
            process.terminal = terminal;
            // The watcher is there until the process has ended.
            let _ = process.gate.take().map(|gate| gate.send(()));
        }
        Ok(Err(error)) => {
            tracing::error!(container = %id, exec = %exec, %error, "terminal");
            // Dropping the gate ends the process; its end comes back through the mailbox.
            process.gate = None;
        }
        Err(error) => {
            let exit =
                Exit { status: crate::watch::not_started_status(&error), at: std::time::SystemTime::now() };
            driver.moved(&target, Input::NotStarted(exit), Some(error));
        }
    }
}
