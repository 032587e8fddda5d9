//! What begins: containers are created, inits and execs are started.

use std::collections::btree_map::Entry;
use std::rc::Rc;
use std::time::SystemTime;

use dunnage_spec::ContainerId;
use tokio::sync::oneshot;

use super::{Driver, answer};
use crate::command::{Create, Deleted, Reply, Target};
use crate::container::Process;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::mailbox::{Born, Mailbox};
use crate::state::{Exit, Input};
use crate::{create, teardown, watch};

impl Driver {
    pub(super) fn create(&mut self, create: Create, reply: Reply<u32>) {
        let Entry::Vacant(place) = self.containers.entry(create.id.clone()) else {
            return answer(reply, Err(Error::Exists(create.id)));
        };
        match create::prepare(&mut self.host, create) {
            Ok((mut container, newborn, unit)) => {
                container.creating = Some(reply);
                let target = Target { id: container.id.clone(), exec: None };
                container.init.watch(newborn, unit, target, self.mailbox.clone());
                place.insert(container);
            }
            Err(failed) => undo(*failed, reply, None),
        }
    }

    pub(super) fn start(&mut self, target: &Target, reply: Reply<u32>) {
        let begun = match &target.exec {
            None => self.start_init(&target.id),
            Some(exec) => self.start_exec(&target.id, exec),
        };
        let process = begun.and_then(|()| self.container_mut(&target.id)?.process_mut(target.exec.as_ref()));
        match process {
            // Answered once `execve` has succeeded or failed.
            Ok(process) => process.starting = Some(reply),
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn start_init(&mut self, id: &ContainerId) -> Result<()> {
        let container = self.container_mut(id)?;
        if container.spec.process.is_none() {
            return Err(Error::NoProcess(id.clone()));
        }
        container.init.apply(Input::Start).map_err(|denied| container.denied(denied))?;
        // The watcher is gone only when the process has ended, and it tells so.
        let _ = container.init.gate.take().map(|gate| gate.send(()));
        Ok(())
    }

    pub(super) fn born(&mut self, target: &Target, born: Born) {
        match (&target.exec, born) {
            (Some(exec), born) => self.exec_born(&target.id, exec, born),
            (None, Ok(created)) => self.init_born(&target.id, created),
            (None, Err(source)) => self.unborn(&target.id, Error::Birth { verb: "create", source }),
        }
    }

    pub(super) fn unborn(&mut self, id: &ContainerId, error: Error) {
        let Some(mut container) = self.containers.remove(id) else { return };
        let Some(reply) = container.creating.take() else { return };
        let held = std::mem::take(&mut container.held);
        let exit = Exit { status: 137, at: SystemTime::now() };
        let deleted = Deleted { pid: container.init.pid, exit };
        let deleting = container.deleting.take().map(|reply| (reply, deleted));
        undo(create::Failed { error, held }, reply, deleting);
    }

    fn init_born(&mut self, id: &ContainerId, created: dunnage_init::Created) {
        let mailbox = self.mailbox.clone();
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Err(error) = create::complete(container, created, mailbox) {
            return self.unborn(id, error);
        }
        let Some(reply) = container.creating.take() else { return };
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
}

// Whoever asked gets the answer when everything that was made is gone again; the id is free at once, since
// nothing of the container was visible. A removal that was asked for meanwhile is done with that too.
fn undo(failed: create::Failed, reply: Reply<u32>, deleting: Option<(Reply<Deleted>, Deleted)>) {
    tokio::task::spawn_local(async move {
        if let Err(error) = teardown::take_down(failed.held).await {
            tracing::warn!(%error, "create failed and left something behind");
        }
        answer(reply, Err(failed.error));
        if let Some((reply, deleted)) = deleting {
            answer(reply, Ok(deleted));
        }
    });
}

impl Process {
    /// Keeps what is needed to reach the child, and hands it to its watcher.
    pub(super) fn watch(
        &mut self,
        newborn: dunnage_init::Newborn,
        unit: Option<dunnage_cgroup::UnitStart>,
        target: Target,
        mailbox: Mailbox,
    ) {
        let (gate, opened) = oneshot::channel();
        self.gate = Some(gate);
        self.pid = newborn.pid().as_raw_nonzero().get().unsigned_abs();
        self.pidfd = newborn.pidfd().try_clone_to_owned().ok().map(Rc::new);
        watch::process(newborn, unit, target, opened, mailbox);
    }
}
