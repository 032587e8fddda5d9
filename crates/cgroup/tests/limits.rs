//! Limits and device rules as the kernel has them afterwards.
#![allow(clippy::unwrap_used, reason = "in the functions of tests too")]

mod support;

use std::fs;

use dunnage_cgroup::{Cgroup, Controller, ErrorKind, Hierarchy, Stats};
use dunnage_spec::Resources;
use dunnage_spec::resources::{Cpu, DeviceAccess, DeviceRule, DeviceRuleKind, Limit, Memory};
use support::{Process, World, eventually};

const MEBI: u64 = 1 << 20;

/// What a file of a controller says, by its name on v1 or on v2.
fn file(cgroup: &Cgroup, controller: &str, [v1, v2]: [&str; 2]) -> String {
    let sources = cgroup.mount_sources();
    let own = sources.iter().find(|source| source.name.split(',').any(|name| name == controller));
    let (source, name) = own.map_or((&sources[0], v2), |own| (own, v1));
    fs::read_to_string(source.path.join(name)).unwrap().trim().to_owned()
}

/// Whether limits are on v1 here.
fn is_v1(cgroup: &Cgroup) -> bool {
    cgroup.mount_sources().iter().any(|source| !source.unified)
}

fn resources(shares: u64, quota: u64, mebi: u64, pids: u64) -> Resources {
    Resources {
        cpu: Cpu {
            shares: Some(shares),
            quota_us: Some(Limit::To(quota)),
            period_us: Some(100_000),
            ..Cpu::default()
        },
        memory: Memory {
            limit: Some(Limit::To(mebi * MEBI)),
            swap: Some(Limit::To(mebi * MEBI)),
            ..Memory::default()
        },
        pids: Some(Limit::To(pids)),
        ..Resources::default()
    }
}

const SHARES: [&str; 2] = ["cpu.shares", "cpu.weight"];
const BURST: [&str; 2] = ["cpu.cfs_burst_us", "cpu.max.burst"];

fn limits(cgroup: &Cgroup) -> [String; 5] {
    [
        file(cgroup, "cpu", SHARES),
        file(cgroup, "cpu", ["cpu.cfs_quota_us", "cpu.max"]),
        file(cgroup, "memory", ["memory.limit_in_bytes", "memory.max"]),
        file(cgroup, "memory", ["memory.memsw.limit_in_bytes", "memory.swap.max"]),
        file(cgroup, "pids", ["pids.max"; 2]),
    ]
}

/// What [`limits`] has to be after [`resources`], with the weight that v2 makes of the shares.
fn expected(cgroup: &Cgroup, [shares, weight]: [u64; 2], quota: u64, mebi: u64, pids: u64) -> [String; 5] {
    let bytes = (mebi * MEBI).to_string();
    if is_v1(cgroup) {
        [shares.to_string(), quota.to_string(), bytes.clone(), bytes, pids.to_string()]
    } else {
        [weight.to_string(), format!("{quota} 100000"), bytes, "0".to_owned(), pids.to_string()]
    }
}

#[test]
fn limits_are_there_after_creation_and_follow_updates_up_and_down() {
    let world = World::new();
    let cgroup = world.create("id", &resources(512, 50_000, 64, 100));
    assert_eq!(limits(&cgroup), expected(&cgroup, [512, 59], 50_000, 64, 100));
    for (shares, quota, mebi, pids) in [([2048, 174], 150_000, 256, 7), ([100, 17], 20_000, 16, 2000)] {
        cgroup.update(&resources(shares[0], quota, mebi, pids)).unwrap();
        assert_eq!(limits(&cgroup), expected(&cgroup, shares, quota, mebi, pids));
    }
    let mut unlimited = Resources::default();
    unlimited.memory.limit = Some(Limit::Unlimited);
    unlimited.cpu.quota_us = Some(Limit::Unlimited);
    unlimited.pids = Some(Limit::Unlimited);
    cgroup.update(&unlimited).unwrap();
    if is_v1(&cgroup) {
        let expected = ["100", "-1", "9223372036854771712", "9223372036854771712", "max"];
        assert_eq!(limits(&cgroup), expected);
    } else {
        assert_eq!(limits(&cgroup), ["17", "max 100000", "max", "max", "max"]);
    }
}

#[test]
fn an_update_that_fails_half_way_leaves_the_old_limits() {
    let world = World::new();
    let cgroup = world.create("id", &resources(512, 50_000, 64, 100));
    let before = limits(&cgroup);
    let mut wrong = resources(100, 80_000, 128, 200);
    wrong.hugepages = vec![("3MB".to_owned(), 1)];
    let error = cgroup.update(&wrong).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error}");
    assert_eq!(limits(&cgroup), before);
}

#[test]
fn burst_follows_the_quota_in_both_directions() {
    let world = World::new();
    let mut wanted = resources(512, 80_000, 64, 100);
    wanted.cpu.burst_us = Some(60_000);
    let cgroup = world.create("id", &wanted);
    assert_eq!(file(&cgroup, "cpu", BURST), "60000");
    // The kernel refuses a quota below the burst that is there.
    cgroup.update(&resources(512, 30_000, 64, 100)).unwrap();
    assert_eq!(file(&cgroup, "cpu", BURST), "30000");
    wanted.cpu.quota_us = Some(Limit::To(20_000));
    let refused = cgroup.update(&wanted).unwrap();
    let name = BURST[usize::from(!is_v1(&cgroup))];
    assert_eq!((refused[0].file.as_str(), refused[0].value.as_str()), (name, "60000"));
    assert_eq!(file(&cgroup, "cpu", BURST), "20000");
    wanted.cpu.quota_us = Some(Limit::Unlimited);
    cgroup.update(&wanted).unwrap();
    assert_eq!(file(&cgroup, "cpu", BURST), "0");
}

#[test]
fn an_idle_group_loses_its_shares_and_gets_them_back() {
    let world = World::new();
    let cgroup = world.create("id", &resources(512, 50_000, 64, 100));
    let mut wanted = resources(512, 50_000, 64, 100);
    wanted.cpu.idle = Some(true);
    let refused = cgroup.update(&wanted).unwrap();
    assert_eq!(file(&cgroup, "cpu", ["cpu.idle"; 2]), "1");
    assert_eq!(refused[0].file, SHARES[usize::from(!is_v1(&cgroup))]);
    wanted.cpu.idle = Some(false);
    assert!(cgroup.update(&wanted).unwrap().is_empty());
    assert_eq!(file(&cgroup, "cpu", ["cpu.idle"; 2]), "0");
    assert_eq!(limits(&cgroup)[0], expected(&cgroup, [512, 59], 0, 0, 0)[0]);
}

#[test]
fn a_quota_above_the_parents_says_that_it_is_the_parents() {
    let world = World::new();
    let _pod = world.create("pod", &resources(512, 50_000, 64, 100));
    let failed = Cgroup::create(&world.layout, &world.path("pod/id"), &resources(512, 90_000, 64, 100));
    if world.layout.is_unified() {
        // There a child may want more than its parent has, and gets what there is.
        failed.unwrap();
        return;
    }
    let error = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains("write 90000 to ") && text.contains("a parent cgroup has less CPU time"), "{text}");
    let _fits = world.create("pod/id", &resources(512, 40_000, 64, 100));
}

#[test]
fn a_cpuset_is_the_parents_until_it_is_given() {
    let world = World::new();
    let inherited = world.create("a", &Resources::default());
    let trees = world.layout.hierarchies();
    let root = trees.iter().find(|tree| tree.name() == "cpuset").unwrap_or(&trees[0]).mount_point();
    let names = ["cpuset.cpus", "cpuset.cpus.effective"];
    let all = fs::read_to_string(root.join(names[usize::from(world.layout.is_unified())])).unwrap();
    assert_eq!(file(&inherited, "cpuset", names), all.trim());
    let mut wanted = Resources::default();
    wanted.cpu.cpus = Some("0".to_owned());
    let given = world.create("b", &wanted);
    assert_eq!(file(&given, "cpuset", ["cpuset.cpus"; 2]), "0");
    let process = Process::sleeping();
    given.attach_all(process.pid()).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"));
    wanted.cpu.cpus = Some("0-1".to_owned());
    given.update(&wanted).unwrap();
    assert_eq!(file(&given, "cpuset", ["cpuset.cpus"; 2]), "0-1");
}

#[test]
fn no_more_tasks_than_the_limit_can_be_made() {
    let world = World::new();
    let cgroup = world.create("id", &Resources { pids: Some(Limit::To(4)), ..Resources::default() });
    let mut process = Process::perl(
        "my $made = 0; for (1..50) { my $pid = fork; last unless defined $pid; $pid or sleep 1000; $made++ } \
         print \"$made\\n\"; sleep 1000",
    );
    cgroup.attach_all(process.pid()).unwrap();
    process.go();
    assert_eq!(process.line(), "3\n");
    let pids = match cgroup.stats() {
        Stats::V1(stats) => stats.pids.unwrap(),
        Stats::V2(stats) => stats.pids.unwrap(),
    };
    assert_eq!((pids.current, pids.limit), (4, Some(4)));
    cgroup.kill().unwrap();
    eventually("emptiness", || !cgroup.populated());
}

#[test]
fn a_limit_below_usage_is_refused_with_the_usage_when_asked_to_check() {
    let world = World::new();
    let cgroup = world.create("id", &resources(512, 50_000, 256, 100));
    let mut process = Process::perl("my $n = 64 << 20; my $keep = 'x' x $n; print \"ready\\n\"; sleep 1000");
    cgroup.attach_all(process.pid()).unwrap();
    process.go();
    assert_eq!(process.line(), "ready\n");
    let before = limits(&cgroup);
    let mut small = resources(100, 50_000, 8, 100);
    small.memory.check_before_update = true;
    let error = cgroup.update(&small).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert_eq!(limits(&cgroup), before);
    if world.layout.is_unified() {
        // Unchecked, v2 takes the limit and kills.
        return;
    }
    // Unchecked, v1 itself refuses after it could not reclaim, and everything is taken back.
    small.memory.check_before_update = false;
    let error = cgroup.update(&small).unwrap_err();
    assert!(error.to_string().contains("EBUSY") && error.to_string().contains("in use are"), "{error}");
    assert_eq!(limits(&cgroup), before);
}

fn deny_all() -> DeviceRule {
    let access = DeviceAccess { read: true, write: true, mknod: true };
    DeviceRule { allow: false, kind: DeviceRuleKind::All, major: None, minor: None, access }
}

/// Whether a process in the cgroup can open a device for reading.
fn opens(cgroup: &Cgroup, device: &str) -> bool {
    let mut process =
        Process::perl(&format!("POSIX::_exit(defined POSIX::open('{device}', O_RDONLY) ? 0 : 1)"));
    cgroup.attach_all(process.pid()).unwrap();
    process.go();
    process.child.wait().unwrap().success()
}

fn kmsg() -> DeviceRule {
    DeviceRule { allow: true, kind: DeviceRuleKind::Char, major: Some(1), minor: Some(11), ..deny_all() }
}

#[test]
fn only_allowed_devices_open_whether_a_file_or_a_program_says_so() {
    for world in World::each() {
        let devices =
            |devices: &[DeviceRule]| Resources { devices: devices.to_vec(), ..Resources::default() };
        let strict = world.create("strict", &devices(&[deny_all()]));
        assert!(opens(&strict, "/dev/null"));
        assert!(!opens(&strict, "/dev/kmsg"));
        let allowed = world.create("allowed", &devices(&[deny_all(), kmsg()]));
        assert!(opens(&allowed, "/dev/kmsg"));
        let write_only = DeviceAccess { read: false, write: true, mknod: false };
        let half = world.create("half", &devices(&[deny_all(), DeviceRule { access: write_only, ..kmsg() }]));
        assert!(!opens(&half, "/dev/kmsg"));
        let privileged =
            world.create("privileged", &devices(&[deny_all(), DeviceRule { allow: true, ..deny_all() }]));
        assert!(opens(&privileged, "/dev/kmsg"));
    }
}

#[test]
fn rules_of_an_earlier_container_in_the_same_directory_are_replaced() {
    let Some(world) = World::unified() else { return };
    let devices = |devices: &[DeviceRule]| Resources { devices: devices.to_vec(), ..Resources::default() };
    let first = world.create("id", &devices(&[deny_all()]));
    assert!(!opens(&first, "/dev/kmsg"));
    eventually("emptiness", || !first.populated());
    let second = world.create("id", &devices(&[deny_all(), kmsg()]));
    assert!(opens(&second, "/dev/kmsg"));
}

#[test]
fn a_value_of_a_policy_is_written_or_refused_by_name() {
    let world = World::new();
    let cgroup = world.create("id", &Resources::default());
    let names = ["memory.soft_limit_in_bytes", "memory.high"];
    let (here, elsewhere) = if is_v1(&cgroup) { (names[0], names[1]) } else { (names[1], names[0]) };
    assert_eq!(cgroup.try_write(Controller::Memory, here, "8192", "policy"), None);
    assert_eq!(file(&cgroup, "memory", names), "8192");
    let refused = cgroup.try_write(Controller::Memory, elsewhere, "8192", "policy").unwrap();
    let text = format!("{elsewhere} = \"8192\" was not set: policy: ENOENT (No such file or directory)");
    assert_eq!(refused.to_string(), text);
}

#[test]
fn limits_need_a_controller_and_say_which() {
    let Some(world) = World::hybrid() else { return };
    let layout = world.layout.only(Hierarchy::is_unified).unwrap();
    let failed = Cgroup::create(&layout, &world.path("id"), &resources(512, 50_000, 64, 100));
    let error = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    assert!(error.to_string().contains("needs the memory controller"), "{error}");
    assert_eq!(world.census(), [""; 0]);
}

#[test]
fn counters_are_read_again_and_again() {
    let world = World::new();
    let cgroup = world.create("id", &resources(512, 50_000, 64, 100));
    // Memory stays counted where it was taken, so it has to be taken inside.
    let mut process = Process::perl("my $n = 1 << 20; my $keep = 'x' x $n; 1 while 1");
    cgroup.attach_all(process.pid()).unwrap();
    process.go();
    let used = || match cgroup.stats() {
        Stats::V1(stats) => stats.usage.unwrap().total,
        Stats::V2(stats) => stats.cpu.unwrap().usage_usec.unwrap(),
    };
    let first = used();
    eventually("more CPU time", || used() > first + 1_000_000);
    match cgroup.stats() {
        Stats::V1(stats) => {
            let memory = stats.memory.unwrap();
            assert_eq!(memory.usage.unwrap().limit, Some(64 * MEBI));
            assert_eq!(memory.hierarchical_memory_limit, Some(64 * MEBI));
            assert!(memory.total.rss.unwrap() > 0);
            assert_eq!(stats.oom_control.unwrap().oom_kill, Some(0));
            assert!(stats.throttling.unwrap().nr_periods.is_some());
        }
        Stats::V2(stats) => {
            let memory = stats.memory.unwrap();
            assert_eq!(memory.usage_limit, Some(64 * MEBI));
            assert!(memory.anon.unwrap() > 0 && memory.usage.unwrap() > 0);
            assert_eq!(stats.memory_events.unwrap().oom_kill, Some(0));
            assert!(stats.cpu.unwrap().nr_periods.is_some());
        }
    }
    drop(process);
}

#[test]
fn the_tree_of_a_hybrid_machine_without_controllers_still_counts_time() {
    let Some(world) = World::hybrid() else { return };
    let layout = world.layout.only(Hierarchy::is_unified).unwrap();
    let cgroup = Cgroup::create(&layout, &world.path("u"), &Resources::default()).unwrap().0;
    let Stats::V2(stats) = cgroup.stats() else { panic!("unified") };
    assert!(stats.cpu.unwrap().usage_usec.is_some());
    assert!(stats.memory.is_none() && stats.memory_events.is_none());
}

#[test]
fn controllers_left_over_on_a_hybrid_machines_unified_tree_stay_where_they_are() {
    let Some(world) = World::hybrid() else { return };
    let unified = world.layout.hierarchies().last().unwrap().mount_point().to_path_buf();
    let before = fs::read_to_string(unified.join("cgroup.subtree_control")).unwrap();
    let _cgroup = world.create("pod/id", &Resources::default());
    assert_eq!(fs::read_to_string(unified.join("cgroup.subtree_control")).unwrap(), before);
    let pod = unified.join(&world.parent[1..]).join("pod/cgroup.subtree_control");
    assert_eq!(fs::read_to_string(pod).unwrap().trim(), "");
}
