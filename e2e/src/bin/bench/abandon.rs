//! Ends what a contender left that hung or failed, so that the others have the machine to themselves.

use std::fs;
use std::thread;
use std::time::Duration;

use dunnage_e2e::process::Process;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Course;

/// Kills every process of the world that belongs to containers with these ids, by its cgroup or by its command
/// line, and unmounts their root file systems. Gives up after five seconds: the world's end is thorough.
pub(crate) fn abandon(course: &Course, ids: &[String]) {
    for _ in 0..500 {
        let left: Vec<Process> = course
            .world
            .processes()
            .into_iter()
            .filter(|process| !process.is_zombie() && ids.iter().any(|id| belongs(process, id)))
            .collect();
        if left.is_empty() {
            break;
        }
        for process in left {
            // It may have ended by itself.
            _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    for path in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
        if ids.iter().any(|id| path.split('/').any(|part| part == id)) {
            _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}

fn belongs(process: &Process, id: &str) -> bool {
    let in_cgroup = process.cgroups.iter().any(|line| line.split('/').any(|part| part == id));
    let named = || {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        line.split('\0').any(|word| word == id || word.rsplit('/').next() == Some(id))
    };
    in_cgroup || named()
}
