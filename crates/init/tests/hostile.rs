//! Images that try to lead the child outside: nothing of the host is touched (CVE-2019-18837, CVE-2019-19921,
//! CVE-2021-30465, CVE-2023-28642, CVE-2025-31133, CVE-2026-41579, CVE-2026-47766 and their kin).
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod container;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use container::*;
use dunnage_init::ErrorKind;
use dunnage_plan::{Slot, Step};
use dunnage_spec::namespace::NamespaceKind;

/// A directory of the host that no container may touch, with its content.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "of the host").unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Checks that it is as it was made.
    fn check(&self) {
        let names: Vec<_> =
            fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"], "the child has made something on the host");
        assert_eq!(fs::read_to_string(self.path().join("file")).unwrap(), "of the host");
    }
}

/// Puts a symlink in the place of an empty directory of the image.
fn replace_by_link(rootfs: &Rootfs, name: &str, target: &Path) {
    fs::remove_dir(rootfs.join(name)).unwrap();
    symlink(target, rootfs.join(name)).unwrap();
}

#[test]
fn a_proc_that_is_a_link_is_refused() {
    let (rootfs, host) = (Rootfs::new(), Host::new());
    replace_by_link(&rootfs, "proc", host.path());
    let error = failure(&Draft::full(&rootfs.path()).program(&["true"]));
    assert!(error.to_string().contains("ELOOP"), "{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    host.check();
}

#[test]
fn a_sys_that_is_a_link_within_the_image_is_refused() {
    let rootfs = Rootfs::new();
    replace_by_link(&rootfs, "sys", Path::new("/etc"));
    let error = failure(&Draft::full(&rootfs.path()).program(&["true"]));
    assert!(error.to_string().contains("ELOOP"), "{error}");
}

#[test]
fn a_dev_that_links_to_the_host_stays_in_the_image() {
    let (rootfs, host) = (Rootfs::new(), Host::new());
    replace_by_link(&rootfs, "dev", host.path());
    let seen = shell(&rootfs, "stat -c %F /dev/null");
    assert_eq!(seen, "character special file\n");
    // The path of the link was made inside the image, and /dev was mounted there.
    assert!(rootfs.path().join(host.path().strip_prefix("/").unwrap()).is_dir());
    host.check();
}

#[test]
fn a_bare_dev_that_links_to_the_host_gets_no_nodes_there() {
    let (rootfs, host) = (Rootfs::new(), Host::new());
    replace_by_link(&rootfs, "dev", host.path());
    let mut draft = Draft::bare(&rootfs.path());
    draft.push(Step::MakeNode { path: c("dev/null"), mode: 0o020_666, major: 1, minor: 3, uid: 0, gid: 0 });
    draft.push(Step::MakeSymlink { target: c("pts/ptmx"), path: c("dev/ptmx"), replace: true });
    draft.push(Step::PivotRoot);
    assert_eq!(output(&draft.program(&["true"])), "");
    host.check();
}

#[test]
fn a_ptmx_of_the_host_is_not_removed_through_a_link() {
    let (rootfs, host) = (Rootfs::new(), Host::new());
    symlink("../../../../../../../../..", rootfs.join("up")).unwrap();
    let path = format!("up{}/file", host.path().display());
    let mut draft = Draft::bare(&rootfs.path());
    draft.push(Step::MakeSymlink { target: c("x"), path: c(path), replace: true });
    draft.push(Step::PivotRoot);
    draft.push(Step::MakeNode { path: c("dev/null"), mode: 0o020_666, major: 1, minor: 3, uid: 0, gid: 0 });
    assert_eq!(output(&draft.program(&["true"])), "");
    host.check();
}

#[test]
fn a_mount_target_that_links_to_the_root_is_refused() {
    let rootfs = Rootfs::new();
    symlink("/", rootfs.join("data")).unwrap();
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
    draft.plan.steps.insert(at, planned(file_system("tmpfs", "data", &[], 0)));
    let error = failure(&draft.program(&["true"]));
    assert!(error.to_string().contains("the root itself"), "{error}");
}

#[test]
fn a_mount_target_that_links_to_the_host_stays_in_the_image() {
    let (rootfs, host) = (Rootfs::new(), Host::new());
    let volume = tempfile::tempdir().unwrap();
    fs::write(volume.path().join("inside"), "volume\n").unwrap();
    symlink(host.path(), rootfs.join("absolute")).unwrap();
    symlink(format!("../../../../..{}", host.path().display()), rootfs.join("relative")).unwrap();
    for name in ["absolute", "relative"] {
        let mut draft = Draft::full(&rootfs.path());
        let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
        draft.plan.steps.insert(at, planned(bind(volume.path(), name, 0)));
        draft.plan.steps.insert(at, planned(bind(&volume.path().join("inside"), &format!("{name}/x/y"), 0)));
        let seen = output(&draft.program(&["cat", &format!("/{name}/inside")]));
        assert_eq!(seen, "volume\n", "{name}");
        host.check();
    }
}

#[test]
fn a_dangling_link_is_made_in_the_image_where_it_points() {
    let (rootfs, host) = (Rootfs::new(), Host::new());
    let missing = host.path().join("missing/file");
    symlink(&missing, rootfs.join("etc/hosts")).unwrap();
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
    draft.plan.steps.insert(at, planned(bind(&host.path().join("file"), "etc/hosts", 0)));
    assert_eq!(output(&draft.program(&["cat", "/etc/hosts"])), "of the host");
    assert!(rootfs.path().join(missing.strip_prefix("/").unwrap()).is_file());
    host.check();
}

#[test]
fn links_in_a_circle_end_in_an_error() {
    let rootfs = Rootfs::new();
    symlink("b", rootfs.join("a")).unwrap();
    symlink("a", rootfs.join("b")).unwrap();
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
    draft.plan.steps.insert(at, planned(file_system("tmpfs", "a/deep/er", &[], 0)));
    let error = failure(&draft.program(&["true"]));
    assert!(error.to_string().contains("ELOOP"), "{error}");
}

#[test]
fn a_file_in_the_place_of_a_null_device_is_refused_as_a_stream() {
    let rootfs = Rootfs::new();
    fs::write(rootfs.join("dev/null"), "image").unwrap();
    let mut draft = Draft::bare(&rootfs.path());
    draft.push(Step::PivotRoot);
    let error = failure(&draft.program(&["true"]));
    assert!(error.to_string().contains("check for device 1:3 /dev/null"), "{error}");
}

#[test]
fn a_null_device_of_the_image_is_not_what_masks() {
    let rootfs = Rootfs::new();
    fs::write(rootfs.join("dev/null"), "image").unwrap();
    fs::write(rootfs.join("etc/secret"), "secret").unwrap();
    let mut draft = Draft::bare(&rootfs.path());
    draft.push(Step::Mask { path: c("etc/secret") });
    draft.push(Step::PivotRoot);
    draft.file_system("tmpfs", "dev", &[], 0);
    draft.push(Step::MakeNode { path: c("dev/null"), mode: 0o020_666, major: 1, minor: 3, uid: 0, gid: 0 });
    assert_eq!(output(&draft.program(&["sh", "-c", "cat /etc/secret; stat -c %t:%T /etc/secret"])), "1:3\n");
}

#[test]
fn an_image_node_that_is_another_device_is_refused() {
    let rootfs = Rootfs::new();
    fs::write(rootfs.join("dev/null"), "").unwrap();
    let mut draft = Draft::bare(&rootfs.path());
    draft.push(Step::MakeNode { path: c("dev/null"), mode: 0o020_666, major: 1, minor: 3, uid: 0, gid: 0 });
    let error = failure(&draft.program(&["true"]));
    assert!(error.to_string().contains("compare with the existing node"), "{error}");
}

#[test]
fn masks_and_readonly_paths_that_link_out_cover_only_the_image() {
    let (rootfs, host) = (Rootfs::new(), Host::new());
    symlink(host.path(), rootfs.join("etc/masked")).unwrap();
    symlink(host.path().join("file"), rootfs.join("etc/readonly")).unwrap();
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
    draft.plan.steps.insert(at, planned(Step::Mask { path: c("etc/masked") }));
    draft.plan.steps.insert(at, planned(Step::MakeReadonly { path: c("etc/readonly") }));
    assert_eq!(output(&draft.program(&["true"])), "");
    host.check();
}

#[test]
fn a_working_directory_in_a_leaked_descriptor_is_not_to_be_had() {
    // CVE-2024-21626: everything of the parent is closed, so there is nothing at these numbers.
    let rootfs = Rootfs::new();
    let leaked = fs::File::open("/etc").unwrap();
    let number = dunnage_sys::open::number(&leaked);
    let mut plan = Draft::full(&rootfs.path()).program(&["true"]);
    for planned in &mut plan.steps {
        match &mut planned.step {
            Step::ChangeDirectory(path) => *path = c(format!("/proc/self/fd/{number}")),
            Step::MakeWorkingDirectory(path) => *path = c("/tmp"),
            _ => {}
        }
    }
    let error = failure(&plan);
    assert!(error.to_string().contains("ENOENT"), "{error}");
}

#[test]
fn a_working_directory_outside_of_the_root_is_refused() {
    // A descriptor of the host that a plan keeps open: the magic link in procfs leads out of the root.
    let rootfs = Rootfs::new();
    let number = dunnage_sys::open::number(fs::File::open("/etc").unwrap());
    let mut draft = Draft::full(&rootfs.path());
    draft.plan.slots.push(Slot::Namespace { path: "/etc".into(), kind: NamespaceKind::Uts });
    let mut plan = draft.program(&["true"]);
    for planned in &mut plan.steps {
        if let Step::ChangeDirectory(path) = &mut planned.step {
            *path = c(format!("/proc/self/fd/{number}"));
        }
    }
    let error = spawn_plain(&plan).unwrap().wait_created(PATIENCE).unwrap_err();
    assert!(error.to_string().contains("getcwd (unreachable)/"), "{error}");
}

#[test]
fn a_kernel_parameter_goes_to_the_kernel_whatever_covers_it() {
    // CVE-2025-52881: a write that is redirected to another file of procfs.
    let (rootfs, host) = (Rootfs::new(), Host::new());
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.iter().position(|planned| planned.step == Step::OpenPrivateProc).unwrap();
    let name = "net/ipv4/ip_unprivileged_port_start";
    let covered = format!("proc/sys/{name}");
    draft.plan.steps.insert(at, planned(bind(&host.path().join("file"), &covered, 0)));
    let write = Step::WriteSysctl { path: c("net/ipv4/ip_default_ttl"), value: c("77") };
    draft.plan.steps.insert(at + 3, planned(write));
    let seen = output(&draft.program(&["cat", "/proc/sys/net/ipv4/ip_default_ttl", &format!("/{covered}")]));
    assert_eq!(seen, "77\nof the host");
    host.check();
}

#[test]
fn a_target_that_is_swapped_for_a_link_all_the_time_never_leads_out() {
    // CVE-2021-30465, CVE-2024-45310: another container that shares a volume races with the mounts below it.
    let (rootfs, host, volume) = (Rootfs::new(), Host::new(), tempfile::tempdir().unwrap());
    let (victim, directory, link) =
        (volume.path().join("victim"), volume.path().join("directory"), volume.path().join("link"));
    fs::create_dir(&directory).unwrap();
    symlink(host.path(), &link).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut born, mut lost) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for name in [&directory, &link] {
                    // In the moment when it is neither, the child may make it.
                    if fs::rename(name, &victim).is_err() {
                        let _ = fs::remove_dir_all(&victim);
                    } else {
                        fs::rename(&victim, name).unwrap();
                    }
                }
            }
        });
        for round in 0..60 {
            let mut draft = Draft::full(&rootfs.path());
            let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
            let target = format!("data/victim/{round}/deep");
            draft.plan.steps.insert(at, planned(bind(&host.path().join("file"), &target, 0)));
            draft.plan.steps.insert(at, planned(bind(volume.path(), "data", 0)));
            match run(&draft.program(&["true"])) {
                Ok(_) => born += 1,
                Err(_) => lost += 1,
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // Some births lose the race and fail; none may touch the host.
    println!("{born} born, {lost} lost the race");
    assert!(born > 0, "{lost} births failed and none worked");
    host.check();
}
