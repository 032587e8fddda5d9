//! The machine's control group hierarchies, v1, v2 or both, as files.
//!
//! The tests read limits and counters here as an operator does; nothing of dunnage is asked.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// What the options of a v1 hierarchy name beside its controllers (kernel/cgroup/cgroup-v1.c).
const OPTIONS: &[&str] =
    &["rw", "ro", "xattr", "clone_children", "cpuset_v2_mode", "noprefix", "favordynmods"];

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Controllers of a v1 hierarchy as mount options name them; empty for v2.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether it is the v2 one.
    pub fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Where the cgroup `path` (absolute within the hierarchy) lies in the file system.
    pub fn dir(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }
}

/// All mounted hierarchies.
///
/// # Errors
/// When the mount table cannot be read.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").context("read the mount table")?;
    Ok(table.lines().filter_map(hierarchy).collect())
}

fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (place, filesystem) = line.split_once(" - ")?;
    let path = PathBuf::from(place.split(' ').nth(4)?);
    let mut words = filesystem.split(' ');
    let kind = words.next()?;
    let options = words.nth(1)?;
    let is_controller = |word: &&str| !OPTIONS.contains(word) && !word.starts_with("release_agent=");
    let controllers = options.split(',').filter(is_controller);
    match kind {
        "cgroup2" => Some(Hierarchy { path, controllers: Vec::new() }),
        "cgroup" => Some(Hierarchy { path, controllers: controllers.map(str::to_owned).collect() }),
        _ => None,
    }
}

/// The hierarchy that limits `controller` here: the v1 one that has it, else v2.
///
/// # Errors
/// When no hierarchy has it.
pub fn with_controller(controller: &str) -> Result<Hierarchy> {
    let all = hierarchies()?;
    let own = all.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller));
    let unified = || all.iter().find(|hierarchy| hierarchy.is_unified());
    own.or_else(unified).cloned().with_context(|| format!("no hierarchy has {controller}"))
}

/// Cgroups in every hierarchy whose path carries `part`, topmost first.
///
/// # Errors
/// When the hierarchies cannot be listed.
pub fn named(part: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        collect(&hierarchy.path, &mut |dir| {
            if dir.to_string_lossy().contains(part) {
                found.push(dir.to_owned());
            }
        });
    }
    Ok(found)
}

fn collect(dir: &Path, found: &mut impl FnMut(&Path)) {
    // A cgroup may vanish while it is looked at; then it has no children either.
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        found(&entry.path());
        collect(&entry.path(), found);
    }
}

/// Removes every cgroup whose path carries `part`, deepest first. They must be empty of processes.
///
/// # Errors
/// When one stays busy.
pub fn remove(part: &str) -> Result<()> {
    for dir in named(part)?.into_iter().rev() {
        remove_one(&dir)?;
    }
    Ok(())
}

fn remove_one(dir: &Path) -> Result<()> {
    // An ended process may still count for a moment after its parent has been told.
    for _ in 0..500 {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error).with_context(|| format!("remove {}", dir.display())),
        }
    }
    anyhow::bail!("{} stays busy", dir.display())
}
