//! Measures births: `birth ROUNDS [PAUSE_MS]`, as root. A full container as containerd asks for it by default,
//! from `spawn` to created, to started and to the exit of `/bin/true`; and an exec into a running one.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement at the terminal")]

#[path = "../tests/container/mod.rs"]
mod container;

use std::time::{Duration, Instant};

use container::*;
use dunnage_init::{Birth, Streams, spawn};
use dunnage_plan::Plan;
use dunnage_sys::pidfd;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().unwrap());
    let rounds = args.next().unwrap_or(200);
    let pause = Duration::from_millis(args.next().unwrap_or(0) as u64);
    let rootfs = Rootfs::new();
    let plan = Draft::full(&rootfs.path()).program(&["/bin/true"]);
    measure("container", rounds, pause, &plan, None);
    let sleeper = Sleeper::new(&rootfs);
    measure("exec", rounds, pause, &exec_plan(&["/bin/true"]), Some(&sleeper));
}

fn measure(name: &str, rounds: usize, pause: Duration, plan: &Plan, init: Option<&Sleeper>) {
    let mut laps: [Vec<Duration>; 5] = Default::default();
    for _ in 0..rounds {
        std::thread::sleep(pause);
        let begin = Instant::now();
        let init = init.map(|sleeper| std::os::fd::AsFd::as_fd(&sleeper.pidfd));
        let birth = Birth { plan, streams: Streams::default(), init, clone_into: None, cgroups: &[] };
        let mut newborn = spawn(&birth).unwrap();
        let spawned = begin.elapsed();
        newborn.wait_created(PATIENCE).unwrap();
        let created = begin.elapsed();
        newborn.start().unwrap();
        newborn.wait_started(PATIENCE).unwrap();
        let started = begin.elapsed();
        let (_, pidfd) = newborn.release();
        pidfd::reap(&pidfd).unwrap();
        let ended = begin.elapsed();
        for (lap, time) in
            laps.iter_mut().zip([spawned, created - spawned, started - created, ended - started, ended])
        {
            lap.push(time);
        }
    }
    for (lap, what) in laps.iter_mut().zip(["spawn", "to created", "to started", "to exit", "all"]) {
        lap.sort();
        let (median, p90) = (lap[rounds / 2], lap[rounds * 9 / 10]);
        println!("{name:10} {what:12} median {:6} us  p90 {:6} us", median.as_micros(), p90.as_micros());
    }
}
