//! The double's events endpoint: what the shim tells goes on to whom it was meant for, in the order it came, unless
//! the script has a lie about it.

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{Empty, ForwardRequest};
use containerd_shim_protos::shim_async::{Events, EventsClient};
use dunnage_e2e::fault::{Lie, Moment};
use tokio::sync::Mutex;
use ttrpc::asynchronous::{Client, TtrpcContext};
use ttrpc::context::Context;

use crate::deed::Deeds;

/// Takes events and passes them on.
pub(crate) struct Relay {
    to: String,
    lies: Vec<Lie>,
    deeds: Arc<Deeds>,
    /// One after the other; an event may be kept back for the next.
    kept: Mutex<Option<ForwardRequest>>,
}

impl Relay {
    pub(crate) fn new(to: String, lies: Vec<Lie>, deeds: Arc<Deeds>) -> Self {
        let to = if to.starts_with("unix://") { to } else { format!("unix://{to}") };
        Self { to, lies, deeds, kept: Mutex::new(None) }
    }

    async fn pass_on(&self, event: &ForwardRequest) -> ttrpc::Result<Empty> {
        // Anew each time: whom it is meant for may have been restarted.
        let client = EventsClient::new(Client::connect(&self.to).await?);
        client.forward(Context::default(), event).await
    }
}

#[async_trait]
impl Events for Relay {
    async fn forward(&self, _: &TtrpcContext, event: ForwardRequest) -> ttrpc::Result<Empty> {
        let mut kept = self.kept.lock().await;
        let topic = event.envelope.topic.clone();
        self.deeds.at(&Moment::Event(topic.clone())).await;
        let tells = |lie: Lie| self.lies.contains(&lie);
        match topic.as_str() {
            "/tasks/exit" if tells(Lie::ExitNever) => return Ok(Empty::default()),
            "/tasks/delete" if tells(Lie::NoDelete) => return Ok(Empty::default()),
            "/tasks/start" if tells(Lie::ExitBeforeStart) => {
                *kept = Some(event);
                return Ok(Empty::default());
            }
            "/tasks/exit" if tells(Lie::ExitTwice) => _ = self.pass_on(&event).await?,
            _ => {}
        }
        let answer = self.pass_on(&event).await?;
        if let Some(start) = kept.take() {
            self.pass_on(&start).await?;
        }
        Ok(answer)
    }
}
