//! The wish that this process ends, from whoever has it: a signal, or containerd's Shutdown.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

/// Whether the process is to end. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Rc<StopState>);

#[derive(Debug, Default)]
struct StopState {
    requested: Cell<bool>,
    changed: Notify,
}

impl Stop {
    /// Ends the process once calls in progress have ended and the last events are sent.
    pub(crate) fn request(&self) {
        self.0.requested.set(true);
        self.0.changed.notify_waiters();
    }

    /// Returns once the process is to end.
    pub(crate) async fn requested(&self) {
        while !self.0.requested.get() {
            self.0.changed.notified().await;
        }
    }

    /// Returns this much later.
    pub(crate) async fn requested_before(&self, time: Duration) {
        self.requested().await;
        tokio::time::sleep(time).await;
    }
}
