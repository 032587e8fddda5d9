//! What a process wrote last: its exit is told once that was read.
//!
//! Owns the ends of a process's output between its exit and its removal. Two things go wrong without: containerd
//! 1.6 closes its reading ends as soon as it hears of an exit, read or not (a runtime that takes tens of
//! milliseconds to answer the kill that comes before hides that), and containerd's clients open theirs in the
//! background, so that a quick process can be over before anybody reads. Leaves the ends of a process that runs
//! to [`crate::stdio`], and the relay of a terminal to [`crate::terminal`].

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::stdio::{LeftFifo, OutputFifo};

/// How long an exit is kept back for a reader that is slow or has not come yet.
const PATIENCE: Duration = Duration::from_secs(1);

// The kernel tells nobody that a fifo was emptied or opened, so it is looked at: soon at first, since a reader
// is usually just waking up, and seldom when it may be a restart of containerd that is waited for.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The fifos of a process that has ended, held until they were read. Dropping it lets go of them.
#[derive(Debug)]
pub(crate) struct LastOutput(AbortHandle);

impl Drop for LastOutput {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes the fifos over from a process that has ended. `None` when all was read, so that the exit can be told
/// now; otherwise `tell` is called when it can. `relay` is that of the terminal, which may still write.
pub(crate) fn hold(
    fifos: Vec<OutputFifo>,
    relay: Option<AbortHandle>,
    tell: impl FnOnce() + 'static,
) -> Option<LastOutput> {
    let exit = KeptBack { until: Instant::now() + PATIENCE, tell: Some(tell) };
    let task = match relay.filter(|relay| !relay.is_finished()) {
        Some(relay) => tokio::task::spawn_local(await_relay(relay, fifos, exit)),
        None => {
            let left = leave(fifos);
            if left.is_empty() {
                return None;
            }
            tokio::task::spawn_local(await_readers(left, exit))
        }
    };
    Some(LastOutput(task.abort_handle()))
}

async fn await_relay(relay: AbortHandle, fifos: Vec<OutputFifo>, mut exit: KeptBack<impl FnOnce()>) {
    let mut pause = FIRST_PAUSE;
    while !relay.is_finished() {
        exit.tell_unless(true);
        rest(&mut pause).await;
    }
    // Only now: our reading ends kept EPIPE away from the relay.
    await_readers(leave(fifos), exit).await;
}

async fn await_readers(mut fifos: Vec<LeftFifo>, mut exit: KeptBack<impl FnOnce()>) {
    let mut pause = FIRST_PAUSE;
    loop {
        fifos.retain(|fifo| !fifo.is_over());
        exit.tell_unless(fifos.iter().any(LeftFifo::is_awaited));
        if fifos.is_empty() {
            return;
        }
        rest(&mut pause).await;
    }
}

// A fifo that cannot be opened again is given up: who reads it already has what is in it.
fn leave(fifos: Vec<OutputFifo>) -> Vec<LeftFifo> {
    fifos.into_iter().filter_map(|fifo| fifo.leave().ok()).filter(|fifo| !fifo.is_over()).collect()
}

async fn rest(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

// An exit that is told once, when nothing is awaited any more or patience ends.
struct KeptBack<F> {
    until: Instant,
    tell: Option<F>,
}

impl<F: FnOnce()> KeptBack<F> {
    fn tell_unless(&mut self, awaited: bool) {
        if (!awaited || Instant::now() >= self.until)
            && let Some(tell) = self.tell.take()
        {
            tell();
        }
    }
}
