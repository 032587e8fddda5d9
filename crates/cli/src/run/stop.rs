//! The wish to end, from signals: first politely, then at once.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How much of a hurry there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Run on.
    No,
    /// Ask the containers, and give them their grace period.
    Graceful,
    /// Kill.
    Now,
}

/// Whoever must react to the wish holds one.
#[derive(Debug, Clone)]
pub(crate) struct Stopping(watch::Receiver<Stop>);

/// Listens for signals until dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    wish: watch::Sender<Stop>,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// Takes over the signals that would end this program: the first asks, the second insists. `number` is set
    /// to that of the first.
    ///
    /// # Errors
    /// A handler could not be installed.
    pub(crate) fn install(number: Rc<Cell<Option<i32>>>) -> anyhow::Result<Self> {
        let catch = |kind: SignalKind| signal(kind).context("install a signal handler");
        let signals = Signals {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
            quit: catch(SignalKind::quit())?,
        };
        let (wish, _) = watch::channel(Stop::No);
        let task = tokio::task::spawn_local(listen(signals, wish.clone(), number));
        Ok(Self { wish, task: task.abort_handle() })
    }

    pub(crate) fn stopping(&self) -> Stopping {
        Stopping(self.wish.subscribe())
    }

    /// Asks from inside, as a signal would.
    pub(crate) fn ask(&self, wish: Stop) {
        raise(&self.wish, wish);
    }
}

fn raise(sender: &watch::Sender<Stop>, wish: Stop) {
    sender.send_if_modified(|current| {
        let more = wish > *current;
        *current = wish.max(*current);
        more
    });
}

/// What people and service managers end a program with, and what a closed terminal sends.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
            _ = self.quit.recv() => SignalKind::quit(),
        }
    }
}

async fn listen(mut signals: Signals, wish: watch::Sender<Stop>, number: Rc<Cell<Option<i32>>>) {
    loop {
        let kind = signals.next().await;
        if number.get().is_none() {
            number.set(Some(kind.as_raw_value()));
        }
        let next = if *wish.borrow() == Stop::No { Stop::Graceful } else { Stop::Now };
        raise(&wish, next);
    }
}

impl Stopping {
    pub(crate) fn now(&self) -> Stop {
        *self.0.borrow()
    }

    /// Returns when the hurry is at least this.
    pub(crate) async fn reached(&self, least: Stop) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|stop| *stop >= least).await.is_err() {
            // Nobody can ask any more.
            std::future::pending::<()>().await;
        }
    }
}
