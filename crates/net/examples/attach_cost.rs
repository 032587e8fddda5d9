//! What attaching and detaching cost, step by step, as medians and 90th percentiles in microseconds:
//! `attach_cost [PODS]`. Runs as root in network namespaces of its own.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::time::Instant;

use anyhow::Context;
use dunnage_net::{Netns, NetworkConfig, Owner, PodNetwork};

#[derive(Debug, Default)]
struct Figures {
    netns: Vec<u128>,
    /// With bridge, nftables table and forwarding, which the first pod makes.
    first: Vec<u128>,
    attach: Vec<u128>,
    detach: Vec<u128>,
    remove: Vec<u128>,
}

fn main() -> anyhow::Result<()> {
    let pods = std::env::args().nth(1).map_or(Ok(100), |text| text.parse()).context("number of pods")?;
    let dir = tempfile::Builder::new().prefix("dunnage-net-cost-").tempdir_in("/run")?;
    let host = Netns::create(&dir.path().join("netns"), "host")?;
    let figures = host.run(|| measure(dir.path(), pods))?;
    Netns::remove(host.path())?;
    let figures = figures?;
    let Figures { netns, first, attach, detach, remove } = figures;
    let all =
        [("netns", netns), ("first", first), ("attach", attach), ("detach", detach), ("remove", remove)];
    for (name, mut values) in all {
        values.sort_unstable();
        println!("{name:8} p50 {:6} p90 {:6}", values[values.len() / 2], values[values.len() * 9 / 10]);
    }
    Ok(())
}

fn measure(dir: &std::path::Path, pods: usize) -> anyhow::Result<Figures> {
    let mut network =
        PodNetwork::open(NetworkConfig { state_dir: dir.join("ipam"), ..NetworkConfig::local() })?;
    let mut figures = Figures::default();
    for number in 0..pods {
        let owner = Owner::new(&format!("pod{number}"), "eth0".parse()?)?;
        let (netns, took) = timed(|| Netns::create(&dir.join("netns"), owner.id()));
        let netns = netns?;
        figures.netns.push(took);
        let (attached, took) = timed(|| network.attach(&owner, &netns, &[]));
        attached?;
        if number == 0 { &mut figures.first } else { &mut figures.attach }.push(took);
    }
    for number in 0..pods {
        let owner = Owner::new(&format!("pod{number}"), "eth0".parse()?)?;
        let (detached, took) = timed(|| network.detach(&owner));
        detached?;
        figures.detach.push(took);
        Netns::remove(&dir.join("netns").join(owner.id()))?;
    }
    let (removed, took) = timed(|| network.remove_if_unused());
    removed?;
    figures.remove.push(took);
    Ok(figures)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, u128) {
    let started = Instant::now();
    let done = work();
    (done, started.elapsed().as_micros())
}
