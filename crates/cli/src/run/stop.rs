//! The wish to end, from signals: first politely, then at once.

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
    /// Takes over SIGINT and SIGTERM: the first of either asks, the second insists.
    ///
    /// # Errors
    /// A handler could not be installed.
    pub(crate) fn install(number: std::rc::Rc<std::cell::Cell<Option<i32>>>) -> anyhow::Result<Self> {
        let catch = |kind: SignalKind| signal(kind).context("install a signal handler");
        let (interrupt, terminate) = (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?);
        let (wish, _) = watch::channel(Stop::No);
        let task = tokio::task::spawn_local(listen(interrupt, terminate, wish.clone(), number));
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

async fn listen(
    mut interrupt: Signal,
    mut terminate: Signal,
    wish: watch::Sender<Stop>,
    number: std::rc::Rc<std::cell::Cell<Option<i32>>>,
) {
    loop {
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
        };
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
