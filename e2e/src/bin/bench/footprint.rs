//! What a shim weighs while a pod with one container runs.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Course;
use crate::peer::Peer;
use crate::rounds::Host;

/// The weight of one shim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footprint {
    /// Memory that is the process's alone, in KiB.
    pub(crate) private: u64,
    /// Memory with its share of what others use too, in KiB.
    pub(crate) proportional: u64,
    /// Threads.
    pub(crate) threads: usize,
}

/// Names of the two pods.
pub(crate) const BESIDE: &str = "beside";
pub(crate) const WEIGHED: &str = "weighed";

/// Weighs the shim of a pod with one sleeping container, after an exec and a moment of rest, beside another pod.
pub(crate) async fn of_a_pod(course: &Course, peer: &Peer) -> Result<Footprint> {
    // A node has many shims of one kind, and what they share (the program itself) is nobody's own. With a
    // single one the kernel would count the program as private.
    let beside = Host::start(course, peer, BESIDE).await?;
    let host = Host::start(course, peer, WEIGHED).await?;
    host.exec("warm").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let shim = host.shim().await?;
    let rollup =
        fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).context("read the shim's memory")?;
    let kib = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    };
    let footprint = Footprint {
        private: kib("Private_Clean") + kib("Private_Dirty"),
        proportional: kib("Pss"),
        threads: fs::read_dir(format!("/proc/{shim}/task"))?.count(),
    };
    host.end(course).await?;
    beside.end(course).await?;
    Ok(footprint)
}
