//! What a container may use, and who pays when it wants more.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use dunnage_e2e::cgroup::{self, Hierarchy};
use dunnage_e2e::cri::{self, Pod, api};
use dunnage_e2e::process::Process;
use dunnage_e2e::wait;

use crate::rig::{Bench, Cluster};

#[tokio::test]
async fn too_much_memory_ends_the_container_as_oomkilled_and_spares_its_neighbour() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, neighbour) = node.sleeper("neighbour").await?;
    let mut greedy = cri::container("greedy", &["probe", "allocate", "256"]);
    cri::resources(&mut greedy).memory_limit_in_bytes = 64 << 20;
    let id = node.cri.run_container(&pod, greedy).await?;
    let status = node.cri.ended(&id).await?;
    ensure!((status.exit_code, status.reason.as_str()) == (137, "OOMKilled"), "{status:?}");
    ensure!(node.cri.container(&neighbour).await?.state() == api::ContainerState::ContainerRunning);
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_kill_from_outside_is_not_called_out_of_memory() -> Result<()> {
    let node = Cluster::new().await?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    cri::resources(&mut container).memory_limit_in_bytes = 64 << 20;
    let (pod, id) = node.pod_with(container).await?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(node.cri.pid(&id).await?),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    let status = node.cri.ended(&id).await?;
    ensure!((status.exit_code, status.reason.as_str()) == (137, "Error"), "{status:?}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn within_its_limit_memory_is_granted() -> Result<()> {
    let node = Cluster::new().await?;
    let mut container = cri::container("c", &["probe", "allocate", "32"]);
    cri::resources(&mut container).memory_limit_in_bytes = 64 << 20;
    let (pod, id) = node.pod_with(container).await?;
    ensure!(node.cri.ended(&id).await?.exit_code == 0);
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_cpu_quota_throttles_and_the_throttling_is_counted() -> Result<()> {
    let node = Cluster::new().await?;
    let mut container = cri::container("c", &["probe", "burn", "1000"]);
    let resources = cri::resources(&mut container);
    (resources.cpu_quota, resources.cpu_period, resources.cpu_shares) = (10_000, 100_000, 102);
    let (pod, id) = node.pod_with(container).await?;
    let cpu = cgroup::with_controller("cpu")?;
    let dir = dir(&node, &cpu, &id);
    if cpu.is_unified() {
        ensure!(fs::read_to_string(dir.join("cpu.max"))? == "10000 100000\n");
    } else {
        ensure!(fs::read_to_string(dir.join("cpu.cfs_quota_us"))? == "10000\n");
        ensure!(fs::read_to_string(dir.join("cpu.cfs_period_us"))? == "100000\n");
        ensure!(fs::read_to_string(dir.join("cpu.shares"))? == "102\n");
    }
    // A tenth of a core wanted whole: whatever else the machine does, periods end without quota left.
    wait::until("throttling", || (counter(&dir.join("cpu.stat"), "nr_throttled")? > 3).then_some(())).await?;
    let (periods, throttled) =
        (counter(&dir.join("cpu.stat"), "nr_periods"), counter(&dir.join("cpu.stat"), "nr_throttled"));
    ensure!(throttled <= periods, "{throttled:?} of {periods:?}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_cpuset_pins_and_programs_see_its_size() -> Result<()> {
    let node = Cluster::new().await?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    cri::resources(&mut container).cpuset_cpus = "0".to_owned();
    let (pod, id) = node.pod_with(container).await?;
    let allowed = fs::read_to_string(format!("/proc/{}/status", node.cri.pid(&id).await?))?;
    ensure!(allowed.contains("Cpus_allowed_list:\t0\n"), "{allowed}");
    ensure!(node.cri.show(&id).await?["cpus"] == 1);
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_fork_bomb_gets_eagain_and_the_node_does_not_notice() -> Result<()> {
    let bench = Bench::new().await?;
    let (mut bundle, client) = bench.task("c", &["probe", "fork-bomb", "200"]).await?;
    bundle.spec["linux"]["resources"]["pids"] = serde_json::json!({ "limit": 20 });
    bundle.write()?;
    let (stdout, stderr) = bench.fifos()?;
    bundle.create(&bench.world, &client, ["", stdout.path(), stderr.path()]).await?;
    client.start("c", "").await?;
    ensure!(client.wait("c", "").await?.exit_status == 0);
    bench.finish(bundle, &client).await?;
    let said: serde_json::Value = serde_json::from_str(&stdout.read_to_end().await?)?;
    ensure!(said["errno"] == "EAGAIN", "{said}");
    let children = said["children"].as_u64().context("no count")?;
    // The process itself counts too.
    ensure!((1..20).contains(&children), "{said}");
    bench.require_nothing_left().await
}

#[tokio::test]
async fn limits_change_while_it_runs_up_and_down() -> Result<()> {
    let node = Cluster::new().await?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    cri::resources(&mut container).memory_limit_in_bytes = 64 << 20;
    let (pod, id) = node.pod_with(container).await?;
    let memory = cgroup::with_controller("memory")?;
    let file = dir(&node, &memory, &id).join(if memory.is_unified() {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    });
    for mib in [128_i64, 32] {
        update(&node, &id, mib << 20).await?;
        let now: i64 = fs::read_to_string(&file)?.trim().parse()?;
        ensure!(now == mib << 20, "{now} after asking for {mib} MiB");
    }
    ensure!(node.cri.container(&id).await?.state() == api::ContainerState::ContainerRunning);
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn usage_is_told_through_the_api() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.pod_with(cri::container("c", &["probe", "burn", "1000"])).await?;
    let usage = wait::until_ok("usage", || async {
        let request = api::ContainerStatsRequest { container_id: id.clone() };
        let stats =
            node.cri.runtime().container_stats(request).await?.into_inner().stats.context("no stats")?;
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).context("no cpu")?.value;
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).context("no memory")?.value;
        ensure!(cpu >= 250_000_000, "{cpu} ns");
        Ok((cpu, memory))
    });
    let (_, memory) = usage.await?;
    ensure!(memory > 0 && memory < 1 << 30, "{memory}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_frozen_container_uses_no_cpu_keeps_its_memory_and_can_be_stopped() -> Result<()> {
    let bench = Bench::new().await?;
    let (bundle, client) = bench.task("c", &["probe", "burn", "1000"]).await?;
    let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    client.pause("c").await?;
    ensure!(client.state("c", "").await?.status.enum_value() == Ok(dunnage_e2e::task::Status::PAUSED));
    let ticks = || fs::read_to_string(format!("/proc/{pid}/stat")).map(|stat| cpu_ticks(&stat));
    let before = ticks()?;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    ensure!(ticks()? == before, "a frozen process ran");
    client.resume("c").await?;
    wait::until("work after the thaw", || (ticks().ok()? > before).then_some(())).await?;
    client.pause("c").await?;
    client.kill("c", "", 9, false).await?;
    ensure!(client.wait("c", "").await?.exit_status == 137);
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

/// User and system time of proc(5)'s `stat`.
fn cpu_ticks(stat: &str) -> u64 {
    let after = stat.rsplit_once(") ").map(|(_, after)| after).unwrap_or_default();
    after.split(' ').skip(11).take(2).flat_map(str::parse::<u64>).sum()
}

#[tokio::test]
async fn the_smallest_container_runs_in_a_mebibyte() -> Result<()> {
    if !crate::only_dunnage("its own start needs some six mebibytes inside the container's limit") {
        return Ok(());
    }
    let bench = Bench::new().await?;
    let (mut bundle, client) = bench.task("c", &["true"]).await?;
    bundle.spec["linux"]["resources"]["memory"] = serde_json::json!({ "limit": 1 << 20 });
    bundle.write()?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    ensure!(client.wait("c", "").await?.exit_status == 0);
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

async fn update(node: &Cluster, id: &str, memory: i64) -> Result<()> {
    let linux = api::LinuxContainerResources { memory_limit_in_bytes: memory, ..Default::default() };
    let request = api::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    node.cri.runtime().update_container_resources(request).await?;
    Ok(())
}

fn dir(node: &Cluster, hierarchy: &Hierarchy, id: &str) -> PathBuf {
    hierarchy.dir(&node.world.container_cgroup(id))
}

fn counter(file: &std::path::Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[tokio::test]
async fn the_kernel_s_preference_in_need_is_what_was_asked() -> Result<()> {
    let node = Cluster::new().await?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    cri::resources(&mut container).oom_score_adj = 750;
    let (pod, id): (Pod, String) = node.pod_with(container).await?;
    let pid = node.cri.pid(&id).await?;
    ensure!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?.trim() == "750");
    let parent = Process::read(pid).context("no process")?.parent;
    let shim: i32 = fs::read_to_string(format!("/proc/{parent}/oom_score_adj"))?.trim().parse()?;
    ensure!(shim < 750, "the shim goes first: {shim}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}
