//! One container's directories in every hierarchy, from before its first process to after its last.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dunnage_spec::Resources;
use dunnage_spec::resources::CgroupPath;
use dunnage_sys::kernfs::Dir;
use dunnage_sys::pidfd::Pid;
use dunnage_sys::{Call, Errno};

use crate::controller::Controller;
use crate::error::{Error, ErrorKind, Refused, Result};
use crate::layout::{Hierarchy, Layout};
use crate::path::Place;
use crate::stats::{self, Stats};
use crate::systemd::{self, Scope, UnitStart};
use crate::{path, tree};

/// A container's cgroup: one open directory in each hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    layout: Layout,
    path: PathBuf,
    /// In the order of the layout's hierarchies.
    dirs: Vec<Dir>,
    stats: Mutex<stats::Reader>,
    /// The unit of systemd that this is, or will be.
    scope: Option<Scope>,
}

/// What a mount of `/sys/fs/cgroup` inside the container is made of: one entry for each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSource {
    /// The directory's name below `/sys/fs/cgroup`, such as `cpu,cpuacct`; empty when there is only one tree.
    pub name: String,
    /// The container's own directory as the host sees it.
    pub path: PathBuf,
    /// Symbolic links to `name` beside it, such as `cpu` and `cpuacct`.
    pub links: Vec<String>,
    /// Whether it is cgroup v2.
    pub unified: bool,
}

impl Cgroup {
    /// Makes the directories, top-down, and writes limits and device rules before anybody is inside. An existing
    /// directory is used when it is empty and not frozen. The second value is what was refused and did not
    /// have to be.
    ///
    /// # Errors
    /// [`Error`]; whatever was made is gone again then.
    pub fn create(layout: &Layout, path: &CgroupPath, resources: &Resources) -> Result<(Self, Vec<Refused>)> {
        let place = path::resolve(path)?;
        if place.unit.is_none() {
            return Self::make(layout, place, resources);
        }
        if !layout.is_unified() {
            return Err(Error::Unimplemented("systemd cgroup driver on cgroup v1"));
        }
        // When the last scope of a slice has ended, systemd takes the slice's controllers away, perhaps just now.
        // Those that it knows it gives back for good when our unit starts.
        let mut pause = Duration::from_millis(1);
        loop {
            match Self::make(layout, place.clone(), resources) {
                Err(error)
                    if pause < Duration::from_millis(50)
                        && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unimplemented) =>
                {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                Err(error) => return Err(error),
                Ok((cgroup, mut refused)) => {
                    refused.retain(|refused| refused.errno != Errno::NOENT || !tree::is_enabling(refused));
                    return Ok((cgroup, refused));
                }
            }
        }
    }

    fn make(layout: &Layout, place: Place, resources: &Resources) -> Result<(Self, Vec<Refused>)> {
        let Place { path, unit } = place;
        let mut made = tree::Made::new(layout);
        let mut refused = Vec::new();
        let mut dirs = Vec::with_capacity(layout.hierarchies().len());
        let mut fresh = true;
        for (index, hierarchy) in layout.hierarchies().iter().enumerate() {
            let new = made.make(index, &path)?;
            let place = || format!("open {}", hierarchy.mount_point().join(&path).display());
            let dir = hierarchy.root().open_dir(&path).call(place)?;
            if !new {
                refuse_used(&dir, &path)?;
                fresh = false;
            }
            if layout.is_unified() {
                refused = tree::enable(hierarchy, path.parent().unwrap_or(Path::new("")));
            }
            if hierarchy.controllers().contains(&Controller::Cpuset) {
                let given = |list: &Option<String>| list.as_ref().is_some_and(|list| !list.is_empty());
                let given = [given(&resources.cpu.cpus), given(&resources.cpu.mems)];
                tree::fill_cpuset(hierarchy, &path, given)?;
            }
            dirs.push(dir);
        }
        let scope = unit.map(|(slice, unit)| {
            let scope = Scope::new(slice, unit, false);
            let root = layout.hierarchies().last().map(|hierarchy| hierarchy.root());
            match root.zip(path.parent()).map(|(root, slice)| root.open_dir(slice)) {
                Some(Ok(slice)) => scope.tally(&path, slice),
                _ => scope,
            }
        });
        let cgroup = Self { layout: layout.clone(), path, dirs, stats: Mutex::default(), scope };
        cgroup.limit(resources, fresh, &mut refused)?;
        made.keep();
        Ok((cgroup, refused))
    }

    /// The directories of a container whose shim is gone; `None` when there is none in any hierarchy. A hierarchy
    /// without the directory is left out, so that what remains can be killed and removed.
    ///
    /// # Errors
    /// [`Error::Kernel`] when one is there and cannot be opened.
    pub fn open(layout: &Layout, path: &CgroupPath) -> Result<Option<Self>> {
        let Place { path, unit } = path::resolve(path)?;
        let mut dirs = Vec::with_capacity(layout.hierarchies().len());
        let mut kept = Vec::new();
        for hierarchy in layout.hierarchies() {
            match hierarchy.root().open_dir(&path) {
                Ok(dir) => {
                    dirs.push(dir);
                    kept.push(hierarchy.mount_point());
                }
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    let place = hierarchy.mount_point().join(&path);
                    return Err(dunnage_sys::Error::new(format!("open {}", place.display()), errno).into());
                }
            }
        }
        if dirs.is_empty() {
            return Ok(None);
        }
        let layout = layout.only(|hierarchy| kept.contains(&hierarchy.mount_point()))?;
        let has_unit = || {
            let hierarchy = layout.hierarchies().last();
            hierarchy.is_some_and(|hierarchy| systemd::has_unit(&hierarchy.mount_point().join(&path)))
        };
        let scope = unit.map(|(slice, unit)| Scope::new(slice, unit, has_unit()));
        Ok(Some(Self { layout, path, dirs, stats: Mutex::default(), scope }))
    }

    /// The path relative to the root of every hierarchy, without a leading `/`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory for `CLONE_INTO_CGROUP`: the only one on v2, the unified one on hybrid, none on legacy.
    #[must_use]
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        let last = self.layout.hierarchies().last()?;
        if last.is_unified() { self.dirs.last().map(AsFd::as_fd) } else { None }
    }

    /// What the container's own mount of `/sys/fs/cgroup` shows, the unified tree last.
    #[must_use]
    pub fn mount_sources(&self) -> Vec<MountSource> {
        let source = |hierarchy: &Arc<Hierarchy>| MountSource {
            name: if self.layout.is_unified() { String::new() } else { hierarchy.name().to_owned() },
            path: hierarchy.mount_point().join(&self.path),
            links: match hierarchy.name().split_once(',') {
                Some(_) => hierarchy.name().split(',').map(str::to_owned).collect(),
                None => Vec::new(),
            },
            unified: hierarchy.is_unified(),
        };
        self.layout.hierarchies().iter().map(source).collect()
    }

    /// Tells systemd to make the unit around a process that is in the cgroup already, when the path wants a unit.
    /// The process may go on meanwhile, since all limits hold; it must not be started before
    /// [`Cgroup::settle`].
    ///
    /// # Errors
    /// [`Error::Systemd`] when systemd cannot be reached.
    pub fn start_unit(&self, pid: Pid) -> Result<Option<UnitStart>> {
        self.scope.as_ref().map(|scope| scope.start(pid)).transpose()
    }

    /// Once the unit runs: sees to it that the process is where it was, and that the files say what they said.
    /// Gives what systemd did not know. Without a unit, nothing.
    ///
    /// # Errors
    /// systemd has moved the process to another cgroup, or a value cannot be written.
    pub fn settle(&self, pid: u32) -> Result<Vec<Refused>> {
        let Some(scope) = &self.scope else { return Ok(Vec::new()) };
        let member = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if !self.pids()?.iter().any(|other| Some(*other) == member) && lives(pid) {
            return Err(Error::Invalid(format!(
                "systemd has another cgroup than {} for the unit",
                self.path.display()
            )));
        }
        self.write_again(scope)?;
        // So that there is a reading whatever comes.
        self.keep_counters();
        Ok(scope.take_unknown())
    }

    /// Reads the counters for the last time before systemd takes the directory away, which it does when the last
    /// process has ended. Without a unit, nothing: the directory stays until it is removed here.
    pub fn keep_counters(&self) {
        if self.scope.is_some() {
            // Both keep what they read.
            let _ = (self.oom_kills(), self.stats());
        }
    }

    /// Everything the statistics messages of containerd have; an absent file is an absent value. Descriptors
    /// stay open between calls.
    #[must_use]
    pub fn stats(&self) -> Stats {
        // A panic while reading leaves nothing half-done that the next reading would trust.
        let mut reader = self.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dir = |controller| self.dir(controller);
        let stats =
            if self.layout.is_unified() { Stats::V2(reader.v2(&dir)) } else { Stats::V1(reader.v1(&dir)) };
        match &self.scope {
            None => stats,
            // Looked at after the reading, so that half a reading is never kept.
            Some(scope) if self.is_there() => {
                scope.keep_stats(&stats);
                stats
            }
            Some(scope) => scope.kept_stats().unwrap_or(stats).with_oom_kills(self.oom_kills()),
        }
    }

    /// Whether the directory has not been removed.
    fn is_there(&self) -> bool {
        self.unified().is_none_or(|dir| dir.read("cgroup.events", &mut Vec::new()).is_ok())
    }

    pub(crate) fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Each hierarchy with the container's directory in it.
    pub(crate) fn members(&self) -> impl DoubleEndedIterator<Item = (&Hierarchy, &Dir)> {
        self.layout.hierarchies().iter().map(AsRef::as_ref).zip(&self.dirs)
    }

    /// The unified directory, also of a hybrid machine.
    pub(crate) fn unified(&self) -> Option<&Dir> {
        let last = self.layout.hierarchies().last()?;
        if last.is_unified() { self.dirs.last() } else { None }
    }

    /// The directory in the v1 hierarchy of a controller.
    pub(crate) fn v1(&self, controller: Controller) -> Option<&Dir> {
        let mut members = self.members();
        members.find(|(hierarchy, _)| hierarchy.controllers().contains(&controller)).map(|(_, dir)| dir)
    }

    /// Where the files of a controller are, if anywhere.
    pub(crate) fn dir(&self, controller: Controller) -> Option<&Dir> {
        if self.layout.is_unified() { self.dirs.last() } else { self.v1(controller) }
    }

    /// For messages.
    pub(crate) fn host_path(&self, controller: Controller) -> PathBuf {
        let hierarchies = self.layout.hierarchies();
        let of = hierarchies.iter().find(|hierarchy| hierarchy.controllers().contains(&controller));
        of.or_else(|| hierarchies.last()).map_or(self.path.clone(), |of| of.mount_point().join(&self.path))
    }

    pub(crate) fn no_controller(&self, wanted: &str, controller: Controller, blocked: &[Refused]) -> Error {
        let value = format!("+{controller}");
        let reason = blocked.iter().find(|refused| refused.value == value);
        let reason = reason.map_or(String::new(), |refused| {
            let Refused { file, value, errno, .. } = refused;
            format!(": write {value} to {file}: {}", dunnage_sys::error::Named(*errno))
        });
        let reason = if reason.is_empty() && self.is_threaded() {
            ": it is below a threaded cgroup".to_owned()
        } else {
            reason
        };
        let place = self.host_path(controller);
        Error::NoController { wanted: wanted.to_owned(), controller, place, reason }
    }

    /// Whether the kernel allows only CPU controllers here (cgroups(7), "Thread mode").
    fn is_threaded(&self) -> bool {
        let mut text = Vec::new();
        let read = self.unified().is_some_and(|dir| dir.read("cgroup.type", &mut text).is_ok());
        read && matches!(text.trim_ascii(), b"domain invalid" | b"threaded")
    }

    pub(crate) fn number(&self, controller: Controller, file: &str) -> Option<u64> {
        let mut text = Vec::new();
        self.dir(controller)?.read(file, &mut text).ok()?;
        str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
    }
}

/// One that has ended meanwhile is in no cgroup; who waits for it is told of that.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name in parentheses, which may hold anything (proc_pid_stat(5)).
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}

/// An existing directory can be used when nobody is in it and nothing would stop who joins.
fn refuse_used(dir: &Dir, path: &Path) -> Result<()> {
    let (mut text, mut pids) = (Vec::new(), Vec::new());
    tree::processes(dir, &mut text, &mut pids).call(|| format!("read cgroup.procs of {}", path.display()))?;
    if !pids.is_empty() {
        return Err(Error::NotEmpty { path: path.to_path_buf(), processes: pids.len() });
    }
    for (file, frozen) in [("cgroup.freeze", "1"), ("freezer.state", "FROZEN")] {
        // Only one of the two exists, and neither in most hierarchies.
        if dir.read(file, &mut text).is_ok() && text.trim_ascii() == frozen.as_bytes() {
            return Err(Error::Frozen(path.to_path_buf()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use dunnage_spec::resources::Limit;

    use super::*;

    fn container(path: &str) -> CgroupPath {
        CgroupPath::Cgroupfs(path.into())
    }

    fn pids(limit: u64) -> Resources {
        Resources { pids: Some(Limit::To(limit)), ..Resources::default() }
    }

    /// A v2 root of plain files: it offers `available`, and says that all of `enabled` is passed on everywhere.
    fn unified_root(available: &str, enabled: &str, dirs: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), available).unwrap();
        for dir in ["."].iter().chain(dirs) {
            let dir = root.path().join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.subtree_control"), enabled).unwrap();
        }
        root
    }

    fn entries(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_limit_whose_controller_is_missing_names_it_and_leaves_no_directory() {
        let root = unified_root("cpu memory", "cpu memory", &["pod"]);
        let before = (entries(root.path()), entries(&root.path().join("pod")));
        let layout = Layout::fake(&[(&[], root.path())]);
        let error = Cgroup::create(&layout, &container("/pod/deep/er/id"), &pids(5)).unwrap_err();
        assert!(matches!(&error, Error::NoController { controller: Controller::Pids, .. }), "{error}");
        assert!(
            error.to_string().starts_with("pids.max needs the pids controller, which is not enabled in ")
        );
        assert_eq!((entries(root.path()), entries(&root.path().join("pod"))), before);
    }

    #[test]
    fn missing_controllers_are_enabled_in_every_ancestor_by_one_write() {
        let root = unified_root("cpu memory pids", "cpu", &["pods", "pods/pod"]);
        let layout = Layout::fake(&[(&[], root.path())]);
        // Plain files cannot make the controller's files appear, so the limit fails; the enabling is what counts.
        Cgroup::create(&layout, &container("/pods/pod/id"), &pids(5)).unwrap_err();
        for dir in [".", "pods", "pods/pod"] {
            let text = fs::read_to_string(root.path().join(dir).join("cgroup.subtree_control")).unwrap();
            assert_eq!(text, "+memory +pids", "{dir}");
        }
    }

    #[test]
    fn nothing_is_enabled_that_the_parent_passes_on_already() {
        let root = unified_root("cpu memory", "memory cpu", &["pod"]);
        // Written to, it would be a different text.
        fs::write(root.path().join("cgroup.subtree_control"), "").unwrap();
        let hierarchy = Layout::fake(&[(&[], root.path())]);
        assert!(tree::enable(&hierarchy.hierarchies()[0], Path::new("pod")).is_empty());
        assert_eq!(fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap(), "");
    }

    #[test]
    fn every_controller_that_cannot_be_enabled_is_reported() {
        let root = unified_root("cpu memory", "", &[]);
        // Without the file in the parent, every write fails.
        fs::create_dir(root.path().join("pod")).unwrap();
        let layout = Layout::fake(&[(&[], root.path())]);
        let refused = tree::enable(&layout.hierarchies()[0], Path::new("pod"));
        let values: Vec<_> = refused.iter().map(|refused| refused.value.as_str()).collect();
        assert_eq!(values, ["+cpu", "+memory"]);
        assert!(refused.iter().all(|refused| refused.errno == Errno::NOENT));
    }

    #[test]
    fn an_empty_cpuset_is_filled_from_the_nearest_ancestor_that_has_one() {
        let root = tempfile::tempdir().unwrap();
        for (dir, text) in [("", "0-3\n"), ("pods", "\n"), ("pods/pod", "\n"), ("pods/pod/id", "\n")] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(root.path().join(dir).join(file), text).unwrap();
            }
        }
        let layout = Layout::fake(&[(&["cpuset"], root.path())]);
        tree::fill_cpuset(&layout.hierarchies()[0], Path::new("pods/pod/id"), [true, false]).unwrap();
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(read("pods/cpuset.cpus"), "0-3");
        assert_eq!(read("pods/pod/cpuset.mems"), "0-3");
        assert_eq!(read("pods/pod/id/cpuset.mems"), "0-3");
        assert_eq!(read("pods/pod/id/cpuset.cpus"), "\n", "the limits write what was given");
    }

    #[test]
    fn a_directory_that_does_not_exist_opens_as_nothing() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::fake(&[(&[], root.path())]);
        assert!(Cgroup::open(&layout, &container("/gone")).unwrap().is_none());
    }

    #[test]
    fn co_mounted_controllers_are_shown_under_all_their_names() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("id")).unwrap();
        let layout = Layout::fake(&[(&["cpu", "cpuacct"], root.path()), (&["name=systemd"], root.path())]);
        let cgroup = Cgroup::open(&layout, &container("/id")).unwrap().unwrap();
        let sources = cgroup.mount_sources();
        assert_eq!(sources[0].name, "cpu,cpuacct");
        assert_eq!(sources[0].links, ["cpu", "cpuacct"]);
        assert_eq!(sources[0].path, root.path().join("id"));
        assert_eq!((sources[1].name.as_str(), sources[1].links.len()), ("systemd", 0));
        assert!(cgroup.clone_into().is_none());
    }
}
