//! What a container may not do.

use anyhow::{Context, Result, ensure};
use dunnage_e2e::cri::{self, api};
use serde_json::Value;

use crate::rig::Cluster;

/// The default set of the field, as the kernel's mask: chown, `dac_override`, fowner, fsetid, kill, setgid,
/// setuid, setpcap, `net_bind_service`, `net_raw`, `sys_chroot`, mknod, `audit_write`, setfcap.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";

#[tokio::test]
async fn the_default_capabilities_and_no_others() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    let capabilities = node.cri.show(&id).await?["capabilities"].clone();
    for set in ["permitted", "effective", "bounding"] {
        ensure!(capabilities[set] == DEFAULT_CAPABILITIES, "{set}: {capabilities}");
    }
    ensure!(capabilities["ambient"] == "0000000000000000", "{capabilities}");
    let clock = call(&node, &id, "clock_settime").await?;
    ensure!(clock == "EPERM", "{clock}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn all_dropped_and_one_added_leaves_one() -> Result<()> {
    let node = Cluster::new().await?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    cri::security(&mut container).capabilities = Some(api::Capability {
        add_capabilities: vec!["CHOWN".to_owned()],
        drop_capabilities: vec!["ALL".to_owned()],
    });
    let (pod, id) = node.pod_with(container).await?;
    let capabilities = node.cri.show(&id).await?["capabilities"].clone();
    ensure!(capabilities["effective"] == "0000000000000001", "{capabilities}");
    ensure!(capabilities["bounding"] == "0000000000000001", "{capabilities}");
    ensure!(call(&node, &id, "chown").await? == Value::Null);
    for name in ["chroot", "mknod-null", "socket-raw"] {
        let errno = call(&node, &id, name).await?;
        ensure!(errno == "EPERM", "{name}: {errno}");
    }
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_setuid_program_gives_nothing_when_privileges_may_not_grow() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    for (name, no_new_privs, effective) in [("free", false, 0), ("held", true, 1000)] {
        let mut container = cri::container(name, &["sleep", "1000"]);
        let security = cri::security(&mut container);
        security.run_as_user = Some(api::Int64Value { value: 1000 });
        security.no_new_privs = no_new_privs;
        let id = node.cri.run_container(&pod, container).await?;
        let shown: Value = serde_json::from_str(&node.cri.exec_ok(&id, &["id-as-root", "show"]).await?)?;
        ensure!(shown["uids"][1] == effective, "{name}: {}", shown["uids"]);
        ensure!(shown["no_new_privs"] == if no_new_privs { "1" } else { "0" }, "{name}");
    }
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn the_default_seccomp_profile_refuses_what_it_should_and_lets_the_rest_run() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    ensure!(node.cri.show(&id).await?["seccomp"] == "2", "no filter");
    let refused = [
        "mount",
        "umount2",
        "reboot",
        "unshare-user",
        "unshare-mount",
        "sethostname",
        "setns",
        "delete_module",
    ];
    for name in refused {
        let errno = call(&node, &id, name).await?;
        ensure!(errno == "EPERM", "{name}: {errno}");
    }
    for name in ["chown", "chroot", "mknod-null", "socket-stream", "socket-raw", "setuid", "getpid"] {
        let errno = call(&node, &id, name).await?;
        ensure!(errno == Value::Null, "{name}: {errno}");
    }
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn unconfined_there_is_no_filter() -> Result<()> {
    let node = Cluster::new().await?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    let unconfined = api::security_profile::ProfileType::Unconfined;
    let unconfined = api::SecurityProfile { profile_type: unconfined.into(), ..Default::default() };
    let security = cri::security(&mut container);
    // AppArmor has its own word about user namespaces (Linux 6.7).
    (security.seccomp, security.apparmor) = (Some(unconfined.clone()), Some(unconfined));
    let (pod, id) = node.pod_with(container).await?;
    ensure!(node.cri.show(&id).await?["seccomp"] == "0");
    // What the filter would refuse is let through to the kernel's own checks.
    ensure!(call(&node, &id, "unshare-user").await? == Value::Null);
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn the_device_rules_hold_even_for_a_node_that_was_made() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    // By the field's default rules any node may be made, but not opened.
    ensure!(call(&node, &id, "mknod-disk").await? == Value::Null);
    let read = node.cri.exec(&id, &["head", "-c", "1", "/tmp/disk"], 0).await?;
    ensure!(String::from_utf8_lossy(&read.stderr).contains("Operation not permitted"), "{read:?}");
    ensure!(node.cri.exec_ok(&id, &["head", "-c", "1", "/dev/zero"]).await? == "\0");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn user_and_groups_are_those_asked_for_in_start_and_exec() -> Result<()> {
    let node = Cluster::new().await?;
    let mut container = cri::container("c", &["sh", "-c", "id; exec sleep 1000"]);
    let security = cri::security(&mut container);
    security.run_as_user = Some(api::Int64Value { value: 1000 });
    security.run_as_group = Some(api::Int64Value { value: 1000 });
    security.supplemental_groups = vec![3000];
    let (pod, id) = node.pod_with(container).await?;
    let shown = node.cri.show(&id).await?;
    ensure!(shown["uids"] == serde_json::json!([1000, 1000, 1000, 1000]), "{}", shown["uids"]);
    ensure!(shown["gids"] == serde_json::json!([1000, 1000, 1000, 1000]), "{}", shown["gids"]);
    let groups = shown["groups"].as_array().context("no groups")?;
    ensure!(groups.contains(&3000.into()) && !groups.contains(&0.into()), "{groups:?}");
    ensure!(shown["capabilities"]["effective"] == "0000000000000000", "{}", shown["capabilities"]);
    let pid = node.cri.pid(&id).await?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains("Uid:\t1000\t1000\t1000\t1000"), "{status}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_privileged_container_has_what_the_runtime_has() -> Result<()> {
    let node = Cluster::new().await?;
    let mut config = cri::pod(&node.world, "p");
    let context =
        config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("no context")?;
    context.privileged = true;
    let pod = node.cri.run_pod(config).await?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    cri::security(&mut container).privileged = true;
    let id = node.cri.run_container(&pod, container).await?;
    let shown = node.cri.show(&id).await?;
    ensure!(shown["seccomp"] == "0", "{}", shown["seccomp"]);
    for name in ["mount", "sethostname", "mknod-disk"] {
        let errno = call(&node, &id, name).await?;
        ensure!(errno == Value::Null, "{name}: {errno}");
    }
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

/// The error of one system call inside a container: `null` when it was let through.
async fn call(node: &Cluster, id: &str, name: &str) -> Result<Value> {
    let answer: Value = serde_json::from_str(&node.cri.exec_ok(id, &["probe", "syscall", name]).await?)?;
    Ok(answer["errno"].clone())
}
