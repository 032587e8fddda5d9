//! What a person does with `ctr`.

use anyhow::{Context, Result, ensure};
use dunnage_e2e::census::Kind;
use dunnage_e2e::image::PROBE;
use dunnage_e2e::process::{self, Process};
use dunnage_e2e::programs::Runtime;
use dunnage_e2e::wait;
use serde_json::Value;

use crate::only_dunnage_since;
use crate::rig::Node;

#[tokio::test]
async fn output_and_exit_code_of_an_attached_run_come_back() -> Result<()> {
    let node = Node::new().await?;
    let run = node.ctr.run_probe(&["--rm"], "c", &["sh", "-c", "echo out; echo err >&2; exit 7"]).await?;
    ensure!(run.code == Some(7), "{run:?}");
    ensure!(run.stdout == "out\n" && run.stderr.contains("err\n"), "{run:?}");
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_mebibyte_of_output_arrives_whole() -> Result<()> {
    let node = Node::new().await?;
    let run = node.ctr.run_probe(&["--rm"], "c", &["probe", "print", "1048576"]).await?;
    ensure!(run.code == Some(0) && run.stdout.len() == 1 << 20, "{} bytes, {:?}", run.stdout.len(), run.code);
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_detached_container_runs_takes_execs_is_killed_and_deleted() -> Result<()> {
    let node = Node::new().await?;
    node.ctr.run_probe(&["--detach"], "c", &["sleep", "1000"]).await?.ok()?;
    let (pid, state) = node.ctr.task("c").await?.context("no task")?;
    ensure!(state == "RUNNING", "{state}");
    let seen = Process::read(pid).context("the listed pid is no process")?;
    ensure!(seen.name == "sleep", "{seen:?}");

    let exec = node.ctr.exec("c", "e", &["sh", "-c", "echo inside; exit 3"]).await?;
    ensure!(exec.code == Some(3) && exec.stdout == "inside\n", "{exec:?}");

    let busy = node.ctr.run(["task", "delete", "c"]).await?;
    ensure!(busy.code != Some(0), "a running task was deleted");
    node.ctr.run(["task", "kill", "--signal", "SIGKILL", "c"]).await?.ok()?;
    wait::until("the end", || Process::read(pid).is_none_or(|process| process.is_zombie()).then_some(()))
        .await?;
    wait::until_ok("STOPPED", || async {
        let (_, state) = node.ctr.task("c").await?.context("no task")?;
        ensure!(state == "STOPPED", "{state}");
        Ok(())
    })
    .await?;
    let deleted = node.ctr.run(["task", "delete", "c"]).await?;
    ensure!(deleted.stderr.contains("137") || deleted.code == Some(137), "{deleted:?}");
    node.ctr.run(["container", "delete", "c"]).await?.ok()?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_terminal_is_a_terminal() -> Result<()> {
    let node = Node::new().await?;
    let mut inner = node.ctr.command();
    let runtime = Runtime::under_test().type_name();
    inner.args(["run", "--runtime", runtime, "--rm", "--tty", PROBE, "c", "sh", "-c", "tty; exit 5"]);
    // script(1) gives ctr the terminal that it insists on.
    let words: Vec<_> =
        inner.as_std().get_args().map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let mut script = tokio::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", &format!("ctr {}", words.join(" ")), "/dev/null"]);
    let run = dunnage_e2e::command::output(&mut script).await?;
    ensure!(run.code == Some(5) && run.stdout.contains("/dev/pts/0"), "{run:?}");
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named_and_leaves_nothing() -> Result<()> {
    let node = Node::new().await?;
    let run = node.ctr.run_probe(&["--rm"], "c", &["/no/such/program"]).await?;
    ensure!(run.code != Some(0), "{run:?}");
    ensure!(
        run.stderr.contains("/no/such/program") && run.stderr.contains("no such file or directory"),
        "{run:?}"
    );
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_file_that_is_no_program_is_refused_by_its_permission() -> Result<()> {
    let node = Node::new().await?;
    let run = node.ctr.run_probe(&["--rm"], "c", &["/etc/plain.txt"]).await?;
    ensure!(run.code != Some(0) && run.stderr.contains("permission denied"), "{run:?}");
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_missing_mount_source_is_named_and_leaves_nothing() -> Result<()> {
    let node = Node::new().await?;
    let mount = "type=bind,src=/no/such/source,dst=/mnt,options=rbind:ro";
    let run = node.ctr.run_probe(&["--rm", "--mount", mount], "c", &["true"]).await?;
    ensure!(run.code != Some(0) && run.stderr.contains("/no/such/source"), "{run:?}");
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_missing_root_is_refused_and_leaves_nothing() -> Result<()> {
    let node = Node::new().await?;
    let rootfs = node.world.dir().join("no-such-root").to_string_lossy().into_owned();
    let runtime = Runtime::under_test().type_name();
    let run =
        node.ctr.run(["run", "--runtime", runtime, "--rm", "--rootfs", &rootfs, "c", "/bin/true"]).await?;
    ensure!(run.code != Some(0) && run.stderr.contains("no-such-root"), "{run:?}");
    node.require_nothing_left().await
}

#[tokio::test]
async fn an_exec_of_a_missing_program_fails_and_the_container_lives_on() -> Result<()> {
    let node = Node::new().await?;
    node.ctr.run_probe(&["--detach"], "c", &["sleep", "1000"]).await?.ok()?;
    let exec = node.ctr.exec("c", "e", &["/no/such/program"]).await?;
    ensure!(exec.code != Some(0) && exec.stderr.contains("/no/such/program"), "{exec:?}");
    let again = node.ctr.exec("c", "e2", &["true"]).await?;
    ensure!(again.code == Some(0), "{again:?}");
    node.end("c").await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn the_same_id_twice_is_refused_and_the_first_lives_on() -> Result<()> {
    let node = Node::new().await?;
    node.ctr.run_probe(&["--detach"], "c", &["sleep", "1000"]).await?.ok()?;
    let again = node.ctr.run_probe(&["--detach"], "c", &["true"]).await?;
    ensure!(again.code != Some(0) && again.stderr.contains("already exists"), "{again:?}");
    ensure!(node.ctr.task("c").await?.is_some_and(|(_, state)| state == "RUNNING"));
    node.end("c").await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_hundred_containers_one_after_the_other_leave_nothing() -> Result<()> {
    let node = Node::new().await?;
    for round in 0..100 {
        let run = node.ctr.run_probe(&["--rm"], &format!("c{round}"), &["true"]).await?;
        ensure!(run.code == Some(0), "round {round}: {run:?}");
    }
    node.require_nothing_left().await
}

#[tokio::test]
async fn execs_leave_no_descriptor_in_the_shim() -> Result<()> {
    if !only_dunnage_since((1, 7), "Go keeps the pidfd of an ended child until it collects garbage")? {
        return Ok(());
    }
    let node = Node::new().await?;
    node.ctr.run_probe(&["--detach"], "c", &["sleep", "1000"]).await?.ok()?;
    node.ctr.exec("c", "warm", &["true"]).await?.ok()?;
    let shims = node.world.shims(&Runtime::under_test().shim()?);
    let [shim] = shims[..] else { anyhow::bail!("not one shim: {shims:?}") };
    let before = process::descriptor_kinds(shim);
    for round in 0..20 {
        node.ctr.exec("c", &format!("e{round}"), &["true"]).await?.ok()?;
    }
    let same = || (process::descriptor_kinds(shim) == before).then_some(());
    let settled = wait::until("the shim's descriptors", same).await;
    settled.with_context(|| format!("before {before:#?}\nafter {:#?}", process::descriptors(shim)))?;
    node.end("c").await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn metrics_count_memory_and_processes() -> Result<()> {
    let node = Node::new().await?;
    node.ctr.run_probe(&["--detach"], "c", &["sh", "-c", "sleep 1000 & sleep 1000 & wait"]).await?.ok()?;
    wait::until_ok("three processes", || async {
        let metrics = node.ctr.metrics("c").await?;
        // v1 metrics name it current under pids; so do v2 metrics.
        ensure!(metrics["pids"]["current"] == 3, "{metrics}");
        ensure!(memory(&metrics) > 0, "{metrics}");
        Ok(())
    })
    .await?;
    node.end("c").await?;
    node.require_nothing_left().await
}

fn memory(metrics: &Value) -> u64 {
    let v1 = metrics["memory"]["usage"]["usage"].as_u64();
    v1.or_else(|| metrics["memory"]["usage"].as_u64()).unwrap_or_default()
}

#[tokio::test]
async fn the_census_sees_a_running_container() -> Result<()> {
    let node = Node::new().await?;
    node.ctr.run_probe(&["--detach"], "c", &["sleep", "1000"]).await?.ok()?;
    let changes = node.changes()?;
    let seen = |kind: Kind| changes.iter().any(|change| change.starts_with(&format!("+ {kind}: ")));
    for kind in [Kind::Mount, Kind::Cgroup, Kind::Process, Kind::File, Kind::NetworkNamespace, Kind::Socket] {
        ensure!(seen(kind), "the census would miss a leaked {kind}: {changes:#?}");
    }
    node.end("c").await?;
    node.require_nothing_left().await
}
