//! Directories of a container in every hierarchy of this machine: made, joined, found again, removed.
#![allow(clippy::unwrap_used, reason = "in the functions of tests too")]

mod support;

use std::fs;
use std::io::Write;

use dunnage_cgroup::{Cgroup, Error, ErrorKind, Removal};
use dunnage_spec::Resources;
use dunnage_spec::resources::{Cpu, Limit};
use support::{Process, World, eventually};

#[test]
fn a_container_has_a_directory_in_every_hierarchy_and_none_after_its_removal() {
    let world = World::new();
    let cgroup = world.create("pod/id", &Resources::default());
    for source in cgroup.mount_sources() {
        assert!(source.path.join("cgroup.procs").exists(), "{source:?}");
    }
    assert_eq!(cgroup.mount_sources().len(), world.layout.hierarchies().len());
    assert_eq!(cgroup.remove().unwrap(), Removal::Gone);
    assert!(world.census().iter().all(|dir| !dir.ends_with("/id")), "{:?}", world.census());
    assert_eq!(cgroup.remove().unwrap(), Removal::Gone, "removing twice is no failure");
}

#[test]
fn a_process_that_is_attached_is_in_all_hierarchies() {
    let world = World::new();
    let cgroup = world.create("id", &Resources::default());
    let process = Process::sleeping();
    cgroup.attach_all(process.pid()).unwrap();
    let path = format!(":{}/id", world.parent);
    let memberships = process.memberships();
    assert_eq!(
        memberships.iter().filter(|line| line.ends_with(&path)).count(),
        world.layout.hierarchies().len()
    );
    assert_eq!(cgroup.pids().unwrap(), [process.pid()]);
    assert!(cgroup.populated());
    assert_eq!(cgroup.remove().unwrap(), Removal::Busy);
}

#[test]
fn a_thread_that_writes_zero_to_the_join_files_has_moved_itself() {
    let Some(world) = World::legacy() else { return };
    let cgroup = world.create("id", &Resources::default());
    let files = cgroup.join_files().unwrap();
    assert_eq!(files.len(), world.layout.hierarchies().len());
    let path = format!(":{}/id", world.parent);
    let joined = std::thread::spawn(move || {
        for file in files {
            fs::File::from(file).write_all(b"0").unwrap();
        }
        // What it starts begins where it is.
        let process = Process::sleeping();
        process.memberships().iter().filter(|line| line.ends_with(&path)).count()
    });
    assert_eq!(joined.join().unwrap(), world.layout.hierarchies().len());
}

#[test]
fn attaching_leaves_the_unified_tree_to_the_clone() {
    if World::unified().is_none() {
        return;
    }
    let world = World::new();
    let cgroup = world.create("id", &Resources::default());
    let process = Process::sleeping();
    cgroup.attach(process.pid()).unwrap();
    let unified = process.memberships().into_iter().find(|line| line.starts_with("0::"));
    assert!(cgroup.clone_into().is_some());
    assert_ne!(unified.unwrap(), format!("0::{}/id", world.parent));
}

#[test]
fn an_existing_directory_is_used_when_nobody_is_in_it() {
    let world = World::new();
    let first = world.create("id", &Resources::default());
    let second = world.create("id", &Resources::default());
    assert_eq!(first.path(), second.path());
}

#[test]
fn a_directory_with_a_process_in_it_is_refused_and_stays() {
    let world = World::new();
    let cgroup = world.create("id", &Resources::default());
    // In a child directory, where a look at the container's own directory would not find it.
    let below = world.create("id/below", &Resources::default());
    let process = Process::sleeping();
    below.attach_all(process.pid()).unwrap();
    let before = world.census();
    let error = Cgroup::create(&world.layout, &world.path("id"), &Resources::default()).unwrap_err();
    assert!(matches!(error, Error::NotEmpty { processes: 1, .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert_eq!(world.census(), before);
    drop(process);
    eventually("removal", || cgroup.remove().unwrap() == Removal::Gone);
}

#[test]
fn a_frozen_directory_is_refused() {
    for world in World::each() {
        let cgroup = world.create("id", &Resources::default());
        let _freezing = cgroup.freeze().unwrap();
        let error = Cgroup::create(&world.layout, &world.path("id"), &Resources::default()).unwrap_err();
        assert!(matches!(error, Error::Frozen(_)), "{error}");
        cgroup.thaw().unwrap();
        Cgroup::create(&world.layout, &world.path("id"), &Resources::default()).unwrap();
    }
}

#[test]
fn a_failing_limit_removes_every_directory_that_was_made_and_no_other() {
    let world = World::new();
    let _pod = world.create("pod", &Resources::default());
    let before = world.census();
    let cpu = |cpu| Resources { cpu, ..Resources::default() };
    let wrong = [
        cpu(Cpu { cpus: Some("9999".to_owned()), ..Cpu::default() }),
        cpu(Cpu { mems: Some("zero".to_owned()), ..Cpu::default() }),
        // Below the kernel's millisecond.
        cpu(Cpu { quota_us: Some(Limit::To(1)), ..Cpu::default() }),
        cpu(Cpu { period_us: Some(1), ..Cpu::default() }),
        Resources { hugepages: vec![("3MB".to_owned(), 1)], ..Resources::default() },
    ];
    for resources in wrong {
        for name in ["id", "new/pod/id", "pod/id"] {
            let failed = Cgroup::create(&world.layout, &world.path(name), &resources);
            let error = failed.expect_err("a limit that the kernel refuses");
            assert!(!error.to_string().is_empty());
            assert_eq!(world.census(), before, "after {error}");
        }
    }
}

#[test]
fn children_are_removed_with_their_parent() {
    let world = World::new();
    let cgroup = world.create("id", &Resources::default());
    for name in ["id/a", "id/a/b", "id/c"] {
        let _ = world.create(name, &Resources::default());
    }
    assert_eq!(cgroup.remove().unwrap(), Removal::Gone);
    assert!(!world.census().iter().any(|dir| dir.contains("/id")));
}

#[test]
fn a_later_process_finds_the_directories_again_even_when_some_are_gone() {
    let world = World::new();
    let cgroup = world.create("id", &Resources::default());
    let process = Process::sleeping();
    cgroup.attach_all(process.pid()).unwrap();
    drop(cgroup);
    let found = Cgroup::open(&world.layout, &world.path("id")).unwrap().unwrap();
    assert_eq!(found.pids().unwrap(), [process.pid()]);
    drop(process);
    eventually("emptiness", || !found.populated());
    let lost = world.layout.hierarchies()[0].mount_point().join(found.path());
    fs::remove_dir(lost).unwrap();
    if let Some(found) = Cgroup::open(&world.layout, &world.path("id")).unwrap() {
        assert_eq!(found.mount_sources().len(), world.layout.hierarchies().len() - 1);
        assert_eq!(found.remove().unwrap(), Removal::Gone);
    }
    assert!(Cgroup::open(&world.layout, &world.path("id")).unwrap().is_none());
}

#[test]
fn everybody_is_killed_also_below_and_whoever_forks_meanwhile() {
    for world in World::each() {
        // On v2 a directory that passes controllers on has no processes itself.
        let cgroup = world.create("id", &Resources::default());
        let (a, b) =
            (world.create("id/a", &Resources::default()), world.create("id/b", &Resources::default()));
        let mut forking = Process::perl("for (1..20) { fork or sleep 1000 } sleep 1000");
        let mut sleeping = Process::sleeping();
        a.attach_all(forking.pid()).unwrap();
        b.attach_all(sleeping.pid()).unwrap();
        forking.go();
        eventually("forks", || cgroup.pids().unwrap().len() > 5);
        cgroup.kill().unwrap();
        assert_eq!(forking.wait_signal(), Some(9));
        assert_eq!(sleeping.wait_signal(), Some(9));
        eventually("emptiness", || !cgroup.populated());
        eventually("removal", || cgroup.remove().unwrap() == Removal::Gone);
    }
}

#[test]
fn a_cgroup_that_is_gone_has_nobody_in_it_and_nothing_to_kill_or_thaw() {
    for world in World::each() {
        let cgroup = world.create("id", &Resources::default());
        assert_eq!(cgroup.remove().unwrap(), Removal::Gone);
        assert!(cgroup.pids().unwrap().is_empty());
        assert!(!cgroup.populated());
        cgroup.kill().unwrap();
        cgroup.thaw().unwrap();
        assert_eq!(cgroup.oom_kills(), 0);
        let _ = cgroup.stats();
    }
}
