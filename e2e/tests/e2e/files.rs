//! A container's root, its layers, and what is bound into it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dunnage_e2e::cri::{self, api};
use dunnage_e2e::{command, wait};

use crate::rig::{Cluster, Node};

#[tokio::test]
async fn writes_stay_in_the_container_s_layer_and_go_with_it() -> Result<()> {
    let node = Node::new().await?;
    let script = "echo changed >/etc/layer && rm /etc/plain.txt && cat /etc/layer";
    let first = node.ctr.run_probe(&["--rm"], "first", &["sh", "-c", script]).await?.ok()?;
    ensure!(first == "changed\n");
    let second = node
        .ctr
        .run_probe(&["--rm"], "second", &["sh", "-c", "cat /etc/layer /etc/plain.txt"])
        .await?
        .ok()?;
    ensure!(second == "lower\nnot a program\n", "{second}");
    let snapshots = node.ctr.run(["snapshots", "ls"]).await?.ok()?;
    ensure!(!snapshots.contains("first") && !snapshots.contains("second"), "{snapshots}");
    node.require_nothing_left().await
}

#[tokio::test]
async fn twenty_containers_of_one_image_share_its_files() -> Result<()> {
    let node = Node::new().await?;
    for n in 0..20 {
        node.ctr.run_probe(&["--detach"], &format!("c{n}"), &["sleep", "1000"]).await?.ok()?;
    }
    let snapshots = node.containerd.root().join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let mut sizes: Vec<u64> =
        fs::read_dir(snapshots)?.flatten().map(|entry| size(&entry.path().join("fs"))).collect();
    sizes.sort_unstable();
    let image = sizes.pop().context("no snapshot")?;
    let pause = sizes.pop().context("only one image")?;
    ensure!(image > 1 << 20, "the image's layer has {image} bytes");
    let rest: u64 = sizes.iter().sum();
    ensure!(rest < 1 << 20, "twenty containers take {rest} bytes besides the images' {image} and {pause}");
    for n in 0..20 {
        node.end(&format!("c{n}")).await?;
    }
    node.require_nothing_left().await
}

fn size(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size(&entry.path()),
            _ => entry.metadata().map(|metadata| metadata.len()).unwrap_or_default(),
        })
        .sum()
}

#[tokio::test]
async fn a_bound_folder_is_seen_both_ways_and_outlives_the_container() -> Result<()> {
    let node = Cluster::new().await?;
    let volume = node.world.dir().join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("from-host"), "host\n")?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    container.mounts.push(bind(&volume, "/data", api::MountPropagation::PropagationPrivate));
    let read_only =
        api::Mount { readonly: true, ..bind(&volume, "/fixed", api::MountPropagation::PropagationPrivate) };
    container.mounts.push(read_only);
    let (pod, id) = node.pod_with(container).await?;
    ensure!(node.cri.exec_ok(&id, &["cat", "/data/from-host"]).await? == "host\n");
    node.cri.exec_ok(&id, &["sh", "-c", "echo inside >/data/from-container"]).await?;
    ensure!(fs::read_to_string(volume.join("from-container"))? == "inside\n");
    let refused = node.cri.exec(&id, &["touch", "/fixed/new"], 0).await?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("Read-only file system"), "{refused:?}");
    node.cri.remove_pod(&pod).await?;
    ensure!(fs::read_to_string(volume.join("from-container"))? == "inside\n");
    node.require_nothing_left().await
}

#[tokio::test]
async fn propagation_is_private_or_from_the_host_or_both_ways_as_asked() -> Result<()> {
    let node = Cluster::new().await?;
    let volume = node.world.dir().join("volume");
    fs::create_dir_all(volume.join("from-host"))?;
    fs::create_dir_all(volume.join("from-container"))?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    cri::security(&mut container).privileged = true;
    let ways = [
        ("/private", api::MountPropagation::PropagationPrivate),
        ("/slave", api::MountPropagation::PropagationHostToContainer),
        ("/shared", api::MountPropagation::PropagationBidirectional),
    ];
    container.mounts.extend(ways.map(|(path, way)| bind(&volume, path, way)));
    let mut config = cri::pod(&node.world, "p");
    let context =
        config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).context("no context")?;
    context.privileged = true;
    let pod = node.cri.run_pod(config).await?;
    let id = node.cri.run_container(&pod, container).await?;

    let host = volume.join("from-host").to_string_lossy().into_owned();
    run("mount", &["-t", "tmpfs", "none", &host]).await?;
    fs::write(volume.join("from-host/note"), "seen\n")?;
    for (path, expected) in [("/private", 1), ("/slave", 0), ("/shared", 0)] {
        let seen = node.cri.exec(&id, &["test", "-e", &format!("{path}/from-host/note")], 0).await?;
        ensure!(seen.exit_code == expected, "{path}: {seen:?}");
    }
    run("umount", &[&host]).await?;

    for (path, expected) in [("/private", false), ("/slave", false), ("/shared", true)] {
        let place = format!("{path}/from-container");
        node.cri
            .exec_ok(&id, &["sh", "-c", &format!("mount -t tmpfs none {place} && touch {place}/note")])
            .await?;
        let seen = volume.join("from-container/note").exists();
        node.cri.exec_ok(&id, &["umount", &place]).await?;
        ensure!(seen == expected, "{path}: the host sees it: {seen}");
    }
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

async fn run(program: &str, words: &[&str]) -> Result<()> {
    command::output(tokio::process::Command::new(program).args(words)).await?.ok().map(drop)
}

#[tokio::test]
async fn a_read_only_root_takes_writes_only_where_something_is_mounted() -> Result<()> {
    let node = Cluster::new().await?;
    let scratch = node.world.dir().join("scratch");
    fs::create_dir(&scratch)?;
    let mut container = cri::container("c", &["sleep", "1000"]);
    cri::security(&mut container).readonly_rootfs = true;
    container.mounts.push(bind(&scratch, "/tmp", api::MountPropagation::PropagationPrivate));
    let (pod, id) = node.pod_with(container).await?;
    for path in ["/new", "/etc/layer", "/root/new"] {
        let write = node.cri.exec(&id, &["touch", path], 0).await?;
        ensure!(
            String::from_utf8_lossy(&write.stderr).contains("Read-only file system"),
            "{path}: {write:?}"
        );
    }
    node.cri.exec_ok(&id, &["touch", "/tmp/new", "/dev/shm/new"]).await?;
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_missing_volume_is_named_and_the_pod_goes_on() -> Result<()> {
    let node = Cluster::new().await?;
    let pod = node.cri.run_pod(cri::pod(&node.world, "p")).await?;
    let mut container = cri::container("c", &["true"]);
    // containerd makes a missing folder itself; below a file it cannot.
    let file = node.world.dir().join("file");
    fs::write(&file, "")?;
    container.mounts.push(bind(&file.join("below"), "/data", api::MountPropagation::PropagationPrivate));
    let refused = match node.cri.create_container(&pod, container).await {
        Ok(id) => node.cri.start_container(&id).await.err(),
        Err(error) => Some(error),
    };
    let error = format!("{:#}", refused.context("it started")?);
    ensure!(error.contains(&*file.to_string_lossy()), "{error}");
    let next = node.cri.run_container(&pod, cri::container("d", &["true"])).await?;
    ensure!(node.cri.ended(&next).await?.exit_code == 0);
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn the_pod_s_own_files_are_in_every_container() -> Result<()> {
    let node = Cluster::new().await?;
    let (pod, id) = node.sleeper("c").await?;
    ensure!(node.cri.exec_ok(&id, &["cat", "/etc/hostname"]).await? == "pod-of-c\n");
    ensure!(node.cri.exec_ok(&id, &["cat", "/etc/resolv.conf"]).await?.contains("nameserver 10.166.0.1"));
    ensure!(node.cri.exec_ok(&id, &["cat", "/etc/hosts"]).await?.contains("localhost"));
    let devices = node.cri.show(&id).await?["devices"].to_string();
    for device in
        ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin", "stdout"]
    {
        ensure!(devices.contains(&format!("\"{device}\"")), "{device} is missing: {devices}");
    }
    // Open to all, as device nodes are.
    ensure!(node.cri.exec_ok(&id, &["stat", "-c", "%a %t:%T", "/dev/null"]).await? == "666 1:3\n");
    let written =
        wait::until_ok("a write", || node.cri.exec_ok(&id, &["sh", "-c", "echo x >/dev/null; echo ok"]));
    ensure!(written.await? == "ok\n");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

fn bind(from: &Path, to: &str, propagation: api::MountPropagation) -> api::Mount {
    api::Mount {
        host_path: from.to_string_lossy().into_owned(),
        container_path: to.to_owned(),
        propagation: propagation.into(),
        ..Default::default()
    }
}
