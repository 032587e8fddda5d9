//! The containers of a pod in their order, again when they fail, and the code the pod ends with.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use super::container::{self, Failure, Running, code_of_refusal};
use super::pod::Pod;
use super::stop::Stop;
use crate::manifest::Container;
use crate::output;

const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The kubelet's longest delay, and the time after which a container counts as well again.
const LONGEST_DELAY: Duration = Duration::from_secs(300);
const WELL_AGAIN: Duration = Duration::from_secs(600);

/// Runs the pod to its end and gives its code: 0, or that of the container that failed first.
///
/// # Errors
/// The shim is gone or this machine refuses; containers that ran are stopped then.
pub(super) async fn run(pod: &Rc<Pod>) -> anyhow::Result<u8> {
    for container in &pod.spec.init_containers {
        if pod.stopping.now() != Stop::No {
            return Ok(0);
        }
        let code = see_through(pod, container, start(pod, container).await).await?;
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
        let running = start(pod, &pod.spec.containers[index]).await;
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
    mut started: Result<Running, Failure>,
) -> anyhow::Result<u8> {
    let mut delay = FIRST_DELAY;
    loop {
        let since = Instant::now();
        let code = match started {
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
        started = start(pod, container).await;
    }
}

async fn start(pod: &Pod, container: &Container) -> Result<Running, Failure> {
    container::start(pod, container, pod.ready(container)?).await
}
