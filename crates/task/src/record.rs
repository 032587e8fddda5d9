//! What must survive the shim: one small file for each container, written before the container is visible.
//!
//! `delete`, a new process, cleans up by it when the shim is gone: `/run/dunnage/<containerd
//! namespace>/<container>/record.json`. Versioned; this binary reads its own version and, once there is
//! another, its neighbour's. Owns the file and its directory; leaves the cleaning to the caller.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use dunnage_spec::resources::CgroupPath;
use dunnage_spec::{ContainerId, ContainerdNamespace};
use dunnage_sys::{Call, Errno};
use serde::{Deserialize, Serialize};

use crate::state::Exit;

const VERSION: u32 = 1;
const FILE: &str = "record.json";
// How often the directory of a namespace can vanish under a create: once for each other shim, at most.
const TRIES: u32 = 100;

/// Why a record could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call on the file or its directory.
    #[error("record of the container: {0}")]
    System(#[from] dunnage_sys::Error),
    /// The directory exists: another shim has a container of this name in this containerd namespace.
    #[error("record of the container: {0} exists: another shim has, or left, a container of this name")]
    Taken(PathBuf),
    /// Not ours, or of a version this binary does not know.
    #[error("record {path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The directory of all records of one containerd namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    directory: PathBuf,
}

/// What is known of a container, on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    version: u32,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// The sandbox to whose shim containerd 2 routes the calls of this container: it says so in the bundle, which
    /// may be gone when the shim is.
    #[serde(default)]
    pub routed_to: Option<String>,
    /// Where its cgroup is.
    cgroup: String,
    /// Where its root file system was mounted, when the shim mounted it.
    pub mounted_rootfs: Option<PathBuf>,
    /// The init, once there is one.
    pub init: Option<Identity>,
    exit: Option<StoredExit>,
}

/// A process that can be told from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Pid in the shim's namespace.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub start_time: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct StoredExit {
    status: u32,
    at_ns: u64,
}

/// The open record of one container. Dropping it leaves the file: it is there for the time after a crash.
#[derive(Debug)]
pub struct Record {
    directory: PathBuf,
    content: Content,
}

impl Store {
    /// `root` is `/run/dunnage` on a node.
    #[must_use]
    pub fn new(root: &Path, namespace: &ContainerdNamespace) -> Self {
        Self { directory: root.join(namespace.as_str()) }
    }

    /// Makes the record of a new container.
    ///
    /// # Errors
    /// [`Error::Taken`] when there is one already; otherwise the failed call, with nothing left behind.
    pub fn create(
        &self,
        id: &ContainerId,
        bundle: &Path,
        cgroup: &CgroupPath,
        mounted_rootfs: Option<PathBuf>,
    ) -> Result<Record, Error> {
        let directory = self.directory.join(id.as_str());
        self.make(&directory)?;
        let content = Content {
            version: VERSION,
            bundle: bundle.to_owned(),
            routed_to: fs::read_to_string(bundle.join("sandbox")).ok(),
            cgroup: cgroup_text(cgroup),
            mounted_rootfs,
            init: None,
            exit: None,
        };
        let record = Record { directory, content };
        if let Err(error) = record.write() {
            record.remove()?;
            return Err(error);
        }
        Ok(record)
    }

    /// Reads the record of a container, if there is one.
    ///
    /// # Errors
    /// The failed call, or what is wrong with the file.
    pub fn load(&self, id: &ContainerId) -> Result<Option<Record>, Error> {
        let directory = self.directory.join(id.as_str());
        let path = directory.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.call(|| format!("read {}", path.display()))?,
        };
        let malformed = |reason: String| Error::Malformed { path: path.clone(), reason };
        let content: Content =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        if content.version != VERSION {
            return Err(malformed(format!("version {} is not {VERSION}", content.version)));
        }
        Ok(Some(Record { directory, content }))
    }

    /// Removes the directory of a record that was never written: its shim was killed in between, before it had
    /// made anything else of the container.
    ///
    /// # Errors
    /// The failed call; nothing there is no error.
    pub fn remove_unwritten(&self, id: &ContainerId) -> Result<(), Error> {
        remove(&self.directory.join(id.as_str()))
    }

    /// The containers that have a record, or the directory of one.
    ///
    /// # Errors
    /// The failed call.
    pub fn ids(&self) -> Result<Vec<ContainerId>, Error> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.call(|| format!("read {}", self.directory.display()))?,
        };
        // What is no container's name is nobody's record.
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    fn make(&self, directory: &Path) -> Result<(), Error> {
        for _ in 0..TRIES {
            make_private(&self.directory)?;
            match fs::create_dir(directory) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return Err(Error::Taken(directory.to_owned()));
                }
                // Another shim has just removed the parent with its own last record.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                made => return Ok(made.call(|| format!("mkdir {}", directory.display()))?),
            }
        }
        Err(dunnage_sys::Error::new(format!("mkdir {}", directory.display()), Errno::NOENT).into())
    }
}

impl Record {
    /// What is known.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Adds the init.
    ///
    /// # Errors
    /// The failed call; the file is as before.
    pub fn set_init(&mut self, init: Identity) -> Result<(), Error> {
        self.content.init = Some(init);
        self.write()
    }

    /// Adds how it ended.
    ///
    /// # Errors
    /// The failed call; the file is as before.
    pub fn set_exit(&mut self, exit: Exit) -> Result<(), Error> {
        let since = exit.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        self.content.exit = Some(StoredExit { status: exit.status, at_ns });
        self.write()
    }

    /// Removes file and directory, and with the last record the directory of the namespace.
    ///
    /// # Errors
    /// The failed call; what is gone already is no error.
    pub fn remove(self) -> Result<(), Error> {
        remove(&self.directory)
    }

    // Written beside and renamed over: a reader sees the old or the new content, never half of one.
    fn write(&self) -> Result<(), Error> {
        let path = self.directory.join(FILE);
        let beside = self.directory.join("record.new");
        let json = serde_json::to_vec(&self.content)
            .map_err(|error| Error::Malformed { path: path.clone(), reason: error.to_string() })?;
        let mut file = fs::File::create(&beside).call(|| format!("create {}", beside.display()))?;
        file.write_all(&json).call(|| format!("write {}", beside.display()))?;
        fs::rename(&beside, &path).call(|| format!("rename {}", beside.display()))?;
        Ok(())
    }
}

impl Content {
    /// Where the cgroup is.
    #[must_use]
    pub fn cgroup(&self) -> CgroupPath {
        let mut parts = self.cgroup.splitn(3, ':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(slice), Some(prefix), Some(name)) => CgroupPath::Systemd {
                slice: slice.to_owned(),
                prefix: prefix.to_owned(),
                name: name.to_owned(),
            },
            _ => CgroupPath::Cgroupfs(PathBuf::from(&self.cgroup)),
        }
    }

    /// How it ended, when the shim still saw it.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        let stored = self.exit?;
        let at: SystemTime = UNIX_EPOCH + std::time::Duration::from_nanos(stored.at_ns);
        Some(Exit { status: stored.status, at })
    }
}

fn remove(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        removed => removed.call(|| format!("remove {}", directory.display()))?,
    }
    // Others may have records in the parent (ENOTEMPTY) or may have removed it already: both are fine.
    let _ = directory.parent().map(fs::remove_dir);
    Ok(())
}

fn cgroup_text(path: &CgroupPath) -> String {
    match path {
        CgroupPath::Cgroupfs(path) => path.display().to_string(),
        CgroupPath::Systemd { slice, prefix, name } => format!("{slice}:{prefix}:{name}"),
    }
}

fn make_private(directory: &Path) -> Result<(), dunnage_sys::Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .call(|| format!("mkdir {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn store(root: &Path) -> Store {
        Store::new(root, &"k8s.io".parse().unwrap())
    }

    #[test]
    fn a_record_tells_the_next_process_what_this_one_knew() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let id: ContainerId = "web".parse().unwrap();
        let cgroup =
            CgroupPath::Systemd { slice: "a.slice".into(), prefix: "cri".into(), name: "web".into() };
        let mut record = store.create(&id, Path::new("/b"), &cgroup, Some("/b/rootfs".into())).unwrap();
        let exit = Exit { status: 137, at: UNIX_EPOCH + Duration::new(1, 5) };
        record.set_init(Identity { pid: 7, start_time: 99 }).unwrap();
        record.set_exit(exit).unwrap();

        let read = store.load(&id).unwrap().expect("there is a record");
        assert_eq!(read.content(), record.content());
        assert_eq!(read.content().cgroup(), cgroup);
        assert_eq!(read.content().exit(), Some(exit));
        assert_eq!(store.ids().unwrap(), [id]);
        read.remove().unwrap();
        assert!(!root.path().join("k8s.io").exists());
        assert_eq!(store.ids().unwrap(), []);
    }

    #[test]
    fn a_name_that_is_taken_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let id: ContainerId = "web".parse().unwrap();
        let cgroup = CgroupPath::Cgroupfs("/a/web".into());
        let _first = store.create(&id, Path::new("/b"), &cgroup, None).unwrap();
        let second = store.create(&id, Path::new("/b"), &cgroup, None);
        assert!(matches!(second, Err(Error::Taken(_))), "{second:?}");
    }

    #[test]
    fn a_directory_without_a_record_can_be_removed_and_the_name_is_free_again() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let id: ContainerId = "web".parse().unwrap();
        fs::create_dir_all(root.path().join("k8s.io/web")).unwrap();
        assert!(store.load(&id).unwrap().is_none());
        store.remove_unwritten(&id).unwrap();
        assert!(!root.path().join("k8s.io").exists());
        store.remove_unwritten(&id).unwrap();
    }

    #[test]
    fn a_record_of_another_version_is_refused_by_its_number() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let id: ContainerId = "web".parse().unwrap();
        let record = store.create(&id, Path::new("/b"), &CgroupPath::Cgroupfs("/a".into()), None).unwrap();
        let path = root.path().join("k8s.io/web/record.json");
        let text = fs::read_to_string(&path).unwrap().replace("\"version\":1", "\"version\":7");
        fs::write(&path, text).unwrap();
        assert!(store.load(&id).unwrap_err().to_string().contains("version 7"));
        record.remove().unwrap();
    }
}
