//! The events endpoint that a shim reports to, played by the test: every event in the order it came.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use async_trait::async_trait;
use containerd_shim_protos::api::{Empty, ForwardRequest};
use containerd_shim_protos::events::task;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim_async::{Events as EventsService, create_events};
use ttrpc::asynchronous::{Server, TtrpcContext};

use crate::wait;

/// An event about a task, without what no test looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields carry the names of containerd's messages")]
pub enum Event {
    /// The task was created.
    Create { id: String, pid: u32 },
    /// Its first process was released.
    Start { id: String, pid: u32 },
    /// A process ended; `exec_id` is the task's id for the first one.
    Exit { id: String, exec_id: String, pid: u32, status: u32 },
    /// The task was deleted.
    Delete { id: String, pid: u32, status: u32 },
    /// A further process was registered.
    ExecAdded { id: String, exec_id: String },
    /// A further process was started.
    ExecStarted { id: String, exec_id: String, pid: u32 },
    /// The kernel killed a process of the task for memory.
    Oom { id: String },
    /// The task was frozen.
    Paused { id: String },
    /// The task goes on.
    Resumed { id: String },
    /// Anything else, by topic.
    Other { topic: String },
}

impl Event {
    /// The task it is about.
    pub fn id(&self) -> &str {
        match self {
            Self::Create { id, .. }
            | Self::Start { id, .. }
            | Self::Exit { id, .. }
            | Self::Delete { id, .. }
            | Self::ExecAdded { id, .. }
            | Self::ExecStarted { id, .. }
            | Self::Oom { id }
            | Self::Paused { id }
            | Self::Resumed { id } => id,
            Self::Other { .. } => "",
        }
    }

    /// Whether it tells the end of the task's first process.
    pub fn is_init_exit(&self) -> bool {
        matches!(self, Self::Exit { id, exec_id, .. } if id == exec_id)
    }
}

/// The endpoint. Events stop being taken when it is dropped.
pub struct Events {
    log: Arc<Mutex<Vec<Event>>>,
    server: Server,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("log", &self.log).finish_non_exhaustive()
    }
}

impl Events {
    /// Listens at `path`.
    ///
    /// # Errors
    /// When the path is taken or too long for a socket.
    pub async fn listen(path: &Path) -> Result<Self> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let service = create_events(Arc::new(Endpoint { log: Arc::clone(&log) }));
        let address = format!("unix://{}", path.display());
        let mut server = Server::new().bind(&address).with_context(|| format!("listen at {address}"))?;
        server = server.register_service(HashMap::from_iter(service));
        server.start().await.context("serve events")?;
        Ok(Self { log, server })
    }

    /// All events so far, oldest first.
    pub fn all(&self) -> Vec<Event> {
        lock(&self.log).clone()
    }

    /// All events so far about one task.
    pub fn of(&self, id: &str) -> Vec<Event> {
        lock(&self.log).iter().filter(|event| event.id() == id).cloned().collect()
    }

    /// Waits for an event.
    ///
    /// # Errors
    /// When it does not come: with those that did.
    pub async fn wait_for(&self, what: &str, matches: impl Fn(&Event) -> bool) -> Result<Event> {
        let found = || lock(&self.log).iter().find(|event| matches(event)).cloned();
        wait::until(what, found).await.with_context(|| format!("events: {:#?}", self.all()))
    }

    /// Stops listening, as containerd does when it ends.
    ///
    /// # Errors
    /// When connections do not close.
    pub async fn close(mut self) -> Result<()> {
        self.server.shutdown().await.context("close the events endpoint")
    }
}

struct Endpoint {
    log: Arc<Mutex<Vec<Event>>>,
}

#[async_trait]
impl EventsService for Endpoint {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        let event = envelope.event.unwrap_or_default();
        let event = parse(&envelope.topic, &event.value)
            .map_err(|error| ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, error.to_string()))
            .map_err(ttrpc::Error::RpcStatus)?;
        lock(&self.log).push(event);
        Ok(Empty::default())
    }
}

fn parse(topic: &str, value: &[u8]) -> protobuf::Result<Event> {
    Ok(match topic {
        "/tasks/create" => {
            let event = task::TaskCreate::parse_from_bytes(value)?;
            Event::Create { id: event.container_id, pid: event.pid }
        }
        "/tasks/start" => {
            let event = task::TaskStart::parse_from_bytes(value)?;
            Event::Start { id: event.container_id, pid: event.pid }
        }
        "/tasks/exit" => {
            let event = task::TaskExit::parse_from_bytes(value)?;
            Event::Exit {
                id: event.container_id,
                exec_id: event.id,
                pid: event.pid,
                status: event.exit_status,
            }
        }
        "/tasks/delete" => {
            let event = task::TaskDelete::parse_from_bytes(value)?;
            Event::Delete { id: event.container_id, pid: event.pid, status: event.exit_status }
        }
        "/tasks/exec-added" => {
            let event = task::TaskExecAdded::parse_from_bytes(value)?;
            Event::ExecAdded { id: event.container_id, exec_id: event.exec_id }
        }
        "/tasks/exec-started" => {
            let event = task::TaskExecStarted::parse_from_bytes(value)?;
            Event::ExecStarted { id: event.container_id, exec_id: event.exec_id, pid: event.pid }
        }
        "/tasks/oom" => Event::Oom { id: task::TaskOOM::parse_from_bytes(value)?.container_id },
        "/tasks/paused" => Event::Paused { id: task::TaskPaused::parse_from_bytes(value)?.container_id },
        "/tasks/resumed" => Event::Resumed { id: task::TaskResumed::parse_from_bytes(value)?.container_id },
        other => Event::Other { topic: other.to_owned() },
    })
}

fn lock(log: &Mutex<Vec<Event>>) -> MutexGuard<'_, Vec<Event>> {
    log.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
