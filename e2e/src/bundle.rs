//! OCI bundles made by hand: a root file system, a `config.json` that a test can change, and fifos.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use containerd_shim_protos::api::Mount;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::image;
use crate::task::{Create, TaskClient};
use crate::wait::limit;
use crate::world::World;

/// A bundle and the layer its container writes to.
#[derive(Debug)]
pub struct Bundle {
    /// The id of its task.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Its specification; [`Self::write`] puts it on disk.
    pub spec: Value,
    lower: PathBuf,
    log: File,
    kept: PathBuf,
}

impl Bundle {
    /// A bundle that runs `args` in the probe image's files, in fresh namespaces and a cgroup of the world.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new(world: &World, id: &str, args: &[&str]) -> Result<Self> {
        let lower = world.dir().join("rootfs");
        if !lower.exists() {
            fs::create_dir(&lower).context("make a root file system")?;
            image::unpack_probe(&lower)?;
        }
        let spec = spec(args, &format!("{}/{id}", world.cgroup_parent()));
        Self::with_spec(world, id, spec, lower)
    }

    /// A bundle of the given specification over the root file system `lower`.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn with_spec(world: &World, id: &str, spec: Value, lower: PathBuf) -> Result<Self> {
        // The place of containerd, so that a shim finds its siblings where it expects them.
        let dir = PathBuf::from("/run/containerd/io.containerd.runtime.v2.task").join(world.id()).join(id);
        fs::create_dir_all(dir.join("rootfs")).with_context(|| format!("make {}", dir.display()))?;
        let log = dir.join("log");
        mkfifo(&log, Mode::S_IRWXU).context("make the log fifo")?;
        // As containerd does: a shim that opens it must find a reader, and it must never end.
        let flags = OFlag::O_NONBLOCK.bits();
        let log = File::options()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(log)
            .context("open the log fifo")?;
        let kept = world.logs().join(format!("{id}.shim.log"));
        let bundle = Self { id: id.to_owned(), dir, spec, lower, log, kept };
        bundle.write()?;
        Ok(bundle)
    }

    /// Writes `config.json` from [`Self::spec`].
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&self) -> Result<()> {
        fs::write(self.dir.join("config.json"), self.spec.to_string()).context("write config.json")
    }

    /// The overlay that containerd would ask the shim to mount.
    ///
    /// # Errors
    /// When the folders of the upper layer cannot be made.
    pub fn rootfs(&self, world: &World) -> Result<Vec<Mount>> {
        let layer = world.dir().join("layers").join(&self.id);
        for name in ["upper", "work"] {
            fs::create_dir_all(layer.join(name)).with_context(|| format!("make {}", layer.display()))?;
        }
        let option = |key: &str, path: &Path| format!("{key}={}", path.display());
        Ok(vec![Mount {
            type_: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![
                option("lowerdir", &self.lower),
                option("upperdir", &layer.join("upper")),
                option("workdir", &layer.join("work")),
            ],
            ..Default::default()
        }])
    }

    /// The bundle's folder as a request carries it.
    ///
    /// # Panics
    /// When the folder is not text, which [`Self::new`] never makes.
    pub fn path(&self) -> &str {
        self.dir.to_str().expect("bundles are made at text paths")
    }

    /// Creates the task with an overlay root and the given stdio.
    ///
    /// # Errors
    /// The shim's.
    pub async fn create(&self, world: &World, client: &TaskClient, stdio: [&str; 3]) -> Result<u32> {
        let rootfs = self.rootfs(world)?;
        Ok(client
            .create(Create { id: &self.id, bundle: self.path(), rootfs, stdio, ..Default::default() })
            .await?)
    }

    /// What the shim has logged since the last call.
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        // The fifo has no end: reading stops when it is empty.
        _ = (&self.log).read_to_end(&mut bytes);
        if !bytes.is_empty() {
            // For a person, should the test fail.
            let kept = File::options().create(true).append(true).open(&self.kept);
            _ = kept.and_then(|mut kept| kept.write_all(&bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Removes the bundle as containerd does once the task is deleted.
    ///
    /// # Errors
    /// When something is still mounted in it.
    pub fn remove(self, world: &World) -> Result<()> {
        let rootfs = self.dir.join("rootfs");
        fs::remove_dir(&rootfs).with_context(|| format!("remove {}", rootfs.display()))?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))?;
        _ = fs::remove_dir_all(world.dir().join("layers").join(&self.id));
        Ok(())
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.log();
    }
}

/// A fifo that a process writes to, and what came through it.
#[derive(Debug)]
pub struct Fifo {
    path: PathBuf,
    receiver: pipe::Receiver,
}

impl Fifo {
    /// Makes the fifo and opens its reading end, as containerd does before it creates a task.
    ///
    /// # Errors
    /// When the path is taken.
    pub fn open(path: &Path) -> Result<Self> {
        mkfifo(path, Mode::S_IRWXU).with_context(|| format!("make {}", path.display()))?;
        Self::open_existing(path)
    }

    /// Opens the reading end of a fifo that is there.
    ///
    /// # Errors
    /// When it is not.
    pub fn open_existing(path: &Path) -> Result<Self> {
        let receiver = pipe::OpenOptions::new().open_receiver(path).context("open a fifo")?;
        Ok(Self { path: path.to_owned(), receiver })
    }

    /// Its path as a request carries it.
    ///
    /// # Panics
    /// When the path is not text.
    pub fn path(&self) -> &str {
        self.path.to_str().expect("fifos are made at text paths")
    }

    /// Everything until the last writer has closed it.
    ///
    /// # Errors
    /// When a writer stays.
    pub async fn read_to_end(mut self) -> Result<String> {
        let mut bytes = Vec::new();
        timeout(limit(), self.receiver.read_to_end(&mut bytes))
            .await
            .with_context(|| format!("{} stays open", self.path.display()))??;
        _ = fs::remove_file(&self.path);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads what is there, at most `bytes`; nothing at the end.
    ///
    /// # Errors
    /// When nothing comes and no writer leaves.
    pub async fn read_some(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        let read = timeout(limit(), self.receiver.read(&mut buffer)).await;
        let count = read.with_context(|| format!("{} stays open", self.path.display()))??;
        buffer.truncate(count);
        Ok(buffer)
    }

    /// Reads until `text` has come.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn read_until(&mut self, text: &str) -> Result<String> {
        let mut seen = Vec::new();
        let mut buffer = vec![0; 4096];
        while !String::from_utf8_lossy(&seen).contains(text) {
            let read = timeout(limit(), self.receiver.read(&mut buffer)).await;
            let count = read.with_context(|| format!("waited in vain for {text:?}"))??;
            anyhow::ensure!(count > 0, "ended without {text:?}: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..count]);
        }
        Ok(String::from_utf8_lossy(&seen).into_owned())
    }
}

/// Writes a file with the given mode.
///
/// # Errors
/// When the disk does not take it.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    let file = File::open(path)?;
    file.set_permissions(Permissions::from_mode(mode)).with_context(|| format!("chmod {}", path.display()))
}

/// The process part of a specification, also what an exec is given.
pub fn process(args: &[&str]) -> Value {
    let capabilities = CAPABILITIES.map(|name| format!("CAP_{name}"));
    json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0, "additionalGids": [0] },
        "args": args,
        "env": ["PATH=/bin", "HOME=/root"],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "noNewPrivileges": true,
    })
}

/// A specification with the mounts, devices and namespaces that containerd's client gives a container.
fn spec(args: &[&str], cgroup: &str) -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": { "path": "rootfs" },
        "hostname": "box",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces,
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// The field's default capabilities.
pub const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];
