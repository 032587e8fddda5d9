//! Bad input through the API: each is refused with a reason a person can act on, and leaves nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dunnage_e2e::bundle::{self, Bundle};
use dunnage_e2e::fault;
use dunnage_e2e::task::{Code, Create, Exec, TaskClient, code, message};
use serde_json::json;

use crate::only_dunnage;
use crate::rig::{Bench, forgive_reference_its_sockets};

/// Creates and starts a task that must be refused by one of both; gives the reason.
async fn refused(bench: &Bench, bundle: &Bundle, client: &TaskClient) -> Result<String> {
    let rootfs = bundle.rootfs(&bench.world)?;
    let create = Create { id: &bundle.id, bundle: bundle.path(), rootfs, ..Default::default() };
    let created = client.create(create).await;
    if created.is_err() {
        return Ok(format!("{:?}: {}", code(&created), message(&created)));
    }
    let started = client.start(&bundle.id, "").await;
    let reason = format!("{:?}: {}", code(&started), message(&started));
    ensure!(started.is_err(), "it started");
    client.delete(&bundle.id, "").await?;
    Ok(reason)
}

/// What a change of the specification is answered with. Each of `words` must be in the reason; `a|b` takes either.
async fn refusal_names(id: &str, change: impl Fn(&mut Bundle), words: &[&str]) -> Result<()> {
    let bench = Bench::new().await?;
    let mut bundle = Bundle::new(&bench.world, id, &["sleep", "1000"])?;
    change(&mut bundle);
    bundle.write()?;
    let client = bench.launch.connect(id, &bundle.dir).await?;
    let reason = refused(&bench, &bundle, &client).await?;
    require_words(&reason, words)?;
    bench.dispose(bundle, &client).await?;
    bench.require_nothing_left().await
}

fn require_words(reason: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(
            word.split('|').any(|word| reason.contains(word)),
            "the reason does not name {word}: {reason}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_program() -> Result<()> {
    let args = |bundle: &mut Bundle| bundle.spec["process"]["args"] = json!(["/no/such/program"]);
    refusal_names("c", args, &["/no/such/program", "no such file or directory"]).await
}

#[tokio::test]
async fn a_program_that_is_not_in_the_path() -> Result<()> {
    let args = |bundle: &mut Bundle| bundle.spec["process"]["args"] = json!(["no-such-program"]);
    refusal_names("c", args, &["no-such-program", "executable file not found in $PATH"]).await
}

#[tokio::test]
async fn a_program_whose_interpreter_is_missing() -> Result<()> {
    if !only_dunnage("runc 1.1 answers Start before it executes the program") {
        return Ok(());
    }
    let args = |bundle: &mut Bundle| bundle.spec["process"]["args"] = json!(["/bin/no-interpreter"]);
    refusal_names("c", args, &["/bin/no-interpreter", "no such file or directory"]).await
}

#[tokio::test]
async fn a_file_that_is_not_executable() -> Result<()> {
    let args = |bundle: &mut Bundle| bundle.spec["process"]["args"] = json!(["/etc/plain.txt"]);
    refusal_names("c", args, &["/etc/plain.txt", "permission denied"]).await
}

#[tokio::test]
async fn no_program_at_all() -> Result<()> {
    refusal_names("c", |bundle| bundle.spec["process"]["args"] = json!([]), &["args"]).await
}

#[tokio::test]
async fn a_mount_whose_source_is_missing() -> Result<()> {
    let mount =
        json!({ "destination": "/mnt", "type": "bind", "source": "/no/such/source", "options": ["rbind"] });
    let change = |bundle: &mut Bundle| {
        if let Some(mounts) = bundle.spec["mounts"].as_array_mut() {
            mounts.push(mount.clone());
        }
    };
    refusal_names("c", change, &["/no/such/source", "no such file or directory|ENOENT"]).await
}

#[tokio::test]
async fn a_file_system_the_kernel_does_not_have() -> Result<()> {
    let mount = json!({ "destination": "/mnt", "type": "nosuchfs", "source": "none" });
    let change = |bundle: &mut Bundle| {
        if let Some(mounts) = bundle.spec["mounts"].as_array_mut() {
            mounts.push(mount.clone());
        }
    };
    refusal_names("c", change, &["/mnt", "no such device|ENODEV"]).await
}

#[tokio::test]
async fn a_namespace_nobody_knows() -> Result<()> {
    let change = |bundle: &mut Bundle| bundle.spec["linux"]["namespaces"] = json!([{ "type": "weather" }]);
    refusal_names("c", change, &["weather"]).await
}

#[tokio::test]
async fn a_namespace_to_join_that_is_not_there() -> Result<()> {
    let join =
        json!([{ "type": "mount" }, { "type": "uts" }, { "type": "network", "path": "/no/such/netns" }]);
    let change = |bundle: &mut Bundle| bundle.spec["linux"]["namespaces"] = join.clone();
    refusal_names("c", change, &["/no/such/netns"]).await
}

#[tokio::test]
async fn a_working_directory_that_is_a_file() -> Result<()> {
    refusal_names("c", |bundle| bundle.spec["process"]["cwd"] = json!("/etc/plain.txt"), &["/etc/plain.txt"])
        .await
}

#[tokio::test]
async fn a_relative_working_directory() -> Result<()> {
    if !only_dunnage("runc's own words do not name the field") {
        return Ok(());
    }
    refusal_names("c", |bundle| bundle.spec["process"]["cwd"] = json!("etc"), &["cwd"]).await
}

#[tokio::test]
async fn a_memory_limit_no_kernel_can_set() -> Result<()> {
    let change =
        |bundle: &mut Bundle| bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": "much" });
    refusal_names("c", change, &["limit"]).await
}

#[tokio::test]
async fn a_cpuset_of_processors_that_are_not_there() -> Result<()> {
    let change = |bundle: &mut Bundle| bundle.spec["linux"]["resources"]["cpu"] = json!({ "cpus": "4000" });
    refusal_names("c", change, &["cpuset"]).await
}

#[tokio::test]
async fn a_sysctl_that_belongs_to_the_machine() -> Result<()> {
    let change = |bundle: &mut Bundle| bundle.spec["linux"]["sysctl"] = json!({ "kernel.panic": "1" });
    refusal_names("c", change, &["kernel.panic"]).await
}

/// `start` reads `config.json` itself; so either it refuses or `Create` does.
async fn config_is_refused(content: Option<&str>, words: &[&str]) -> Result<()> {
    let bench = Bench::new().await?;
    let bundle = Bundle::new(&bench.world, "c", &["true"])?;
    let config = bundle.dir.join("config.json");
    match content {
        Some(content) => fs::write(&config, content)?,
        None => fs::remove_file(&config)?,
    }
    let reason = match bench.launch.start("c", &bundle.dir).await {
        Ok(shim) => {
            let client = TaskClient::connect(&shim.address, shim.version).await?;
            let reason = refused(&bench, &bundle, &client).await?;
            client.shutdown("c").await?;
            reason
        }
        Err(error) => format!("{error:#}"),
    };
    require_words(&reason, words)?;
    bench.delete(&bundle).await?;
    bundle.remove(&bench.world)?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_bundle_without_a_specification() -> Result<()> {
    config_is_refused(None, &["config.json", "no such file or directory|ENOENT"]).await
}

#[tokio::test]
async fn a_specification_that_is_not_json() -> Result<()> {
    config_is_refused(Some("{ \"ociVersion\": "), &["JSON|EOF"]).await
}

#[tokio::test]
async fn a_specification_with_a_word_where_a_list_belongs() -> Result<()> {
    let content = r#"{"ociVersion":"1.0.2","process":{"args":"true","cwd":"/"},"root":{"path":"rootfs"}}"#;
    config_is_refused(Some(content), &["args"]).await
}

#[tokio::test]
async fn an_empty_specification() -> Result<()> {
    config_is_refused(Some("{}"), &[]).await
}

#[tokio::test]
async fn a_bundle_that_is_not_there() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["true"]).await?;
    let created =
        client.create(Create { id: "other", bundle: "/no/such/bundle", ..Default::default() }).await;
    ensure!(message(&created).contains("/no/such/bundle"), "{created:?}");
    bench.dispose(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn the_same_id_twice() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
    let again = Create { id: "c", bundle: bundle.path(), ..Default::default() };
    let again = client.create(again).await;
    ensure!(again.is_err(), "created twice");
    if only_dunnage("runc's refusal has no code of its own") {
        ensure!(code(&again) == Some(Code::ALREADY_EXISTS), "{again:?}");
    }
    ensure!(client.state("c", "").await?.pid == pid, "the first was touched");
    ensure!(client.start("c", "").await? == pid);
    client.kill("c", "", 9, true).await?;
    client.wait("c", "").await?;
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_task_that_is_not_there() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["true"]).await?;
    let answers = [
        ("Start", code(&client.start("c", "").await)),
        ("State", code(&client.state("c", "").await)),
        ("Wait", code(&client.wait("c", "").await)),
        ("Delete", code(&client.delete("c", "").await)),
        ("Kill", code(&client.kill("c", "", 9, false).await)),
        ("Pids", code(&client.pids("c").await)),
        ("Stats", code(&client.stats("c").await)),
    ];
    for (call, answer) in answers {
        ensure!(answer == Some(Code::NOT_FOUND), "{call}: {answer:?}");
    }
    bench.dispose(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn an_exec_of_what_is_not_there_leaves_the_task_as_it_was() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    for (exec_id, args, words) in [
        ("missing", "/no/such/program", ["/no/such/program", "no such file or directory"]),
        ("path", "no-such-program", ["no-such-program", "executable file not found in $PATH"]),
        ("plain", "/etc/plain.txt", ["/etc/plain.txt", "permission denied"]),
    ] {
        client.exec(Exec { id: "c", exec_id, spec: bundle::process(&[args]), ..Default::default() }).await?;
        let started = client.start("c", exec_id).await;
        let reason = message(&started).to_owned();
        ensure!(words.iter().all(|word| reason.contains(word)), "{exec_id}: {started:?}");
        client.delete("c", exec_id).await?;
    }
    let broken = Exec { id: "c", exec_id: "broken", spec: json!({ "args": 7 }), ..Default::default() };
    ensure!(client.exec(broken).await.is_err() || client.start("c", "broken").await.is_err(), "args: 7 ran");
    _ = client.delete("c", "broken").await;
    ensure!(client.pids("c").await?.len() == 1);
    client.kill("c", "", 9, true).await?;
    client.wait("c", "").await?;
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_full_disk_under_the_state_folder() -> Result<()> {
    if !only_dunnage("its state lies elsewhere") {
        return Ok(());
    }
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    let full = fault::disk(Path::new("/run/dunnage"), 1, 2, &[])?;
    let reason = refused(&bench, &bundle, &client).await?;
    full.lift()?;
    ensure!(reason.contains("ENOSPC") || reason.contains("no space left"), "{reason}");
    bench.dispose(bundle, &client).await.context("after the disk has room again")?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_full_disk_under_the_bundle() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["true"]).await?;
    // Room for the specification alone: the shim cannot put anything beside it.
    let dir = bundle.path();
    let full = fault::disk(&bundle.dir, 2, 4, &["config.json"])?;
    fs::create_dir(bundle.dir.join("rootfs"))?;
    fs::write(bundle.dir.join("last"), "")?;
    let rootfs = bundle.rootfs(&bench.world)?;
    let created = client.create(Create { id: "c", bundle: dir, rootfs, ..Default::default() }).await;
    match &created {
        // Nothing had to be written there: as good.
        Ok(_) => _ = client.delete("c", "").await?,
        Err(_) => ensure!(
            message(&created).contains("no space left") || message(&created).contains("ENOSPC"),
            "{created:?}"
        ),
    }
    client.shutdown("c").await?;
    bench.delete(&bundle).await?;
    full.lift()?;
    bundle.remove(&bench.world)?;
    forgive_reference_its_sockets()?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_call_and_a_service_that_do_not_exist() -> Result<()> {
    if !only_dunnage("its server answers an unknown service as it likes") {
        return Ok(());
    }
    use containerd_shim_protos::api::{Empty, StateRequest};
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["true"]).await?;
    let unknown: ttrpc::Result<Empty> =
        client.call("Levitate", &StateRequest::default(), dunnage_e2e::wait::limit()).await;
    ensure!(code(&unknown) == Some(Code::UNIMPLEMENTED), "{unknown:?}");
    bench.dispose(bundle, &client).await?;
    bench.require_nothing_left().await
}
