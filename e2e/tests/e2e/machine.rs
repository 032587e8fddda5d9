//! What depends on the machine: its security module and its version of cgroups. A test that has nothing to look at
//! says so and stands aside; the virtual machines (`e2e/vm`) have it all.

use std::fs;

use anyhow::{Context, Result, ensure};
use dunnage_e2e::cgroup;
use dunnage_e2e::cri::{self, api};

use crate::rig::Cluster;

/// The profile that containerd loads and gives to containers that ask for the runtime's default.
const PROFILE: &str = "cri-containerd.apparmor.d (enforce)";

#[tokio::test]
async fn apparmor_confines_a_container_and_its_execs_by_containerd_s_profile() -> Result<()> {
    if !has_apparmor() {
        println!("not on this machine: its kernel runs without AppArmor");
        return Ok(());
    }
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    let label = |pid| fs::read_to_string(format!("/proc/{pid}/attr/current")).context("read the label");
    ensure!(label(node.cri.pid(&id).await?)?.trim_end() == PROFILE, "{:?}", label(node.cri.pid(&id).await?));
    ensure!(node.cri.exec_ok(&id, &["cat", "/proc/self/attr/current"]).await?.trim_end() == PROFILE);

    let mut free = cri::container("free", &["sleep", "1000"]);
    let unconfined = api::security_profile::ProfileType::Unconfined.into();
    cri::security(&mut free).apparmor =
        Some(api::SecurityProfile { profile_type: unconfined, ..Default::default() });
    let free = node.cri.run_container(&pod, free).await?;
    ensure!(label(node.cri.pid(&free).await?)?.trim_end() == "unconfined");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn on_cgroup_v2_a_container_sees_its_own_cgroup_as_the_whole_tree_and_cannot_write_it() -> Result<()> {
    if !cgroup::with_controller("memory")?.is_unified() {
        println!("not on this machine: its controllers are on cgroup v1");
        return Ok(());
    }
    let node = Cluster::new().await?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    cri::resources(&mut container).memory_limit_in_bytes = 64 << 20;
    let (pod, id) = node.pod_with(container).await?;
    ensure!(node.cri.exec_ok(&id, &["cat", "/proc/1/cgroup"]).await? == "0::/\n");
    ensure!(node.cri.exec_ok(&id, &["cat", "/sys/fs/cgroup/memory.max"]).await? == "67108864\n");
    let members = node.cri.exec_ok(&id, &["cat", "/sys/fs/cgroup/cgroup.procs"]).await?;
    ensure!(members.lines().any(|pid| pid == "1"), "{members}");
    let write = node.cri.exec(&id, &["sh", "-c", "echo max >/sys/fs/cgroup/memory.max"], 0).await?;
    let why = String::from_utf8_lossy(&write.stderr);
    ensure!(write.exit_code != 0 && why.contains("Read-only file system"), "{why}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}
