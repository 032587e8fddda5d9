//! Which containerd executed `start`, when neither its arguments nor its environment tell.
//!
//! Asked from the very binary that runs (`/proc/<parent>/exe`), because the file at its path may be a newer one
//! that is not running yet. The answer is kept in a file named after that binary's inode, so that only the first
//! `start` after an installation pays for it.

use std::fs::{self, DirBuilder};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::RUN_DIRECTORY;

/// In the directory of records; the dot keeps it apart from every containerd namespace.
const CACHE: &str = ".containerd";
/// How long a daemon may take to print its version; it usually takes 20 ms.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the cache says of a parent whose answer could not be read.
const UNKNOWN: &str = "unknown";

/// The major version of the containerd that is our parent. `None` when that could not be found out, which is
/// no reason to fail.
pub(crate) fn parents_major_version() -> Option<u32> {
    let parent = std::os::unix::process::parent_id();
    let name = first_argument(parent)?;
    major_version(Path::new(&format!("/proc/{parent}/exe")), &name, &Path::new(RUN_DIRECTORY).join(CACHE))
}

fn major_version(executable: &Path, name: &str, cache: &Path) -> Option<u32> {
    let file = cache.join(key(executable)?);
    if let Ok(known) = fs::read_to_string(&file) {
        return known.parse().ok();
    }
    let major = parse(&ask(executable, name)?);
    // Without the file the next start asks again; that is all.
    let _ = remember(&file, &major.map_or_else(|| UNKNOWN.to_owned(), |major| major.to_string()));
    major
}

/// Argument 0 of a process, when it is containerd. No other parent is executed: a test, a script or a shell
/// would do who knows what. k3s and others are one program under many names, so the name matters.
fn first_argument(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = line.split(|byte| *byte == 0).next()?;
    let first = std::str::from_utf8(first).ok()?;
    let name = first.rsplit('/').next().unwrap_or(first);
    (name == "containerd").then(|| first.to_owned())
}

/// Names one build of the daemon in one installation.
fn key(executable: &Path) -> Option<String> {
    let file = fs::metadata(executable).ok()?;
    Some(format!("{:x}-{:x}-{:x}.{:09}", file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

/// What `containerd --version` prints.
fn ask(executable: &Path, name: &str) -> Option<String> {
    let child = Command::new(executable)
        .arg0(name)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    answer(child)
}

/// The output of a child that has [`PATIENCE`] to end; it fits the pipe, so it is read afterwards.
fn answer(mut child: Child) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            _ => {
                // It may have ended meanwhile, which kill does not mind.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let mut text = String::new();
    child.stdout.take()?.take(4096).read_to_string(&mut text).ok()?;
    status.success().then_some(text)
}

/// `containerd <module or vendor> <version> <revision>`, as all builds print it.
fn parse(text: &str) -> Option<u32> {
    let mut words = text.split_whitespace();
    (words.next() == Some("containerd")).then_some(())?;
    let version = words.nth(1)?;
    version.trim_start_matches('v').split('.').next()?.parse().ok()
}

fn remember(file: &Path, known: &str) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // Beside and renamed over: another start reads all of it or nothing.
    let beside = PathBuf::from(format!("{}.{}", file.display(), std::process::id()));
    fs::write(&beside, known)?;
    fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A containerd that prints `version` and counts how often it was asked.
    fn containerd(directory: &Path, version: &str) -> PathBuf {
        let path = directory.join("containerd");
        let asked = directory.join("asked");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo x >> {} && echo '{version}'\n",
            asked.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    fn times_asked(directory: &Path) -> usize {
        fs::read_to_string(directory.join("asked")).unwrap_or_default().lines().count()
    }

    #[test]
    fn every_build_prints_its_version_in_the_same_place() {
        for (text, major) in [
            (
                "containerd github.com/containerd/containerd/v2 v2.0.5 fb4c30d4ede3531652d86197bf3fc9515e5276d9\n",
                Some(2),
            ),
            ("containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da\n", Some(1)),
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1\n", Some(1)),
            ("containerd github.com/k3s-io/containerd v2.1.4-k3s2\n", Some(2)),
            ("containerd github.com/containerd/containerd/v2 2.0.0+unknown\n", Some(2)),
            ("k3s version v1.30.0+k3s1 (abc)\n", None),
            ("containerd\n", None),
            ("containerd x y z\n", None),
            ("", None),
        ] {
            assert_eq!(parse(text), major, "{text:?}");
        }
    }

    #[test]
    fn a_daemon_is_asked_once() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("cache");
        let daemon = containerd(directory.path(), "containerd x v2.1.0 abc");
        for _ in 0..3 {
            assert_eq!(major_version(&daemon, "containerd", &cache), Some(2));
        }
        assert_eq!(times_asked(directory.path()), 1);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    }

    #[test]
    fn a_daemon_that_says_nothing_useful_is_asked_once_too() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("cache");
        let daemon = containerd(directory.path(), "hello");
        for _ in 0..3 {
            assert_eq!(major_version(&daemon, "containerd", &cache), None);
        }
        assert_eq!(times_asked(directory.path()), 1);
    }

    #[test]
    fn another_build_at_the_same_path_is_another_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("cache");
        let daemon = containerd(directory.path(), "containerd x v1.7.0 abc");
        assert_eq!(major_version(&daemon, "containerd", &cache), Some(1));
        fs::rename(&daemon, directory.path().join("old")).unwrap();
        let daemon = containerd(directory.path(), "containerd x v2.2.0 def");
        assert_eq!(major_version(&daemon, "containerd", &cache), Some(2));
    }

    #[test]
    fn a_parent_that_is_not_containerd_is_left_alone() {
        assert_eq!(first_argument(std::process::id()), None);
    }
}
