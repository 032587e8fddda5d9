//! Births in the real kernel: what a program sees of the container it was born in.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(clippy::print_stdout, reason = "a test that stands aside says why")]

mod container;

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use container::*;
use dunnage_init::fault::{Fault, inject};
use dunnage_init::{Birth, Streams, spawn};
use dunnage_plan::step::{MountAttributes, Target};
use dunnage_plan::{Plan, Slot, SlotId, Step};
use dunnage_spec::mount::{Propagation, PropagationKind};
use dunnage_spec::namespace::NamespaceKind;
use dunnage_sys::mount::attribute::RDONLY;
use dunnage_sys::pidfd::{self, Exit};

#[test]
fn a_program_runs_and_its_output_and_status_come_back() {
    let rootfs = Rootfs::new();
    let plan = Draft::full(&rootfs.path()).program(&["sh", "-c", "echo $GREETING; echo oops >&2; exit 7"]);
    let outcome = run(&plan).unwrap();
    assert_eq!(outcome.exit, Exit::Status(7));
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("hello\n", "oops\n"));
}

#[test]
fn the_namespaces_of_the_plan_are_new_and_the_others_are_the_parents() {
    let rootfs = Rootfs::new();
    let seen =
        shell(&rootfs, "cd /proc/self/ns; for n in pid net mnt ipc uts cgroup; do stat -c %N $n; done");
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines.len(), 6, "{seen}");
    for (line, name) in lines.iter().zip(["pid", "net", "mnt", "ipc", "uts", "cgroup"]) {
        let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let same = line.contains(&own.display().to_string());
        assert_eq!(same, name == "cgroup", "{line} and {}", own.display());
    }
}

#[test]
fn a_namespace_is_joined_by_its_path() {
    let rootfs = Rootfs::new();
    let sleeper = Sleeper::new(&rootfs);
    let path = format!("/proc/{}/ns/net", sleeper.pid);
    let mut draft = Draft::full(&rootfs.path());
    draft.plan.new_namespaces.retain(|kind| *kind != NamespaceKind::Network);
    draft.plan.slots.push(Slot::Namespace { path: path.clone().into(), kind: NamespaceKind::Network });
    let join = Step::JoinNamespace { slot: SlotId(0), kind: NamespaceKind::Network };
    draft.plan.steps[0] = planned(join);
    let seen = output(&draft.program(&["stat", "-c", "%N", "/proc/self/ns/net"]));
    let wanted = fs::read_link(path).unwrap();
    assert!(seen.contains(&wanted.display().to_string()), "{seen} and {}", wanted.display());
}

#[test]
fn a_namespace_file_of_another_kind_is_refused() {
    let rootfs = Rootfs::new();
    let mut draft = Draft::bare(&rootfs.path());
    draft.plan.slots.push(Slot::Namespace { path: "/proc/self/ns/uts".into(), kind: NamespaceKind::Network });
    draft
        .plan
        .steps
        .insert(0, planned(Step::JoinNamespace { slot: SlotId(0), kind: NamespaceKind::Network }));
    let error = failure(&draft.program(&["true"]));
    assert_eq!(error.kind(), dunnage_init::ErrorKind::InvalidArgument);
    assert!(error.to_string().ends_with("EINVAL (Invalid argument)"), "{error}");
}

#[test]
fn a_new_network_has_its_loopback_up() {
    let rootfs = Rootfs::new();
    // Not only up: the kernel has given it its address, in the local routing table.
    let seen = shell(&rootfs, "cat /proc/net/fib_trie; cat /proc/net/if_inet6 || true");
    assert!(seen.contains("127.0.0.1"), "{seen}");
}

#[test]
fn names_are_the_containers_own() {
    let rootfs = Rootfs::new();
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(shell(&rootfs, "hostname; cat /proc/sys/kernel/domainname; echo $$"), "boxed\nexample\n1\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), own);
}

#[test]
fn the_mount_table_holds_only_the_containers_mounts() {
    let rootfs = Rootfs::new();
    let table = shell(&rootfs, "cat /proc/self/mountinfo");
    let points: Vec<_> = table.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    for point in
        ["/", "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/dev/shm", "/proc/sys", "/proc/keys"]
    {
        assert!(points.contains(&point), "{point} is missing in\n{table}");
    }
    assert_eq!(points.iter().filter(|point| **point == "/").count(), 1, "{table}");
    assert!(
        points.iter().all(|point| ["/", "/proc", "/dev", "/sys"].iter().any(|top| point.starts_with(top)))
    );
}

#[test]
fn masked_files_are_empty_and_masked_directories_hold_nothing() {
    let rootfs = Rootfs::new();
    let seen = shell(
        &rootfs,
        "cat /proc/keys /proc/timer_list | grep -c . ; ls -A /sys/firmware /proc/scsi 2>/dev/null | grep -v : | grep -c . ; \
         stat -c '%t:%T' /proc/keys",
    );
    assert_eq!(seen, "0\n0\n1:3\n");
}

#[test]
fn masks_and_readonly_paths_cannot_be_written() {
    let rootfs = Rootfs::new();
    let seen = shell(
        &rootfs,
        "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/firmware/x /sys/x; do \
         (echo b > $f) 2>/dev/null && echo written $f; done; echo done",
    );
    assert_eq!(seen, "done\n");
}

#[test]
fn a_kernel_parameter_is_set_in_the_containers_namespace() {
    let rootfs = Rootfs::new();
    let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let before = fs::read_to_string(path).unwrap();
    assert_eq!(shell(&rootfs, &format!("cat {path}")), "0\n");
    assert_eq!(fs::read_to_string(path).unwrap(), before);
}

#[test]
fn devices_and_links_are_as_planned() {
    let rootfs = Rootfs::new();
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
    let node = |path, mode, uid, gid| {
        planned(Step::MakeNode { path: c(path), mode, major: 10, minor: 200, uid, gid })
    };
    draft.plan.steps.insert(at, node("dev/net/tun", 0o020_640, 7, 8));
    draft.plan.steps.insert(at, node("dev/pipe", 0o010_622, 0, 0));
    let seen = output(&draft.program(&[
        "sh",
        "-c",
        "stat -c '%n %A %u:%g %t,%T' /dev/null /dev/tty /dev/net/tun /dev/pipe; \
         for l in fd stdin ptmx; do stat -c %N /dev/$l; done; echo x > /dev/null; stat -c %a /dev /dev/net",
    ]));
    assert_eq!(
        seen,
        "/dev/null crw-rw-rw- 0:0 1,3\n/dev/tty crw-rw-rw- 0:0 5,0\n/dev/net/tun crw-r----- 7:8 a,c8\n\
         /dev/pipe prw--w--w- 0:0 0,0\n'/dev/fd' -> '/proc/self/fd'\n'/dev/stdin' -> '/proc/self/fd/0'\n\
         '/dev/ptmx' -> 'pts/ptmx'\n755\n755\n"
    );
}

#[test]
fn the_program_has_the_identity_of_the_plan() {
    let rootfs = Rootfs::new();
    let status = shell(
        &rootfs,
        "cat /proc/self/status; ulimit -n; ulimit -Hn; umask; pwd; cat /proc/self/oom_score_adj",
    );
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!((field("Uid").as_str(), field("Groups").as_str()), ("0 0 0 0", "10 20"));
    assert_eq!(field("CapInh"), "0000000000000000");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(set), "00000000a80425fb", "{set}");
    }
    assert_eq!(field("CapAmb"), "0000000000000000");
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    assert_eq!((field("SigBlk"), field("SigIgn")), ("0".repeat(16), "0".repeat(16)));
    assert!(status.ends_with("\n512\n1024\n0022\n/work/deep\n100\n"), "{status}");
}

#[test]
fn another_user_keeps_only_the_capabilities_of_the_plan() {
    let rootfs = Rootfs::new();
    let mut plan =
        Draft::full(&rootfs.path()).program(&["sh", "-c", "grep -E '^(Uid|Gid|Cap)' /proc/self/status"]);
    for planned in &mut plan.steps {
        match &mut planned.step {
            Step::SetIds { uid, gid } => (*uid, *gid) = (1234, 5678),
            Step::SetCapabilities { effective, permitted, inheritable } => {
                (*effective, *permitted, *inheritable) = (1 << 10, 1 << 10, 1 << 10);
            }
            Step::SetAmbient(mask) => *mask = 1 << 10,
            _ => {}
        }
    }
    let seen = output(&plan).replace('\t', " ");
    assert_eq!(
        seen,
        "Uid: 1234 1234 1234 1234\nGid: 5678 5678 5678 5678\nCapInh: 0000000000000400\n\
         CapPrm: 0000000000000400\nCapEff: 0000000000000400\nCapBnd: 00000000a80425fb\nCapAmb: 0000000000000400\n"
    );
}

#[test]
fn the_filter_of_the_plan_is_in_force() {
    let rootfs = Rootfs::new();
    fs::create_dir(rootfs.join("tmp/there")).unwrap();
    std::os::unix::fs::symlink("busybox", rootfs.join("bin/mkdir")).unwrap();
    let outcome = run(&Draft::full(&rootfs.path()).program(&["mkdir", "/tmp/new"])).unwrap();
    assert_ne!(outcome.exit, Exit::Status(0));
    assert!(outcome.stderr.contains("Operation not permitted"), "{}", outcome.stderr);
}

#[test]
fn nothing_but_the_streams_is_open_in_the_program() {
    let rootfs = Rootfs::new();
    let inheritable = fs::File::open("/etc").unwrap();
    dunnage_sys::open::fcntl_dupfd_cloexec(&inheritable, 100).unwrap();
    // 3 is the directory that ls itself reads.
    assert_eq!(shell(&rootfs, "ls /proc/self/fd"), "0\n1\n2\n3\n");
}

#[test]
fn an_absent_stream_is_the_containers_own_null_device() {
    let rootfs = Rootfs::new();
    let seen = shell(
        &rootfs,
        "stat -L -c '%t:%T %d' /proc/self/fd/0; stat -c %d /dev/null; cat | grep -c . || true",
    );
    let lines: Vec<_> = seen.lines().collect();
    let (kind, device) = lines[0].split_once(' ').unwrap();
    assert_eq!((kind, device, lines[2]), ("1:3", lines[1], "0"));
}

#[test]
fn streams_are_given_whatever_numbers_they_have() {
    let rootfs = Rootfs::new();
    let plan = Draft::full(&rootfs.path()).program(&["sh", "-c", "cat; echo out; echo err >&2"]);
    let (input, mut to_input) = std::io::pipe().unwrap();
    let (mut out, stdout) = std::io::pipe().unwrap();
    to_input.write_all(b"in\n").unwrap();
    drop(to_input);
    // stdout twice, as containerd does for 2>&1.
    let streams =
        Streams { stdin: Some(input.as_fd()), stdout: Some(stdout.as_fd()), stderr: Some(stdout.as_fd()) };
    let birth = Birth { plan: &plan, streams, init: None, clone_into: None, cgroups: &[] };
    let mut newborn = spawn(&birth).unwrap();
    drop((input, stdout));
    newborn.wait_created(PATIENCE).unwrap();
    newborn.start().unwrap();
    newborn.wait_started(PATIENCE).unwrap();
    let (_, pidfd) = newborn.release();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut out, &mut text).unwrap();
    assert_eq!((text.as_str(), pidfd::reap(&pidfd).unwrap()), ("in\nout\nerr\n", Exit::Status(0)));
}

#[test]
fn a_pipe_belongs_to_the_user_of_the_process() {
    let rootfs = Rootfs::new();
    let mut plan = Draft::full(&rootfs.path()).program(&[
        "sh",
        "-c",
        "stat -L -c %u /proc/self/fd/1; echo x > /dev/stdout",
    ]);
    for planned in &mut plan.steps {
        match &mut planned.step {
            Step::SetStreams { uid } => *uid = 1234,
            Step::SetIds { uid, gid } => (*uid, *gid) = (1234, 1234),
            _ => {}
        }
    }
    assert_eq!(output(&plan), "1234\nx\n");
}

#[test]
fn binds_are_made_where_nothing_was_and_have_their_attributes() {
    let rootfs = Rootfs::new();
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "content\n").unwrap();
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
    draft.plan.steps.insert(at, planned(bind(&host.path().join("file"), "a/b/config", RDONLY)));
    draft.plan.steps.insert(at, planned(bind(host.path(), "data/volume", 0)));
    let seen = output(&draft.program(&[
        "sh",
        "-c",
        "cat /a/b/config /data/volume/file; (echo x > /a/b/config) 2>/dev/null || echo refused; echo y > /data/volume/new",
    ]));
    assert_eq!(seen, "content\ncontent\nrefused\n");
    assert_eq!(fs::read_to_string(host.path().join("new")).unwrap(), "y\n");
    assert_eq!(fs::read_to_string(host.path().join("file")).unwrap(), "content\n");
}

#[test]
fn recursive_attributes_reach_the_mounts_below() {
    let rootfs = Rootfs::new();
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
    let step = Step::BindMount {
        source: c("/sys"),
        recursive: true,
        attributes: MountAttributes::default(),
        recursive_attributes: MountAttributes { set: RDONLY, clear: 0 },
        target: Target { path: c("hostsys"), missing: dunnage_plan::step::Missing::Directory },
        propagation: Vec::new(),
    };
    draft.plan.steps.insert(at, planned(step));
    let seen = output(&draft.program(&["grep", " /hostsys", "/proc/self/mountinfo"]));
    assert!(seen.lines().count() > 1, "{seen}");
    assert!(seen.lines().all(|line| line.split(' ').nth(5).unwrap().starts_with("ro,")), "{seen}");
}

#[test]
fn a_tmpfs_without_a_mode_has_that_of_what_it_covers() {
    let rootfs = Rootfs::new();
    fs::create_dir(rootfs.join("covered")).unwrap();
    fs::set_permissions(rootfs.join("covered"), std::os::unix::fs::PermissionsExt::from_mode(0o1750))
        .unwrap();
    let mut draft = Draft::full(&rootfs.path());
    let at = draft.plan.steps.iter().position(|planned| planned.step == Step::PivotRoot).unwrap();
    draft.plan.steps.insert(at, planned(file_system("tmpfs", "covered", &[], 0)));
    draft.plan.steps.insert(at, planned(file_system("tmpfs", "fresh", &[], 0)));
    assert_eq!(output(&draft.program(&["stat", "-c", "%a", "/covered", "/fresh"])), "1750\n1777\n");
}

#[test]
fn a_root_and_a_mount_can_be_made_read_only_at_the_end() {
    let rootfs = Rootfs::new();
    let mut draft = Draft::full(&rootfs.path());
    draft.push(Step::SetReadonly {
        target: Target { path: c("dev"), missing: dunnage_plan::step::Missing::Directory },
    });
    draft.push(Step::SetRootReadonly);
    let mut plan = draft.program(&[
        "sh",
        "-c",
        "for d in / /dev /dev/shm; do (echo > $d/x) 2>/dev/null && echo $d; done",
    ]);
    // Made in a root that can still be written, as lowering puts it.
    let at =
        plan.steps.iter().position(|planned| matches!(planned.step, Step::MakeWorkingDirectory(_))).unwrap();
    let step = plan.steps.remove(at);
    let root = plan.steps.iter().position(|planned| planned.step == Step::SetRootReadonly).unwrap();
    plan.steps.insert(root, step);
    assert_eq!(output(&plan), "/dev/shm\n");
}

#[test]
fn propagation_is_as_the_plan_says() {
    let rootfs = Rootfs::new();
    let mut draft = Draft::full(&rootfs.path());
    draft.push(Step::SetRootfsPropagation(Propagation { kind: PropagationKind::Shared, recursive: false }));
    let table = output(&draft.program(&["cat", "/proc/self/mountinfo"]));
    let shared: Vec<_> = table.lines().filter(|line| line.contains(" shared:")).collect();
    assert_eq!(shared.len(), 1, "{table}");
    assert_eq!(shared[0].split(' ').nth(4), Some("/"), "{table}");
}

#[test]
fn a_shared_host_tree_keeps_its_mounts_and_gets_none_of_the_containers() {
    own_mounts(dunnage_sys::mount::Propagation::Shared);
    let rootfs = Rootfs::new();
    let before = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(before.contains(" shared:"));
    let mut draft = Draft::full(&rootfs.path());
    for planned in &mut draft.plan.steps {
        if let Step::SetRootPropagation(propagation) = &mut planned.step {
            propagation.kind = PropagationKind::Shared;
        }
    }
    assert_eq!(output(&draft.program(&["true"])), "");
    assert_eq!(fs::read_to_string("/proc/thread-self/mountinfo").unwrap(), before);
}

#[test]
fn a_container_in_the_mount_namespace_of_its_parent_has_a_root_of_its_own() {
    let rootfs = Rootfs::new();
    let plan = Plan {
        new_namespaces: vec![NamespaceKind::Pid],
        pid_namespace: None,
        slots: Vec::new(),
        steps: vec![
            planned(Step::OpenRootfs(c(rootfs.path().as_os_str().as_encoded_bytes()))),
            planned(Step::MakeNode {
                path: c("dev/null"),
                mode: 0o020_666,
                major: 1,
                minor: 3,
                uid: 0,
                gid: 0,
            }),
            planned(Step::Chroot),
        ],
        program: None,
    };
    let seen = output(&Draft { plan }.program(&["ls", "/"]));
    assert_eq!(seen, "bin\ndev\netc\nproc\nsys\ntmp\nwork\n");
}

/// A cgroup v2 of this test, with its path; none on a machine with v1 alone.
fn unified_cgroup() -> Option<(fs::File, String)> {
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|path| std::path::Path::new(path).join("cgroup.procs").exists());
    let Some(unified) = unified else {
        println!("not on this machine: it has no cgroup v2");
        return None;
    };
    let path = format!("{unified}/dunnage-init-test-{}", std::process::id());
    fs::create_dir(&path).unwrap();
    Some((fs::File::open(&path).unwrap(), path))
}

/// Gives whether the child was born in the cgroup, after checking that it is in it and sees it as its root.
fn born_in_unified_cgroup() -> Option<bool> {
    let (directory, path) = unified_cgroup()?;
    let rootfs = Rootfs::new();
    let mut draft = Draft::full(&rootfs.path());
    draft.plan.new_namespaces.push(NamespaceKind::Cgroup);
    let plan = draft.program(&["grep", "^0:", "/proc/self/cgroup"]);
    let (mut out, stdout) = std::io::pipe().unwrap();
    let streams = Streams { stdout: Some(stdout.as_fd()), ..Streams::default() };
    let birth = Birth { plan: &plan, streams, init: None, clone_into: Some(directory.as_fd()), cgroups: &[] };
    let mut newborn = spawn(&birth).unwrap();
    drop(stdout);
    let born = newborn.born_in_cgroup();
    newborn.wait_created(PATIENCE).unwrap();
    let procs = fs::read_to_string(format!("{path}/cgroup.procs")).unwrap();
    assert_eq!(procs.trim(), newborn.pid().to_string());
    newborn.start().unwrap();
    newborn.wait_started(PATIENCE).unwrap();
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut out, &mut seen).unwrap();
    assert_eq!(seen, "0::/\n");
    drop(newborn);
    fs::remove_dir(&path).unwrap();
    Some(born)
}

#[test]
fn a_child_is_born_in_the_cgroup_it_is_given() {
    assert_ne!(born_in_unified_cgroup(), Some(false));
}

#[test]
fn a_child_that_cannot_be_born_in_its_cgroup_moves_there_first() {
    inject(Some(Fault::CloneIntoCgroup));
    assert_ne!(born_in_unified_cgroup(), Some(true));
    inject(None);
}

#[test]
fn a_cgroup_that_is_gone_is_an_error() {
    let Some((directory, path)) = unified_cgroup() else { return };
    fs::remove_dir(&path).unwrap();
    let rootfs = Rootfs::new();
    let plan = Draft::full(&rootfs.path()).program(&["true"]);
    let streams = Streams::default();
    let birth = Birth { plan: &plan, streams, init: None, clone_into: Some(directory.as_fd()), cgroups: &[] };
    let error = spawn(&birth).unwrap_err();
    assert!(error.to_string().ends_with("the cgroup was removed"), "{error}");
    assert_eq!(error.kind(), dunnage_init::ErrorKind::Internal);
}

#[test]
fn a_cgroup_that_refuses_the_child_is_named() {
    let rootfs = Rootfs::new();
    let mut draft = Draft::bare(&rootfs.path());
    draft.plan.steps.insert(0, planned(Step::JoinCgroups));
    let plan = draft.program(&["true"]);
    // Not a cgroup at all: /dev/full refuses every write.
    let cgroups = [fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into()];
    let birth =
        Birth { plan: &plan, streams: Streams::default(), init: None, clone_into: None, cgroups: &cgroups };
    let error = spawn(&birth).unwrap().wait_created(PATIENCE).unwrap_err();
    assert!(error.to_string().ends_with("write /dev/full: ENOSPC (No space left on device)"), "{error}");
}

#[test]
fn the_parents_own_streams_can_be_given() {
    // As a command line does: each has the number that another one is to get.
    let rootfs = Rootfs::new();
    let plan =
        Draft::full(&rootfs.path()).program(&["sh", "-c", "stat -L -c %i /proc/self/fd/0 /proc/self/fd/1"]);
    let inode = |fd: &dyn AsFd| dunnage_sys::open::fstat(fd.as_fd()).unwrap().st_ino;
    let (mut out, stdout) = std::io::pipe().unwrap();
    let (stderr, stdin) = (std::io::stderr(), std::io::stdin());
    let streams =
        Streams { stdin: Some(stderr.as_fd()), stdout: Some(stdout.as_fd()), stderr: Some(stdin.as_fd()) };
    let birth = Birth { plan: &plan, streams, init: None, clone_into: None, cgroups: &[] };
    let mut newborn = spawn(&birth).unwrap();
    newborn.wait_created(PATIENCE).unwrap();
    newborn.start().unwrap();
    newborn.wait_started(PATIENCE).unwrap();
    let wanted = format!("{}\n{}\n", inode(&stderr), inode(&stdout));
    drop(stdout);
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut out, &mut seen).unwrap();
    assert_eq!(seen, wanted);
}

#[test]
fn a_child_joins_the_cgroups_whose_files_it_is_given() {
    // A v2 directory is joined the same way where nobody can be born in it.
    let (tree, file) = match fs::exists("/sys/fs/cgroup/pids").unwrap() {
        true => ("/sys/fs/cgroup/pids", "tasks"),
        false => ("/sys/fs/cgroup", "cgroup.procs"),
    };
    let path = format!("{tree}/dunnage-init-test-{}", std::process::id());
    fs::create_dir(&path).unwrap();
    let tasks = fs::OpenOptions::new().write(true).open(format!("{path}/{file}")).unwrap();
    let rootfs = Rootfs::new();
    let mut draft = Draft::full(&rootfs.path());
    draft.plan.steps.insert(0, planned(Step::JoinCgroups));
    draft.plan.steps.insert(1, planned(Step::NewCgroupNamespace));
    let plan = draft.program(&["sleep", "1000"]);
    let cgroups = [tasks.into()];
    let birth =
        Birth { plan: &plan, streams: Streams::default(), init: None, clone_into: None, cgroups: &cgroups };
    let mut newborn = spawn(&birth).unwrap();
    newborn.wait_created(PATIENCE).unwrap();
    let procs = fs::read_to_string(format!("{path}/cgroup.procs")).unwrap();
    assert_eq!(procs.trim(), newborn.pid().to_string());
    let own = fs::read_link("/proc/self/ns/cgroup").unwrap();
    assert_ne!(fs::read_link(format!("/proc/{}/ns/cgroup", newborn.pid())).unwrap(), own);
    drop(newborn);
    fs::remove_dir(&path).unwrap();
}

/// The exit of `/bin/true` under a memory limit, joined on v1 and born into on v2, or why there is none.
fn born_within(limit: u64) -> Result<Exit, dunnage_init::Error> {
    let v1 = fs::exists("/sys/fs/cgroup/memory").unwrap();
    let (tree, file) = match v1 {
        true => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        false => ("/sys/fs/cgroup", "memory.max"),
    };
    let path = format!("{tree}/dunnage-init-test-{}", std::process::id());
    fs::create_dir(&path).unwrap();
    fs::write(format!("{path}/{file}"), limit.to_string()).unwrap();
    let tasks = || fs::OpenOptions::new().write(true).open(format!("{path}/tasks")).unwrap().into();
    let cgroups: Vec<OwnedFd> = v1.then(tasks).into_iter().collect();
    let directory = (!v1).then(|| fs::File::open(&path).unwrap());
    let rootfs = Rootfs::new();
    let mut draft = Draft::full(&rootfs.path());
    draft.plan.steps.insert(0, planned(Step::JoinCgroups));
    let plan = draft.program(&["/bin/true"]);
    let clone_into = directory.as_ref().map(fs::File::as_fd);
    let birth = Birth { plan: &plan, streams: Streams::default(), init: None, clone_into, cgroups: &cgroups };
    let mut newborn = spawn(&birth).unwrap();
    let exit = newborn.wait_created(PATIENCE).and_then(|_| {
        newborn.start()?;
        newborn.wait_started(PATIENCE)?;
        Ok(pidfd::reap(newborn.pidfd()).unwrap())
    });
    drop(newborn);
    fs::remove_dir(&path).unwrap();
    exit
}

#[test]
fn a_container_with_half_a_megabyte_of_memory_is_born() {
    assert_eq!(born_within(512 * 1024), Ok(Exit::Status(0)));
}

#[test]
fn too_little_memory_is_told() {
    let error = born_within(32 * 1024).unwrap_err();
    assert_eq!(error.kind(), dunnage_init::ErrorKind::ResourceExhausted, "{error}");
}
