//! One round of each measurement: the calls containerd makes, each timed.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dunnage_e2e::bundle::{self, Bundle, Fifo};
use dunnage_e2e::shim::{Launch, Shim};
use dunnage_e2e::task::{Create, Exec, TaskClient, Version};
use dunnage_e2e::wait;

use crate::Course;
use crate::peer::Peer;

/// The phases of a round in order.
pub(crate) type Round = Vec<(&'static str, Duration)>;

/// Takes the time between its laps.
struct Watch {
    last: Instant,
    laps: Round,
}

impl Watch {
    fn start() -> Self {
        Self { last: Instant::now(), laps: Vec::new() }
    }

    fn lap(&mut self, phase: &'static str) {
        let now = Instant::now();
        self.laps.push((phase, now - self.last));
        self.last = now;
    }
}

/// A bundle with everything a runtime finds when containerd calls it.
struct Stage {
    bundle: Bundle,
    stdout: Fifo,
    stderr: Fifo,
}

impl Stage {
    fn set(course: &Course, id: &str, spec: serde_json::Value, lower: PathBuf) -> Result<Self> {
        let bundle = Bundle::with_spec(&course.world, id, spec, lower)?;
        let fifo = |name: &str| Fifo::open(&Path::new("/run").join(format!("{id}-{name}")));
        Ok(Self { bundle, stdout: fifo("stdout")?, stderr: fifo("stderr")? })
    }

    async fn create(&self, course: &Course, peer: &Peer, client: &TaskClient) -> Result<u32> {
        let create = Create {
            id: &self.bundle.id,
            bundle: self.bundle.path(),
            rootfs: self.bundle.rootfs(&course.world)?,
            stdio: ["", self.stdout.path(), self.stderr.path()],
            terminal: false,
            options: peer.options()?,
        };
        Ok(client.create(create).await?)
    }

    fn strike(self, course: &Course) -> Result<()> {
        for fifo in [&self.stdout, &self.stderr] {
            std::fs::remove_file(fifo.path()).context("remove a fifo")?;
        }
        self.bundle.remove(&course.world)
    }
}

fn cgroup(course: &Course, id: &str) -> String {
    format!("{}/{id}", course.world.cgroup_parent())
}

/// Gives the shim up and waits until nobody answers at its socket any more.
async fn leave(client: &TaskClient, shim: &Shim, id: &str) -> Result<()> {
    client.shutdown(id).await?;
    let path = shim.address.trim_start_matches("unix://");
    let start = Instant::now();
    // The runtime's own timers tick in milliseconds, which is as long as a good shim takes to leave.
    while UnixStream::connect(path).is_ok() {
        ensure!(start.elapsed() < wait::limit(), "the shim stays");
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

/// A container of its own from nothing to nothing.
pub(crate) async fn task(course: &Course, peer: &Peer, id: &str) -> Result<Round> {
    let spec = course.template.task(&cgroup(course, id), &["true"]);
    let stage = Stage::set(course, id, spec, course.template.probe.clone())?;
    let launch = peer.launch(&course.world);

    let mut watch = Watch::start();
    let shim = launch.start(id, &stage.bundle.dir).await?;
    let client = TaskClient::connect(&shim.address, shim.version).await?;
    watch.lap("start shim");
    stage.create(course, peer, &client).await?;
    watch.lap("create");
    client.start(id, "").await?;
    watch.lap("start");
    let status = client.wait(id, "").await?.exit_status;
    watch.lap("wait");
    client.delete(id, "").await?;
    watch.lap("delete");
    leave(&client, &shim, id).await?;
    watch.lap("shutdown");

    ensure!(status == 0, "the task ended with {status}");
    remove(&launch, stage, course).await?;
    Ok(watch.laps)
}

/// containerd runs the shim's `delete` after every removal; here it is cleaning and not measured.
async fn remove(launch: &Launch, stage: Stage, course: &Course) -> Result<()> {
    launch.delete(&stage.bundle.id, &stage.bundle.dir).await?;
    stage.strike(course)
}

/// A pod with one container that ends.
pub(crate) async fn pod(course: &Course, peer: &Peer, id: &str) -> Result<Round> {
    let member = format!("{id}-c");
    let launch = peer.launch(&course.world);
    let mut watch = Watch::start();
    let pod = Pod::start(course, peer, id).await?;
    watch.lap("sandbox up");
    let (stage, client) = pod.member(course, peer, &member, &["true"]).await?;
    watch.lap("container up");
    let status = client.wait(&member, "").await?.exit_status;
    client.delete(&member, "").await?;
    watch.lap("container down");
    let pod_stage = pod.stop().await?;
    watch.lap("sandbox down");
    ensure!(status == 0, "the container ended with {status}");
    for stage in [stage, pod_stage] {
        remove(&launch, stage, course).await?;
    }
    Ok(watch.laps)
}

/// A running pod.
pub(crate) struct Pod {
    id: String,
    stage: Stage,
    shim: Shim,
    client: TaskClient,
    process: u32,
}

impl Pod {
    /// Starts the pod's shim and its sandbox.
    pub(crate) async fn start(course: &Course, peer: &Peer, id: &str) -> Result<Self> {
        let spec = course.template.sandbox(&cgroup(course, id), id);
        let stage = Stage::set(course, id, spec, course.template.pause.clone())?;
        let shim = peer.launch(&course.world).start(id, &stage.bundle.dir).await?;
        let client = TaskClient::connect(&shim.address, shim.version).await?;
        let process = stage.create(course, peer, &client).await?;
        client.start(id, "").await?;
        Ok(Self { id: id.to_owned(), stage, shim, client, process })
    }

    /// Starts a container in it: with version 3 at once, with version 2 after another `start`.
    async fn member(
        &self,
        course: &Course,
        peer: &Peer,
        id: &str,
        args: &[&str],
    ) -> Result<(Stage, TaskClient)> {
        let spec = course.template.member(&cgroup(course, id), &self.id, self.process, args);
        let stage = Stage::set(course, id, spec, course.template.probe.clone())?;
        let shim = match self.shim.version {
            Version::V3 => self.shim.clone(),
            Version::V2 => peer.launch(&course.world).start(id, &stage.bundle.dir).await?,
        };
        let client = TaskClient::connect(&shim.address, shim.version).await?;
        stage.create(course, peer, &client).await?;
        client.start(id, "").await?;
        Ok((stage, client))
    }

    /// Ends the sandbox and its shim.
    async fn stop(self) -> Result<Stage> {
        self.client.kill(&self.id, "", 9, true).await?;
        self.client.wait(&self.id, "").await?;
        self.client.delete(&self.id, "").await?;
        leave(&self.client, &self.shim, &self.id).await?;
        Ok(self.stage)
    }
}

/// A pod with one container that stays, to run execs in and to be weighed.
pub(crate) struct Host {
    pod: Pod,
    stage: Stage,
    client: TaskClient,
    launch: Launch,
}

impl Host {
    pub(crate) async fn start(course: &Course, peer: &Peer, name: &str) -> Result<Self> {
        let id = format!("{name}-{}", peer.name);
        let pod = Pod::start(course, peer, &id).await?;
        let (stage, client) = pod.member(course, peer, &format!("{id}-c"), &["sleep", "100000"]).await?;
        Ok(Self { pod, stage, client, launch: peer.launch(&course.world) })
    }

    /// `/bin/true` in the running container.
    pub(crate) async fn exec(&self, exec_id: &str) -> Result<Round> {
        let id = &self.stage.bundle.id;
        let mut spec = self.stage.bundle.spec["process"].clone();
        spec["args"] = bundle::process(&["/bin/true"])["args"].clone();
        let mut watch = Watch::start();
        self.client.exec(Exec { id, exec_id, spec, ..Default::default() }).await?;
        watch.lap("exec");
        self.client.start(id, exec_id).await?;
        watch.lap("start");
        let status = self.client.wait(id, exec_id).await?.exit_status;
        watch.lap("wait");
        self.client.delete(id, exec_id).await?;
        watch.lap("delete");
        self.read_logs();
        ensure!(status == 0, "the exec ended with {status}");
        Ok(watch.laps)
    }

    /// Reads what the shim has logged, which containerd does all the time. A fifo holds 64 KiB: with nobody to read
    /// it, a shim that waits for room hangs. The Rust shim logs each request with its specification.
    fn read_logs(&self) {
        for stage in [&self.pod.stage, &self.stage] {
            _ = stage.bundle.log();
        }
    }

    /// The pid of its shim.
    pub(crate) async fn shim(&self) -> Result<u32> {
        Ok(self.client.pids_of_shim_and_task(&self.stage.bundle.id).await?.0)
    }

    pub(crate) async fn end(self, course: &Course) -> Result<()> {
        let id = self.stage.bundle.id.clone();
        self.client.kill(&id, "", 9, true).await?;
        self.client.wait(&id, "").await?;
        self.client.delete(&id, "").await?;
        drop(self.client);
        let pod_stage = self.pod.stop().await?;
        for stage in [self.stage, pod_stage] {
            remove(&self.launch, stage, course).await?;
        }
        Ok(())
    }
}
