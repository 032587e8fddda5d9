//! One container from its bundle to its end: created, started, waited for, stopped when asked, deleted.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use dunnage_api::task::{
    CreateTaskRequest, DeleteRequest, KillRequest, StartRequest, TaskClient, WaitRequest,
};
use dunnage_api::ttrpc::CallError;
use dunnage_api::types::Mount;

use super::images::Ready;
use super::logs::{Fifos, Following};
use super::pod::Pod;
use super::stop::Stop;
use super::{id, sandbox, shim};
use crate::bundle::ContainerBundle;
use crate::exit::{self, Exit};
use crate::image::Overlay;
use crate::manifest::Container;
use crate::{kubelet, output};

/// For the exit event, after the answer to `Wait` has come.
const EVENT_PATIENCE: Duration = Duration::from_secs(2);
/// For the last lines, after the container is deleted.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// containerd's own limit for `delete`.
const DELETE_LIMIT: Duration = Duration::from_secs(5);
const SIGTERM: u8 = 15;
const SIGKILL: u8 = 9;

/// A container that was started.
#[derive(Debug)]
pub(super) struct Running {
    name: String,
    id: String,
    task: TaskClient,
    following: Following,
    stop_signal: u8,
    started: Instant,
}

/// Why there is no running container.
#[derive(Debug)]
pub(super) enum Failure {
    /// The container is impossible: no such program, no such user in the image, a mount that cannot be.
    Refused(String),
    /// Nothing more can be run: the shim is gone, or this machine refuses.
    Fatal(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Fatal(error)
    }
}

/// The code a shell gives for a program that could not be run; runtimes have always said it in these words.
/// Else 125, as Docker has it for what its daemon cannot do.
pub(super) fn code_of_refusal(text: &str) -> u8 {
    if text.contains("executable file not found") || text.contains("no such file or directory") {
        127
    } else if text.contains("permission denied") {
        126
    } else {
        125
    }
}

/// Creates and starts the container.
pub(super) async fn start(pod: &Pod, container: &Container, ready: &Ready) -> Result<Running, Failure> {
    let asked = Instant::now();
    let id = id::fresh()?;
    write_bundle(pod, container, ready, &id)?;
    let overlay = own_layer(pod, ready, &id)?;
    let fifos = Fifos::make(&pod.folder.join("io"), &id)?;
    let task = connection(pod, &id).await?;
    if let Err(error) = task.create(&create_request(pod, &id, &fifos, &overlay)).await {
        forget(pod, &task, &id).await;
        return Err(refusal(error));
    }
    let following = fifos.follow(&container.name, &pod.console);
    let request = StartRequest { id: id.clone(), ..StartRequest::default() };
    let pid = match task.start(&request).await {
        Ok(response) => response.pid,
        Err(error) => {
            forget(pod, &task, &id).await;
            following.finish(LOG_PATIENCE).await;
            return Err(refusal(error));
        }
    };
    let started = Instant::now();
    announce(pod, container, &id, pid, started - asked);
    let stop_signal = ready.image.config.stop_signal.as_deref().and_then(exit::signal_number);
    Ok(Running {
        name: container.name.clone(),
        id,
        task,
        following,
        stop_signal: stop_signal.unwrap_or(SIGTERM),
        started,
    })
}

fn write_bundle(pod: &Pod, container: &Container, ready: &Ready, id: &str) -> Result<(), Failure> {
    let bundle = pod.folder.bundle(id);
    std::fs::create_dir(&bundle).with_context(|| format!("create {}", bundle.display()))?;
    let contents = ContainerBundle {
        frame: &pod.frame(),
        container,
        image: &ready.image,
        users: &ready.users,
        files: &pod.files,
        volumes: &pod.volumes,
        sandbox_pid: pod.sandbox.pid,
        folder: &pod.manifest_folder,
    };
    contents.write(&bundle, id).map_err(|error| Failure::Refused(format!("{error:#}")))
}

/// The container's own layer above those of its image.
fn own_layer(pod: &Pod, ready: &Ready, id: &str) -> anyhow::Result<Overlay> {
    let own = pod.folder.upper(id);
    let overlay =
        Overlay { lowers: ready.image.layers.clone(), upper: own.join("fs"), work: own.join("work") };
    for dir in [&overlay.upper, &overlay.work] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    Ok(overlay)
}

/// A shim of version 3 serves all containers of the pod on one connection; one of version 2 is asked for each,
/// and answers with the address it has.
async fn connection(pod: &Pod, id: &str) -> anyhow::Result<TaskClient> {
    if pod.sandbox.shim_version >= 3 {
        return Ok(pod.sandbox.task.clone());
    }
    let answer = shim::start(&pod.shim, &pod.folder, id, pod.debug).await?;
    sandbox::connect(&answer).await
}

fn create_request(pod: &Pod, id: &str, fifos: &Fifos, overlay: &Overlay) -> CreateTaskRequest {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    CreateTaskRequest {
        id: id.to_owned(),
        bundle: text(&pod.folder.bundle(id)),
        rootfs: vec![Mount {
            r#type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: overlay.options(),
        }],
        stdout: text(&fifos.stdout),
        stderr: text(&fifos.stderr),
        ..CreateTaskRequest::default()
    }
}

fn refusal(error: CallError) -> Failure {
    match error {
        CallError::Status(status) => Failure::Refused(status.to_string()),
        other => Failure::Fatal(anyhow::Error::new(other).context("call the shim")),
    }
}

/// Everything one would otherwise have to look for.
fn announce(pod: &Pod, container: &Container, id: &str, pid: u32, time: Duration) {
    let console = &pod.console;
    console.tell(&container.name, format_args!("pid {pid}, running after {}", output::duration(time)));
    console.add(format_args!("cgroup {}/{id}", pod.cgroup_parent));
    let limits = kubelet::container_limits(&container.resources);
    let cpu = limits.cpu_quota_us.map_or_else(
        || "no limit".to_owned(),
        |quota| format!("at most {}m", quota * 1000 / kubelet::CPU_PERIOD_US),
    );
    let memory = limits
        .memory
        .map_or_else(|| "no limit".to_owned(), |size| format!("at most {}", output::bytes(size)));
    let wanted = kubelet::oom_score_adj(pod.class, &container.resources, pod.machine.memory);
    let score = pod.machine.oom_score_adj(wanted);
    let note = if score == wanted { "" } else { " (lower needs CAP_SYS_RESOURCE)" };
    let shares = limits.cpu_shares;
    console.add(format_args!("cpu {shares} shares, {cpu}; memory {memory}; oom_score_adj {score}{note}"));
}

/// Takes away what is left of a container that did not start.
async fn forget(pod: &Pod, task: &TaskClient, id: &str) {
    // The shim has undone a failed create by itself; a failed start leaves a stopped task.
    let _ = task.delete(&DeleteRequest { id: id.to_owned(), ..DeleteRequest::default() }).await;
    if let Err(error) = remove_files(pod, id).await {
        output::warn(format_args!("{error:#}"));
    }
}

/// Removes the bundle and the container's own layer, after the shim has let go of them.
async fn remove_files(pod: &Pod, id: &str) -> anyhow::Result<()> {
    let (shim, folder, id) = (pod.shim.clone(), pod.folder.clone(), id.to_owned());
    let per_container = pod.sandbox.shim_version < 3;
    let work = move || {
        if per_container {
            shim::delete(&shim, &folder, &id, DELETE_LIMIT)?;
        }
        dunnage_sys::tree::remove_all(&folder.bundle(&id))?;
        Ok(dunnage_sys::tree::remove_all(&folder.upper(&id))?)
    };
    tokio::task::spawn_blocking(work).await.context("remove a container's files")?
}

impl Running {
    /// Waits for the end, stopping the container when the pod is to stop, and deletes it.
    pub(super) async fn end(self, pod: &Pod) -> anyhow::Result<Exit> {
        let name = &self.name;
        let status = self.exit_status(pod).await.with_context(|| format!("wait for container {name}"))?;
        let time = self.started.elapsed();
        let out_of_memory = pod.events.was_out_of_memory(&self.id, EVENT_PATIENCE).await;
        let delete = DeleteRequest { id: self.id.clone(), ..DeleteRequest::default() };
        self.task.delete(&delete).await.with_context(|| format!("delete container {name}"))?;
        self.following.finish(LOG_PATIENCE).await;
        remove_files(pod, &self.id).await?;
        let exit = Exit { code: u8::try_from(status).unwrap_or(u8::MAX), out_of_memory };
        let text = format!("ended with {}: {}, after {}", exit.code, exit.meaning(), output::duration(time));
        pod.console.tell(name, text);
        Ok(exit)
    }

    async fn exit_status(&self, pod: &Pod) -> Result<u32, CallError> {
        let request = WaitRequest { id: self.id.clone(), ..WaitRequest::default() };
        let wait = self.task.wait(&request);
        tokio::pin!(wait);
        tokio::select! {
            exit = &mut wait => return Ok(exit?.exit_status),
            () = pod.stopping.reached(Stop::Graceful) => {}
        }
        if pod.stopping.now() == Stop::Graceful {
            self.kill(self.stop_signal).await;
            tokio::select! {
                exit = &mut wait => return Ok(exit?.exit_status),
                () = tokio::time::sleep(pod.spec.grace) => {}
                () = pod.stopping.reached(Stop::Now) => {}
            }
        }
        self.kill(SIGKILL).await;
        Ok(wait.await?.exit_status)
    }

    /// One that has ended meanwhile is found so by whoever waits.
    async fn kill(&self, signal: u8) {
        let request = KillRequest {
            id: self.id.clone(),
            signal: signal.into(),
            all: signal == SIGKILL,
            ..KillRequest::default()
        };
        let _ = self.task.kill(&request).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_be_run_has_the_code_a_shell_gives() {
        let create = "OCI runtime create failed: exec: \"x\": executable file not found in $PATH";
        assert_eq!(code_of_refusal(create), 127);
        assert_eq!(code_of_refusal("execute /bin/x: no such file or directory"), 127);
        assert_eq!(code_of_refusal("execute /etc/passwd: permission denied"), 126);
        assert_eq!(code_of_refusal("mount nothing: EINVAL"), 125);
    }
}
