//! What separates containers from the machine and from each other, and what a pod's containers share.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dunnage_e2e::cri::{self, api};
use dunnage_e2e::process::{self, Process};
use dunnage_e2e::programs::Runtime;
use dunnage_e2e::wait;
use serde_json::Value;

use crate::rig::{Bench, Cluster};

#[tokio::test]
async fn the_machine_sees_the_process_and_inside_it_is_the_first_of_its_own() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    let pid = node.cri.pid(&id).await?;
    // runc answers Start before it executes the program.
    wait::until("the program", || Process::read(pid).filter(|outside| outside.name == "sleep")).await?;
    ensure!(node.cri.exec_ok(&id, &["cat", "/proc/1/cmdline"]).await? == "sleep\x001000\x00");
    let inside = node.cri.show(&id).await?;
    let seen: Vec<i64> = serde_json::from_value(inside["processes"].clone())?;
    ensure!(seen.contains(&1) && seen.len() == 2, "it sees others: {seen:?}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn every_namespace_but_the_user_s_differs_from_the_machine_s() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    let pid = node.cri.pid(&id).await?;
    // The node of the rig is the world: its network and mounts are containerd's.
    let daemon = i32::try_from(node.containerd.pid().context("containerd is gone")?)?;
    let of = |pid, kind| process::namespace(pid, kind).with_context(|| format!("{kind} of {pid}"));
    for kind in ["pid", "net", "mnt", "uts", "ipc"] {
        let own = of(pid, kind)?;
        ensure!(own != of(daemon, kind)? && own != of(node.world.machine(), kind)?, "{kind}: {own}");
    }
    ensure!(of(pid, "user")? == of(daemon, "user")?);
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn containers_of_a_pod_share_network_ipc_and_name_and_nothing_else() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, a) = node.sleeper("a").await?;
    let b = node.cri.run_container(&pod, cri::container("b", &["probe", "serve", "8080"])).await?;
    let (a_pid, b_pid) = (node.cri.pid(&a).await?, node.cri.pid(&b).await?);
    for kind in ["net", "ipc", "uts"] {
        ensure!(process::namespace(a_pid, kind) == process::namespace(b_pid, kind), "{kind} is not shared");
    }
    for kind in ["pid", "mnt"] {
        ensure!(process::namespace(a_pid, kind) != process::namespace(b_pid, kind), "{kind} is shared");
    }
    let answer =
        wait::until_ok("an answer", || node.cri.exec_ok(&a, &["probe", "connect", "127.0.0.1:8080"])).await?;
    ensure!(answer == "pod-of-a\n", "the pod's name is {answer:?}");
    ensure!(node.cri.exec_ok(&b, &["hostname"]).await? == "pod-of-a\n");

    // Message queues and shared memory belong to the pod.
    node.cri.exec_ok(&a, &["sh", "-c", "touch /dev/mqueue/queue && echo shared >/dev/shm/note"]).await?;
    ensure!(node.cri.exec_ok(&b, &["ls", "/dev/mqueue"]).await? == "queue\n");
    ensure!(node.cri.exec_ok(&b, &["cat", "/dev/shm/note"]).await? == "shared\n");
    // Files do not.
    node.cri.exec_ok(&a, &["touch", "/tmp/mine"]).await?;
    ensure!(node.cri.exec(&b, &["test", "-e", "/tmp/mine"], 0).await?.exit_code == 1);
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_pod_can_share_one_process_namespace() -> Result<()> {
    let node = Cluster::new().await?;
    let shared = api::NamespaceOption { pid: api::NamespaceMode::Pod.into(), ..Default::default() };
    let mut config = cri::pod(&node.world, "p");
    let context =
        config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("no context")?;
    context.namespace_options = Some(shared.clone());
    let pod = node.cri.run_pod(config).await?;
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let mut container = cri::container(name, &["sleep", "1000"]);
        cri::security(&mut container).namespace_options = Some(shared.clone());
        ids.push(node.cri.run_container(&pod, container).await?);
    }
    let seen = node.cri.exec_ok(&ids[0], &["ps", "-o", "args"]).await?;
    ensure!(seen.matches("sleep 1000").count() == 2 && seen.contains("pause"), "{seen}");
    // What a container orphans falls to the pod's first process, which reaps it.
    node.cri.exec_ok(&ids[0], &["sh", "-c", "(sleep 0.1 &)"]).await?;
    let reaped = || node.world.processes().iter().all(|process| !process.is_zombie()).then_some(());
    wait::until("no zombies", reaped).await?;
    // The end of one container leaves the other alone, though they share pids.
    node.cri.stop_container(&ids[0], 0).await?;
    ensure!(node.cri.container(&ids[1]).await?.state() == api::ContainerState::ContainerRunning);
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn two_pods_are_apart_in_ports_names_and_shared_memory_and_reach_each_other() -> Result<()> {
    let node = Cluster::new().await?;
    let serve = |name: &str| cri::container(name, &["probe", "serve", "8080"]);
    let (first, a) = node.pod_with(serve("a")).await?;
    let (second, b) = node.pod_with(serve("b")).await?;
    let (to_first, to_second) = (node.cri.address(&first).await?, node.cri.address(&second).await?);
    ensure!(to_first != to_second, "one address for two pods");
    for (from, address, name) in
        [(&a, &to_second, "pod-of-b\n"), (&b, &to_first, "pod-of-a\n"), (&a, &to_first, "pod-of-a\n")]
    {
        let target = format!("{address}:8080");
        let words = ["probe", "connect", &target];
        let answer = wait::until_ok("an answer", || node.cri.exec_ok(from, &words)).await?;
        ensure!(answer == name, "{target} says {answer:?}");
    }
    node.cri.exec_ok(&a, &["touch", "/dev/mqueue/queue", "/dev/shm/note"]).await?;
    ensure!(node.cri.exec_ok(&b, &["ls", "/dev/mqueue", "/dev/shm"]).await? == "/dev/mqueue:\n\n/dev/shm:\n");
    let interfaces = node.cri.show(&a).await?["interfaces"].clone();
    ensure!(interfaces == serde_json::json!(["eth0", "lo"]), "{interfaces}");
    for pod in [&first, &second] {
        node.cri.remove_pod(pod).await?;
    }
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_pod_on_the_node_s_network_sees_its_interfaces() -> Result<()> {
    let node = Cluster::new().await?;
    let mut config = cri::pod(&node.world, "p");
    config.hostname.clear();
    let host = api::NamespaceOption {
        network: api::NamespaceMode::Node.into(),
        pid: api::NamespaceMode::Container.into(),
        ..Default::default()
    };
    let context =
        config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("no context")?;
    context.namespace_options = Some(host.clone());
    let pod = node.cri.run_pod(config).await?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    cri::security(&mut container).namespace_options = Some(host);
    let id = node.cri.run_container(&pod, container).await?;
    // The node of the rig is the world: its network namespace is containerd's.
    let daemon = i32::try_from(node.containerd.pid().context("containerd is gone")?)?;
    ensure!(process::namespace(node.cri.pid(&id).await?, "net") == process::namespace(daemon, "net"));
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn the_end_of_the_first_process_ends_all_of_its_container() -> Result<()> {
    let node = Cluster::new().await?;
    let script = "sleep 1000 & (sleep 1000 &) ; (setsid sleep 1000 &) ; exec sleep 1000";
    let (pod, id) = node.pod_with(cri::container("c", &["sh", "-c", script])).await?;
    wait::until("four processes", || (node.world.processes_named("sleep").len() == 4).then_some(())).await?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(node.cri.pid(&id).await?),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    let status = node.cri.ended(&id).await?;
    ensure!((status.exit_code, status.reason.as_str()) == (137, "Error"), "{status:?}");
    wait::until("the end of all", || node.world.processes_named("sleep").is_empty().then_some(())).await?;
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn orphans_of_a_container_in_the_machine_s_pid_namespace_are_reaped() -> Result<()> {
    let bench = Bench::new().await?;
    let (mut bundle, client) = bench.task("c", &["sh", "-c", "probe orphans 5; exec sleep 1000"]).await?;
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().context("no namespaces")?;
    namespaces.retain(|namespace| namespace["type"] != "pid");
    bundle.write()?;
    bundle.create(&bench.world, &client, ["", "", ""]).await?;
    client.start("c", "").await?;
    let left = || -> Vec<Process> {
        bench.world.processes().into_iter().filter(|process| process.name == "probe").collect()
    };
    wait::until("the orphans", || bench.world.processes_named("sleep").len().eq(&1).then_some(())).await?;
    wait::until("the end of the orphans", || left().is_empty().then_some(())).await?;
    client.kill("c", "", 9, true).await?;
    client.wait("c", "").await?;
    bench.finish(bundle, &client).await?;
    bench.require_nothing_left().await
}

#[tokio::test]
async fn proc_and_sys_hide_what_is_masked_and_refuse_writes_where_read_only() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    let mounts = node.cri.exec_ok(&id, &["cat", "/proc/self/mountinfo"]).await?;
    let mounted = |path: &str| mounts.lines().find(|line| line.split(' ').nth(4) == Some(path));
    // Each masked path that the kernel has is covered: a file by /dev/null, a folder by an empty one.
    for path in
        ["/proc/kcore", "/proc/keys", "/proc/timer_list"].into_iter().filter(|path| Path::new(path).exists())
    {
        ensure!(mounted(path).is_some(), "{path} is open: {mounts}");
        // AppArmor refuses even to open some.
        let shown = node.cri.exec(&id, &["head", "-c", "1", path], 0).await?;
        ensure!(shown.stdout.is_empty(), "{path} shows something");
    }
    ensure!(node.cri.exec_ok(&id, &["ls", "-A", "/sys/firmware"]).await?.is_empty());
    let read_only = ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"];
    for path in read_only.into_iter().filter(|path| Path::new(path).exists()) {
        let write = node.cri.exec(&id, &["sh", "-c", &format!("echo 0 >{path}")], 0).await?;
        let why = String::from_utf8_lossy(&write.stderr);
        ensure!(write.exit_code != 0 && why.contains("Read-only file system"), "{path}: {why}");
    }
    let sys = node.cri.exec(&id, &["sh", "-c", "echo 1 >/sys/kernel/mm/ksm/run"], 0).await?;
    ensure!(sys.exit_code != 0, "/sys is writable");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn no_descriptor_of_the_shim_reaches_a_container() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.pod_with(cri::container("c", &["sh", "-c", "probe show; exec sleep 1000"])).await?;
    let shown = wait::until("what it shows", || {
        let log = cri::log(&node.world, "c").ok()?;
        // A long line is logged in parts.
        let text: String = log.iter().map(|line| line.text.as_str()).collect();
        serde_json::from_str::<Value>(&text).ok()
    })
    .await?;
    let execed = node.cri.show(&id).await?;
    for (who, shown) in [("init", shown), ("exec", execed)] {
        let descriptors = shown["descriptors"].as_object().context("no descriptors")?.clone();
        let numbers: BTreeSet<&str> = descriptors.keys().map(String::as_str).collect();
        let standard = BTreeSet::from(["0", "1", "2"]);
        // The folder that lists them may show itself.
        let extra: Vec<_> = numbers
            .difference(&standard)
            .filter(|n| !descriptors[**n].to_string().contains("/proc/"))
            .collect();
        ensure!(extra.is_empty(), "{who} was given {descriptors:?}");
    }
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn the_cgroup_is_where_the_kubelet_asked_in_every_hierarchy() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    let process = Process::read(node.cri.pid(&id).await?).context("no process")?;
    let expected = node.world.container_cgroup(&id);
    let runtime = Runtime::under_test();
    // runc 1.1 does not know the controller misc of cgroup v1 and leaves it.
    let known = |line: &&String| runtime == Runtime::Dunnage || !line.contains(":misc:");
    for line in process.cgroups.iter().filter(known) {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        ensure!(path == expected, "{line}, not {expected}");
    }
    ensure!(process.cgroups.len() > 1 || process.cgroups[0].starts_with("0::"), "{runtime:?}: {process:?}");
    // An exec lands in the same place.
    let shown = node.cri.show(&id).await?;
    let listed: Vec<String> = serde_json::from_value(shown["cgroup"].clone())?;
    // Its own view is relative to its cgroup namespace, if it has one.
    ensure!(listed.iter().all(|line| line.ends_with(&expected) || line.ends_with(":/")), "{listed:?}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}
