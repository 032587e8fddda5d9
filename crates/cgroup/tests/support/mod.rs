//! A cgroup of its own for each test, below `/dunnage-test-<pid>`, and processes to put into it.
//!
//! Tests run on whatever this machine has: v1, hybrid or v2. What only another kind of machine can show stands
//! aside and says so; `make e2e-vm CRATES=1` shows it on the others.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, missing_debug_implementations, reason = "only tests use it")]
#![allow(clippy::print_stdout, reason = "a test that stands aside says why")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dunnage_cgroup::{Cgroup, Hierarchy, Layout, Mode, Pid, Removal};
use dunnage_spec::Resources;
use dunnage_spec::resources::CgroupPath;

/// A layout, and a parent directory in it that is removed with all below it when the test ends.
pub struct World {
    pub layout: Layout,
    pub parent: String,
}

impl World {
    /// All hierarchies of this machine.
    pub fn new() -> Self {
        Self::only(|_| true)
    }

    /// The v1 hierarchies alone, as on a legacy machine; none on a v2 machine.
    pub fn legacy() -> Option<Self> {
        Self::or_say(Self::some(|hierarchy| !hierarchy.is_unified()), "it has no cgroup v1")
    }

    /// The unified hierarchy alone. On a hybrid machine it has no controllers, on a legacy one there is none.
    pub fn unified() -> Option<Self> {
        Self::or_say(Self::some(Hierarchy::is_unified), "it has no cgroup v2")
    }

    /// All kinds of machine that this one can be taken for.
    pub fn each() -> Vec<Self> {
        let parts = [Self::some(|hierarchy| !hierarchy.is_unified()), Self::some(Hierarchy::is_unified)];
        std::iter::once(Self::new()).chain(parts.into_iter().flatten()).collect()
    }

    /// A machine with v1 and v2.
    pub fn hybrid() -> Option<Self> {
        let world = Self::new();
        let hybrid = world.layout.mode() == Mode::Hybrid;
        Self::or_say(hybrid.then_some(world), "it has not both versions of cgroups")
    }

    fn only(keep: impl Fn(&Hierarchy) -> bool) -> Self {
        let layout = Layout::detect().unwrap().only(keep).unwrap();
        Self { layout, parent: format!("/dunnage-test-{}", std::process::id()) }
    }

    fn some(keep: impl Fn(&Hierarchy) -> bool) -> Option<Self> {
        let has = Layout::detect().unwrap().hierarchies().iter().any(|hierarchy| keep(hierarchy));
        has.then(|| Self::only(keep))
    }

    fn or_say(world: Option<Self>, why_not: &str) -> Option<Self> {
        if world.is_none() {
            say(why_not);
        }
        world
    }

    pub fn path(&self, name: &str) -> CgroupPath {
        CgroupPath::Cgroupfs(PathBuf::from(format!("{}/{name}", self.parent)))
    }

    pub fn create(&self, name: &str, resources: &Resources) -> Cgroup {
        Cgroup::create(&self.layout, &self.path(name), resources).unwrap().0
    }

    /// Every directory of the test in every hierarchy, relative to the parent's; empty when there is none.
    pub fn census(&self) -> Vec<String> {
        let mut found = Vec::new();
        for hierarchy in self.layout.hierarchies() {
            let top = hierarchy.mount_point().join(&self.parent[1..]);
            let mut dirs = if top.is_dir() { vec![top.clone()] } else { Vec::new() };
            while let Some(dir) = dirs.pop() {
                let entries = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
                dirs.extend(entries.filter(|entry| entry.is_dir()));
                let path = dir.strip_prefix(hierarchy.mount_point()).unwrap();
                found.push(format!("{}:{}", hierarchy.name(), path.display()));
            }
        }
        found.sort();
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(parent) =
            Cgroup::open(&self.layout, &CgroupPath::Cgroupfs(self.parent.clone().into())).unwrap()
        {
            parent.thaw().unwrap();
            parent.kill().unwrap();
            let end = Instant::now() + Duration::from_secs(30);
            while parent.remove().unwrap() == Removal::Busy && Instant::now() < end {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Says why a test stands aside.
pub fn say(why_not: &str) {
    println!("not on this machine: {why_not}");
}

/// A child that is killed and reaped with the test.
pub struct Process {
    pub child: Child,
    out: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Does nothing for a long time.
    pub fn sleeping() -> Self {
        Self { child: Command::new("sleep").arg("1000").spawn().unwrap(), out: None }
    }

    /// Perl, which Debian has always: started, and waiting for [`Process::go`] with its standard input so that it
    /// can be put into a cgroup before it does anything.
    pub fn perl(code: &str) -> Self {
        let code = format!("$| = 1; print \"started\\n\"; <STDIN>; {code}");
        let mut command = Command::new("perl");
        command.args(["-MPOSIX", "-e", &code]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().map(BufReader::new);
        let mut process = Self { child, out };
        assert_eq!(process.line(), "started\n");
        process
    }

    /// Uses all the time it gets.
    pub fn busy() -> Self {
        let mut process = Self::perl("1 while 1");
        process.go();
        process
    }

    pub fn go(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    /// The next line it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// The lines of `/proc/<pid>/cgroup`.
    pub fn memberships(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.child.id())).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The signal that ended it, if one did.
    pub fn wait_signal(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        self.child.wait().unwrap().signal()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits, for a busy machine's time, until something is true.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < end, "{what} did not happen");
        thread::sleep(Duration::from_millis(5));
    }
}
