//! Resources that are used up: room on a disk, descriptors, processes, memory. Each shortage ends when it is lifted,
//! at the latest with the value that stands for it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::statvfs;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::cgroup::{self, Hierarchy};
use crate::process;
use crate::world::World;

/// Something there is not enough of. Dropping it lifts it.
#[derive(Debug)]
#[must_use = "it is over when it is dropped"]
pub struct Shortage {
    kind: Option<Kind>,
}

#[derive(Debug)]
enum Kind {
    Disk(PathBuf),
    Room(PathBuf),
    Descriptors {
        pid: Pid,
        before: Rlimit,
    },
    Cgroup {
        dir: PathBuf,
        home: PathBuf,
    },
    /// A limit on a cgroup that was there before: file and former value.
    Limit(PathBuf, String),
}

impl Shortage {
    fn of(kind: Kind) -> Self {
        Self { kind: Some(kind) }
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn lift(mut self) -> Result<()> {
        self.kind.take().map_or(Ok(()), |kind| kind.lift())
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        // A test that failed has said why; what stays goes with its world.
        _ = self.kind.take().map(|kind| kind.lift());
    }
}

impl Kind {
    fn lift(&self) -> Result<()> {
        match self {
            Self::Disk(dir) => {
                umount2(dir, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", dir.display()))
            }
            Self::Room(dir) => remount(dir, "size=50%,nr_inodes=0"),
            Self::Descriptors { pid, before } => match prlimit(Some(*pid), Resource::Nofile, *before) {
                Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(error).context("raise the limit of descriptors"),
            },
            Self::Cgroup { dir, home } => {
                for pid in fs::read_to_string(dir.join("cgroup.procs"))?.lines() {
                    // It may have ended.
                    _ = fs::write(home.join("cgroup.procs"), pid);
                }
                cgroup::remove(&dir.to_string_lossy())
            }
            Self::Limit(file, before) => {
                fs::write(file, before).with_context(|| format!("write {}", file.display()))
            }
        }
    }
}

/// A disk without room: a file system of `pages` pages and `files` inodes over `dir`, in which only `keep` is what
/// it was before.
///
/// # Errors
/// When it cannot be mounted, or not even `keep` has room.
pub fn disk(dir: &Path, pages: usize, files: usize, keep: &[&str]) -> Result<Shortage> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let read = |name: &&str| fs::read(dir.join(name)).with_context(|| format!("read {name}"));
    let kept = keep.iter().map(read).collect::<Result<Vec<_>>>()?;
    let options = format!("size={}k,nr_inodes={files}", 4 * pages);
    mount(Some("full"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("mount {}", dir.display()))?;
    let shortage = Shortage::of(Kind::Disk(dir.to_owned()));
    for (name, content) in keep.iter().zip(kept) {
        fs::write(dir.join(name), content).with_context(|| format!("keep {name}"))?;
    }
    Ok(shortage)
}

/// No room for another page or file in the memory file system at `dir`, with all that is in it already.
///
/// # Errors
/// When `dir` is not where one is mounted.
pub fn room(dir: &Path) -> Result<Shortage> {
    let used = statvfs(dir).with_context(|| format!("measure {}", dir.display()))?;
    let bytes = (used.f_blocks - used.f_bfree) * used.f_frsize;
    remount(dir, &format!("size={bytes},nr_inodes={}", used.f_files - used.f_ffree))?;
    Ok(Shortage::of(Kind::Room(dir.to_owned())))
}

fn remount(dir: &Path, options: &str) -> Result<()> {
    let none: Option<&str> = None;
    mount(none, dir, none, MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
        .with_context(|| format!("remount {} with {options}", dir.display()))
}

/// No descriptor above the highest that the process has open.
///
/// # Errors
/// When the process is gone or its limit cannot be set.
pub fn descriptors(pid: i32) -> Result<Shortage> {
    let open = process::descriptors(pid);
    let highest = open.keys().max().with_context(|| format!("{pid} has no descriptors"))?;
    let pid = Pid::from_raw(pid).context("no pid")?;
    let before = rustix::process::getrlimit(Resource::Nofile);
    let limit = Rlimit { current: Some(u64::try_from(*highest)? + 1), maximum: before.maximum };
    let before = prlimit(Some(pid), Resource::Nofile, limit).context("lower the limit of descriptors")?;
    Ok(Shortage::of(Kind::Descriptors { pid, before }))
}

/// No process or thread beyond those of `pid` that there are.
///
/// # Errors
/// When the cgroups do not take it.
pub fn pids(world: &World, pid: i32) -> Result<Shortage> {
    let hierarchy = cgroup::with_controller("pids")?;
    if hierarchy.is_unified() {
        // A child may be born in any cgroup: only a limit above all of them holds.
        let dir = hierarchy.dir(world.id());
        let now = fs::read_to_string(dir.join("pids.current")).context("read pids.current")?;
        return limit(&dir.join("pids.max"), now.trim());
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task")).context("list threads")?.count();
    starve(world, pid, &hierarchy, "pids.max", &threads.to_string())
}

/// No memory beyond `bytes` for what `pid` takes from now on (v1 charges nothing that it had before).
///
/// # Errors
/// When the cgroups do not take it.
pub fn memory(world: &World, pid: i32, bytes: u64) -> Result<Option<Shortage>> {
    let hierarchy = cgroup::with_controller("memory")?;
    if hierarchy.is_unified() {
        // The rig's own processes are beside the shim in a cgroup without children: it has no limit of its own.
        return Ok(None);
    }
    starve(world, pid, &hierarchy, "memory.limit_in_bytes", &bytes.to_string()).map(Some)
}

fn limit(file: &Path, value: &str) -> Result<Shortage> {
    let before = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    fs::write(file, value).with_context(|| format!("write {value} to {}", file.display()))?;
    Ok(Shortage::of(Kind::Limit(file.to_owned(), before.trim().to_owned())))
}

/// Moves a process into a v1 cgroup of its own with one limit.
fn starve(world: &World, pid: i32, hierarchy: &Hierarchy, file: &str, value: &str) -> Result<Shortage> {
    let process = process::Process::read(pid).with_context(|| format!("{pid} is gone"))?;
    let place = process.cgroups.iter().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let is_same = controllers.split(',').any(|name| hierarchy.controllers.iter().any(|own| own == name));
        if is_same { parts.next() } else { None }
    });
    let home = hierarchy.dir(place.context("the process has no such cgroup")?);
    let dir = hierarchy.dir(&format!("{}/starved", world.id()));
    fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    let shortage = Shortage::of(Kind::Cgroup { dir: dir.clone(), home });
    fs::write(dir.join(file), value).with_context(|| format!("write {value} to {file}"))?;
    fs::write(dir.join("cgroup.procs"), pid.to_string()).context("move the process")?;
    ensure!(fs::read_to_string(dir.join("cgroup.procs"))?.lines().any(|line| line == pid.to_string()));
    Ok(shortage)
}
