//! The endpoint that takes the shim's events, and what they tell: who was killed for memory before it ended.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use dunnage_api::events::{EventsServer, EventsService, ForwardRequest, TaskExit, TaskOom};
use dunnage_api::{Status, any, ttrpc};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What has been reported of the containers.
#[derive(Debug, Default)]
pub(crate) struct Events {
    seen: RefCell<HashMap<String, Seen>>,
    news: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    out_of_memory: bool,
    exited: bool,
}

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Endpoint(AbortHandle);

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Events {
    /// Serves on a new socket at `path`.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub(crate) fn serve(self: &Rc<Self>, path: &Path) -> anyhow::Result<Endpoint> {
        let listener = UnixListener::bind(path).with_context(|| format!("bind {}", path.display()))?;
        let server = ttrpc::Server::new().with(EventsServer::new(Rc::clone(self)));
        let task = tokio::task::spawn_local(server.serve(listener, std::future::pending()));
        Ok(Endpoint(task.abort_handle()))
    }

    /// Whether the container, which has ended, was killed for memory. Events come by another way than the
    /// answer to `Wait`, but an OOM is reported before the exit, so the exit is waited for, within `patience`.
    pub(crate) async fn was_out_of_memory(&self, id: &str, patience: Duration) -> bool {
        let exited = async {
            loop {
                let news = self.news.notified();
                if self.seen(id).exited {
                    return;
                }
                news.await;
            }
        };
        let _ = tokio::time::timeout(patience, exited).await;
        self.seen(id).out_of_memory
    }

    fn seen(&self, id: &str) -> Seen {
        self.seen.borrow().get(id).copied().unwrap_or_default()
    }

    fn note(&self, id: String, change: impl FnOnce(&mut Seen)) {
        change(self.seen.borrow_mut().entry(id).or_default());
        self.news.notify_waiters();
    }
}

impl EventsService for Events {
    async fn forward(&self, request: ForwardRequest) -> Result<(), Status> {
        let Some(event) = request.envelope.and_then(|envelope| envelope.event) else {
            return Err(Status::invalid_argument("an envelope without an event"));
        };
        let malformed = |error: prost::DecodeError| Status::invalid_argument(error.to_string());
        if let Some(oom) = any::unpack::<TaskOom>(&event).map_err(malformed)? {
            self.note(oom.container_id, |seen| seen.out_of_memory = true);
        } else if let Some(exit) = any::unpack::<TaskExit>(&event).map_err(malformed)? {
            // Execs end under ids of their own.
            if exit.id == exit.container_id {
                self.note(exit.container_id, |seen| seen.exited = true);
            }
        }
        Ok(())
    }
}
