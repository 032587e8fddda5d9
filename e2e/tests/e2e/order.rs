//! The order of events, the states of a task and the races between calls, on a bare shim with the test as its
//! containerd.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::{DeleteResponse, WaitResponse};
use dunnage_e2e::bundle::{self, Bundle, Fifo};
use dunnage_e2e::events::Event;
use dunnage_e2e::fault;
use dunnage_e2e::footprint::Footprint;
use dunnage_e2e::process::Process;
use dunnage_e2e::task::{Code, Exec, Status, TaskClient, code, message};
use dunnage_e2e::wait;

use crate::only_dunnage;
use crate::rig::{Bench, forgive_reference_its_sockets};

#[tokio::test]
async fn a_task_that_exits_at_once_starts_before_it_exits_and_exits_once_two_hundred_times() -> Result<()> {
    let bench = Bench::new().await?;
    for round in 0..200 {
        bench.life(&format!("c{round}"), &["true"], 0, "").await.with_context(|| format!("round {round}"))?;
    }
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_state_after_an_answer_shows_what_the_answer_said() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    ensure!(code(&client.state("c", "").await) == Some(Code::NOT_FOUND));
    let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
    let state = client.state("c", "").await?;
    ensure!(state.status.enum_value() == Ok(Status::CREATED) && state.pid == pid, "{state:?}");
    ensure!(state.bundle == bundle.path(), "{state:?}");
    client.start("c", "").await?;
    ensure!(client.state("c", "").await?.status.enum_value() == Ok(Status::RUNNING));
    ensure!(client.pids("c").await? == [pid]);
    let (shim, task) = client.pids_of_shim_and_task("c").await?;
    ensure!(task == pid && Process::read(i32::try_from(shim)?).is_some(), "{shim} {task}");
    client.kill("c", "", 15, false).await?;
    client.kill("c", "", 9, false).await?;
    let end = client.wait("c", "").await?;
    ensure!(end.exit_status == 137 && end.exited_at.seconds > 0, "{end:?}");
    let state = client.state("c", "").await?;
    ensure!(state.status.enum_value() == Ok(Status::STOPPED), "{state:?}");
    ensure!(state.pid == pid && state.exit_status == 137 && state.exited_at == end.exited_at, "{state:?}");
    ensure!(
        code(&client.kill("c", "", 9, false).await) == Some(Code::NOT_FOUND),
        "a dead task took a signal"
    );
    let deleted = client.delete("c", "").await?;
    ensure!(deleted.pid == pid && deleted.exit_status == 137, "{deleted:?}");
    for refused in [code(&client.state("c", "").await), code(&client.delete("c", "").await)] {
        ensure!(refused == Some(Code::NOT_FOUND), "{refused:?}");
    }
    bench.dispose(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn wait_answers_everyone_with_the_same_end_before_and_after_it() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sh", "-c", "sleep 0.2; exit 5"]).await?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    let early: Vec<_> = (0..5).map(|_| spawn_wait(&client, "c", "")).collect();
    client.start("c", "").await?;
    let end = client.wait("c", "").await?;
    ensure!(end.exit_status == 5, "{end:?}");
    for waiting in early {
        ensure!(waiting.await?? == end);
    }
    ensure!(client.wait("c", "").await? == end);
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

fn spawn_wait(
    client: &TaskClient,
    id: &str,
    exec_id: &str,
) -> tokio::task::JoinHandle<ttrpc::Result<WaitResponse>> {
    let (client, id, exec_id) = (client.clone(), id.to_owned(), exec_id.to_owned());
    tokio::spawn(async move { client.wait(&id, &exec_id).await })
}

#[tokio::test]
async fn a_call_in_the_wrong_state_is_refused_and_changes_nothing() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    for refused in [code(&client.pause("c").await), code(&client.resume("c").await)] {
        ensure!(refused.is_some(), "a created task was frozen or thawed");
    }
    client.start("c", "").await?;
    let refusals = [
        ("Start", message(&client.start("c", "").await).to_owned()),
        ("Resume", message(&client.resume("c").await).to_owned()),
        ("Delete", message(&client.delete("c", "").await).to_owned()),
    ];
    for (call, refusal) in refusals {
        ensure!(!refusal.is_empty(), "{call} of a running task was not refused");
    }
    ensure!(client.state("c", "").await?.status.enum_value() == Ok(Status::RUNNING));
    client.pause("c").await?;
    ensure!(code(&client.pause("c").await).is_some(), "frozen twice");
    let exec = Exec { id: "c", exec_id: "e", spec: bundle::process(&["true"]), ..Default::default() };
    ensure!(code(&client.exec(exec).await).is_some(), "an exec in a frozen task");
    client.resume("c").await?;
    client.kill("c", "", 9, true).await?;
    client.wait("c", "").await?;
    let stopped = [code(&client.start("c", "").await), code(&client.pause("c").await)];
    ensure!(stopped.iter().all(Option::is_some), "{stopped:?}");
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_created_task_can_be_deleted_without_having_run() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.delete("c", "").await?;
    let gone = || Process::read(i32::try_from(pid).unwrap_or_default()).is_none().then_some(());
    wait::until("the end of the parked process", gone).await?;
    bench.dispose(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_parked_process_that_is_killed_stops_the_task_and_start_says_so() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
    fault::kill(i32::try_from(pid)?).await?;
    let end = client.wait("c", "").await?;
    ensure!(end.exit_status == 137, "{end:?}");
    ensure!(code(&client.start("c", "").await).is_some(), "a dead task was started");
    bench.finish(bundle, &client).await?;
    bench.events.wait_for("the exit", Event::is_init_exit).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn execs_start_exit_and_are_deleted_in_order_and_before_the_task() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    let init = bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    for round in 0..50 {
        let exec_id = format!("e{round}");
        let status = round % 3;
        exec(&client, "c", &exec_id, &["probe", "exit", &status.to_string()]).await?;
        ensure!(client.state("c", &exec_id).await?.status.enum_value() == Ok(Status::CREATED));
        let pid = client.start("c", &exec_id).await?;
        ensure!(client.wait("c", &exec_id).await?.exit_status == status, "round {round}");
        let deleted = client.delete("c", &exec_id).await?;
        ensure!(deleted.pid == pid && deleted.exit_status == status, "{deleted:?}");
        ensure!(code(&client.state("c", &exec_id).await) == Some(Code::NOT_FOUND));
    }
    client.kill("c", "", 9, false).await?;
    client.wait("c", "").await?;
    bench.finish(bundle, &client).await?;
    bench.require_history("c").await?;
    let events = bench.events.of("c");
    for round in 0..50 {
        let exec_id = format!("e{round}");
        let status = events.iter().find_map(|event| match event {
            Event::Exit { exec_id: of, status, .. } if *of == exec_id => Some(*status),
            _ => None,
        });
        ensure!(status == Some(round % 3), "{exec_id}: {status:?}");
    }
    let exit = Event::Exit { id: "c".to_owned(), exec_id: "c".to_owned(), pid: init, status: 137 };
    ensure!(events.contains(&exit), "{events:?}");
    bench.require_nothing_left().await
}

async fn exec(client: &TaskClient, id: &str, exec_id: &str, args: &[&str]) -> ttrpc::Result<()> {
    client.exec(Exec { id, exec_id, spec: bundle::process(args), ..Default::default() }).await
}

#[tokio::test]
async fn a_thousand_execs_leave_the_shim_as_it_was() -> Result<()> {
    if !only_dunnage("a Go program takes threads and memory as it likes") {
        return Ok(());
    }
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    let shim = fault::shim_of(&client, "c").await?;
    let mut held = None;
    for round in 0..1100 {
        if round == 100 {
            held = Footprint::of(shim);
        }
        let exec_id = format!("e{round}");
        exec(&client, "c", &exec_id, &["true"]).await?;
        client.start("c", &exec_id).await?;
        client.wait("c", &exec_id).await?;
        client.delete("c", &exec_id).await?;
    }
    let (before, after) = (held.context("no shim")?, Footprint::of(shim).context("no shim")?);
    let grown = before.growth(&after, 64);
    ensure!(grown.is_empty(), "{}", grown.join("\n"));
    client.kill("c", "", 9, false).await?;
    client.wait("c", "").await?;
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn the_end_of_a_task_is_told_after_the_ends_of_its_execs() -> Result<()> {
    let bench = Bench::new().await?;
    for round in 0..20 {
        let id = format!("c{round}");
        let (bundle, client) = bench.task(&id, &["sleep", "1000"]).await?;
        bundle.create(&bench.world, &client, ["", "", ""]).await?;
        client.start(&id, "").await?;
        for exec_id in ["a", "b", "c"] {
            exec(&client, &id, exec_id, &["sleep", "1000"]).await?;
            client.start(&id, exec_id).await?;
        }
        client.kill(&id, "", 9, false).await?;
        client.wait(&id, "").await?;
        bench.finish(bundle, &client).await?;
        bench.require_history(&id).await?;
        let exits = bench.events.of(&id).into_iter().filter(|event| matches!(event, Event::Exit { .. }));
        ensure!(exits.count() == 4, "round {round}");
    }
    bench.require_nothing_left().await
}

#[tokio::test]
async fn an_exec_id_can_be_taken_once() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    let race = tokio::join!(exec(&client, "c", "e", &["true"]), exec(&client, "c", "e", &["true"]));
    let codes = [code(&race.0), code(&race.1)];
    ensure!(codes.contains(&None) && codes.contains(&Some(Code::ALREADY_EXISTS)), "{codes:?}");
    client.delete("c", "e").await.context("a registered exec can be deleted")?;
    exec(&client, "c", "e", &["true"]).await.context("and its id taken again")?;
    client.start("c", "e").await?;
    client.wait("c", "e").await?;
    client.delete("c", "e").await?;
    client.kill("c", "", 9, false).await?;
    client.wait("c", "").await?;
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn many_execs_at_once_each_come_back_with_their_own_code() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    let mut running = Vec::new();
    for n in 0..20 {
        let client = client.clone();
        running.push(tokio::spawn(async move {
            let exec_id = format!("e{n}");
            exec(&client, "c", &exec_id, &["probe", "exit", &n.to_string()]).await?;
            client.start("c", &exec_id).await?;
            let status = client.wait("c", &exec_id).await?.exit_status;
            client.delete("c", &exec_id).await?;
            ttrpc::Result::Ok((n, status))
        }));
    }
    for exec in running {
        let (n, status) = exec.await??;
        ensure!(n == status, "exec {n} came back with {status}");
    }
    client.kill("c", "", 9, false).await?;
    client.wait("c", "").await?;
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_task_that_ends_under_its_execs_answers_every_call() -> Result<()> {
    let bench = Bench::new().await?;
    for round in 0..10 {
        let id = format!("c{round}");
        let (bundle, client) = bench.task(&id, &["sleep", "1000"]).await?;
        bundle.create(&bench.world, &client, ["", "", ""]).await?;
        client.start(&id, "").await?;
        let racing = {
            let (client, id) = (client.clone(), id.clone());
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for n in 0..20 {
                    let exec_id = format!("e{n}");
                    let added = exec(&client, &id, &exec_id, &["true"]).await;
                    let started = client.start(&id, &exec_id).await;
                    answers.push((added.is_ok(), started.is_ok()));
                }
                answers
            })
        };
        tokio::time::sleep(Duration::from_millis(5 * round)).await;
        client.kill(&id, "", 9, false).await?;
        client.wait(&id, "").await?;
        let answers = racing.await?;
        ensure!(answers.len() == 20, "{answers:?}");
        bench.finish(bundle, &client).await?;
    }
    bench.require_nothing_left().await
}

#[tokio::test]
async fn output_is_whole_and_ends_when_the_task_does() -> Result<()> {
    let bench = Bench::new().await?;
    let printed: String = (0..15_625).map(|number| format!("{number:08} {:.<54}\n", "")).collect();
    bench.life("c", &["probe", "print", "1000000"], 0, &printed).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn what_was_written_just_before_the_end_is_not_lost() -> Result<()> {
    let bench = Bench::new().await?;
    for round in 0..20 {
        let id = format!("c{round}");
        let (bundle, client) = bench.task(&id, &["probe", "print", "60000"]).await?;
        let (stdout, stderr) = bench.fifos()?;
        bundle.create(&bench.world, &client, ["", stdout.path(), stderr.path()]).await?;
        client.start(&id, "").await?;
        // The whole output fits into the fifo: the task ends although nobody has read yet.
        client.wait(&id, "").await?;
        let (output, deleted) = tokio::join!(stdout.read_to_end(), client.delete(&id, ""));
        deleted?;
        ensure!(output?.len() == 60_000, "round {round}");
        stderr.read_to_end().await?;
        bench.dispose(bundle, &client).await?;
    }
    bench.require_nothing_left().await
}

#[tokio::test]
async fn output_waits_for_a_reader_that_comes_late() -> Result<()> {
    // containerd's clients open their ends in the background: a quick process can be over before.
    if !only_dunnage("its Create waits until the reader has come") {
        return Ok(());
    }
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sh", "-c", "echo out; echo err >&2"]).await?;
    let paths = ["stdout", "stderr"].map(|name| bench.world.dir().join(name));
    for path in &paths {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU)?;
    }
    let life = async {
        let [stdout, stderr] = paths.each_ref().map(|path| path.to_string_lossy());
        bundle.create(&bench.world, &client, ["", &stdout, &stderr]).await?;
        client.start("c", "").await?;
        client.wait("c", "").await?;
        client.delete("c", "").await?;
        anyhow::Ok(())
    };
    let reader = async {
        wait::until_ok("the end of the process", || async {
            ensure!(client.state("c", "").await?.status.enum_value() == Ok(Status::STOPPED));
            anyhow::Ok(())
        })
        .await?;
        let [stdout, stderr] = paths.each_ref().map(|path| Fifo::open_existing(path));
        let (stdout, stderr) = tokio::join!(stdout?.read_to_end(), stderr?.read_to_end());
        anyhow::Ok((stdout?, stderr?))
    };
    let (life, read) = tokio::join!(life, reader);
    life?;
    ensure!(read? == ("out\n".to_owned(), "err\n".to_owned()));
    bench.dispose(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_reader_that_stops_stalls_only_the_writer() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["probe", "print", "10000000"]).await?;
    let (stdout, stderr) = bench.fifos()?;
    bundle.create(&bench.world, &client, ["", stdout.path(), stderr.path()]).await?;
    client.start("c", "").await?;
    for _ in 0..20 {
        ensure!(client.state("c", "").await?.status.enum_value() == Ok(Status::RUNNING));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (output, end) = tokio::join!(stdout.read_to_end(), client.wait("c", ""));
    ensure!(output?.len() == 10_000_000 && end?.exit_status == 0);
    bench.finish(bundle, &client).await?;
    drop(stderr);
    bench.require_nothing_left().await
}

#[tokio::test]
async fn input_reaches_the_task_and_ends_when_it_is_closed() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["cat"]).await?;
    let (mut stdout, stderr) = bench.fifos()?;
    let stdin = bench.world.dir().join("stdin");
    nix::unistd::mkfifo(&stdin, nix::sys::stat::Mode::S_IRWXU)?;
    // Opened for both, as the other end is not there yet.
    let mut writer = tokio::net::unix::pipe::OpenOptions::new().read_write(true).open_sender(&stdin)?;
    let path = stdin.to_string_lossy().into_owned();
    bundle.create(&bench.world, &client, [&path, stdout.path(), stderr.path()]).await?;
    client.start("c", "").await?;
    tokio::io::AsyncWriteExt::write_all(&mut writer, b"over and out\n").await?;
    stdout.read_until("over and out\n").await?;
    drop(writer);
    client.close_input("c", "").await?;
    ensure!(client.wait("c", "").await?.exit_status == 0);
    bench.finish(bundle, &client).await?;
    ensure!(stdout.read_to_end().await?.is_empty());
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_terminal_can_be_resized_and_carries_both_streams() -> Result<()> {
    let bench = Bench::new().await?;
    let (mut bundle, client) = bench.task("c", &["sh", "-c", "read line; stty size; echo err >&2"]).await?;
    bundle.spec["process"]["terminal"] = true.into();
    bundle.write()?;
    let mut stdout = Fifo::open(&bench.world.dir().join("stdout"))?;
    let stdin = bench.world.dir().join("stdin");
    nix::unistd::mkfifo(&stdin, nix::sys::stat::Mode::S_IRWXU)?;
    let mut writer = tokio::net::unix::pipe::OpenOptions::new().read_write(true).open_sender(&stdin)?;
    let path = stdin.to_string_lossy().into_owned();
    let rootfs = bundle.rootfs(&bench.world)?;
    let stdio = [&*path, stdout.path(), ""];
    let create = dunnage_e2e::task::Create {
        id: "c",
        bundle: bundle.path(),
        rootfs,
        stdio,
        terminal: true,
        options: None,
    };
    client.create(create).await?;
    client.start("c", "").await?;
    client.resize("c", "", 91, 37).await?;
    tokio::io::AsyncWriteExt::write_all(&mut writer, b"go\n").await?;
    let seen = stdout.read_until("err\r\n").await?;
    ensure!(seen.contains("37 91\r\n"), "{seen:?}");
    ensure!(client.wait("c", "").await?.exit_status == 0);
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn delete_cleans_up_after_a_shim_that_was_killed_at_any_moment() -> Result<()> {
    let bench = Bench::new().await?;
    for (id, create, start) in [("started", false, false), ("created", true, false), ("running", true, true)]
    {
        let (bundle, client) = bench.task(id, &["sh", "-c", "sleep 1000 & exec sleep 1000"]).await?;
        let shim = fault::shim_of(&client, id).await?;
        if create {
            bundle.create(&bench.world, &client, ["", "", ""]).await?;
        }
        if start {
            client.start(id, "").await?;
            wait::until("both processes", || (bench.world.processes_named("sleep").len() == 2).then_some(()))
                .await?;
        }
        fault::kill(shim).await?;
        let answer = bench.delete(&bundle).await?;
        let killed = |answer: &DeleteResponse| answer.exit_status == 137 && answer.exited_at.seconds > 0;
        ensure!(!create || answer.as_ref().is_some_and(killed), "{id}: {answer:?}");
        bench.delete(&bundle).await.with_context(|| format!("{id}: a second time"))?;
        bundle.remove(&bench.world)?;
        forgive_reference_its_sockets()?;
    }
    bench.require_nothing_left().await
}

#[tokio::test]
async fn an_exit_while_nobody_was_connected_is_told_to_the_next_who_asks() -> Result<()> {
    let bench = Bench::new().await?;
    let bundle = Bundle::new(&bench.world, "c", &["sh", "-c", "sleep 0.3; exit 11"])?;
    let shim = bench.launch.start("c", &bundle.dir).await?;
    let client = TaskClient::connect(&shim.address, shim.version).await?;
    let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    fault::hang_up(client);
    let ended = || Process::read(i32::try_from(pid).unwrap_or_default()).is_none().then_some(());
    wait::until("the end", ended).await?;
    let client = TaskClient::connect(&shim.address, shim.version).await?;
    let (_, task) = client.pids_of_shim_and_task("c").await?;
    ensure!(task == pid, "{task}, not {pid}");
    // Wait first: the process may be reaped a moment before the shim knows of it.
    ensure!(client.wait("c", "").await?.exit_status == 11);
    ensure!(client.state("c", "").await?.exit_status == 11);
    if only_dunnage("its Pids of an ended task is empty, which makes containerd throw the exit code away") {
        ensure!(client.pids("c").await? == [pid]);
    }
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_create_whose_caller_hung_up_can_be_deleted_at_once() -> Result<()> {
    if !only_dunnage("it abandons the work half-done and may leave the runtime's part behind") {
        return Ok(());
    }
    let bench = Bench::new().await?;
    for round in 0..20 {
        let id = format!("c{round}");
        let bundle = Bundle::new(&bench.world, &id, &["sleep", "1000"])?;
        let shim = bench.launch.start(&id, &bundle.dir).await?;
        let client = TaskClient::connect(&shim.address, shim.version).await?;
        let create = bundle.create(&bench.world, &client, ["", "", ""]);
        // Whether it is answered in this time makes no difference.
        _ = tokio::time::timeout(Duration::from_micros(500 * round), create).await;
        fault::hang_up(client);
        let client = TaskClient::connect(&shim.address, shim.version).await?;
        // What containerd does then. The request may have been lost with its caller, or come a moment later.
        for pause in [0, 200] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let deleted = client.delete(&id, "").await;
            ensure!(matches!(code(&deleted), None | Some(Code::NOT_FOUND)), "round {round}: {deleted:?}");
        }
        bench.dispose(bundle, &client).await?;
    }
    bench.require_nothing_left().await
}

#[tokio::test]
async fn both_versions_of_the_service_answer_on_one_socket() -> Result<()> {
    if !only_dunnage("the reference of containerd 1.6 knows only version 2") {
        return Ok(());
    }
    use dunnage_e2e::shim::Daemon;
    use dunnage_e2e::task::Version;
    let mut bench = Bench::new().await?;
    for daemon in [Daemon::V1_6, Daemon::V1_7, Daemon::V2_0, Daemon::V2_3] {
        bench.launch.daemon = daemon;
        let id = format!("{daemon:?}").to_lowercase();
        let (bundle, client) = bench.task(&id, &["sleep", "1000"]).await?;
        let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
        for version in [Version::V2, Version::V3] {
            ensure!(client.speaking(version).state(&id, "").await?.pid == pid, "{daemon:?} {version:?}");
        }
        client.delete(&id, "").await?;
        bench.dispose(bundle, &client).await?;
    }
    bench.require_nothing_left().await
}

#[tokio::test]
async fn events_that_nobody_took_do_not_hold_up_a_task() -> Result<()> {
    let mut bench = Bench::new().await?;
    bench.launch.events = bench.world.dir().join("nobody-listens");
    let (bundle, client) = bench.task("c", &["true"]).await?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    ensure!(client.wait("c", "").await?.exit_status == 0);
    client.delete("c", "").await?;
    client.shutdown("c").await?;
    bench.delete(&bundle).await?;
    bundle.remove(&bench.world)?;
    bench.require_nothing_left().await
}
