//! A host of pods: a network namespace, and threads that work in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use super::chain::Pod;

const DIR: &str = "/run/netns";

/// A network namespace with loopback up.
#[derive(Debug)]
pub(super) struct Host(PathBuf);

impl Host {
    pub(super) fn make(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(Self(Path::new(DIR).join(name)))
    }

    pub(super) fn netns(&self) -> &Path {
        &self.0
    }

    /// Runs `work` on a thread in it; programs that it starts are in it, too.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let netns = File::open(&self.0).with_context(|| format!("open {}", self.0.display()))?;
        thread::scope(|scope| {
            let work = move || {
                setns(netns, CloneFlags::CLONE_NEWNET).context("enter a host")?;
                Ok(work())
            };
            scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// All at once, each on a thread in it; how long each took.
    pub(super) fn together(
        &self,
        pods: &[Pod],
        work: impl Fn(&Pod) -> Result<()> + Sync,
    ) -> Result<Vec<Duration>> {
        let (work, start) = (&work, &Barrier::new(pods.len()));
        let timed = |pod| {
            move || {
                start.wait();
                let started = Instant::now();
                work(pod).map(|()| started.elapsed())
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> =
                pods.iter().map(|pod| scope.spawn(move || self.inside(timed(pod))?)).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(took) => took,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            threads.into_iter().map(join).collect()
        })
    }

    /// Takes a pod's namespace away and waits until its links are gone: the kernel removes them in the background,
    /// and whoever changes links meanwhile waits for it. Pods of a node do not follow each other so closely.
    pub(super) fn settle(&self, pod: Pod, present: usize) -> Result<()> {
        drop(pod);
        self.wait_for_links(present)
    }

    pub(super) fn wait_for_links(&self, present: usize) -> Result<()> {
        self.inside(|| {
            for _ in 0..2000 {
                let links = fs::read_to_string("/proc/thread-self/net/dev").context("list links")?;
                let ours =
                    |line: &&str| ["dnp", "veth"].iter().any(|name| line.trim_start().starts_with(name));
                if links.lines().filter(ours).count() <= present {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(10));
            }
            bail!("links of pods that were deleted are still there")
        })?
    }
}

/// Runs `ip` with its arguments.
pub(super) fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("run ip")?;
    ensure!(status.success(), "ip {}: {status}", arguments.join(" "));
    Ok(())
}
