//! Scopes of a real systemd: limits before it knows, after it knows, and after it has read everything anew.
#![allow(clippy::unwrap_used, reason = "in the functions of tests too")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use dunnage_cgroup::{Cgroup, ErrorKind, Layout, Removal};
use dunnage_spec::Resources;
use dunnage_spec::resources::{CgroupPath, Cpu, DeviceAccess, DeviceRule, DeviceRuleKind, Limit, Memory};
use support::{Process, eventually};

/// A slice of its own, two levels below the root of all.
struct Slice {
    layout: Layout,
    name: String,
}

impl Slice {
    fn new(test: &str) -> Option<Self> {
        let layout = Layout::detect().unwrap();
        if !Path::new("/run/systemd/system").is_dir() {
            support::say("systemd does not run");
            return None;
        }
        if !layout.is_unified() {
            support::say("controllers are on cgroup v1");
            return None;
        }
        Some(Self { layout, name: format!("dtest-{test}{}.slice", std::process::id()) })
    }

    fn path(&self, name: &str) -> CgroupPath {
        CgroupPath::Systemd { slice: self.name.clone(), prefix: "t".into(), name: name.into() }
    }

    fn create(&self, name: &str, resources: &Resources) -> Cgroup {
        let (cgroup, refused) = Cgroup::create(&self.layout, &self.path(name), resources).unwrap();
        assert_eq!(refused, []);
        cgroup
    }

    fn directory(&self, name: &str) -> PathBuf {
        let root = self.layout.hierarchies()[0].mount_point();
        root.join("dtest.slice").join(&self.name).join(format!("t-{name}.scope"))
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        // The upper level belongs to tests that run beside this one, too; the last one's stop empties it.
        let _ = systemctl(&["stop", &self.name]);
        let upper = self.layout.hierarchies()[0].mount_point().join("dtest.slice");
        // A slice in which nothing was started is no unit.
        let _ = fs::remove_dir(upper.join(&self.name));
        let _ = fs::remove_dir(upper);
    }
}

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "-p", name, unit])
}

/// Puts a process into the cgroup and waits for the unit around it.
fn run(cgroup: &Cgroup, process: &Process) {
    cgroup.attach_all(process.pid()).unwrap();
    let mut start = cgroup.start_unit(process.pid()).unwrap().unwrap();
    eventually("the unit", || start.poll().unwrap());
    assert_eq!(cgroup.settle(process.child.id()).unwrap(), []);
}

fn removed(cgroup: &Cgroup) {
    let end = Instant::now() + Duration::from_secs(60);
    let mut pause = Duration::from_micros(200);
    while cgroup.remove().unwrap() == Removal::Busy {
        assert!(Instant::now() < end, "{cgroup:?} stays");
        cgroup.kill().unwrap();
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn limits() -> Resources {
    let everything = DeviceAccess { read: true, write: true, mknod: true };
    let deny_all =
        DeviceRule { allow: false, kind: DeviceRuleKind::All, major: None, minor: None, access: everything };
    Resources {
        cpu: Cpu {
            shares: Some(512),
            quota_us: Some(Limit::To(12_500)),
            period_us: Some(100_000),
            burst_us: Some(5_000),
            cpus: Some("0".to_owned()),
            mems: Some("0".to_owned()),
            ..Cpu::default()
        },
        memory: Memory {
            limit: Some(Limit::To(64 << 20)),
            swap: Some(Limit::To(64 << 20)),
            reservation: Some(Limit::To(8 << 20)),
            ..Memory::default()
        },
        pids: Some(Limit::To(77)),
        devices: vec![deny_all],
        unified: [("memory.high".to_owned(), "50331648".to_owned())].into(),
        ..Resources::default()
    }
}

const FILES: [&str; 12] = [
    "cpu.weight",
    "cpu.max",
    "cpu.max.burst",
    "cpuset.cpus",
    "cpuset.mems",
    "memory.max",
    "memory.swap.max",
    "memory.low",
    "memory.high",
    "memory.oom.group",
    "pids.max",
    "io.weight",
];

fn files(directory: &Path) -> Vec<String> {
    let read = |file: &&str| match fs::read_to_string(directory.join(file)) {
        Ok(text) => format!("{file}={}", text.trim()),
        // Not every kernel has every file.
        Err(_) => format!("{file} is not there"),
    };
    FILES.iter().map(read).collect()
}

fn opens_kmsg(cgroup: &Cgroup) -> bool {
    let mut process =
        Process::perl("print open(my $f, '<', '/dev/kmsg') ? \"yes\\n\" : \"no\\n\"; sleep 1000");
    cgroup.attach_all(process.pid()).unwrap();
    process.go();
    process.line() == "yes\n"
}

#[test]
fn limits_hold_before_the_unit_is_there_and_after_it_and_after_a_reload() {
    let Some(slice) = Slice::new("limits") else { return };
    let cgroup = slice.create("a", &limits());
    let directory = slice.directory("a");
    let before = files(&directory);
    for expected in [
        "cpu.max=13000 100000",
        "cpu.weight=59",
        "memory.max=67108864",
        "memory.high=50331648",
        "pids.max=77",
    ] {
        assert!(before.iter().any(|line| line == expected), "{expected} is not in {before:?}");
    }
    let process = Process::sleeping();
    run(&cgroup, &process);
    assert_eq!(files(&directory), before);
    assert!(!opens_kmsg(&cgroup));
    assert_eq!(property("t-a.scope", "ActiveState"), "active");
    assert_eq!(property("t-a.scope", "Slice"), slice.name);
    assert_eq!(property("t-a.scope", "Delegate"), "yes");
    systemctl(&["daemon-reload"]);
    // Written again only if asked for; this asks.
    systemctl(&["set-property", "--runtime", "t-a.scope", "IPAccounting=no"]);
    assert_eq!(files(&directory), before);
    assert!(!opens_kmsg(&cgroup));
    let path = slice.path("a");
    removed(&cgroup);
    assert!(!directory.exists());
    assert!(Cgroup::open(&slice.layout, &path).unwrap().is_none());
    eventually("the unit's end", || property("t-a.scope", "LoadState") == "not-found");
}

#[test]
fn updates_are_in_the_files_and_in_the_unit_and_survive_a_reload() {
    let Some(slice) = Slice::new("update") else { return };
    let cgroup = slice.create("b", &limits());
    let process = Process::sleeping();
    run(&cgroup, &process);
    let mut wanted = limits();
    wanted.cpu.quota_us = Some(Limit::To(30_000));
    wanted.cpu.shares = Some(1024);
    wanted.memory.limit = Some(Limit::To(96 << 20));
    wanted.memory.swap = Some(Limit::To(96 << 20));
    wanted.pids = Some(Limit::Unlimited);
    assert_eq!(cgroup.update(&wanted).unwrap(), []);
    let after = files(&slice.directory("b"));
    for expected in ["cpu.max=30000 100000", "cpu.weight=100", "memory.max=100663296", "pids.max=max"] {
        assert!(after.iter().any(|line| line == expected), "{expected} is not in {after:?}");
    }
    assert_eq!(property("t-b.scope", "MemoryMax"), "100663296");
    assert_eq!(property("t-b.scope", "CPUQuotaPerSecUSec"), "300ms");
    assert_eq!(property("t-b.scope", "CPUWeight"), "100");
    assert_eq!(property("t-b.scope", "TasksMax"), "infinity");
    systemctl(&["daemon-reload"]);
    systemctl(&["set-property", "--runtime", "t-b.scope", "IPAccounting=no"]);
    assert_eq!(files(&slice.directory("b")), after);
    removed(&cgroup);
}

#[test]
fn without_a_limit_on_tasks_systemds_own_is_not_taken() {
    let Some(slice) = Slice::new("tasks") else { return };
    let cgroup = slice.create("c", &Resources::default());
    let process = Process::sleeping();
    run(&cgroup, &process);
    assert_eq!(fs::read_to_string(slice.directory("c").join("pids.max")).unwrap(), "max\n");
    removed(&cgroup);
}

#[test]
fn a_scope_goes_by_itself_with_its_last_process_and_its_counters_stay() {
    let Some(slice) = Slice::new("end") else { return };
    for round in 0..10 {
        let mut resources = limits();
        resources.unified.clear();
        let cgroup = slice.create("d", &resources);
        // A controller that nothing limits may come only with the unit.
        let limited = files(&slice.directory("d")).into_iter().filter(|line| !line.ends_with("not there"));
        let limited: Vec<_> = limited.collect();
        let watch = cgroup.oom_watch().unwrap();
        let mut process = Process::perl("my $n = 512 << 20; my $keep = 'x' x $n");
        run(&cgroup, &process);
        let running = files(&slice.directory("d"));
        assert!(limited.iter().all(|line| running.contains(line)), "{running:?}");
        process.go();
        assert_eq!(process.wait_signal(), Some(9));
        // In every other round too late for the scope's own counter.
        if round % 2 == 0 {
            eventually("the scope's end", || !slice.directory("d").exists());
        }
        cgroup.keep_counters();
        assert_eq!(cgroup.oom_kills(), 1, "round {round}");
        eventually("the scope's end", || !slice.directory("d").exists());
        assert_eq!(cgroup.oom_kills(), 1);
        assert_eq!(watch.kills(), 1);
        assert_eq!(cgroup.stats().oom_kills(), Some(1));
        assert_eq!(cgroup.remove().unwrap(), Removal::Gone);
    }
}

#[test]
fn a_scope_that_systemd_never_heard_of_is_only_a_directory() {
    let Some(slice) = Slice::new("none") else { return };
    let cgroup = slice.create("e", &limits());
    assert_eq!(cgroup.remove().unwrap(), Removal::Gone);
    assert!(!slice.directory("e").exists());
}

#[test]
fn a_name_that_is_taken_is_refused_and_who_has_it_keeps_it() {
    let Some(slice) = Slice::new("taken") else { return };
    let cgroup = slice.create("f", &limits());
    let process = Process::sleeping();
    run(&cgroup, &process);
    let mut again = cgroup.start_unit(process.pid()).unwrap().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let error = loop {
        match again.poll() {
            Ok(running) => assert!(!running && Instant::now() < end),
            Err(error) => break error,
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert_eq!(property("t-f.scope", "ActiveState"), "active");
}

#[test]
fn a_unit_of_the_same_name_in_another_slice_is_left_alone() {
    let Some((slice, other)) = Slice::new("mine").zip(Slice::new("theirs")) else { return };
    let (cgroup, process) = (other.create("h", &limits()), Process::sleeping());
    run(&cgroup, &process);
    let (second, sleeping) = (slice.create("h", &limits()), Process::sleeping());
    second.attach_all(sleeping.pid()).unwrap();
    let mut start = second.start_unit(sleeping.pid()).unwrap().unwrap();
    eventually("a refusal", || start.poll().is_err());
    drop(sleeping);
    removed(&second);
    // As after a shim that ended before it could ask.
    drop(slice.create("h", &limits()));
    removed(&Cgroup::open(&slice.layout, &slice.path("h")).unwrap().unwrap());
    assert_eq!(property("t-h.scope", "ActiveState"), "active");
    assert_eq!(property("t-h.scope", "Slice"), other.name);
    removed(&cgroup);
}

#[test]
fn what_another_process_has_left_is_removed_with_its_unit() {
    let Some(slice) = Slice::new("left") else { return };
    let process = Process::sleeping();
    run(&slice.create("g", &limits()), &process);
    let found = Cgroup::open(&slice.layout, &slice.path("g")).unwrap().unwrap();
    found.kill().unwrap();
    removed(&found);
    assert!(!slice.directory("g").exists());
    eventually("the unit's end", || property("t-g.scope", "LoadState") == "not-found");
}
