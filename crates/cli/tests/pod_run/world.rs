//! A directory of its own for each test, the programs under test, and a census of what a run may leave behind.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// One test's place: manifests, images, and the root of its runs.
#[derive(Debug)]
pub(crate) struct World {
    dir: tempfile::TempDir,
    cgroup_root: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pr").rand_bytes(6).tempdir().unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        let world = Self { dir, cgroup_root: format!("/dunnage-{name}") };
        world.busybox("root");
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("r")
    }

    /// A root file system with busybox and the names of its programs.
    pub(crate) fn busybox(&self, name: &str) {
        let bin = self.path(name).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/usr/bin/busybox", bin.join("busybox")).expect("busybox-static is needed");
        let list = Command::new("/usr/bin/busybox").arg("--list").output().unwrap();
        for program in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
            symlink("busybox", bin.join(program)).unwrap();
        }
        std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Writes a manifest of these lines under `spec:`, each container with the busybox root unless it says
    /// otherwise.
    pub(crate) fn manifest(&self, spec: &str) -> PathBuf {
        let path = self.path("pod.yaml");
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: test}}\nspec:\n{spec}");
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn dunnage(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunnage"));
        command.args(words).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    fn run_command(&self, manifest: &Path, shim: &Path) -> Command {
        let mut command = self.dunnage(&["pod", "run", "--root"]);
        command.arg(self.root()).arg("--cgroup-root").arg(&self.cgroup_root).arg(manifest);
        command.arg("--shim").arg(shim);
        command
    }

    /// Runs a pod to its end, and requires that nothing is left of it.
    pub(crate) fn run(&self, spec: &str) -> Run {
        self.run_with(spec, &shim())
    }

    /// The same with another shim.
    pub(crate) fn run_with(&self, spec: &str, shim: &Path) -> Run {
        let run = Run::of(self.run_command(&self.manifest(spec), shim).output().unwrap());
        self.census();
        run
    }

    /// Starts a pod and waits until it has printed `mark` to standard output.
    pub(crate) fn start(&self, spec: &str, mark: &str) -> Started {
        let output = self.path("output");
        let file = std::fs::File::create(&output).unwrap();
        let errors = std::fs::File::create(self.path("errors")).unwrap();
        let mut command = self.run_command(&self.manifest(spec), &shim());
        let child = command.stdout(file).stderr(errors).spawn().unwrap();
        let started = Started { child, output, errors: self.path("errors") };
        until(&format!("{mark:?} in the output"), || started.printed().contains(mark));
        started
    }

    /// Starts a pod with its output in pipes.
    pub(crate) fn piped(&self, spec: &str) -> Child {
        let mut command = self.run_command(&self.manifest(spec), &shim());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Requires that no process, mount, cgroup or file of this world's runs is there.
    pub(crate) fn census(&self) {
        let root = self.root().display().to_string();
        until("no process of the run", || processes_with(&root).is_empty());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&root)).collect();
        assert!(left.is_empty(), "mounts: {left:?}");
        let runs: Vec<_> =
            std::fs::read_dir(self.root().join("pods")).map(Iterator::collect).unwrap_or_default();
        let names: Vec<_> =
            runs.into_iter().map(|entry: Result<std::fs::DirEntry, _>| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| name == ".lock"), "runs: {names:?}");
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
    }

    /// The cgroups of this world in every hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let name = self.cgroup_root.trim_start_matches('/');
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap();
        let inside = hierarchies.map(|entry| entry.unwrap().path().join(name));
        inside.chain([Path::new("/sys/fs/cgroup").join(name)]).filter(|path| path.is_dir()).collect()
    }

    pub(crate) fn cgroup_root(&self) -> &str {
        &self.cgroup_root
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // After a failed test: whatever is there goes, or the next test finds it.
        let _ = self.dunnage(&["pod", "clean", "--root"]).arg(self.root()).output();
    }
}

/// The shim of this build.
pub(crate) fn shim() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_dunnage")).with_file_name("containerd-shim-dunnage-v1");
    if !path.exists() {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let built = Command::new(cargo).args(["build", "-p", "dunnage-shim"]).status().unwrap();
        assert!(built.success(), "the shim is needed and cannot be built");
    }
    path
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Requires this code, and shows everything when it is another.
    pub(crate) fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} is not in:\n{}", self.stderr);
        self
    }

    pub(crate) fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "{text:?} is not in:\n{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// A run on its way.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    output: PathBuf,
    errors: PathBuf,
}

impl Started {
    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    pub(crate) fn end(mut self) -> Run {
        let status = self.child.wait().unwrap();
        Run { code: status.code().unwrap_or(-1), stdout: self.printed(), stderr: self.said() }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes that have `text` in their command line, other than this one.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let matches = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != own && String::from_utf8_lossy(&line).contains(text)
    };
    pids.filter(matches).collect()
}

/// Waits for something to become true.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
