//! The pod behind the socket: its sandbox, the Task service in front of it, and its events on their way out.

use std::path::Path;
use std::rc::Rc;

use dunnage_api::task::TaskServer;
use dunnage_spec::ContainerdNamespace;
use dunnage_task::Host;
use dunnage_task::record::Store;
use tokio::sync::mpsc;

use crate::publish::Publisher;
use crate::service::Service;
use crate::stop::Stop;
use crate::{RUN_DIRECTORY, event};

/// Starts the sandbox on this thread.
pub(crate) fn start(
    namespace: &ContainerdNamespace,
    publisher: &Publisher,
    stop: Stop,
) -> anyhow::Result<TaskServer<Service>> {
    let store = Store::new(Path::new(RUN_DIRECTORY), namespace);
    let (sink, mut events) = mpsc::unbounded_channel();
    let (sandbox, driver) = dunnage_task::spawn(Host::detect(store)?, sink);
    let publisher = publisher.clone();
    tokio::task::spawn_local({
        let stop = stop.clone();
        async move {
            // Ends when the driver has, with the last event handed on.
            while let Some(dunnage_task::Stamped { at, event }) = events.recv().await {
                let (topic, message) = event::wire(event);
                publisher.publish(topic, message, at);
            }
            if let Err(error) = driver.await {
                tracing::error!(%error, "the sandbox ended unexpectedly");
            }
            stop.request();
        }
    });
    Ok(TaskServer::new(Rc::new(Service::new(sandbox, stop))))
}
