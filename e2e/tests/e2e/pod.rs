//! Pods and containers through CRI, as the kubelet drives them.

use std::fs;

use anyhow::{Context, Result, ensure};
use dunnage_e2e::cri::{self, api};
use dunnage_e2e::process::Process;
use dunnage_e2e::programs::Runtime;
use dunnage_e2e::{process, wait};

use crate::rig::{Cluster, forgive_reference_its_sockets};
use crate::{only_dunnage, only_dunnage_since};

#[tokio::test]
async fn a_pod_comes_up_with_an_address_and_goes_without_a_trace() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    let address = node.cri.address(&pod).await?;
    ensure!(address.starts_with("10.166."), "{address}");
    ensure!(node.cri.pod(&pod).await?.state() == api::PodSandboxState::SandboxReady);
    node.cri.stop_pod(&pod).await?;
    ensure!(node.cri.pod(&pod).await?.state() == api::PodSandboxState::SandboxNotready);
    node.cri.stop_pod(&pod).await.context("stopping twice is allowed")?;
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_container_s_output_is_logged_line_by_line_and_its_exit_code_is_completed() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    let script = "echo one; echo two >&2; printf three";
    let id = node.cri.run_container(&pod, cri::container("c", &["sh", "-c", script])).await?;
    let status = node.cri.ended(&id).await?;
    ensure!((status.exit_code, status.reason.as_str()) == (0, "Completed"), "{status:?}");
    // containerd takes the time of the start after the fact, so an exit at once may lie before it.
    ensure!(status.created_at < status.started_at && status.created_at < status.finished_at, "{status:?}");
    let logged = || cri::log(&node.world, "c").ok().filter(|lines| lines.len() == 3);
    let mut lines = wait::until("three log lines", logged).await?;
    lines.sort_by(|a, b| (&a.stream, &a.text).cmp(&(&b.stream, &b.text)));
    let texts: Vec<_> = lines.iter().map(|line| (line.stream.as_str(), line.text.as_str())).collect();
    ensure!(texts == [("stderr", "two"), ("stdout", "one"), ("stdout", "three")], "{lines:?}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

/// Bytes of a line of `probe print`, which begins with the line's number.
const PRINTED_LINE: usize = 64;

#[tokio::test]
async fn ten_mebibytes_of_log_lose_no_byte() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    let lines = (10 << 20) / PRINTED_LINE;
    let size = (lines * PRINTED_LINE).to_string();
    let id = node.cri.run_container(&pod, cri::container("c", &["probe", "print", &size])).await?;
    let status = node.cri.ended(&id).await?;
    ensure!(status.exit_code == 0, "{status:?}");
    // containerd writes its copy of the log while the status is told already.
    let whole = || cri::log(&node.world, "c").ok().filter(|log| log.len() >= lines);
    let log = wait::until("the whole log", whole).await;
    let log = log.or_else(|_| cri::log(&node.world, "c"))?;
    for (number, line) in log.iter().enumerate() {
        ensure!(line.text.starts_with(&format!("{number:08} ")), "line {number} of {lines} is {line:?}");
    }
    ensure!(log.len() == lines, "{} of {lines} lines", log.len());
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_program_s_own_exit_code_is_an_error() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    let id = node.cri.run_container(&pod, cri::container("c", &["probe", "exit", "42"])).await?;
    let status = node.cri.ended(&id).await?;
    ensure!((status.exit_code, status.reason.as_str()) == (42, "Error"), "{status:?}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn exec_gives_output_error_and_code() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    let exec = node.cri.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 9"], 0).await?;
    ensure!(exec.stdout == b"out\n" && exec.stderr == b"err\n" && exec.exit_code == 9, "{exec:?}");
    let signalled = node.cri.exec(&id, &["probe", "signal", "15"], 0).await?;
    ensure!(signalled.exit_code == 128 + 15, "{signalled:?}");
    let missing = node.cri.exec(&id, &["/no/such/program"], 0).await;
    let error = format!("{:#}", missing.err().context("a missing program ran")?);
    ensure!(error.contains("/no/such/program"), "{error}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_probe_that_takes_too_long_is_ended_and_leaves_no_process() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    let late = node.cri.exec(&id, &["sleep", "999"], 1).await;
    let error = format!("{:#}", late.err().context("an exec outlived its time")?);
    ensure!(error.to_lowercase().contains("deadline") || error.contains("timeout"), "{error}");
    let ended = || node.world.processes_named("sleep").len().eq(&1).then_some(());
    wait::until("the end of the late exec", ended).await?;
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn stop_is_term_then_a_grace_period_then_kill() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    let polite = node.cri.run_container(&pod, cri::container("polite", &["probe", "on-term", "3"])).await?;
    let stubborn =
        node.cri.run_container(&pod, cri::container("stubborn", &["probe", "ignore-term"])).await?;
    for name in ["polite", "stubborn"] {
        wait::until("a handler for TERM", || logged(&node, name, "ready")).await?;
    }
    node.cri.stop_container(&polite, 60).await?;
    node.cri.stop_container(&stubborn, 1).await?;
    let (polite, stubborn) = (node.cri.container(&polite).await?, node.cri.container(&stubborn).await?);
    ensure!(polite.exit_code == 3, "{polite:?}");
    ensure!(stubborn.exit_code == 137, "{stubborn:?}");
    wait::until("TERM before KILL", || logged(&node, "stubborn", "terminated")).await?;
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

fn logged(node: &Cluster, name: &str, text: &str) -> Option<()> {
    cri::log(&node.world, name).ok()?.iter().any(|line| line.text == text).then_some(())
}

#[tokio::test]
async fn a_removed_running_container_and_pod_are_ended_first() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    let pid = node.cri.pid(&id).await?;
    node.cri.remove_container(&id).await?;
    ensure!(Process::read(pid).is_none_or(|process| process.is_zombie()), "still there");
    ensure!(node.cri.container(&id).await.is_err(), "still known");
    let other = node.cri.run_container(&pod, cri::container("d", &["sleep", "1000"])).await?;
    node.cri.remove_pod(&pod).await?;
    ensure!(node.cri.container(&other).await.is_err(), "still known");
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_created_container_can_be_removed_without_a_start() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    let id = node.cri.create_container(&pod, cri::container("c", &["true"])).await?;
    node.cri.remove_container(&id).await?;
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_container_whose_program_is_missing_does_not_start_and_the_pod_goes_on() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    let id = node.cri.create_container(&pod, cri::container("c", &["/no/such/program"])).await?;
    let started = node.cri.start_container(&id).await;
    let error = format!("{:#}", started.err().context("it started")?);
    ensure!(error.contains("no such file or directory") && error.contains("/no/such/program"), "{error}");
    let status = node.cri.container(&id).await?;
    ensure!(status.state() == api::ContainerState::ContainerExited && status.exit_code != 0, "{status:?}");
    let next = node.cri.run_container(&pod, cri::container("d", &["true"])).await?;
    ensure!(node.cri.ended(&next).await?.exit_code == 0);
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_crashing_container_can_be_started_again_with_another_command() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    let crashed =
        node.cri.run_container(&pod, cri::container("c", &["sh", "-c", "echo last words; exit 1"])).await?;
    ensure!(node.cri.ended(&crashed).await?.exit_code == 1);
    wait::until("the last words", || logged(&node, "c", "last words")).await?;
    let mut again = cri::container("c", &["sleep", "1000"]);
    again.metadata.get_or_insert_default().attempt = 1;
    let id = node.cri.run_container(&pod, again).await?;
    ensure!(node.cri.exec_ok(&id, &["cat", "/etc/layer"]).await? == "lower\n");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn one_shim_serves_all_containers_of_a_pod() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    for name in ["a", "b", "c"] {
        node.cri.run_container(&pod, cri::container(name, &["sleep", "1000"])).await?;
    }
    let shims = node.world.shims(&Runtime::under_test().shim()?);
    ensure!(shims.len() == 1, "{shims:?}");
    let second = node.cri.run_pod(cri::pod(&node.world, "q")).await?;
    ensure!(node.world.shims(&Runtime::under_test().shim()?).len() == 2);
    node.cri.remove_pod(&second).await?;
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn the_shim_of_a_pod_is_ours_and_has_one_thread() -> Result<()> {
    if !only_dunnage("its shim is a Go program with many threads") {
        return Ok(());
    }
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    node.cri.exec_ok(&id, &["true"]).await?;
    let shims = node.world.shims(&Runtime::Dunnage.shim()?);
    let [shim] = shims[..] else { anyhow::bail!("not one shim: {shims:?}") };
    let threads = fs::read_dir(format!("/proc/{shim}/task"))?.count();
    ensure!(threads == 1, "{threads} threads");
    ensure!(node.world.shims(&Runtime::Runc.shim()?).is_empty(), "another shim runs");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_restart_of_containerd_changes_nothing_for_running_pods() -> Result<()> {
    let why = "its Pids of an ended task is empty, which makes containerd throw the exit code away";
    if !only_dunnage_since((1, 7), why)? {
        return Ok(());
    }
    let mut node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    let lasting = cri::container("lasting", &["sh", "-c", "while :; do echo tick; sleep 0.05; done"]);
    let lasting = node.cri.run_container(&pod, lasting).await?;
    let leaving = node.cri.run_container(&pod, cri::container("leaving", &["probe", "on-term", "6"])).await?;
    wait::until("a handler for TERM", || logged(&node, "leaving", "ready")).await?;
    let pid = node.cri.pid(&lasting).await?;
    let leaver = node.cri.pid(&leaving).await?;

    node.containerd.stop().await?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(leaver), nix::sys::signal::Signal::SIGTERM)?;
    let ended = || Process::read(leaver).is_none_or(|process| process.is_zombie()).then_some(());
    wait::until("an exit while containerd is away", ended).await?;
    node.containerd.launch().await?;
    wait::until_ok("CRI", || node.cri.ready()).await?;

    let status = node.cri.ended(&leaving).await?;
    ensure!(status.exit_code == 6, "the exit while containerd was away is lost: {status:?}");
    ensure!(node.cri.pid(&lasting).await? == pid, "another process");
    let before = cri::log(&node.world, "lasting")?.len();
    let more = || (cri::log(&node.world, "lasting").ok()?.len() > before).then_some(());
    wait::until("further log lines", more).await?;
    ensure!(node.cri.exec_ok(&lasting, &["echo", "hi"]).await? == "hi\n");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_killed_shim_is_noticed_and_its_pod_can_be_removed() -> Result<()> {
    let why = "containerd 2 runs no delete for the pod's containers, and its delete ends the sandbox alone (containerd#13293)";
    if !only_dunnage_since((2, 0), why)? {
        return Ok(());
    }
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    let pid = node.cri.pid(&id).await?;
    for shim in node.world.shims(&Runtime::under_test().shim()?) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)?;
    }
    node.cri.ended(&id).await?;
    wait::until("the end of the container's process", || process::executable(pid).is_none().then_some(()))
        .await?;
    node.cri.remove_pod(&pod).await?;
    forgive_reference_its_sockets()?;
    node.require_nothing_left().await
}
