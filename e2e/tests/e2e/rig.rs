//! What most tests begin and end with.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::{DeleteResponse, StateResponse};
use dunnage_e2e::bundle::{Bundle, Fifo};
use dunnage_e2e::census::Census;
use dunnage_e2e::containerd::Containerd;
use dunnage_e2e::cri::{self, Cri, Pod, api};
use dunnage_e2e::ctr::Ctr;
use dunnage_e2e::events::{Event, Events};
use dunnage_e2e::fault::{self, Script};
use dunnage_e2e::history;
use dunnage_e2e::line::Line;
use dunnage_e2e::programs::{Runtime, built};
use dunnage_e2e::shim::{Daemon, Launch};
use dunnage_e2e::task::{Status, TaskClient};
use dunnage_e2e::wait;
use dunnage_e2e::world::World;

/// A bare shim's surroundings: a world, an events endpoint and a census of both.
pub(crate) struct Bench {
    before: Census,
    pub(crate) events: Events,
    pub(crate) launch: Launch,
    // Last: everything above still needs the world.
    pub(crate) world: World,
}

/// How long events may be on their way when all calls are answered.
const DELIVERY: Duration = Duration::from_secs(15);

impl Bench {
    /// A bench on which a double stands before the shim and does what `script` adds.
    pub(crate) async fn with_double(script: impl FnOnce(Script) -> Script) -> Result<Self> {
        let mut bench = Self::new().await?;
        script(Script::new(&bench.world)?).write()?;
        bench.launch.program = built(fault::DOUBLE_SHIM)?;
        Ok(bench)
    }

    pub(crate) async fn new() -> Result<Self> {
        let world = World::enter()?;
        let socket = PathBuf::from("/run/events.sock");
        let events = Events::listen(&socket).await?;
        let launch = Launch {
            program: Runtime::under_test().shim()?,
            address: PathBuf::from("/run/containerd/containerd.sock"),
            events: socket,
            namespace: world.id().to_owned(),
            daemon: daemon()?,
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

    /// Fifos for output and errors.
    pub(crate) fn fifos(&self) -> Result<(Fifo, Fifo)> {
        Ok((Fifo::open(&self.world.dir().join("stdout"))?, Fifo::open(&self.world.dir().join("stderr"))?))
    }

    /// Ends a task's life as containerd does: delete the task, shut the shim down, run its `delete`, remove the
    /// bundle.
    pub(crate) async fn finish(&self, bundle: Bundle, client: &TaskClient) -> Result<()> {
        client.delete(&bundle.id, "").await?;
        self.dispose(bundle, client).await
    }

    /// The same for a task that is deleted or was never created.
    pub(crate) async fn dispose(&self, bundle: Bundle, client: &TaskClient) -> Result<()> {
        self.let_reference_publish(&bundle.id).await;
        client.shutdown(&bundle.id).await?;
        self.delete(&bundle).await?;
        bundle.remove(&self.world)
    }

    /// The reference of containerd 2 exits on Shutdown whether or not its last events are out, so a busy machine loses
    /// them.
    async fn let_reference_publish(&self, id: &str) {
        if !Runtime::under_test().is_dunnage() && !self.events.of(id).is_empty() {
            // What is wrong with them is for the test to find.
            _ = tokio::time::timeout(Duration::from_secs(2), self.require_history(id)).await;
        }
    }

    /// Runs the shim's `delete`. The reference fails for a task that was never created, which containerd logs
    /// and forgets; dunnage must not.
    pub(crate) async fn delete(&self, bundle: &Bundle) -> Result<Option<DeleteResponse>> {
        match self.launch.delete(&bundle.id, &bundle.dir).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if Runtime::under_test().is_dunnage() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// A task's whole life with its output: each answer is compared with the others, with what was asked for and
    /// with the events.
    pub(crate) async fn life(&self, id: &str, args: &[&str], status: u32, output: &str) -> Result<()> {
        let (bundle, client) = self.task(id, args).await?;
        let (stdout, stderr) = self.fifos()?;
        let pid = bundle.create(&self.world, &client, ["", stdout.path(), stderr.path()]).await?;
        require_state(&client, id, Status::CREATED, pid).await?;
        let started = client.start(id, "").await?;
        ensure!(started == pid, "Start answers pid {started}, Create {pid}");
        let (printed, errors) = (tokio::spawn(stdout.read_to_end()), tokio::spawn(stderr.read_to_end()));
        let end = client.wait(id, "").await?.exit_status;
        ensure!(end == status, "Wait answers {end}, not {status}");
        let stopped = require_state(&client, id, Status::STOPPED, pid).await.context("after Wait")?;
        ensure!(stopped.exit_status == status, "State answers {}, not {status}", stopped.exit_status);
        let deleted = client.delete(id, "").await?;
        ensure!(deleted.pid == pid && deleted.exit_status == status, "{deleted:?}");
        let (printed, errors) = (printed.await??, errors.await??);
        ensure!(printed == output, "{} bytes came out, not {}", printed.len(), output.len());
        ensure!(errors.is_empty(), "{errors}");
        self.dispose(bundle, &client).await?;
        self.require_history(id).await
    }

    /// Requires that all events of a deleted task have come as containerd expects them.
    pub(crate) async fn require_history(&self, id: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            let events = self.events.of(id);
            let wrongs = history::wrongs(id, &events);
            if wrongs.is_empty() {
                return Ok(());
            }
            // Nothing comes after it that could set right what is wrong.
            let is_over = events.iter().any(|event| matches!(event, Event::Delete { .. }));
            let waits = !is_over && begin.elapsed() < DELIVERY * wait::patience();
            ensure!(waits, "{}\n{events:#?}", wrongs.join("\n"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What is there now and was not before, and the other way round.
    pub(crate) fn changes(&self) -> Result<Vec<String>> {
        Ok(self.before.changes(&Census::take(&self.world)?))
    }

    /// Requires that nothing is left of what the test did.
    pub(crate) async fn require_nothing_left(&self) -> Result<()> {
        self.before.require_same(&self.world).await
    }

    /// The same for what has had its time already.
    pub(crate) async fn require_nothing_left_now(&self) -> Result<()> {
        self.before.require_same_within(&self.world, Duration::ZERO).await
    }
}

async fn require_state(client: &TaskClient, id: &str, status: Status, pid: u32) -> Result<StateResponse> {
    let state = client.state(id, "").await?;
    ensure!(state.status.enum_value() == Ok(status), "State answers {:?}, not {status:?}", state.status);
    ensure!(state.pid == pid, "State answers pid {}, not {pid}", state.pid);
    Ok(state)
}

/// Who starts a bare shim. The reference speaks as its own containerd expects; dunnage understands every
/// containerd, of which the oldest says least.
fn daemon() -> Result<Daemon> {
    if Runtime::under_test().is_dunnage() { Ok(Daemon::V1_6) } else { Ok(Line::under_test()?.daemon()) }
}

/// A containerd with the probe image, its `ctr`, and a census of both.
pub(crate) struct Node {
    before: Census,
    pub(crate) ctr: Ctr,
    pub(crate) containerd: Containerd,
    pub(crate) world: World,
}

impl Node {
    pub(crate) async fn new() -> Result<Self> {
        let world = World::enter()?;
        let containerd = Containerd::start(&world).await?;
        containerd.import_probe().await?;
        let before = Census::take(&world)?;
        Ok(Self { before, ctr: containerd.ctr(), containerd, world })
    }

    /// Kills a task and removes it with its container.
    pub(crate) async fn end(&self, id: &str) -> Result<()> {
        self.ctr.run(["task", "delete", "--force", id]).await?;
        self.ctr.run(["container", "delete", id]).await?.ok()?;
        Ok(())
    }

    /// What is there now and was not before, and the other way round.
    pub(crate) fn changes(&self) -> Result<Vec<String>> {
        Ok(self.before.changes(&Census::take(&self.world)?))
    }

    /// Requires that nothing is left of what the test did.
    pub(crate) async fn require_nothing_left(&self) -> Result<()> {
        let same = self.before.require_same(&self.world).await;
        same.with_context(|| self.containerd.last_words())
    }
}

/// A containerd as a Kubernetes node has it: images, pod network and CRI are ready.
pub(crate) struct Cluster {
    before: Census,
    pub(crate) cri: Cri,
    pub(crate) containerd: Containerd,
    pub(crate) world: World,
}

impl Cluster {
    pub(crate) async fn new() -> Result<Self> {
        let world = World::enter()?;
        let containerd = Containerd::start(&world).await?;
        let cri = containerd.cri().await?;
        let before = Census::take(&world)?;
        Ok(Self { before, cri, containerd, world })
    }

    /// A pod with one container that stays.
    pub(crate) async fn sleeper(&self, name: &str) -> Result<(Pod, String)> {
        self.pod_with(cri::container(name, &["sleep", "1000"])).await
    }

    /// A pod with one container.
    pub(crate) async fn pod_with(&self, container: api::ContainerConfig) -> Result<(Pod, String)> {
        let name = container.metadata.clone().unwrap_or_default().name;
        let pod = self.cri.run_pod(cri::pod(&self.world, &format!("pod-of-{name}"))).await?;
        let id = self.cri.run_container(&pod, container).await?;
        Ok((pod, id))
    }

    /// Requires that nothing is left of what the test did.
    pub(crate) async fn require_nothing_left(&self) -> Result<()> {
        let same = self.before.require_same(&self.world).await;
        same.with_context(|| self.containerd.last_words())
    }
}

/// Removes the socket files that the reference leaves when its shim is killed or finds its bundle changed. Dunnage
/// must remove its own: for it this does nothing, and a file that stays is a leak.
pub(crate) fn forgive_reference_its_sockets() -> Result<()> {
    if Runtime::under_test().is_dunnage() {
        return Ok(());
    }
    for socket in std::fs::read_dir("/run/containerd/s")? {
        std::fs::remove_file(socket?.path())?;
    }
    Ok(())
}
