//! The pod while it runs: its containers in their order, again when they fail, and the code it ends with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use dunnage_spec::QosClass;
use tokio::task::JoinSet;

use super::container::{self, Failure, Running, code_of_refusal};
use super::events::{Endpoint, Events};
use super::folder::Folder;
use super::images::{Images, Ready};
use super::sandbox::Sandbox;
use super::stop::{Listener, Stop, Stopping};
use crate::bundle::{Machine, PodFiles, PodFrame, Prepared};
use crate::manifest::{self, Container, RestartPolicy};
use crate::output::{self, Console};

const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The kubelet's longest delay, and the time after which a container counts as well again.
const LONGEST_DELAY: Duration = Duration::from_secs(300);
const WELL_AGAIN: Duration = Duration::from_secs(600);

/// Everything a container of the pod is made with.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) spec: manifest::Pod,
    pub(super) uid: String,
    pub(super) class: QosClass,
    pub(super) cgroup_parent: String,
    pub(super) netns: Option<PathBuf>,
    pub(super) hostname: String,
    pub(super) machine: Machine,
    pub(super) files: PodFiles,
    pub(super) volumes: BTreeMap<String, Prepared>,
    pub(super) images: Images,
    pub(super) folder: Folder,
    pub(super) manifest_folder: PathBuf,
    pub(super) shim: PathBuf,
    pub(super) debug: bool,
    pub(super) sandbox: Sandbox,
    pub(super) events: Rc<Events>,
    pub(super) _endpoint: Endpoint,
    pub(super) console: Rc<Console>,
    pub(super) stopping: Stopping,
    pub(super) halt: Rc<Listener>,
}

impl Pod {
    pub(super) fn frame(&self) -> PodFrame<'_> {
        PodFrame {
            pod: &self.spec,
            uid: &self.uid,
            sandbox_id: &self.sandbox.id,
            class: self.class,
            cgroup_parent: &self.cgroup_parent,
            netns: self.netns.as_deref(),
            hostname: &self.hostname,
            machine: self.machine,
        }
    }

    fn ready(&self, container: &Container) -> anyhow::Result<&Ready> {
        self.images
            .get(&container.image)
            .with_context(|| format!("image {} was not prepared", container.image))
    }

    async fn start(&self, container: &Container) -> Result<Running, Failure> {
        container::start(self, container, self.ready(container)?).await
    }

    /// Whether a container that ended like this is run again.
    fn runs_again(&self, code: u8) -> bool {
        code != 0 && self.spec.restart == RestartPolicy::OnFailure && self.stopping.now() == Stop::No
    }
}

/// Runs the pod to its end and gives its code: 0, or that of the container that failed first.
///
/// # Errors
/// The shim is gone or this machine refuses; containers that ran are stopped then.
pub(super) async fn run(pod: &Rc<Pod>) -> anyhow::Result<u8> {
    for container in &pod.spec.init_containers {
        if pod.stopping.now() != Stop::No {
            return Ok(0);
        }
        let code = see_through(pod, container, pod.start(container).await).await?;
        if code != 0 {
            pod.console.tell(&container.name, "did not succeed, so the pod's containers are not started");
            return Ok(code);
        }
    }
    together(pod).await
}

/// Starts the containers one after another and waits for all of them.
async fn together(pod: &Rc<Pod>) -> anyhow::Result<u8> {
    let mut ends = JoinSet::new();
    for index in 0..pod.spec.containers.len() {
        if pod.stopping.now() != Stop::No {
            break;
        }
        let running = pod.start(&pod.spec.containers[index]).await;
        let pod = Rc::clone(pod);
        ends.spawn_local(async move { see_through(&pod, &pod.spec.containers[index], running).await });
    }
    let mut first = 0;
    let mut fatal = None;
    while let Some(end) = ends.join_next().await {
        match end.context("a container's supervision ended").and_then(|end| end) {
            Ok(code) if first == 0 => first = code,
            Ok(_) => {}
            Err(error) => {
                pod.halt.ask(Stop::Now);
                fatal = fatal.or(Some(error));
            }
        }
    }
    fatal.map_or(Ok(first), Err)
}

/// Waits for a container to end for good, running it again as the pod's policy says.
async fn see_through(
    pod: &Pod,
    container: &Container,
    start: Result<Running, Failure>,
) -> anyhow::Result<u8> {
    let mut start = start;
    let mut delay = FIRST_DELAY;
    loop {
        let since = Instant::now();
        let code = match start {
            Ok(running) => running.end(pod).await?.code,
            Err(Failure::Refused(text)) => {
                let code = code_of_refusal(&text);
                pod.console.tell(&container.name, format_args!("could not be started ({code}): {text}"));
                code
            }
            Err(Failure::Fatal(error)) => return Err(error),
        };
        if !pod.runs_again(code) {
            return Ok(code);
        }
        if since.elapsed() > WELL_AGAIN {
            delay = FIRST_DELAY;
        }
        pod.console.tell(&container.name, format_args!("runs again in {}", output::duration(delay)));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = pod.stopping.reached(Stop::Graceful) => return Ok(code),
        }
        delay = (delay * 2).min(LONGEST_DELAY);
        start = pod.start(container).await;
    }
}
