//! Undoing a run, wherever it had got to: the one way out for success, failure, panic and the next run after a
//! kill -9.
//!
//! The order is the reverse of making: the shim ends, its `delete` takes down what its containers have left,
//! whoever is still in the pod's cgroup is killed, then network, mounts and files go. Every step may find its
//! work done already, and a step that fails does not keep the later ones from being tried.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dunnage_cgroup::{Cgroup, Layout, Removal};
use dunnage_spec::resources::CgroupPath;
use dunnage_sys::pidfd::{self, Pid, Signal};
use dunnage_sys::{classic_mount, tree};

use super::folder::{Folder, Process, Record, Runs};
use super::{network, shim};

/// What killed processes and their shim are given to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
/// The start of a shim forks and executes three times: this program, `start`, the serving process.
const LOOKS: u32 = 6;
/// containerd's own limit for `delete`.
const DELETE_LIMIT: Duration = Duration::from_secs(5);

/// A run that is undone when this goes out of scope.
#[derive(Debug)]
pub(crate) struct Guard {
    root: PathBuf,
    pub(crate) folder: Folder,
    pub(crate) record: Record,
    done: bool,
}

impl Guard {
    pub(crate) fn new(root: &Path, folder: Folder, record: Record) -> Self {
        Self { root: root.to_owned(), folder, record, done: false }
    }

    /// Undoes the run before a panic ends the program: release builds abort, so nothing is dropped.
    pub(crate) fn undo_on_panic(&self) {
        let (folder, record) = (self.folder.clone(), self.record.clone());
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            // Without the lock, which the thread that panics may hold.
            if let Err(error) = undo(&folder, Some(&record)) {
                crate::output::warn(format_args!("{error:#}"));
            }
        }));
    }

    /// Undoes the run now.
    ///
    /// # Errors
    /// All that could not be undone.
    pub(crate) fn undo(mut self) -> anyhow::Result<()> {
        self.undo_once()
    }

    fn undo_once(&mut self) -> anyhow::Result<()> {
        self.done = true;
        let _locked = Runs::lock(&self.root)?;
        undo(&self.folder, Some(&self.record))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = self.undo_once()
        {
            crate::output::warn(format_args!("{error:#}"));
        }
    }
}

/// Undoes every run below `root` whose owner is gone; gives the names of their pods.
///
/// # Errors
/// The directory of runs cannot be read, or something could not be undone.
pub(crate) fn sweep(runs: &Runs) -> anyhow::Result<Vec<String>> {
    let mut swept = Vec::new();
    let mut failures = Vec::new();
    for (folder, record) in runs.list()? {
        if record.as_ref().is_some_and(Record::owner_lives) {
            continue;
        }
        match undo(&folder, record.as_ref()) {
            Ok(()) => {
                swept.push(record.map_or_else(|| folder.path().display().to_string(), |record| record.pod));
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    if failures.is_empty() { Ok(swept) } else { bail!(failures.join("; ")) }
}

/// Undoes one run. Without a record nothing was made outside its directory. The lock on all runs should be
/// held: directories that runs share are removed when they are empty, which another may be about to fill.
fn undo(folder: &Folder, record: Option<&Record>) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    let mut attempt = |step: anyhow::Result<()>| {
        if let Err(error) = step {
            failures.push(format!("{error:#}"));
        }
    };
    if let Some(record) = record {
        // First, so that nothing is made while the rest is taken down; `delete` is for what a dead shim has
        // left.
        attempt(end_shim(folder));
        for id in folder.bundles() {
            attempt(shim::delete(&record.shim, folder, &id, DELETE_LIMIT));
        }
        attempt(remove_cgroups(record));
        if record.network {
            attempt(network::detach(&record.uid, folder));
        }
    }
    attempt(unmount_below(folder.path()));
    // What is still mounted there is not entered, and keeps the directory.
    attempt(tree::remove_all(folder.path()).map_err(Into::into));
    if failures.is_empty() {
        return Ok(());
    }
    bail!("left behind by pod {}: {}", record.map_or("?", |record| &record.pod), failures.join("; "));
}

/// Ends every process of the shim: one that serves, and one that is only being started and would serve later.
///
/// A shim has a path on its command line that only this run has. A process that was forked from this program
/// and has not executed the shim yet still looks like this program, but has this run's files open. One look
/// can miss a process that hands over to its child, or is executing, just then; so nobody must be found as
/// often as a start has such moments.
fn end_shim(folder: &Folder) -> anyhow::Result<()> {
    let mut in_vain = 0;
    wait_until(|| {
        let found: Vec<Process> = processes().filter(|process| belongs(process, folder)).collect();
        found.iter().for_each(kill);
        in_vain = if found.is_empty() { in_vain + 1 } else { 0 };
        in_vain == LOOKS
    })
    .with_context(|| format!("end the shim of {}", folder.path().display()))
}

fn belongs(process: &Process, folder: &Folder) -> bool {
    let entry = PathBuf::from(format!("/proc/{}", process.pid));
    let address = folder.daemon_socket();
    let line = std::fs::read(entry.join("cmdline")).unwrap_or_default();
    if line.split(|b| *b == 0).any(|word| word == address.as_os_str().as_bytes()) {
        return true;
    }
    let program = |link: &Path| std::fs::read_link(link).unwrap_or_default();
    process.pid != std::process::id()
        && program(&entry.join("exe")) == program(Path::new("/proc/self/exe"))
        && has_open_below(&entry.join("fd"), folder.path())
}

fn has_open_below(descriptors: &Path, folder: &Path) -> bool {
    let Ok(list) = std::fs::read_dir(descriptors) else { return false };
    list.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(folder)))
}

/// Every process that has not ended.
fn processes() -> impl Iterator<Item = Process> {
    let list = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    list.filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?))
}

fn kill(process: &Process) {
    let number = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let Some(Ok(pidfd)) = number.map(pidfd::open) else { return };
    // Looked at again now that the number cannot be used anew.
    if process.lives() {
        // One that has ended meanwhile is not found any more.
        let _ = pidfd::send_signal(&pidfd, Signal::KILL);
    }
}

fn remove_cgroups(record: &Record) -> anyhow::Result<()> {
    let layout = Layout::detect()?;
    let path = CgroupPath::Cgroupfs(PathBuf::from(&record.cgroup_parent));
    if let Some(cgroup) = Cgroup::open(&layout, &path)? {
        cgroup.kill()?;
        let gone = || matches!(cgroup.remove(), Ok(Removal::Gone));
        if wait_until(gone).is_err() {
            cgroup.remove()?;
            bail!("cgroup {} is still in use", record.cgroup_parent);
        }
    }
    remove_empty_parents(&layout, record);
    Ok(())
}

/// The levels above pods belong to all runs; the last one to leave takes them along.
fn remove_empty_parents(layout: &Layout, record: &Record) {
    let root = Path::new(&record.cgroup_root);
    let above = Path::new(&record.cgroup_parent).ancestors().skip(1);
    for level in above.take_while(|level| level.starts_with(root) && level.parent().is_some()) {
        let Ok(relative) = level.strip_prefix("/") else { continue };
        for hierarchy in layout.hierarchies() {
            // In use or not empty is the normal case; either way there is nothing to do.
            let _ = hierarchy.root().remove_dir(relative);
        }
    }
}

/// Unmounts whatever is mounted below `path`, the latest first.
fn unmount_below(path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    for target in mounts_below(&text, path).into_iter().rev() {
        classic_mount::unmount(&target)?;
    }
    Ok(())
}

/// Mount points below `path`, in the order they were mounted (proc_pid_mountinfo(5), field 5).
fn mounts_below(mountinfo: &str, path: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points.filter(|point| point.starts_with(path)).collect()
}

/// Space, tab, newline and backslash are written in octal.
fn unescape(field: &str) -> PathBuf {
    let plain = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    PathBuf::from(plain.replace("\\134", "\\"))
}

fn wait_until(mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            bail!("not within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_below_a_path_and_not_beside_it() {
        let text = "1 0 0:1 / /run/a rw - tmpfs t rw\n2 1 0:2 / /run/a/x\\040y rw - tmpfs t rw\n3 1 0:3 / /run/ab rw \
                    - tmpfs t rw\n4 1 0:4 / /run/a/x\\040y/z rw - tmpfs t rw\n";
        let found = mounts_below(text, Path::new("/run/a"));
        assert_eq!(found, ["/run/a", "/run/a/x y", "/run/a/x y/z"].map(PathBuf::from));
    }

    #[test]
    fn a_run_of_a_dead_process_is_undone_with_its_mounts_and_files() {
        let root = tempfile::tempdir().unwrap();
        let runs = Runs::lock(root.path()).unwrap();
        let uid = "0badcafe-0000";
        let record = Record::new(
            "dead",
            uid,
            ("/dunnage-test-none", "/dunnage-test-none/p"),
            false,
            Path::new("/none"),
        );
        let folder = runs.create(&record).unwrap();
        let mount = folder.join("volumes/m");
        std::fs::create_dir(&mount).unwrap();
        classic_mount::mount("tmpfs", &mount, "tmpfs", classic_mount::Flags::empty(), "").unwrap();
        assert!(sweep(&runs).unwrap().is_empty(), "its owner is this process");
        let text = std::fs::read_to_string(folder.join("run.json")).unwrap();
        let dead = text.replace("\"start_time\":", "\"start_time\":9");
        std::fs::write(folder.join("run.json"), dead).unwrap();
        assert_eq!(sweep(&runs).unwrap(), ["dead"]);
        assert!(!folder.path().exists());
        assert!(
            mounts_below(&std::fs::read_to_string("/proc/self/mountinfo").unwrap(), folder.path()).is_empty()
        );
    }

    #[test]
    fn a_panic_undoes_the_run_before_the_program_ends() {
        let root = tempfile::tempdir().unwrap();
        let record = Record::new(
            "p",
            "0badcafe-0001",
            ("/dunnage-test-none", "/dunnage-test-none/p"),
            false,
            Path::new("/none"),
        );
        let folder = Runs::lock(root.path()).unwrap().create(&record).unwrap();
        let guard = Guard::new(root.path(), folder.clone(), record);
        guard.undo_on_panic();
        // As in a release build, where nothing is dropped.
        std::mem::forget(guard);
        std::thread::spawn(|| panic!("on purpose")).join().unwrap_err();
        assert!(!folder.path().exists());
    }
}
