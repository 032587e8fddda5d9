//! Making a container's directories, top-down, with an undo for those that were made.
//!
//! v2: every ancestor has to pass the controllers on (`cgroup.subtree_control`). v1: a cpuset has to have CPUs
//! and memory nodes before a task may join, and every ancestor's come first.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dunnage_sys::kernfs::Dir;
use dunnage_sys::{Call, Errno};

use crate::error::{Refused, Result};
use crate::layout::{Hierarchy, Layout};

/// Directories that were made; removed on drop, newest first, unless kept.
#[derive(Debug)]
pub(crate) struct Made<'a> {
    layout: &'a Layout,
    dirs: Vec<(usize, PathBuf)>,
}

impl<'a> Made<'a> {
    pub(crate) fn new(layout: &'a Layout) -> Self {
        Self { layout, dirs: Vec::new() }
    }

    pub(crate) fn keep(mut self) {
        self.dirs.clear();
    }

    /// Makes `path` in the hierarchy with this index and what is missing above it; `false` when it was there.
    pub(crate) fn make(&mut self, index: usize, path: &Path) -> Result<bool> {
        let layout = self.layout;
        let hierarchy = &layout.hierarchies()[index];
        match hierarchy.root().make_dir(path) {
            // The usual case: whoever made the pod made all of this.
            Err(Errno::NOENT) => {}
            made => return self.made(index, path, made),
        }
        let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
        ancestors.retain(|ancestor| !ancestor.as_os_str().is_empty());
        for ancestor in ancestors.into_iter().rev() {
            self.made(index, ancestor, hierarchy.root().make_dir(ancestor))?;
        }
        self.made(index, path, hierarchy.root().make_dir(path))
    }

    fn made(&mut self, index: usize, path: &Path, made: Result<bool, Errno>) -> Result<bool> {
        let place = || self.layout.hierarchies()[index].mount_point().join(path);
        let made = made.call(|| format!("mkdir {}", place().display()))?;
        if made {
            self.dirs.push((index, path.to_path_buf()));
        }
        Ok(made)
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for (index, path) in self.dirs.iter().rev() {
            // Nobody has been inside; if somebody else is by now, the directory is theirs.
            let _ = self.layout.hierarchies()[*index].root().remove_dir(path);
        }
    }
}

/// Enables every available controller for the children of `parent`, in all its ancestors. What could not be
/// enabled is reported; it matters only when a limit needs it.
pub(crate) fn enable(hierarchy: &Hierarchy, parent: &Path) -> Vec<Refused> {
    let mut refused = Vec::new();
    if hierarchy.available().is_empty() || missing(hierarchy, parent).is_empty() {
        return refused;
    }
    let mut ancestors: Vec<&Path> = parent.ancestors().collect();
    ancestors.reverse();
    for dir in ancestors {
        enable_in(hierarchy, dir, &mut refused);
    }
    refused
}

const SUBTREE: &str = "cgroup.subtree_control";

/// Whether it was a controller that could not be enabled.
pub(crate) fn is_enabling(refused: &Refused) -> bool {
    refused.file.ends_with(SUBTREE)
}

fn enable_in(hierarchy: &Hierarchy, dir: &Path, refused: &mut Vec<Refused>) {
    let missing = missing(hierarchy, dir);
    let file = dir.join(SUBTREE);
    // All at once, since each change waits for every cgroup below.
    let all: Vec<String> = missing.iter().map(|controller| format!("+{controller}")).collect();
    if all.is_empty() || hierarchy.root().write(&file, all.join(" ")).is_ok() {
        return;
    }
    // One that is refused (a threaded tree, realtime tasks, a process in the way) refuses all.
    for value in all {
        if let Err(errno) = hierarchy.root().write(&file, &value) {
            let file = hierarchy.mount_point().join(&file).display().to_string();
            let what = "the controller is missing below; limits that need it fail";
            refused.push(Refused { file, value, errno, what });
        }
    }
}

fn missing<'a>(hierarchy: &'a Hierarchy, dir: &Path) -> Vec<&'a str> {
    let mut text = Vec::new();
    // An unreadable file gives everything: the writing then says what is wrong.
    let _ = hierarchy.root().read(dir.join(SUBTREE), &mut text);
    let enabled = String::from_utf8_lossy(&text);
    let enabled: Vec<&str> = enabled.split_whitespace().collect();
    hierarchy.available().iter().map(String::as_str).filter(|name| !enabled.contains(name)).collect()
}

/// Gives a new directory of the v1 cpuset tree its parent's CPUs and memory nodes, and before it every ancestor
/// that has none. What is `given` will be written by the limits.
pub(crate) fn fill_cpuset(hierarchy: &Hierarchy, path: &Path, given: [bool; 2]) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new(""));
    for (file, given) in ["cpuset.cpus", "cpuset.mems"].into_iter().zip(given) {
        let value = filled(hierarchy, parent, file)?;
        if !given {
            write(hierarchy, &path.join(file), &value)?;
        }
    }
    Ok(())
}

fn filled(hierarchy: &Hierarchy, dir: &Path, file: &str) -> Result<Vec<u8>> {
    let path = dir.join(file);
    let mut value = Vec::new();
    let place = || format!("read {}", hierarchy.mount_point().join(&path).display());
    hierarchy.root().read(&path, &mut value).call(place)?;
    let value = value.trim_ascii().to_vec();
    match dir.parent() {
        Some(parent) if value.is_empty() => {
            let value = filled(hierarchy, parent, file)?;
            write(hierarchy, &path, &value)?;
            Ok(value)
        }
        _ => Ok(value),
    }
}

fn write(hierarchy: &Hierarchy, path: &Path, value: &[u8]) -> Result<()> {
    let place = || {
        let (value, place) = (String::from_utf8_lossy(value), hierarchy.mount_point().join(path));
        format!("write {value} to {}", place.display())
    };
    Ok(hierarchy.root().write(path, value).call(place)?)
}

/// The processes in a directory and below it, as numbers of the reader's pid namespace.
///
/// # Errors
/// The errno of the first call that failed; a child that vanishes meanwhile is none.
pub(crate) fn processes(dir: &Dir, buffer: &mut Vec<u8>, found: &mut Vec<i32>) -> Result<(), Errno> {
    match dir.read("cgroup.procs", buffer) {
        // A threaded group lists threads only; the process is listed at the threaded domain, which can be
        // above: any of its threads names it well enough for a signal.
        Err(Errno::OPNOTSUPP) => dir.read("cgroup.threads", buffer)?,
        read => read?,
    }
    let numbers = buffer.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
    // 0 is a process of another pid namespace.
    found.extend(numbers.filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for name in dir.subdirs()? {
        match dir.open_dir(&name).and_then(|child| processes(&child, buffer, found)) {
            Err(Errno::NOENT | Errno::NODEV) | Ok(()) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Removes a directory and all below it, deepest first; `EBUSY` when a process is in one of them.
///
/// # Errors
/// The errno of the first call that failed.
pub(crate) fn remove(root: &Dir, path: &Path) -> Result<(), Errno> {
    match root.remove_dir(path) {
        Ok(_) => return Ok(()),
        // Processes or children: the kernel says the same of both.
        Err(Errno::BUSY) => {}
        Err(errno) => return Err(errno),
    }
    let dir = match root.open_dir(path) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let children = dir.subdirs()?;
    if children.is_empty() {
        return root.remove_dir(path).map(|_| ());
    }
    for child in children {
        remove(&dir, Path::new(std::ffi::OsStr::from_bytes(child.as_bytes())))?;
    }
    root.remove_dir(path).map(|_| ())
}
