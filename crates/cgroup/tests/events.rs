//! Out-of-memory kills and freezing, as they happen.
#![allow(clippy::unwrap_used, reason = "in the functions of tests too")]

mod support;

use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use dunnage_cgroup::{Cgroup, FreezeState, Hierarchy, Removal};
use dunnage_spec::Resources;
use dunnage_spec::resources::{Limit, Memory};
use support::{Process, World, eventually};

/// A descriptor's readiness without a library: a thread that blocks in a read is released by data only.
fn readable(fd: impl AsFd) -> bool {
    let mut file = std::fs::File::from(fd.as_fd().try_clone_to_owned().unwrap());
    // Both kinds are non-blocking; what is read here only says that something came.
    file.read(&mut [0; 4096]).is_ok()
}

fn memory(mebi: u64) -> Resources {
    let limit = Some(Limit::To(mebi << 20));
    Resources { memory: Memory { limit, swap: limit, ..Memory::default() }, ..Resources::default() }
}

#[test]
fn a_process_that_takes_too_much_is_killed_and_counted_and_the_watch_wakes() {
    let world = World::new();
    let cgroup = world.create("id", &memory(32));
    let watch = cgroup.oom_watch().unwrap();
    assert_eq!(watch.kills(), 0);
    assert!(!readable(&watch));
    let mut process = Process::perl("my $n = 512 << 20; my $keep = 'x' x $n");
    cgroup.attach_all(process.pid()).unwrap();
    process.go();
    assert_eq!(process.wait_signal(), Some(9));
    eventually("a signal", || readable(&watch));
    eventually("the count", || watch.kills() == 1);
    assert_eq!(cgroup.oom_kills(), 1);
    assert_eq!(cgroup.stats().oom_kills(), Some(1));
    // On v2 the kill itself is followed by events of reaching the limit.
    eventually("silence after reading", || watch.kills() == 1 && !readable(&watch));
}

#[test]
fn removing_the_cgroup_is_no_kill_and_the_last_count_is_kept() {
    let world = World::new();
    let cgroup = world.create("id", &memory(32));
    let watch = cgroup.oom_watch().unwrap();
    let mut process = Process::perl("my $n = 512 << 20; my $keep = 'x' x $n");
    cgroup.attach_all(process.pid()).unwrap();
    process.go();
    assert_eq!(process.wait_signal(), Some(9));
    eventually("the count", || watch.kills() == 1);
    eventually("removal", || cgroup.remove().unwrap() == Removal::Gone);
    assert_eq!(watch.kills(), 1);
    drop(cgroup);
    assert_eq!(watch.kills(), 1);
}

#[test]
fn a_machine_without_the_memory_controller_says_so() {
    let Some(world) = World::hybrid() else { return };
    let layout = world.layout.only(Hierarchy::is_unified).unwrap();
    let cgroup = Cgroup::create(&layout, &world.path("id"), &Resources::default()).unwrap().0;
    let error = cgroup.oom_watch().unwrap_err();
    assert!(error.to_string().starts_with("memory.events needs the memory controller"), "{error}");
}

fn cpu_ticks(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn frozen_processes_use_no_time_until_they_are_thawed() {
    for world in World::each() {
        let cgroup = world.create("id", &Resources::default());
        let process = Process::busy();
        cgroup.attach_all(process.pid()).unwrap();
        assert_eq!(cgroup.freeze_state().unwrap(), FreezeState::Thawed);
        let mut freezing = cgroup.freeze().unwrap();
        assert_eq!(freezing.wait(Duration::from_secs(60)).unwrap(), FreezeState::Frozen);
        assert_eq!(cgroup.freeze_state().unwrap(), FreezeState::Frozen);
        let before = cpu_ticks(&process);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(cpu_ticks(&process), before);
        cgroup.thaw().unwrap();
        eventually("more CPU time", || cpu_ticks(&process) > before);
        assert_eq!(cgroup.freeze_state().unwrap(), FreezeState::Thawed);
    }
}

#[test]
fn the_end_of_a_freeze_can_be_waited_for_on_the_unified_tree() {
    let Some(world) = World::unified() else { return };
    let cgroup = world.create("id", &Resources::default());
    let process = Process::busy();
    cgroup.attach_all(process.pid()).unwrap();
    let mut freezing = cgroup.freeze().unwrap();
    let changed = freezing.changed().unwrap().try_clone_to_owned().unwrap();
    eventually("an event", || readable(&changed));
    eventually("the freeze", || freezing.step().unwrap() == FreezeState::Frozen);
}

#[test]
fn frozen_processes_can_be_killed() {
    for world in World::each() {
        let cgroup = world.create("id", &Resources::default());
        let mut process = Process::busy();
        cgroup.attach_all(process.pid()).unwrap();
        cgroup.freeze().unwrap().wait(Duration::from_secs(60)).unwrap();
        cgroup.kill().unwrap();
        assert_eq!(process.wait_signal(), Some(9));
        eventually("removal", || cgroup.remove().unwrap() == Removal::Gone);
    }
}

#[test]
fn what_a_v1_freezer_has_frozen_is_killed_on_a_hybrid_machine_too() {
    let Some(world) = World::hybrid() else { return };
    let cgroup = world.create("id", &Resources::default());
    let mut process = Process::busy();
    cgroup.attach_all(process.pid()).unwrap();
    let legacy = world.layout.only(|hierarchy| !hierarchy.is_unified()).unwrap();
    let v1 = Cgroup::open(&legacy, &world.path("id")).unwrap().unwrap();
    v1.freeze().unwrap().wait(Duration::from_secs(60)).unwrap();
    cgroup.kill().unwrap();
    assert_eq!(process.wait_signal(), Some(9));
}
