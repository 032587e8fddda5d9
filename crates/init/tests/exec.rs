//! Births into a running container.

mod container;

use std::fs;

use container::*;
use dunnage_plan::Step;
use dunnage_sys::pidfd::Exit;

#[test]
fn an_exec_is_born_in_the_namespaces_of_the_init() {
    let rootfs = Rootfs::new();
    let sleeper = Sleeper::new(&rootfs);
    let script = "hostname; cd /proc/self/ns; for n in pid net mnt ipc uts; do stat -c %N $n; done; \
                  grep NSpid /proc/self/status";
    let outcome = run_in(&exec_plan(&["sh", "-c", script]), Some(&sleeper.pidfd)).unwrap();
    assert_eq!((outcome.exit, outcome.stderr.as_str()), (Exit::Status(0), ""));
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], "boxed");
    for (line, name) in lines[1..6].iter().zip(["pid", "net", "mnt", "ipc", "uts"]) {
        let wanted = fs::read_link(format!("/proc/{}/ns/{name}", sleeper.pid)).unwrap();
        assert!(line.contains(&wanted.display().to_string()), "{line} and {}", wanted.display());
    }
    // One number: the procfs of the container knows no other pid namespace.
    assert_eq!(lines[6].split_whitespace().count(), 2, "{}", lines[6]);
}

#[test]
fn the_parent_is_back_in_its_own_pid_namespace_afterwards() {
    let rootfs = Rootfs::new();
    let own = || fs::read_link("/proc/thread-self/ns/pid_for_children").unwrap();
    let before = own();
    let sleeper = Sleeper::new(&rootfs);
    let mut plan = exec_plan(&["true"]);
    run_in(&plan, Some(&sleeper.pidfd)).unwrap();
    assert_eq!(own(), before);
    // Also when the birth fails: a namespace that cannot be made without privilege over it.
    plan.program = Some(program(&["/missing"]));
    run_in(&plan, Some(&sleeper.pidfd)).unwrap_err();
    assert_eq!(own(), before);
}

#[test]
fn an_exec_into_a_container_that_has_ended_fails_and_says_so() {
    own_mounts(dunnage_sys::mount::Propagation::Private);
    let rootfs = Rootfs::new();
    let pidfd = {
        let sleeper = Sleeper::new(&rootfs);
        sleeper.pidfd.try_clone().unwrap()
    };
    let birth = dunnage_init::Birth {
        plan: &exec_plan(&["true"]),
        streams: dunnage_init::Streams::default(),
        init: Some(std::os::fd::AsFd::as_fd(&pidfd)),
        clone_into: None,
        cgroups: &[],
    };
    let before = Census::take();
    let error = dunnage_init::spawn(&birth).unwrap_err();
    assert!(error.to_string().contains("setns the pid namespace: ESRCH"), "{error}");
    assert_eq!(Census::take(), before);
}

#[test]
fn an_exec_without_the_init_it_joins_is_refused() {
    let error = spawn_plain(&exec_plan(&["true"])).unwrap_err();
    assert!(error.to_string().contains("no pidfd"), "{error}");
}

#[test]
fn an_exec_can_have_a_terminal_of_the_container() {
    let rootfs = Rootfs::new();
    let sleeper = Sleeper::new(&rootfs);
    let mut plan = exec_plan(&["sleep", "1000"]);
    for planned in &mut plan.steps {
        if let Step::SetStreams { uid } = planned.step {
            planned.step = Step::OpenTerminal { size: None, uid, console: false };
        }
    }
    let birth = dunnage_init::Birth {
        plan: &plan,
        streams: dunnage_init::Streams::default(),
        init: Some(std::os::fd::AsFd::as_fd(&sleeper.pidfd)),
        clone_into: None,
        cgroups: &[],
    };
    let mut newborn = dunnage_init::spawn(&birth).unwrap();
    assert!(newborn.wait_created(PATIENCE).unwrap().terminal.is_some());
}
