//! What a shim reports about its tasks, and the service that takes the reports.

use prost::Name;

use crate::service::service;
pub use crate::wire::containerd::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIo, TaskOom,
    TaskPaused, TaskResumed, TaskStart,
};
pub use crate::wire::containerd::services::events::ttrpc::v1::ForwardRequest;
pub use crate::wire::containerd::types::Envelope;

service! {
    /// containerd's event intake: the only service on the socket that `TTRPC_ADDRESS` names.
    EventsService, EventsServer, EventsClient in ["containerd.services.events.ttrpc.v1.Events"] {
        /// Takes one event.
        forward = "Forward"(ForwardRequest) -> (), detached;
    }
}

/// A message that is sent under a topic of its own.
pub trait Event: prost::Message + Name {
    /// The topic, such as `/tasks/exit`.
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($message:ty: $topic:literal),* $(,)?) => { $(impl Event for $message { const TOPIC: &'static str = $topic; })* };
}

topics! {
    TaskCreate: "/tasks/create",
    TaskStart: "/tasks/start",
    TaskDelete: "/tasks/delete",
    TaskExit: "/tasks/exit",
    TaskOom: "/tasks/oom",
    TaskExecAdded: "/tasks/exec-added",
    TaskExecStarted: "/tasks/exec-started",
    TaskPaused: "/tasks/paused",
    TaskResumed: "/tasks/resumed",
    TaskCheckpointed: "/tasks/checkpointed",
}
