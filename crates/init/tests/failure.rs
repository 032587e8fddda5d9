//! Births that fail: what the error says, and that nothing is left behind.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod container;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use container::*;
use dunnage_init::ErrorKind;
use dunnage_init::fault::{Fault, inject};
use dunnage_plan::Step;
use dunnage_sys::mount::Propagation;
use dunnage_sys::pidfd::{self, Exit, Signal};

#[test]
fn a_failed_mount_tells_the_parameter_and_the_kernels_reason() {
    let rootfs = Rootfs::new();
    let mut draft = Draft::bare(&rootfs.path());
    draft.file_system("tmpfs", "data", &[("size", "12x")], 0);
    let error = failure(&draft.program(&["true"]));
    let text = error.to_string();
    let reason = ": fsconfig size=12x: EINVAL (Invalid argument): tmpfs: Bad value for 'size'";
    assert!(text.starts_with("mount tmpfs on /data") && text.ends_with(reason), "{text}");
    assert_eq!((error.kind(), error.step()), (ErrorKind::InvalidArgument, Some(3)));
}

#[test]
fn an_unknown_file_system_is_not_supported() {
    let rootfs = Rootfs::new();
    let mut draft = Draft::bare(&rootfs.path());
    draft.file_system("nosuchfs", "data", &[], 0);
    let error = failure(&draft.program(&["true"]));
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn a_missing_source_is_not_found() {
    let rootfs = Rootfs::new();
    let mut draft = Draft::bare(&rootfs.path());
    draft.bind(std::path::Path::new("/no/such/source"), "data", 0);
    let error = failure(&draft.program(&["true"]));
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("/no/such/source"), "{error}");
}

#[test]
fn a_program_that_is_nowhere_is_named_when_it_is_created() {
    let rootfs = Rootfs::new();
    let full = |args: &[&str]| failure(&Draft::full(&rootfs.path()).program(args));
    let error = full(&["nosuch"]);
    assert_eq!(error.to_string(), "exec: \"nosuch\": executable file not found in $PATH");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = full(&["/opt/nosuch"]);
    assert_eq!(error.to_string(), "exec: \"/opt/nosuch\": no such file or directory");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_program_that_may_not_be_executed_is_permission_denied() {
    let rootfs = Rootfs::new();
    fs::write(rootfs.join("bin/plain"), "text").unwrap();
    for path in ["/bin/plain", "plain", "/etc"] {
        let error = failure(&Draft::full(&rootfs.path()).program(&[path]));
        assert_eq!(error.to_string(), format!("exec: {path:?}: permission denied"));
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
}

#[test]
fn a_program_of_no_known_format_is_an_exec_format_error() {
    let rootfs = Rootfs::new();
    fs::write(rootfs.join("bin/garbage"), "garbage").unwrap();
    fs::set_permissions(rootfs.join("bin/garbage"), PermissionsExt::from_mode(0o755)).unwrap();
    let error = failure(&Draft::full(&rootfs.path()).program(&["garbage"]));
    assert_eq!(error.to_string(), "exec: \"garbage\": exec format error");
}

#[test]
fn a_missing_interpreter_is_named() {
    let rootfs = Rootfs::new();
    fs::write(rootfs.join("bin/script"), "#!/opt/nosuch -x\n").unwrap();
    fs::set_permissions(rootfs.join("bin/script"), PermissionsExt::from_mode(0o755)).unwrap();
    let error = failure(&Draft::full(&rootfs.path()).program(&["script"]));
    assert_eq!(
        error.to_string(),
        "exec: \"script\": no such file or directory: its interpreter \"/opt/nosuch\""
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_missing_dynamic_loader_is_named() {
    let rootfs = Rootfs::new();
    // Dynamically linked, as everything on this machine that is not busybox.
    fs::copy("/bin/ls", rootfs.join("bin/dynamic")).unwrap();
    let error = failure(&Draft::full(&rootfs.path()).program(&["/bin/dynamic"]));
    assert!(error.to_string().contains("its interpreter \"/lib"), "{error}");
}

#[test]
fn a_plan_without_a_program_can_be_created_and_not_started() {
    let rootfs = Rootfs::new();
    let mut plan = Draft::full(&rootfs.path()).program(&["true"]);
    plan.program = None;
    plan.steps.retain(|planned| !matches!(planned.step, Step::FindProgram | Step::Execute));
    let mut newborn = spawn_plain(&plan).unwrap();
    newborn.wait_created(PATIENCE).unwrap();
    newborn.start().unwrap();
    let error = newborn.wait_started(PATIENCE).unwrap_err();
    assert_eq!(error.to_string(), "the spec has no process");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_child_that_is_killed_at_the_gate_is_reported() {
    let rootfs = Rootfs::new();
    let mut newborn = spawn_plain(&Draft::full(&rootfs.path()).program(&["true"])).unwrap();
    newborn.wait_created(PATIENCE).unwrap();
    pidfd::send_signal(newborn.pidfd(), Signal::KILL).unwrap();
    assert_eq!(pidfd::await_exit(newborn.pidfd()).unwrap(), Exit::Signal(9));
    let error = newborn.start().unwrap_err();
    assert!(error.to_string().contains("killed (SIGKILL) before it was started"), "{error}");
    assert!(error.to_string().contains("memory limit"), "{error}");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
}

#[test]
fn a_child_that_somebody_else_reaped_is_no_trouble() {
    let rootfs = Rootfs::new();
    let mut newborn = spawn_plain(&Draft::full(&rootfs.path()).program(&["true"])).unwrap();
    newborn.wait_created(PATIENCE).unwrap();
    pidfd::send_signal(newborn.pidfd(), Signal::KILL).unwrap();
    pidfd::reap(newborn.pidfd()).unwrap();
    let error = newborn.poll_started().unwrap_err();
    assert_eq!(error.to_string(), "the process ended before it was started");
}

#[test]
fn a_program_that_a_signal_ends_at_once_was_started() {
    let rootfs = Rootfs::new();
    let outcome =
        run(&Draft::full(&rootfs.path()).program(&["sh", "-c", "ulimit -t 0; kill -SEGV $$; exit 5"]))
            .unwrap();
    assert!(matches!(outcome.exit, Exit::Status(5) | Exit::Signal(_)));
}

#[test]
fn waiting_has_an_end() {
    let rootfs = Rootfs::new();
    let mut newborn = spawn_plain(&Draft::full(&rootfs.path()).program(&["true"])).unwrap();
    newborn.wait_created(PATIENCE).unwrap();
    let error = newborn.wait_started(Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.to_string(), "the process was not started in time");
}

/// Whether a process has not ended; whoever inherits the orphan may take his time to reap it.
fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_child_at_the_gate_ends_with_its_parent_also_when_siblings_wait() {
    let rootfs = Rootfs::new();
    let plan = Draft::full(&rootfs.path()).program(&["true"]);
    // The parent that dies is a clone of this process; it tells the pids of its newborns through a pipe.
    let (mut from_parent, to_parent) = std::io::pipe().unwrap();
    let (_, parent) = dunnage_sys::clone::child(dunnage_sys::namespace::Kinds::empty(), None, |_| {
        let mut newborns = [spawn_plain(&plan).unwrap(), spawn_plain(&plan).unwrap()];
        for newborn in &mut newborns {
            newborn.wait_created(PATIENCE).unwrap();
            let pid = newborn.pid().as_raw_nonzero().get();
            std::io::Write::write_all(&mut &to_parent, &pid.to_ne_bytes()).unwrap();
        }
        // Dies without dropping anything, as a killed shim does.
        dunnage_sys::clone::exit(0);
    })
    .unwrap();
    drop(to_parent);
    let mut pids = Vec::new();
    std::io::Read::read_to_end(&mut from_parent, &mut pids).unwrap();
    pidfd::reap(&parent).unwrap();
    let pids: Vec<_> = pids.chunks(4).map(|pid| i32::from_ne_bytes(pid.try_into().unwrap())).collect();
    assert_eq!(pids.len(), 2);
    let deadline = Instant::now() + PATIENCE;
    while pids.iter().any(|pid| lives(*pid)) {
        assert!(Instant::now() < deadline, "children outlive their parent at the gate");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whatever_step_fails_nothing_is_left_behind() {
    own_mounts(Propagation::Shared);
    let rootfs = Rootfs::new();
    let host = tempfile::tempdir().unwrap();
    symlink("nowhere", rootfs.join("etc/dangling")).unwrap();
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
    draft.plan.steps.insert(at, planned(bind(host.path(), "etc/dangling", 0)));
    for plan in [draft.program(&["true"]), Draft::full(&rootfs.path()).program_in_terminal(&["true"], true)] {
        every_step_fails_cleanly(&plan);
    }
}

fn every_step_fails_cleanly(plan: &dunnage_plan::Plan) {
    run(plan).expect("without a fault the plan works");
    let before = Census::take();
    for step in 0..u16::try_from(plan.steps.len()).unwrap() {
        inject(Some(Fault::Fail(step)));
        let error = run(plan).expect_err("a step failed");
        assert_eq!(error.step(), Some(step.into()), "{error}");
        assert!(error.to_string().contains("injected fault: EIO"), "{error}");
        inject(Some(Fault::Die(step)));
        let error = run(plan).expect_err("the child died");
        assert!(error.to_string().contains("exited with status 3"), "{error}");
        assert_eq!(Census::take(), before, "after a fault in step {step}");
    }
    inject(None);
}

#[test]
fn a_child_that_is_killed_at_any_moment_is_reported_and_leaves_nothing() {
    own_mounts(Propagation::Private);
    let rootfs = Rootfs::new();
    let plan = Draft::full(&rootfs.path()).program(&["true"]);
    let before = Census::take();
    for delay in 0..80 {
        let mut newborn = spawn_plain(&plan).unwrap();
        std::thread::sleep(Duration::from_micros(20 * delay));
        pidfd::send_signal(newborn.pidfd(), Signal::KILL).unwrap();
        let ended = newborn.wait_created(PATIENCE).and_then(|_| {
            newborn.start()?;
            newborn.wait_started(PATIENCE)
        });
        let error = ended.expect_err("the child was killed before it could be started");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        drop(newborn);
        assert_eq!(Census::take(), before);
    }
}
