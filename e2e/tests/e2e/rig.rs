//! What most tests begin and end with.

use std::path::PathBuf;

use anyhow::Result;
use dunnage_e2e::bundle::Bundle;
use dunnage_e2e::census::Census;
use dunnage_e2e::events::Events;
use dunnage_e2e::programs::Runtime;
use dunnage_e2e::shim::{Daemon, Launch};
use dunnage_e2e::task::TaskClient;
use dunnage_e2e::world::World;

/// A bare shim's surroundings: a world, an events endpoint and a census of both.
pub(crate) struct Bench {
    before: Census,
    pub(crate) events: Events,
    pub(crate) launch: Launch,
    // Last: everything above still needs the world.
    pub(crate) world: World,
}

impl Bench {
    pub(crate) async fn new() -> Result<Self> {
        let world = World::enter()?;
        let socket = PathBuf::from("/run/events.sock");
        let events = Events::listen(&socket).await?;
        let launch = Launch {
            program: Runtime::under_test().shim()?,
            address: PathBuf::from("/run/containerd/containerd.sock"),
            events: socket,
            namespace: world.id().to_owned(),
            daemon: Daemon::V1_6,
            env: Vec::new(),
        };
        let before = Census::take(&world)?;
        Ok(Self { before, events, launch, world })
    }

    /// A bundle of this world and a shim serving it.
    pub(crate) async fn task(&self, id: &str, args: &[&str]) -> Result<(Bundle, TaskClient)> {
        let bundle = Bundle::new(&self.world, id, args)?;
        let client = self.launch.connect(id, &bundle.dir).await?;
        Ok((bundle, client))
    }

    /// Ends a task's life as containerd does: delete the task, shut the shim down, run its `delete`, remove the
    /// bundle.
    pub(crate) async fn finish(&self, bundle: Bundle, client: &TaskClient) -> Result<()> {
        client.delete(&bundle.id, "").await?;
        self.dispose(bundle, client).await
    }

    /// The same for a task that is deleted or was never created.
    pub(crate) async fn dispose(&self, bundle: Bundle, client: &TaskClient) -> Result<()> {
        client.shutdown(&bundle.id).await?;
        self.launch.delete(&bundle.id, &bundle.dir).await?;
        bundle.remove(&self.world)
    }

    /// Requires that nothing is left of what the test did.
    pub(crate) async fn require_nothing_left(&self) -> Result<()> {
        self.before.require_same(&self.world).await
    }
}
