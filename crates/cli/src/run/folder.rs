//! The directory of one run: where everything it makes lies, and the record by which it can be undone.
//!
//! ```text
//! ROOT/pods/.lock          held while a run is set up or a dead one is undone
//! ROOT/pods/1b4e28ba/      one run
//!   run.json               who owns it, and what it may have made outside this directory
//!   bundles/ID/            config.json and rootfs, as a shim gets them
//!   layers/N/              unpacked layers, shared by the containers
//!   upper/ID/              a container's own layer
//!   files/ volumes/ io/ s/ netns dunnage.sock.ttrpc
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use dunnage_sys::flock::Flock;
use serde::{Deserialize, Serialize};

/// Longest path that fits a socket address (unix(7)), less the end mark.
const MAX_SOCKET_PATH: usize = 107;
/// `/s/` and a SHA-256 in hexadecimal, which is how a shim names its socket.
const SHIM_SOCKET: usize = 3 + 64;
/// The version of [`Record`]; records of other versions are not touched.
const RECORD_VERSION: u32 = 1;

/// What a run may have made outside its directory. Written before any of it, so that whatever is there can be
/// found; that a thing is named does not mean that it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// Name of the pod, for messages.
    pub(crate) pod: String,
    pub(crate) uid: String,
    owner: Process,
    /// Cgroup under which those of all pods lie.
    pub(crate) cgroup_root: String,
    pub(crate) cgroup_parent: String,
    /// Whether the pod has a network of its own.
    pub(crate) network: bool,
    pub(crate) shim: PathBuf,
}

/// A process that can be told from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Ticks since boot (proc_pid_stat(5), field 22).
    start_time: u64,
}

/// The directory of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// The directory of all runs, locked against other processes that set up or undo one.
#[derive(Debug)]
pub(crate) struct Runs {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Record {
    pub(crate) fn new(pod: &str, uid: &str, cgroups: (&str, &str), network: bool, shim: &Path) -> Self {
        Self {
            version: RECORD_VERSION,
            pod: pod.to_owned(),
            uid: uid.to_owned(),
            owner: Process::own(),
            cgroup_root: cgroups.0.to_owned(),
            cgroup_parent: cgroups.1.to_owned(),
            network,
            shim: shim.to_owned(),
        }
    }

    /// Whether the process that made it is still there.
    pub(crate) fn owner_lives(&self) -> bool {
        self.owner.lives()
    }
}

impl Process {
    pub(crate) fn own() -> Self {
        Self::of(std::process::id()).unwrap_or(Self { pid: std::process::id(), start_time: 0 })
    }

    /// The process that has this number now. One that has ended is none, though nobody may have waited for it
    /// yet: some init processes take seconds.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, also parentheses and spaces.
        let after_name = &stat[stat.rfind(')')? + 1..];
        let mut fields = after_name.split_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        let start_time = fields.nth(18)?.parse().ok()?;
        (!ended).then_some(Self { pid, start_time })
    }

    pub(crate) fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

impl Runs {
    /// Opens and locks the directory of all runs below `root`, making it when it is missing.
    ///
    /// # Errors
    /// It cannot be made or locked.
    pub(crate) fn lock(root: &Path) -> anyhow::Result<Self> {
        let path = root.join("pods");
        make_private_dir(root)?;
        make_private_dir(&path)?;
        let lock = path.join(".lock");
        let open = File::options().create(true).truncate(false).write(true).open(&lock);
        let file = open.with_context(|| format!("open {}", lock.display()))?;
        Ok(Self { path, _lock: Flock::exclusive(file)? })
    }

    /// Makes the directory of a run with its record.
    ///
    /// # Errors
    /// It cannot be made, or its path is too long for the sockets in it.
    pub(crate) fn create(&self, record: &Record) -> anyhow::Result<Folder> {
        let name: String = record.uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        let folder = Folder { path: self.path.join(name) };
        let length = folder.path.as_os_str().len() + SHIM_SOCKET;
        ensure!(
            length <= MAX_SOCKET_PATH,
            "{}: sockets below it would have paths of {length} bytes, {MAX_SOCKET_PATH} fit; choose a shorter --root",
            self.path.display()
        );
        std::fs::create_dir(&folder.path).with_context(|| format!("create {}", folder.path.display()))?;
        folder.write("run.json", record)?;
        for dir in ["bundles", "layers", "upper", "files", "volumes", "io", "s", "look"] {
            let dir = folder.path.join(dir);
            std::fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        Ok(folder)
    }

    /// Every run there is, with its record. One without a record was cut short before it made anything else;
    /// one whose record cannot be read was made by another version of this program and is passed over.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub(crate) fn list(&self) -> anyhow::Result<Vec<(Folder, Option<Record>)>> {
        let list = std::fs::read_dir(&self.path).with_context(|| format!("list {}", self.path.display()))?;
        let mut runs = Vec::new();
        for entry in list {
            let entry = entry.with_context(|| format!("list {}", self.path.display()))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let folder = Folder { path: entry.path() };
                let record =
                    folder.read::<Record>("run.json").filter(|record| record.version == RECORD_VERSION);
                if record.is_some() || !folder.join("run.json").exists() {
                    runs.push((folder, record));
                }
            }
        }
        Ok(runs)
    }
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.path.join("bundles").join(id)
    }

    /// Ids of the bundles that are there.
    pub(crate) fn bundles(&self) -> Vec<String> {
        let Ok(list) = std::fs::read_dir(self.path.join("bundles")) else { return Vec::new() };
        list.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    pub(crate) fn upper(&self, id: &str) -> PathBuf {
        self.path.join("upper").join(id)
    }

    /// Where the shim reports events.
    pub(crate) fn event_socket(&self) -> PathBuf {
        self.path.join("dunnage.sock.ttrpc")
    }

    /// The socket of a containerd, which is not there: its name is part of the shim's.
    pub(crate) fn daemon_socket(&self) -> PathBuf {
        self.path.join("dunnage.sock")
    }

    /// Where the shim's socket goes.
    pub(crate) fn shim_sockets(&self) -> PathBuf {
        self.path.join("s")
    }

    pub(crate) fn netns(&self) -> PathBuf {
        self.path.join("netns")
    }

    fn write(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let path = self.path.join(name);
        let text = serde_json::to_vec(value).with_context(|| format!("encode {}", path.display()))?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&std::fs::read(self.path.join(name)).ok()?).ok()
    }
}

/// A directory that only its owner can enter: layers hold set-id programs of strangers.
fn make_private_dir(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().mode(0o700).create(path);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("create {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record::new("web", "1b4e28ba-2fa1", ("/d", "/d/p"), true, Path::new("/shim"))
    }

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let own = Process::own();
        assert!(own.lives());
        assert!(!Process { start_time: own.start_time + 1, ..own }.lives());
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.lives());
        child.kill().unwrap();
        // Ended, and not waited for.
        while process.lives() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!process.lives());
    }

    #[test]
    fn a_run_is_found_again_with_its_record() {
        let root = tempfile::tempdir().unwrap();
        let runs = Runs::lock(&root.path().join("root")).unwrap();
        let folder = runs.create(&record()).unwrap();
        std::fs::create_dir(folder.bundle("c1")).unwrap();
        let listed = runs.list().unwrap();
        assert_eq!(listed, [(folder.clone(), Some(record()))]);
        assert!(record().owner_lives());
        assert_eq!(folder.bundles(), ["c1"]);
        assert!(runs.create(&record()).is_err());
        std::fs::write(folder.join("run.json"), "{\"version\": 2}").unwrap();
        assert!(runs.list().unwrap().is_empty(), "it is another version's");
        std::fs::remove_file(folder.join("run.json")).unwrap();
        assert_eq!(runs.list().unwrap(), [(folder, None)]);
    }

    #[test]
    fn a_root_too_deep_for_sockets_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let runs = Runs::lock(&root.path().join("deep".repeat(20))).unwrap();
        let error = runs.create(&record()).unwrap_err().to_string();
        assert!(error.contains("choose a shorter --root"), "{error}");
        assert!(runs.list().unwrap().is_empty());
    }
}
