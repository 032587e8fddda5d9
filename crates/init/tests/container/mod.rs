//! A small container to test births with: a root file system with busybox, and plans made by hand.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "only tests and measurements use this")]

use std::ffi::CString;
use std::fs;
use std::io::{PipeReader, Read, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dunnage_init::{Birth, Created, Error, Newborn, Streams, spawn};
use dunnage_plan::step::{FileSystem, Filter, Missing, MountAttributes, Program, Target};
use dunnage_plan::{Phase, Plan, Planned, Slot, SlotId, Step};
use dunnage_seccomp::Instruction;
use dunnage_spec::mount::{Propagation, PropagationKind, Superblock};
use dunnage_spec::namespace::NamespaceKind;
use dunnage_spec::process::{Rlimit, RlimitResource};
use dunnage_spec::seccomp::Flags;
use dunnage_sys::mount;
use dunnage_sys::mount::attribute::{NODEV, NOEXEC, NOSUID, RDONLY};
use dunnage_sys::namespace::{self, Kinds};
use dunnage_sys::pidfd::{self, Exit};

/// Long, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Every kind a container usually makes.
pub(crate) const KINDS: [NamespaceKind; 5] = [
    NamespaceKind::Pid,
    NamespaceKind::Network,
    NamespaceKind::Mount,
    NamespaceKind::Ipc,
    NamespaceKind::Uts,
];

pub(crate) fn c(text: impl AsRef<[u8]>) -> CString {
    CString::new(text.as_ref()).unwrap()
}

/// A directory with busybox and what a small image has.
pub(crate) struct Rootfs {
    pub(crate) dir: tempfile::TempDir,
}

impl Rootfs {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::copy("/bin/busybox", dir.path().join("bin/busybox")).unwrap();
        for applet in ["sh", "cat", "true", "id", "ls", "sleep", "stat", "grep", "hostname", "tty", "env"] {
            symlink("busybox", dir.path().join("bin").join(applet)).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }
}

/// A plan under construction.
pub(crate) struct Draft {
    pub(crate) plan: Plan,
}

impl Draft {
    /// New namespaces, the rootfs, and nothing else.
    pub(crate) fn bare(rootfs: &Path) -> Self {
        let plan = Plan {
            new_namespaces: KINDS.to_vec(),
            pid_namespace: None,
            slots: Vec::new(),
            steps: Vec::new(),
            program: None,
        };
        let mut draft = Self { plan };
        draft.push(Step::NewSession);
        draft.push(Step::SetRootPropagation(Propagation { kind: PropagationKind::Slave, recursive: true }));
        draft.push(Step::AttachRootfs(c(rootfs.as_os_str().as_encoded_bytes())));
        draft
    }

    /// What containerd asks for by default.
    pub(crate) fn full(rootfs: &Path) -> Self {
        let mut draft = Self::bare(rootfs);
        draft.plan.steps.insert(0, planned(Step::RaiseLoopback));
        draft.push(Step::NewKeyring(c("_ses.test")));
        draft.push(Step::SetOomScore(100));
        draft.default_mounts();
        draft.default_devices();
        draft.push(Step::OpenPrivateProc);
        draft.push(Step::WriteSysctl { path: c("net/ipv4/ip_unprivileged_port_start"), value: c("0") });
        for path in ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"] {
            draft.push(Step::MakeReadonly { path: c(path) });
        }
        for path in [
            "proc/acpi",
            "proc/asound",
            "proc/kcore",
            "proc/keys",
            "proc/latency_stats",
            "proc/timer_list",
            "proc/timer_stats",
            "proc/sched_debug",
            "proc/scsi",
            "sys/firmware",
            "sys/devices/virtual/powercap",
        ] {
            draft.push(Step::Mask { path: c(path) });
        }
        draft.push(Step::PivotRoot);
        draft.push(Step::SetHostname(c("boxed")));
        draft.push(Step::SetDomainname(c("example")));
        draft
    }

    fn default_mounts(&mut self) {
        let none = NOSUID | NOEXEC | NODEV;
        self.file_system("proc", "proc", &[], none);
        self.file_system("tmpfs", "dev", &[("mode", "755"), ("size", "65536k")], NOSUID);
        let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
        self.file_system("devpts", "dev/pts", &pts, NOSUID | NOEXEC);
        self.file_system("mqueue", "dev/mqueue", &[], none);
        self.file_system("sysfs", "sys", &[], none | RDONLY);
        self.file_system("tmpfs", "dev/shm", &[("mode", "1777"), ("size", "65536k")], none);
    }

    fn default_devices(&mut self) {
        for (name, major, minor) in [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
        ] {
            let path = c(format!("dev/{name}"));
            self.push(Step::MakeNode { path, mode: 0o020_666, major, minor, uid: 0, gid: 0 });
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            self.push(Step::MakeSymlink {
                target: c(target),
                path: c(format!("dev/{name}")),
                replace: false,
            });
        }
        self.push(Step::MakeSymlink { target: c("pts/ptmx"), path: c("dev/ptmx"), replace: true });
    }

    /// Phases do not matter to the child.
    pub(crate) fn push(&mut self, step: Step) {
        self.plan.steps.push(planned(step));
    }

    pub(crate) fn file_system(
        &mut self,
        fs_type: &str,
        target: &str,
        options: &[(&str, &str)],
        attributes: u64,
    ) {
        self.push(file_system(fs_type, target, options, attributes));
    }

    pub(crate) fn bind(&mut self, source: &Path, target: &str, set: u64) {
        self.push(bind(source, target, set));
    }

    /// Streams, the identity of root with containerd's capabilities, and the program.
    pub(crate) fn program(mut self, args: &[&str]) -> Plan {
        self.push(Step::SetStreams { uid: 0 });
        self.finish(args)
    }

    /// As [`Self::program`], in a terminal.
    pub(crate) fn program_in_terminal(mut self, args: &[&str], console: bool) -> Plan {
        let size = dunnage_spec::process::WindowSize { rows: 33, columns: 111 };
        self.push(Step::OpenTerminal { size: Some(size), uid: 0, console });
        self.finish(args)
    }

    fn finish(mut self, args: &[&str]) -> Plan {
        const KEEP: u64 = 0x0000_0000_a804_25fb;
        let limit = Rlimit { resource: RlimitResource::Nofile, soft: 512, hard: 1024 };
        for step in [
            Step::SetUmask(0o022),
            Step::MakeWorkingDirectory(c("/work/deep")),
            Step::SetRlimit(limit),
            Step::SetNoNewPrivileges,
            Step::ChangeDirectory(c("/work/deep")),
            Step::DropBounding { keep: KEEP, last: 40 },
            Step::KeepCapabilities(true),
            Step::SetGroups(vec![10, 20]),
            Step::SetIds { uid: 0, gid: 0 },
            Step::RetryChangeDirectory(c("/work/deep")),
            Step::VerifyWorkingDirectory,
            Step::KeepCapabilities(false),
            Step::SetCapabilities { effective: KEEP, permitted: KEEP, inheritable: 0 },
            Step::SetAmbient(0),
            Step::FindProgram,
            Step::LoadSeccomp(filter_that_refuses(83)),
            Step::Ready,
            Step::AwaitStart,
            Step::CloseDescriptors,
            Step::Execute,
        ] {
            self.push(step);
        }
        self.plan.program = Some(program(args));
        self.plan
    }
}

pub(crate) fn planned(step: Step) -> Planned {
    Planned { phase: Phase::Mounts, step, why: "" }
}

pub(crate) fn file_system(fs_type: &str, target: &str, options: &[(&str, &str)], attributes: u64) -> Step {
    let option = |(key, value): &(&str, &str)| (c(key), (!value.is_empty()).then(|| c(value)));
    Step::MountFileSystem {
        file_system: FileSystem {
            fs_type: c(fs_type),
            source: c(fs_type),
            options: options.iter().map(option).collect(),
            superblock: Superblock::default(),
            attributes,
            keep_mode: fs_type == "tmpfs" && options.iter().all(|(key, _)| *key != "mode"),
        },
        target: Target { path: c(target), missing: Missing::Directory },
        propagation: Vec::new(),
        no_symlink: matches!(fs_type, "proc" | "sysfs"),
    }
}

pub(crate) fn bind(source: &Path, target: &str, set: u64) -> Step {
    Step::BindMount {
        source: c(source.as_os_str().as_encoded_bytes()),
        recursive: true,
        attributes: MountAttributes { set, clear: 0 },
        recursive_attributes: MountAttributes::default(),
        target: Target { path: c(target), missing: Missing::LikeSource },
        propagation: Vec::new(),
    }
}

pub(crate) fn program(args: &[&str]) -> Program {
    let name = args[0];
    let candidates = if name.contains('/') {
        vec![c(name)]
    } else {
        ["/usr/bin", "/bin"].iter().map(|dir| c(format!("{dir}/{name}"))).collect()
    };
    Program {
        name: c(name),
        candidates,
        args: args.iter().map(c).collect(),
        env: vec![c("PATH=/usr/bin:/bin"), c("GREETING=hello")],
    }
}

/// An x86-64 filter under which one call fails with EPERM; 83 is mkdir.
pub(crate) fn filter_that_refuses(number: u32) -> Filter {
    let instruction = |code, jt, jf, k| Instruction { code, jt, jf, k };
    let instructions = vec![
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, number),
        instruction(0x06, 0, 0, 0x0005_0001),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ];
    let program = dunnage_seccomp::Program { instructions, flags: Flags::default(), unknown: Vec::new() };
    Filter { program: Arc::new(program) }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Spawns with pipes for stdout and stderr.
pub(crate) fn spawn_piped(plan: &Plan, init: Option<&OwnedFd>) -> (Newborn, PipeReader, PipeReader) {
    let (out, stdout) = pipe().unwrap();
    let (err, stderr) = pipe().unwrap();
    let birth = Birth {
        plan,
        streams: Streams { stdin: None, stdout: Some(stdout.as_fd()), stderr: Some(stderr.as_fd()) },
        init: init.map(AsFd::as_fd),
        clone_into: None,
        cgroups: &[],
    };
    (spawn(&birth).unwrap(), out, err)
}

/// Spawns without any streams.
pub(crate) fn spawn_plain(plan: &Plan) -> Result<Newborn, Error> {
    spawn(&Birth { plan, streams: Streams::default(), init: None, clone_into: None, cgroups: &[] })
}

/// From spawn to exit.
pub(crate) fn run(plan: &Plan) -> Result<Outcome, Error> {
    run_in(plan, None)
}

/// As [`run`], with the pidfd of an init to join.
pub(crate) fn run_in(plan: &Plan, init: Option<&OwnedFd>) -> Result<Outcome, Error> {
    let (mut newborn, mut out, mut err) = spawn_piped(plan, init);
    newborn.wait_created(PATIENCE)?;
    newborn.start()?;
    newborn.wait_started(PATIENCE)?;
    let (_, pidfd) = newborn.release();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    out.read_to_string(&mut stdout).unwrap();
    err.read_to_string(&mut stderr).unwrap();
    Ok(Outcome { exit: pidfd::reap(&pidfd).unwrap(), stdout, stderr })
}

/// The output of a shell script in a full container.
pub(crate) fn shell(rootfs: &Rootfs, script: &str) -> String {
    output(&Draft::full(&rootfs.path()).program(&["sh", "-c", script]))
}

/// The output of a plan that must succeed.
pub(crate) fn output(plan: &Plan) -> String {
    let outcome = run(plan).unwrap();
    assert_eq!((outcome.exit, outcome.stderr.as_str()), (Exit::Status(0), ""), "stdout: {}", outcome.stdout);
    outcome.stdout
}

/// The error of a plan that must fail before its program runs.
pub(crate) fn failure(plan: &Plan) -> Error {
    run(plan).expect_err("the plan must fail")
}

/// A plan to join the init of `container`.
pub(crate) fn exec_plan(args: &[&str]) -> Plan {
    let joined = vec![NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Network, NamespaceKind::Mount];
    let plan = Plan {
        new_namespaces: Vec::new(),
        pid_namespace: Some(SlotId(0)),
        slots: vec![Slot::Init],
        steps: vec![planned(Step::JoinInit { slot: SlotId(0), kinds: joined }), planned(Step::NewSession)],
        program: None,
    };
    Draft { plan }.program(args)
}

/// A started container that sleeps; killed when dropped.
pub(crate) struct Sleeper {
    pub(crate) pidfd: OwnedFd,
    pub(crate) pid: pidfd::Pid,
}

impl Sleeper {
    pub(crate) fn new(rootfs: &Rootfs) -> Self {
        let plan = Draft::full(&rootfs.path()).program(&["sleep", "1000"]);
        let mut newborn = spawn_plain(&plan).unwrap();
        let Created { .. } = newborn.wait_created(PATIENCE).unwrap();
        newborn.start().unwrap();
        newborn.wait_started(PATIENCE).unwrap();
        let (pid, pidfd) = newborn.release();
        Self { pidfd, pid }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        pidfd::send_signal(&self.pidfd, pidfd::Signal::KILL).unwrap();
        pidfd::reap(&self.pidfd).unwrap();
    }
}

/// Gives this thread a mount namespace of its own, in which nobody else mounts anything.
pub(crate) fn own_mounts(propagation: mount::Propagation) {
    namespace::unshare(Kinds::MOUNT).unwrap();
    mount::set_propagation(fs::File::open("/").unwrap(), propagation, true).unwrap();
}

/// What this process has of the kernel: equal before and after means that nothing was left behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Census {
    mounts: String,
    descriptors: Vec<String>,
    children: String,
    namespaces: Vec<String>,
}

impl Census {
    pub(crate) fn take() -> Self {
        let link = |path: PathBuf| fs::read_link(path).map(|target| target.display().to_string()).ok();
        let links = |dir: &str| {
            let mut links: Vec<_> =
                fs::read_dir(dir).unwrap().filter_map(|entry| link(entry.unwrap().path())).collect();
            links.retain(|target| !target.ends_with("/fd"));
            links.sort();
            links
        };
        Self {
            mounts: fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
            descriptors: links("/proc/thread-self/fd"),
            children: fs::read_to_string("/proc/thread-self/children").unwrap(),
            namespaces: links("/proc/thread-self/ns"),
        }
    }
}
