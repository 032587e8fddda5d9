//! One watcher for each process, from its birth to its end.
//!
//! Owns the [`Newborn`] and then its pidfd; nothing else waits for the process (architecture, decision 6). It
//! tells the mailbox of the birth, the start and the end in this order, because it learns them in this order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use dunnage_cgroup::UnitStart;
use dunnage_init::{Created, Newborn};
use dunnage_sys::pidfd;
use dunnage_sys::ready::{self, AsyncFd, Interest};
use tokio::sync::oneshot;

use crate::command::Target;
use crate::mailbox::{Mailbox, Notice, tell};
use crate::state::Exit;

/// How long systemd may take for a unit; runc waits as long.
const UNIT_PATIENCE: Duration = Duration::from_secs(30);

/// Watches `newborn` until it has ended. Sending on `gate` starts it; before that, its unit has to be made.
pub(crate) fn process(
    newborn: Newborn,
    unit: Option<UnitStart>,
    target: Target,
    gate: oneshot::Receiver<()>,
    mailbox: Mailbox,
) {
    tokio::task::spawn_local(async move {
        let tell = |notice| tell(&mailbox, &target, notice);
        if let Some(pidfd) = raise(newborn, unit, gate, &tell).await {
            tell(Notice::Exited(reap(&pidfd).await));
        }
    });
}

/// Watches for out-of-memory kills until the watch is gone.
pub(crate) fn oom(
    watch: dunnage_cgroup::OomWatch,
    target: Target,
    mailbox: Mailbox,
) -> tokio::task::AbortHandle {
    let watching = async move {
        let Ok(ready) = ready::watch(&watch, Interest::READABLE) else { return };
        loop {
            let Ok(mut guard) = ready.readable().await else { return };
            guard.clear_ready();
            // Reading the counter also takes the notice off the descriptor.
            let _ = watch.kills();
            tell(&mailbox, &target, Notice::Oom);
        }
    };
    tokio::task::spawn_local(watching).abort_handle()
}

// Gives the pidfd back while the process lives on; `None` when its end was told already.
async fn raise(
    mut newborn: Newborn,
    unit: Option<UnitStart>,
    gate: oneshot::Receiver<()>,
    tell: &impl Fn(Notice),
) -> Option<OwnedFd> {
    let created = created(&mut newborn).await;
    // Waited for also when the child has failed: nothing can be taken down that systemd is putting up.
    let unit = match unit {
        Some(unit) => running(unit).await,
        None => Ok(()),
    };
    match (created, unit) {
        (Ok(created), Ok(())) => tell(Notice::Born(Ok(created))),
        (Ok(_), Err(error)) => {
            drop(newborn);
            tell(Notice::NoUnit(error));
            return None;
        }
        (Err(error), _) => {
            // Dropped first: by the time the failure is told, the child is gone.
            drop(newborn);
            tell(Notice::Born(Err(error)));
            return None;
        }
    }
    let pidfd = newborn.pidfd();
    tokio::select! {
        exit = reap(&pidfd) => {
            tell(Notice::Exited(exit));
            return None;
        }
        opened = gate => {
            // The driver is gone: so is the container, and dropping the newborn ends it.
            opened.ok()?;
        }
    }
    match started(&mut newborn).await {
        Ok(()) => {
            tell(Notice::Started);
            Some(newborn.release().1)
        }
        Err(error) => {
            drop(newborn);
            let status = not_started_status(&error);
            tell(Notice::NotStarted(error, Exit { status, at: SystemTime::now() }));
            None
        }
    }
}

// What a shell answers: 127 for what is not there, 126 for what cannot be executed.
pub(crate) fn not_started_status(error: &dunnage_init::Error) -> u32 {
    match error.kind() {
        dunnage_init::ErrorKind::NotFound => 127,
        dunnage_init::ErrorKind::PermissionDenied => 126,
        _ => 255,
    }
}

async fn created(newborn: &mut Newborn) -> Result<Created, dunnage_init::Error> {
    let socket = ready_of(newborn.as_fd());
    loop {
        if let Some(created) = newborn.poll_created()? {
            return Ok(created);
        }
        wait(&socket).await;
    }
}

async fn running(mut unit: UnitStart) -> Result<(), dunnage_cgroup::Error> {
    let bus = ready_of(unit.as_fd());
    let running = async {
        while !unit.poll()? {
            wait(&bus).await;
        }
        Ok(())
    };
    match tokio::time::timeout(UNIT_PATIENCE, running).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unit.give_up(UNIT_PATIENCE)),
    }
}

async fn started(newborn: &mut Newborn) -> Result<(), dunnage_init::Error> {
    newborn.start()?;
    let socket = ready_of(newborn.as_fd());
    while !newborn.poll_started()? {
        wait(&socket).await;
    }
    Ok(())
}

async fn reap(pidfd: &impl AsFd) -> Exit {
    let ready = ready_of(pidfd.as_fd());
    loop {
        match pidfd::try_reap(pidfd) {
            Ok(Some(exit)) => {
                let status = u32::try_from(exit.code()).unwrap_or(255);
                return Exit { status, at: SystemTime::now() };
            }
            // ECHILD: somebody else reaped it. Nobody does, but an unknown exit must not become a hang.
            Err(_) => return Exit { status: 255, at: SystemTime::now() },
            Ok(None) => wait(&ready).await,
        }
    }
}

type Ready = Option<AsyncFd<OwnedFd>>;

fn ready_of(fd: BorrowedFd<'_>) -> Ready {
    ready::watch(fd, Interest::READABLE).ok()
}

// Without a descriptor to wait on (descriptors are exhausted) it looks again every few milliseconds.
async fn wait(ready: &Ready) {
    match ready {
        Some(fd) => {
            if let Ok(mut guard) = fd.readable().await {
                guard.clear_ready();
            }
        }
        None => tokio::time::sleep(Duration::from_millis(5)).await,
    }
}
