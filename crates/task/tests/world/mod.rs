//! Bundles on a temporary directory, a sandbox of their own, and what must be gone at the end.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};

use dunnage_spec::{ContainerId, Process};
use dunnage_sys::mount;
use dunnage_sys::namespace::{self, Kinds};
use dunnage_task::command::{Create, Exec, Reply};
use dunnage_task::leftover::{self, Leftover};
use dunnage_task::record::Store;
use dunnage_task::rootfs::RootfsMount;
use dunnage_task::stdio::StdioPaths;
use dunnage_task::{Command, Event, Handle, Host, Result, Stamped, Target};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Runs the story on one thread, as the shim does.
pub(crate) fn run(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(std::time::Duration::from_secs(120), story)
            .await
            .expect("the story ended in time");
    });
}

pub(crate) struct World {
    sandbox: Handle,
    events: mpsc::UnboundedReceiver<Stamped>,
    directory: tempfile::TempDir,
    cgroup: String,
    store: Store,
}

impl World {
    pub(crate) fn new() -> Self {
        // The census counts mounts: those that other tests make at the same time must stay outside.
        namespace::unshare(Kinds::MOUNT).unwrap();
        mount::set_propagation(fs::File::open("/").unwrap(), mount::Propagation::Private, true).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(&directory.path().join("run"), &"test".parse().unwrap());
        let (sink, events) = mpsc::unbounded_channel();
        let (sandbox, _) = dunnage_task::spawn(Host::detect(store.clone()).unwrap(), sink);
        let name = directory.path().file_name().unwrap().to_str().unwrap().replace('.', "");
        Self { sandbox, events, cgroup: format!("/dunnage-task-{name}"), directory, store }
    }

    pub(crate) async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        self.sandbox.ask(make).await
    }

    pub(crate) fn container(&self, name: &str, args: &[&str]) -> ContainerId {
        self.container_with(name, args, |_| ())
    }

    /// Writes a bundle; `change` edits its `config.json`.
    pub(crate) fn container_with(
        &self,
        name: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> ContainerId {
        let bundle = self.bundle(name);
        busybox(&bundle.join("rootfs"));
        let mut config = config(args, &format!("{}/{name}", self.cgroup));
        change(&mut config);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        name.parse().unwrap()
    }

    /// A bundle with most of what a pod's container has: a plan with many steps.
    pub(crate) fn container_like_a_pods(&self, name: &str, args: &[&str]) -> ContainerId {
        self.container_with(name, args, |config| {
            config["process"]["noNewPrivileges"] = true.into();
            config["process"]["capabilities"] = json!({ "bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"] });
            config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 64, "hard": 64 }]);
            config["root"]["readonly"] = true.into();
            let mounts = config["mounts"].as_array_mut().unwrap();
            let pts = json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666", "mode=0620"] });
            let sys = json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"] });
            let tmp = json!({ "destination": "/tmp", "type": "bind", "source": "/tmp", "options": ["rbind", "ro"] });
            mounts.extend([pts, sys, tmp]);
            let linux = &mut config["linux"];
            linux["maskedPaths"] = json!(["/proc/kcore", "/sys/firmware"]);
            linux["readonlyPaths"] = json!(["/proc/sys", "/proc/bus"]);
            linux["resources"]["pids"] = json!({ "limit": 20 });
        })
    }

    /// How many steps the plan of a bundle has.
    pub(crate) fn steps(&self, id: &ContainerId) -> u16 {
        let bundle = dunnage_spec::Bundle::load(&self.bundle(id.as_str()), id).unwrap();
        let facts = dunnage_task::host::facts(&dunnage_cgroup::Layout::detect().unwrap());
        let own = dunnage_plan::RootfsFacts { keyring: Some("_ses".into()), ..Default::default() };
        let plan = dunnage_plan::lower(&bundle.spec, &facts, &own, &mut Default::default()).unwrap();
        plan.steps.len().try_into().unwrap()
    }

    pub(crate) async fn create(&self, id: &ContainerId) -> Result<u32> {
        self.create_on(id, Vec::new()).await
    }

    pub(crate) async fn create_on(&self, id: &ContainerId, rootfs: Vec<RootfsMount>) -> Result<u32> {
        let stdout = self.bundle(id.as_str()).join("stdout").display().to_string();
        self.create_from(id, rootfs, stdout).await
    }

    pub(crate) async fn create_with_stdout(&self, id: &ContainerId, stdout: &str) -> Result<u32> {
        self.create_from(id, Vec::new(), stdout.to_owned()).await
    }

    async fn create_from(&self, id: &ContainerId, rootfs: Vec<RootfsMount>, stdout: String) -> Result<u32> {
        let create = Create {
            id: id.clone(),
            bundle: self.bundle(id.as_str()),
            rootfs,
            stdio: StdioPaths { stdout, ..StdioPaths::default() },
            no_new_keyring: false,
        };
        self.ask(|reply| Command::Create(Box::new(create), reply)).await
    }

    /// A fifo for a container's output.
    pub(crate) fn fifo(&self, id: &ContainerId) -> PathBuf {
        let fifo = self.bundle(id.as_str()).join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        fifo
    }

    pub(crate) async fn exec(&self, target: &Target, args: &[&str]) {
        self.exec_with_stdout(target, args, "").await;
    }

    pub(crate) async fn exec_with_stdout(&self, target: &Target, args: &[&str], stdout: &str) {
        let stdio = StdioPaths { stdout: stdout.to_owned(), ..StdioPaths::default() };
        let exec = Exec {
            id: target.id.clone(),
            exec: target.exec.clone().unwrap(),
            process: exec_process(args),
            stdio,
        };
        self.ask(|reply| Command::Exec(Box::new(exec), reply)).await.unwrap();
        self.ask(|reply| Command::Start(target.clone(), reply)).await.unwrap();
    }

    pub(crate) fn stdout(&self, id: &ContainerId) -> String {
        fs::read_to_string(self.bundle(id.as_str()).join("stdout")).unwrap()
    }

    /// What was told since the last call.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|stamped| stamped.event).collect()
    }

    pub(crate) fn take_down_leftover(&self, id: &ContainerId) -> Result<Option<Leftover>> {
        leftover::take_down(&self.store, id)
    }

    /// No record, no mount and no cgroup with this world's name.
    pub(crate) fn nothing_is_left(&self) {
        let records = self.directory.path().join("run/test");
        let left: Vec<_> = fs::read_dir(&records).into_iter().flatten().collect();
        assert!(left.is_empty(), "records: {left:?}");
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let here = self.directory.path().to_str().unwrap();
        assert!(!mounts.contains(here), "mounts below {here}");
        for hierarchy in cgroups() {
            let parent = hierarchy.join(self.cgroup.trim_start_matches('/'));
            let left: Vec<_> = fs::read_dir(&parent)
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok())
                .filter(|entry| entry.path().is_dir())
                .collect();
            assert!(left.is_empty(), "cgroups: {left:?}");
        }
    }

    fn bundle(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// What of the machine a container could leave behind.
#[derive(Debug, PartialEq)]
pub(crate) struct Census {
    mounts: Vec<String>,
    cgroups: Vec<PathBuf>,
    files: Vec<PathBuf>,
    has_children: bool,
    descriptors: Vec<String>,
    namespaces: Vec<PathBuf>,
}

impl Census {
    pub(crate) fn take(world: &World) -> Self {
        // The test is a thread, and a thread has its own mount namespace once it unshares.
        let own = PathBuf::from("/proc/thread-self");
        let mut cgroups = Vec::new();
        for hierarchy in self::cgroups() {
            walk(&hierarchy.join(world.cgroup.trim_start_matches('/')), &mut cgroups);
        }
        let mut files = Vec::new();
        walk(&world.directory.path().join("run"), &mut files);
        let descriptors = fs::read_dir(own.join("fd")).unwrap().filter_map(|entry| {
            let entry = entry.ok()?;
            Some(format!("{:?}", fs::read_link(entry.path()).ok()?))
        });
        // The directory being read is a descriptor too, under a number that does not matter.
        let mut descriptors: Vec<_> = descriptors.filter(|link| !link.contains("/proc/")).collect();
        descriptors.sort();
        let namespaces = ["net", "mnt", "pid_for_children", "cgroup"];
        Self {
            mounts: fs::read_to_string("/proc/thread-self/mountinfo")
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect(),
            cgroups,
            files,
            // ECHILD: nobody, dead or alive.
            has_children: dunnage_sys::process::any_zombie().is_ok(),
            descriptors,
            namespaces: namespaces.map(|kind| fs::read_link(own.join("ns").join(kind)).unwrap()).to_vec(),
        }
    }

    pub(crate) fn require_equal(&self, before: &Self, when: &str) {
        assert_eq!(self.mounts, before.mounts, "mounts {when}");
        assert_eq!(self.cgroups, before.cgroups, "cgroups {when}");
        assert_eq!(self.files, before.files, "files {when}");
        assert_eq!(self.has_children, before.has_children, "processes {when}");
        assert_eq!(self.descriptors, before.descriptors, "descriptors {when}");
        assert_eq!(self.namespaces, before.namespaces, "namespaces {when}");
    }
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(directory).into_iter().flatten().filter_map(|entry| entry.ok()).collect();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        // Control files come and go with their directory.
        if entry.path().is_dir() || !directory.starts_with("/sys") {
            found.push(entry.path());
        }
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), found);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The parent of the containers' cgroups is the test's own, as a pod's is the kubelet's.
        for hierarchy in cgroups() {
            let _ = fs::remove_dir(hierarchy.join(self.cgroup.trim_start_matches('/')));
        }
    }
}

pub(crate) fn name(event: &Event) -> &'static str {
    match event {
        Event::Created { .. } => "created",
        Event::Started { .. } => "started",
        Event::ExecAdded { .. } => "exec-added",
        Event::ExecStarted { .. } => "exec-started",
        Event::Oom { .. } => "oom",
        Event::Exited { .. } => "exited",
        Event::Paused { .. } => "paused",
        Event::Resumed { .. } => "resumed",
        Event::Deleted { .. } => "deleted",
    }
}

pub(crate) fn exec_process(args: &[&str]) -> Process {
    let process = json!({ "args": args, "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"] });
    Process::from_json(process.to_string().as_bytes()).unwrap()
}

fn cgroups() -> Vec<PathBuf> {
    let mut hierarchies: Vec<_> = fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .filter_map(|entry| entry.ok())
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    hierarchies.push(PathBuf::from("/sys/fs/cgroup"));
    hierarchies
}

fn busybox(rootfs: &Path) {
    for directory in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
    for applet in ["sh", "true", "sleep", "test", "echo"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
}

fn config(args: &[&str], cgroup: &str) -> Value {
    let namespaces: Vec<_> =
        ["pid", "mount", "ipc", "uts", "network"].iter().map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": { "args": args, "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"] },
        "root": { "path": "rootfs" },
        "hostname": "test",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
        ],
        "linux": { "namespaces": namespaces, "cgroupsPath": cgroup, "resources": {} },
    })
}
