//! Faults of the world around a shim, and doubles that prove that the rig's checks can fail.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dunnage_e2e::bundle::{self, Bundle, Fifo};
use dunnage_e2e::fault::{self, Deed, Leak, Lie, Moment, Script, Victim};
use dunnage_e2e::footprint::Footprint;
use dunnage_e2e::image::PROBE;
use dunnage_e2e::line::Line;
use dunnage_e2e::programs::{Runtime, built};
use dunnage_e2e::task::{Code, Create, Exec, Status, TaskClient, Version, code, message};
use dunnage_e2e::wait;

use crate::only_dunnage;
use crate::rig::{Bench, Node, forgive_reference_its_sockets};

/// How long the census is given to find what a double left.
const FINDING: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_census_names_each_thing_that_a_leaking_shim_leaves_and_nothing_else() -> Result<()> {
    let leaks: &[(Leak, &[&str])] = &[
        (Leak::Mount, &["+ mount: /run/leak (tmpfs from leak)"]),
        (Leak::Cgroup, &["+ cgroup: |/leak"]),
        (
            Leak::NetworkNamespace,
            &[
                "+ mount: /run/netns/leak (nsfs from nsfs)",
                "+ network namespace: net:[|]",
                "+ file: /run/netns/leak",
            ],
        ),
        (Leak::Link, &["+ link: leak0"]),
        (Leak::Route, &["+ route: 0000630A/0000FFFF by lo"]),
        (Leak::Table, &["+ line of nftables: table ip leak"]),
        (Leak::Process, &["+ process: sleep (pid |, child of |)"]),
        (Leak::Zombie, &["+ process: |, child of |)", "+ process: true (pid |, a zombie)"]),
        (Leak::File, &["+ file: /run/leak-file"]),
        (Leak::Socket, &["+ process: probe (pid |, child of |)", "+ listening socket: tcp 00000000:1267"]),
        (Leak::Lease, &["+ address lease: 10.166.0.77"]),
        (Leak::WorkDir, &["+ work folder: leak"]),
    ];
    for (leak, expected) in leaks {
        let script = |script: Script| script.at(Moment::after("Create"), Deed::Leak(*leak));
        let bench = Bench::with_double(script).await?;
        bench.life("c", &["true"], 0, "").await?;
        let begin = Instant::now();
        let found = loop {
            let found = bench.changes()?;
            if is_like(&found, expected) || begin.elapsed() > FINDING * wait::patience() {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        ensure!(is_like(&found, expected), "{leak:?}: {found:#?}, not {expected:#?}\n{}", double_log());
        ensure!(bench.require_nothing_left_now().await.is_err(), "{leak:?} was let through");
    }
    Ok(())
}

/// Whether each line is like one pattern and no line or pattern is over. `|` in a pattern stands for any words.
fn is_like(lines: &[String], patterns: &[&str]) -> bool {
    let matches = |line: &str, pattern: &str| {
        let mut parts = pattern.split('|');
        let begins = parts.next().is_some_and(|part| line.starts_with(part));
        begins && pattern.rsplit('|').next().is_some_and(|part| line.ends_with(part))
    };
    let mut left: Vec<&String> = lines.iter().collect();
    let found = |pattern: &&str| {
        let at = left.iter().position(|line| matches(line, pattern));
        at.map(|at| left.remove(at)).is_some()
    };
    // The longest first: what is like a longer pattern may be like a shorter one, too.
    let mut patterns = patterns.to_vec();
    patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.len()));
    patterns.iter().all(found) && left.is_empty()
}

fn double_log() -> String {
    std::fs::read_to_string(Path::new(fault::PLACE).join("log")).unwrap_or_default()
}

#[tokio::test]
async fn what_a_shim_leaks_into_itself_is_seen_while_it_lives() -> Result<()> {
    let own = [Leak::OwnDescriptor, Leak::OwnZombie, Leak::OwnThread, Leak::OwnMemory];
    let bench = Bench::with_double(|script| {
        own.iter().fold(script, |script, leak| script.at(Moment::after("Exec"), Deed::Leak(*leak)))
    })
    .await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    let shims = bench.world.shims(&built(fault::DOUBLE_SHIM)?);
    let [double] = shims[..] else { anyhow::bail!("doubles {shims:?}") };
    let shim = fault::shim_of(&client, "c").await?;
    let held = |pid| Footprint::of(pid).context("the shim is gone");
    let (before, before_shim) = (held(double)?, held(shim)?);
    run_exec(&client, "c", "e").await?;
    let grown = before.growth(&held(double)?, 512);
    for what in ["+ descriptor: /dev/null", "+ memory", "+ threads", "+ zombies"] {
        ensure!(grown.iter().any(|line| line.starts_with(what)), "{what} is not in {grown:?}");
    }
    // A Go program takes threads and memory as it likes.
    if Runtime::under_test().is_dunnage() {
        let grown = before_shim.growth(&held(shim)?, 512);
        ensure!(grown.is_empty(), "the shim behind the double: {grown:?}");
    }
    end(&bench, bundle, &client).await
}

#[tokio::test]
async fn each_lie_of_a_shim_is_found_by_the_checks_of_the_suite() -> Result<()> {
    // The checks must let an honest shim through, or they prove nothing.
    let bench = Bench::with_double(|script| script).await?;
    bench.life("c", &["sh", "-c", "echo all; sleep 0.1; exit 3"], 3, "all\n").await.context("honest")?;
    bench.require_nothing_left().await.context("honest")?;
    let lies = [
        (Lie::ExitCode, "Wait answers 4, not 3"),
        (Lie::ExitTwice, "c: TaskExit twice"),
        (Lie::ExitNever, "c: no TaskExit"),
        (Lie::ExitBeforeStart, "c: TaskExit before TaskStart"),
        (Lie::WaitEarly, "Wait answers 0, not 3"),
        (Lie::NoDelete, "c: no TaskDelete"),
        (Lie::WrongPid, "State answers pid "),
        (Lie::LogCut, "3 bytes came out, not 4"),
    ];
    for (lie, words) in lies {
        let bench = Bench::with_double(|script| script.telling(lie)).await?;
        let life = bench.life("c", &["sh", "-c", "echo all; sleep 0.1; exit 3"], 3, "all\n").await;
        let found = life.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(found.contains(words), "{lie:?}: {words:?} is not in {found:?}\n{}", double_log());
    }
    // Even when it guesses the code, a Wait that comes too early is found by the state.
    let bench = Bench::with_double(|script| script.telling(Lie::WaitEarly)).await?;
    let found = bench.life("c", &["sleep", "1"], 0, "").await.err().map(|error| format!("{error:#}"));
    ensure!(found.as_ref().is_some_and(|found| found.contains("State answers")), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_shim_killed_before_or_after_any_call_is_cleaned_up_by_delete() -> Result<()> {
    let calls = ["Create", "Start", "Exec", "State", "Kill", "Wait", "Delete"];
    let moments = calls.iter().flat_map(|call| [Moment::before(call), Moment::after(call)]);
    let events = ["create", "start", "exit", "delete"].map(|topic| Moment::event(&format!("/tasks/{topic}")));
    for moment in moments.chain(events) {
        let die = |script: Script| script.at(moment.clone(), Deed::Kill(Victim::Shim));
        let bench = Bench::with_double(die).await?;
        let (bundle, client) = bench.task("c", &["sh", "-c", "sleep 1000 & exec sleep 1000"]).await?;
        let shim = fault::shim_of(&client, "c").await?;
        // Calls after the end of the shim fail; which one did is the moment's business.
        let _: Result<()> = async {
            bundle.create(&bench.world, &client, ["", "", ""]).await?;
            client.start("c", "").await?;
            client
                .exec(Exec { id: "c", exec_id: "e", spec: bundle::process(&["true"]), ..Default::default() })
                .await?;
            client.state("c", "").await?;
            client.kill("c", "", 9, true).await?;
            client.wait("c", "").await?;
            client.delete("c", "").await?;
            Ok(())
        }
        .await;
        let story = || format!("{moment:?}\n{}", double_log());
        wait::until("the shim's end", || fault::is_over(shim).then_some(())).await.with_context(story)?;
        bench.delete(&bundle).await.with_context(story)?;
        bench.delete(&bundle).await.with_context(story).context("a second time")?;
        bundle.remove(&bench.world).with_context(story)?;
        forgive_reference_its_sockets()?;
        bench.require_nothing_left().await.with_context(story)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_shim_whose_caller_died_goes_on_and_serves_the_next() -> Result<()> {
    if !only_dunnage("it abandons the work half-done and may leave the runtime's part behind") {
        return Ok(());
    }
    for moment in ["Create", "Start"].iter().flat_map(|call| [Moment::before(call), Moment::after(call)]) {
        let die = |script: Script| script.at(moment.clone(), Deed::Kill(Victim::Caller));
        let bench = Bench::with_double(die).await?;
        let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
        let created = bundle.create(&bench.world, &client, ["", "", ""]).await;
        let started = client.start("c", "").await;
        ensure!(created.is_err() || started.is_err(), "{moment:?}: nobody died");
        let address = std::fs::read_to_string(fault::shim_address_file("c"))?;
        let client = TaskClient::connect(&address, Version::V2).await?;
        if client.state("c", "").await.is_ok() {
            client.kill("c", "", 9, true).await?;
            client.wait("c", "").await?;
            client.delete("c", "").await.with_context(|| format!("{moment:?}"))?;
        }
        bench.dispose(bundle, &client).await.with_context(|| format!("{moment:?}"))?;
        bench.require_nothing_left().await.with_context(|| format!("{moment:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn containerd_killed_at_any_moment_finds_its_way_back_when_it_is_restarted() -> Result<()> {
    let mut node = Node::new().await?;
    let moments = [
        Moment::before("Create"),
        Moment::after("Create"),
        Moment::before("Start"),
        Moment::after("Start"),
        Moment::event("/tasks/start"),
        Moment::event("/tasks/exit"),
        Moment::before("Delete"),
    ];
    for (round, moment) in moments.into_iter().enumerate() {
        if moment == Moment::before("Create") {
            let line = Line::under_test()?;
            if !line.is_since(1, 7) {
                println!("not before containerd 1.7: 1.6 forgets a shim that has no task (containerd#6860)");
                continue;
            }
            if line.is_since(2, 0) && !Runtime::under_test().is_dunnage() {
                println!("not with the reference of containerd 2: its shim without a task stays");
                continue;
            }
        }
        let story = format!("{moment:?}");
        Script::new(&node.world)?.at(moment, Deed::Kill(Victim::Containerd)).write()?;
        let id = format!("c{round}");
        let words = ["run", "--runtime", fault::DOUBLE, PROBE, &id, "sleep", "0.5"];
        let run = node.ctr.run(words).await?;
        ensure!(run.code != Some(0), "{story}: containerd was not killed\n{}", double_log());
        node.containerd.kill().await.with_context(|| story.clone())?;
        node.containerd.launch().await.with_context(|| story.clone())?;
        // A task that is not there any more cannot be deleted, which is as well.
        let deleted = node.ctr.run(["task", "delete", "--force", &id]).await?;
        let removed = node.ctr.run(["container", "delete", &id]).await?.ok();
        removed.with_context(|| format!("{story}\n{}", double_log()))?;
        // ctr's own pipes: it may leave them when its daemon dies under it.
        _ = std::fs::remove_dir_all("/run/containerd/fifo");
        let left = node.require_nothing_left().await;
        left.with_context(|| format!("{story}\n{deleted:?}\n{}", double_log()))?;
    }
    Ok(())
}

#[tokio::test]
async fn without_another_process_the_call_fails_and_later_ones_do_not() -> Result<()> {
    if !only_dunnage("it is a Go program and dies of it") {
        return Ok(());
    }
    let words = ["EAGAIN", "resource temporarily unavailable"];
    shortage_fails_the_call(&words, |bench, shim| fault::pids(&bench.world, shim)).await
}

#[tokio::test]
async fn without_another_descriptor_the_call_fails_and_later_ones_do_not() -> Result<()> {
    if !only_dunnage("it is a Go program with a limit of its own") {
        return Ok(());
    }
    let words = ["EMFILE", "too many open files"];
    shortage_fails_the_call(&words, |_, shim| fault::descriptors(shim)).await
}

/// First `Create`, then an exec in a running task meet the shortage; each goes well once it is over.
async fn shortage_fails_the_call(
    words: &[&str],
    shortage: impl Fn(&Bench, i32) -> Result<fault::Shortage>,
) -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    let shim = fault::shim_of(&client, "c").await?;
    let require_words = |call: &str, reason: &str| {
        ensure!(words.iter().any(|word| reason.contains(word)), "{call}: {words:?} are not in {reason:?}");
        Ok(())
    };

    let short = shortage(&bench, shim)?;
    let rootfs = bundle.rootfs(&bench.world)?;
    let create = Create { id: "c", bundle: bundle.path(), rootfs, ..Default::default() };
    let created = client.create(create).await;
    short.lift()?;
    require_words("Create", message(&created))?;
    ensure!(code(&client.state("c", "").await) == Some(Code::NOT_FOUND), "half a task is left");

    let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    let short = shortage(&bench, shim)?;
    let exec = Exec { id: "c", exec_id: "e", spec: bundle::process(&["true"]), ..Default::default() };
    let reason = match client.exec(exec).await {
        Ok(()) => {
            let started = client.start("c", "e").await;
            short.lift()?;
            client.delete("c", "e").await?;
            message(&started).to_owned()
        }
        refused => {
            short.lift()?;
            message(&refused).to_owned()
        }
    };
    require_words("exec", &reason)?;
    let state = client.state("c", "").await?;
    ensure!(state.status.enum_value() == Ok(Status::RUNNING) && state.pid == pid, "{state:?}");
    run_exec(&client, "c", "f").await?;
    end(&bench, bundle, &client).await
}

#[tokio::test]
async fn a_shim_with_too_little_memory_serves_or_dies_and_leaves_nothing() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    let shim = fault::shim_of(&client, "c").await?;
    let Some(short) = fault::memory(&bench.world, shim, 64 << 10)? else {
        println!("not on this machine: on cgroup v2 a shim has no memory limit without its parent");
        return Ok(());
    };
    let rootfs = bundle.rootfs(&bench.world)?;
    let create = Create { id: "c", bundle: bundle.path(), rootfs, ..Default::default() };
    let created = client.create(create).await;
    // A refusal is an answer; a connection that ends is a death.
    let died = created.is_err() && code(&created).is_none();
    if died {
        wait::until("the shim's end", || fault::is_over(shim).then_some(())).await?;
    }
    short.lift()?;
    if !died {
        let state = client.state("c", "").await;
        let expected = if created.is_ok() { None } else { Some(Code::NOT_FOUND) };
        ensure!(code(&state) == expected, "{created:?} and then {state:?}");
        if created.is_ok() {
            client.delete("c", "").await?;
        }
        client.shutdown("c").await?;
    }
    bench.delete(&bundle).await?;
    bundle.remove(&bench.world)?;
    forgive_reference_its_sockets()?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn an_exit_that_cannot_be_recorded_is_told_all_the_same() -> Result<()> {
    if !only_dunnage("its exec needs room for files") {
        return Ok(());
    }
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    let full = fault::room(Path::new("/run"))?;
    ensure!(std::fs::write("/run/one-more", "text").is_err(), "there is room");
    run_exec(&client, "c", "e").await.context("an exec")?;
    fault::kill(i32::try_from(pid)?).await?;
    let end = client.wait("c", "").await?;
    ensure!(end.exit_status == 137, "{end:?}");
    ensure!(client.delete("c", "").await?.exit_status == 137);
    full.lift()?;
    bench.require_history("c").await?;
    bench.dispose(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn what_happens_while_a_shim_is_halted_is_told_when_it_goes_on() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    let shim = fault::shim_of(&client, "c").await?;
    let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    let mut execs = Vec::new();
    for exec_id in ["e", "f"] {
        let spec = bundle::process(&["sleep", "1000"]);
        client.exec(Exec { id: "c", exec_id, spec, ..Default::default() }).await?;
        execs.push(i32::try_from(client.start("c", exec_id).await?)?);
    }
    let waits = ["", "e", "f"].map(|exec_id| {
        let (client, exec_id) = (client.clone(), exec_id.to_owned());
        tokio::spawn(async move { client.wait("c", &exec_id).await })
    });
    let halted = fault::halt(shim)?;
    // The kernel ends the first process of a pid namespace once all others have been reaped: after the halt.
    let killed = tokio::spawn(fault::kill(i32::try_from(pid)?));
    let over = || execs.iter().all(|pid| fault::is_over(*pid)).then_some(());
    wait::until("the end of the execs", over).await?;
    drop(halted);
    killed.await??;
    for wait in waits {
        ensure!(wait.await??.exit_status == 137);
    }
    bench.finish(bundle, &client).await?;
    bench.require_history("c").await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_slow_reader_gets_everything() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["probe", "print", "300000"]).await?;
    let (stdout, stderr) = bench.fifos()?;
    bundle.create(&bench.world, &client, ["", stdout.path(), stderr.path()]).await?;
    client.start("c", "").await?;
    let slow = fault::read_slowly(stdout, 8 << 10, Duration::from_millis(5));
    let (output, end) = tokio::join!(slow, client.wait("c", ""));
    ensure!(output?.len() == 300_000 && end?.exit_status == 0);
    bench.finish(bundle, &client).await?;
    drop(stderr);
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_reader_that_vanishes_does_not_kill_the_writer_which_can_still_be_killed() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["probe", "print", "10000000"]).await?;
    let (stdout, stderr) = bench.fifos()?;
    let path = bench.world.dir().join("stdout");
    bundle.create(&bench.world, &client, ["", stdout.path(), stderr.path()]).await?;
    client.start("c", "").await?;
    let mut stdout = stdout;
    stdout.read_some(1000).await?;
    drop(stdout);
    for _ in 0..20 {
        ensure!(client.state("c", "").await?.status.enum_value() == Ok(Status::RUNNING), "it died of it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.kill("c", "", 9, false).await?;
    // What the fifo still holds is nobody's; whoever comes back gets it.
    let rest = Fifo::open_existing(&path)?;
    let (rest, end) = tokio::join!(rest.read_to_end(), client.wait("c", ""));
    ensure!(end?.exit_status == 137 && rest?.len() <= 1 << 20);
    bench.finish(bundle, &client).await?;
    drop(stderr);
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_clock_that_steps_moves_times_and_nothing_else() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sh", "-c", "sleep 0.5; exit 4"]).await?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    // Less than a day: that long a client's lease keeps what it makes, and this is the clock of the other tests too.
    let some_hours = Duration::from_secs(6 * 3600);
    let Some(stepped) = fault::clock_step(some_hours)? else {
        println!(
            "not on this machine: its clock belongs to everybody, and no namespace has a clock of its own"
        );
        client.wait("c", "").await?;
        bench.finish(bundle, &client).await?;
        return bench.require_nothing_left().await;
    };
    let begun = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let end = client.wait("c", "").await?;
    let told = i64::try_from(begun.as_secs())?;
    drop(stepped);
    ensure!(end.exit_status == 4 && (end.exited_at.seconds - told).abs() < 3600, "{end:?} began {told}");
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

/// A further process from beginning to end.
async fn run_exec(client: &TaskClient, id: &str, exec_id: &str) -> Result<()> {
    client.exec(Exec { id, exec_id, spec: bundle::process(&["true"]), ..Default::default() }).await?;
    client.start(id, exec_id).await?;
    ensure!(client.wait(id, exec_id).await?.exit_status == 0);
    client.delete(id, exec_id).await?;
    Ok(())
}

async fn end(bench: &Bench, bundle: Bundle, client: &TaskClient) -> Result<()> {
    client.kill(&bundle.id, "", 9, true).await?;
    client.wait(&bundle.id, "").await?;
    bench.finish(bundle, client).await?;
    bench.require_nothing_left().await
}
