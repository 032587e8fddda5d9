//! What a container's cgroup costs on this machine, in microseconds: `cost [rounds] [pause in ms]`, as root.
//!
//! Starts in a tight loop hide the price of joining, which is a wait for an RCU grace period that the start before
//! may have paid already; so measure with a pause as well.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement for people, not part of a program"
)]

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dunnage_cgroup::{Cgroup, Layout, Pid, Removal};
use dunnage_spec::Resources;
use dunnage_spec::resources::{CgroupPath, Cpu, DeviceAccess, DeviceRule, DeviceRuleKind, Limit, Memory};

const STEPS: [&str; 7] = [
    "detect",
    "create",
    "join files + own thread",
    "attach a child",
    "stats, first",
    "stats, later",
    "remove",
];

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().unwrap());
    let (rounds, pause) = (args.next().unwrap_or(200), Duration::from_millis(args.next().unwrap_or(0)));
    let layout = Layout::detect().unwrap();
    let parent = format!("/dunnage-cost-{}", std::process::id());
    let pod = Cgroup::create(&layout, &path(&parent, None), &Resources::default()).unwrap().0;
    let mut times: Vec<Vec<u128>> = vec![Vec::new(); STEPS.len()];
    for round in 0..rounds {
        thread::sleep(pause);
        let mut step = 0;
        let mut lap = |since: Instant| {
            times[step].push(since.elapsed().as_nanos());
            step += 1;
        };
        let start = Instant::now();
        let _ = Layout::detect().unwrap();
        lap(start);

        let start = Instant::now();
        let (cgroup, refused) = Cgroup::create(&layout, &path(&parent, Some(round)), &limits()).unwrap();
        lap(start);
        assert!(refused.is_empty(), "{refused:?}");

        let start = Instant::now();
        let files = cgroup.join_files().unwrap();
        let opened = start.elapsed();
        let joined = thread::spawn(move || {
            let start = Instant::now();
            for file in files {
                File::from(file).write_all(b"0").unwrap();
            }
            start.elapsed()
        });
        lap(Instant::now().checked_sub(opened + joined.join().unwrap()).unwrap());

        // Waits for us with its standard input.
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        thread::sleep(pause);
        let start = Instant::now();
        cgroup.attach(pid).unwrap();
        lap(start);

        for _ in 0..2 {
            let start = Instant::now();
            let _ = cgroup.stats();
            lap(start);
        }
        drop(child.stdin.take());
        child.wait().unwrap();
        let start = Instant::now();
        while cgroup.remove().unwrap() == Removal::Busy {
            thread::yield_now();
        }
        lap(start);
    }
    while pod.remove().unwrap() == Removal::Busy {
        thread::sleep(Duration::from_millis(1));
    }
    for (name, times) in STEPS.iter().zip(&mut times) {
        times.sort_unstable();
        let at = |percent: usize| times[times.len() * percent / 100] / 1000;
        println!("{name:24} median {:6}  p90 {:6}", at(50), at(90));
    }
}

fn path(parent: &str, round: Option<u64>) -> CgroupPath {
    let mut path = PathBuf::from(parent);
    path.extend(round.map(|round| format!("c{round}")));
    CgroupPath::Cgroupfs(path)
}

/// As the C floor of the benchmarks.
fn limits() -> Resources {
    let access = DeviceAccess { read: true, write: true, mknod: true };
    let deny_all = DeviceRule { allow: false, kind: DeviceRuleKind::All, major: None, minor: None, access };
    Resources {
        cpu: Cpu {
            shares: Some(512),
            quota_us: Some(Limit::To(50_000)),
            period_us: Some(100_000),
            ..Cpu::default()
        },
        memory: Memory { limit: Some(Limit::To(128 << 20)), ..Memory::default() },
        devices: vec![deny_all],
        ..Resources::default()
    }
}
