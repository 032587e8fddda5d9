//! The child never allocates between clone and execve: an allocation ends it.

mod container;

use container::*;
use dunnage_init::fault::{Fault, inject};
use dunnage_sys::guard::{CAUGHT, Guard};

#[global_allocator]
static GUARD: Guard = Guard;

#[test]
fn a_full_birth_allocates_nothing_in_the_child() {
    let rootfs = Rootfs::new();
    assert_eq!(shell(&rootfs, "echo born"), "born\n");
}

#[test]
fn an_exec_allocates_nothing_in_the_child() {
    let rootfs = Rootfs::new();
    let sleeper = Sleeper::new(&rootfs);
    let outcome = run_in(&exec_plan(&["sh", "-c", "echo born"]), Some(&sleeper.pidfd)).unwrap();
    assert_eq!(outcome.stdout, "born\n");
}

#[test]
fn a_terminal_and_missing_places_are_made_without_allocating() {
    let rootfs = Rootfs::new();
    let host = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("../nowhere/yet", rootfs.join("etc/link")).unwrap();
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.len() - 3;
    draft.plan.steps.insert(at, planned(bind(host.path(), "etc/link/deep/er", 0)));
    let mut newborn = spawn_plain(&draft.program_in_terminal(&["true"], true)).unwrap();
    assert!(newborn.wait_created(PATIENCE).unwrap().terminal.is_some());
    assert!(rootfs.join("nowhere/yet/deep/er").is_dir());
}

#[test]
fn a_failure_is_told_without_allocating() {
    let rootfs = Rootfs::new();
    let mut draft = Draft::full(&rootfs.path());
    draft.file_system("tmpfs", "data", &[("size", "12x")], 0);
    let error = failure(&draft.program(&["true"]));
    assert!(error.to_string().contains("size=12x"), "{error}");
}

#[test]
fn the_guard_catches_an_allocation() {
    let rootfs = Rootfs::new();
    let plan = Draft::full(&rootfs.path()).program(&["true"]);
    inject(Some(Fault::Allocate(5)));
    let error = failure(&plan);
    inject(None);
    assert!(error.to_string().contains(&format!("status {CAUGHT}")), "{error}");
}
