//! What the first process of a container finds: everything that the specification says of it, on a bare shim.

use std::fs;

use anyhow::{Context, Result, ensure};
use dunnage_e2e::bundle::Bundle;
use dunnage_e2e::task::{Code, code, message};
use dunnage_e2e::{cgroup, process};
use serde_json::{Value, json};

use crate::rig::Bench;

/// Runs `probe show` under a changed specification: what it saw, and the bench to end with.
async fn shown(bench: &Bench, change: impl FnOnce(&mut Bundle)) -> Result<Value> {
    let (mut bundle, client) = bench.task("c", &["probe", "show"]).await?;
    change(&mut bundle);
    bundle.write()?;
    let (stdout, stderr) = bench.fifos()?;
    bundle.create(&bench.world, &client, ["", stdout.path(), stderr.path()]).await?;
    client.start("c", "").await?;
    let (said, end) = tokio::join!(stdout.read_to_end(), client.wait("c", ""));
    ensure!(end?.exit_status == 0, "probe show failed");
    bench.finish(bundle, &client).await?;
    drop(stderr);
    serde_json::from_str(&said?).context("what it showed")
}

/// The answer, or nothing when dunnage says by name that it does not have `feature` yet: the test stands aside
/// until it has.
#[expect(clippy::print_stdout, reason = "a test that stands aside says so")]
fn unless_not_yet(created: Result<u32>, feature: &str) -> Result<Option<u32>> {
    let refused = match created {
        Ok(pid) => return Ok(Some(pid)),
        Err(error) => error.downcast::<ttrpc::Error>()?,
    };
    let refused: ttrpc::Result<()> = Err(refused);
    ensure!(
        code(&refused) == Some(Code::UNIMPLEMENTED) && message(&refused).contains(feature),
        "{refused:?}"
    );
    println!("dunnage has no {feature} yet");
    Ok(None)
}

#[tokio::test]
async fn identity_place_environment_and_limits_are_those_of_the_specification() -> Result<()> {
    let bench = Bench::new().await?;
    let seen = shown(&bench, |bundle| {
        let process = &mut bundle.spec["process"];
        process["user"] = json!({ "uid": 1000, "gid": 1001, "umask": 0o27, "additionalGids": [1001, 2000] });
        process["cwd"] = json!("/home");
        process["env"] = json!(["PATH=/bin", "GREETING=hello world", "EMPTY="]);
        process["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }]);
        process["oomScoreAdj"] = json!(321);
        bundle.spec["hostname"] = json!("elsewhere");
    })
    .await?;
    ensure!(
        seen["uids"] == json!([1000, 1000, 1000, 1000]) && seen["gids"] == json!([1001, 1001, 1001, 1001]),
        "{seen}"
    );
    ensure!(seen["groups"] == json!([1001, 2000]) && seen["umask"] == "0027", "{seen}");
    ensure!(
        seen["cwd"] == "/home" && seen["hostname"] == "elsewhere" && seen["oom_score_adj"] == "321",
        "{seen}"
    );
    ensure!(seen["env"]["GREETING"] == "hello world" && seen["env"]["EMPTY"] == "", "{}", seen["env"]);
    let limits = seen["limits"].to_string();
    let files =
        limits.split("\",\"").find(|line| line.starts_with("Max open files")).context("no limit of files")?;
    let words: Vec<&str> = files.split_whitespace().collect();
    ensure!(words[3..5] == ["100", "200"], "{files}");
    ensure!(seen["no_new_privs"] == "1" && seen["pid"] == 1, "{seen}");
    bench.require_nothing_left().await
}

#[tokio::test]
async fn root_of_a_user_namespace_is_an_ordinary_user_outside() -> Result<()> {
    let bench = Bench::new().await?;
    let (mut bundle, client) =
        bench.task("c", &["sh", "-c", "id -u; touch /tmp/mine; exec sleep 1000"]).await?;
    let linux = &mut bundle.spec["linux"];
    linux["namespaces"].as_array_mut().context("no namespaces")?.push(json!({ "type": "user" }));
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    (linux["uidMappings"], linux["gidMappings"]) = (mapping.clone(), mapping);
    bundle.write()?;
    let (mut stdout, stderr) = bench.fifos()?;
    let created = bundle.create(&bench.world, &client, ["", stdout.path(), stderr.path()]).await;
    let Some(pid) = unless_not_yet(created, "user namespaces")? else {
        bench.dispose(bundle, &client).await?;
        return bench.require_nothing_left().await;
    };
    client.start("c", "").await?;
    stdout.read_until("0\n").await?;
    let pid = i32::try_from(pid)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains("Uid:\t100000\t100000\t100000\t100000"), "{status}");
    ensure!(process::namespace(pid, "user") != process::namespace(bench.world.machine(), "user"));
    let made = bench.world.dir().join("layers/c/upper/tmp/mine");
    dunnage_e2e::wait::until("the file", || made.exists().then_some(())).await?;
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&made)?);
    ensure!(owner == 100_000, "it belongs to {owner}");
    client.kill("c", "", 9, true).await?;
    client.wait("c", "").await?;
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn a_sysctl_of_the_container_s_own_namespaces_is_set() -> Result<()> {
    let bench = Bench::new().await?;
    let args = ["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/shm_rmid_forced"];
    let (mut bundle, client) = bench.task("c", &args).await?;
    bundle.spec["linux"]["sysctl"] =
        json!({ "net.ipv4.ip_unprivileged_port_start": "81", "kernel.shm_rmid_forced": "1" });
    bundle.write()?;
    let (stdout, stderr) = bench.fifos()?;
    bundle.create(&bench.world, &client, ["", stdout.path(), stderr.path()]).await?;
    client.start("c", "").await?;
    let (said, end) = tokio::join!(stdout.read_to_end(), client.wait("c", ""));
    ensure!(end?.exit_status == 0 && said? == "81\n1\n");
    bench.finish(bundle, &client).await?;
    drop(stderr);
    bench.require_nothing_left().await
}

#[tokio::test]
async fn limits_of_block_devices_reach_the_kernel() -> Result<()> {
    let bench = Bench::new().await?;
    let hierarchy = cgroup::with_controller("blkio").or_else(|_| cgroup::with_controller("io"))?;
    let device = fs::read_dir("/sys/block")?.flatten().find_map(|disk| {
        let number = fs::read_to_string(disk.path().join("dev")).ok()?;
        let (major, minor) = number.trim().split_once(':')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    let (major, minor) = device.context("this machine has no block device")?;
    let (mut bundle, client) = bench.task("c", &["sleep", "1000"]).await?;
    let limit = |rate: u32| json!([{ "major": major, "minor": minor, "rate": rate }]);
    bundle.spec["linux"]["resources"]["blockIO"] = json!({
        "throttleReadBpsDevice": limit(1 << 20), "throttleWriteIOPSDevice": limit(50),
    });
    bundle.write()?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    let dir = hierarchy.dir(&format!("{}/c", bench.world.cgroup_parent()));
    if hierarchy.is_unified() {
        let limits = fs::read_to_string(dir.join("io.max"))?;
        ensure!(limits.contains("rbps=1048576") && limits.contains("wiops=50"), "{limits}");
    } else {
        let read = |name: &str| fs::read_to_string(dir.join(format!("blkio.throttle.{name}_device")));
        ensure!(read("read_bps")? == format!("{major}:{minor} 1048576\n"), "{:?}", read("read_bps"));
        ensure!(read("write_iops")? == format!("{major}:{minor} 50\n"), "{:?}", read("write_iops"));
    }
    client.delete("c", "").await?;
    bench.dispose(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn hooks_run_in_their_order_and_see_the_container() -> Result<()> {
    let bench = Bench::new().await?;
    let told = bench.world.dir().join("told");
    let hook = |name: &str| {
        let script = format!("(echo {name}; cat) >>{}", told.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
    };
    let (mut bundle, client) = bench.task("c", &["true"]).await?;
    bundle.spec["hooks"] = json!({
        "createRuntime": hook("createRuntime"), "poststart": hook("poststart"), "poststop": hook("poststop"),
    });
    bundle.write()?;
    let created = bundle.create(&bench.world, &client, ["", "", ""]).await;
    let Some(pid) = unless_not_yet(created, "hooks")? else {
        bench.dispose(bundle, &client).await?;
        return bench.require_nothing_left().await;
    };
    client.start("c", "").await?;
    client.wait("c", "").await?;
    bench.finish(bundle, &client).await?;
    let text = fs::read_to_string(&told)?;
    let order: Vec<usize> =
        ["createRuntime", "poststart", "poststop"].iter().flat_map(|name| text.find(name)).collect();
    ensure!(order.len() == 3 && order.is_sorted(), "{text}");
    ensure!(text.contains(&format!("\"pid\":{pid}")) && text.contains("\"id\":\"c\""), "{text}");
    bench.require_nothing_left().await
}
