//! A private piece of the machine for one test.
//!
//! The test's own thread moves into fresh mount and network namespaces; everything it starts is born there.
//! `/run` and the state folder of CNI are empty file systems of its own, the root mount is shared as systemd
//! leaves it on a node (propagation between host and container must work), and the loopback link is up. So
//! sockets, network namespaces, bridges and mounts of the test never meet those of the machine, and vanish with
//! it. Cgroups and processes belong to the machine: they are marked by the world's id in their cgroup path.
//!
//! `CGROUP_DRIVER=systemd` makes pods' cgroups units of the machine's systemd, which then stays reachable.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Signal, getppid, kill_process};
use tempfile::TempDir;

use crate::cgroup::{self, Hierarchy};
use crate::process::Process;

/// First part of every world's id.
pub const PREFIX: &str = "dunnage-e2e-";

/// The cgroup inside the world's own in which the test and its containerd live.
const RIG: &str = "rig";

/// Fresh namespaces, folders and cgroups. Dropping it ends every process in them.
#[derive(Debug)]
pub struct World {
    id: String,
    dir: TempDir,
    logs: PathBuf,
    machine: i32,
    inherited: BTreeSet<u64>,
    marker: Hierarchy,
    home: PathBuf,
}

impl World {
    /// Moves the calling thread into a new world.
    ///
    /// # Errors
    /// When a privilege is missing: the suite needs root.
    pub fn enter() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep().context("clean up after tests that were killed")?;
        let id = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let dir = TempDir::with_prefix("dunnage-e2e-").context("make a folder")?;
        let logs = logs(dir.path())?;
        let machine = getppid().context("the parent is gone")?.as_raw_nonzero().get();
        separate().context("enter fresh namespaces: the e2e suite needs root")?;
        let inherited = mount_ids()?;
        let marker = marker_hierarchy()?;
        let home = own_cgroup(&marker)?;
        for hierarchy in cgroup::hierarchies()? {
            let path = hierarchy.dir(&id);
            fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        }
        let rig = marker.dir(&id).join(RIG);
        fs::create_dir(&rig).with_context(|| format!("make {}", rig.display()))?;
        move_to(&rig)?;
        if has_systemd_driver() {
            systemctl("start", &format!("{id}.slice"))?;
        }
        Ok(Self { id, dir, logs, machine, inherited, marker, home })
    }

    /// What marks this world: the containerd namespace of `ctr` and the parent of all its cgroups.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A folder of this world on a real disk.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A folder for what a person wants to read when the test has failed: `E2E_RESULTS/TEST`, which outlives the
    /// world, if that is set.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// A process that stayed in the machine's own namespaces: the one that started the test.
    pub fn machine(&self) -> i32 {
        self.machine
    }

    /// Whether a mount of this world, by its number in proc(5), was the machine's before. Such mounts come and go
    /// with their owners, not with the test.
    pub fn is_inherited(&self, mount: u64) -> bool {
        self.inherited.contains(&mount)
    }

    /// The parent of cgroups that are directories.
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.id)
    }

    /// The parent cgroup for pods, in the form the kubelet passes: a directory or a slice.
    pub fn pod_parent(&self) -> String {
        if has_systemd_driver() { format!("{}.slice", self.id) } else { self.cgroup_parent() }
    }

    /// Where the cgroup of a container of CRI lies in every hierarchy. A slice lies below those that its name
    /// begins with, up to each dash (systemd.slice(5)).
    pub fn container_cgroup(&self, id: &str) -> String {
        if !has_systemd_driver() {
            return format!("{}/{id}", self.cgroup_parent());
        }
        let dashes = self.id.match_indices('-').map(|(index, _)| index);
        let slices = dashes.chain([self.id.len()]).map(|end| format!("/{}.slice", &self.id[..end]));
        slices.collect::<String>() + &format!("/cri-containerd-{id}.scope")
    }

    /// The processes of this world: of the test itself only its children.
    pub fn processes(&self) -> Vec<Process> {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        Process::all_in(&self.id).into_iter().filter(|process| process.pid != own).collect()
    }

    /// The processes whose program is `name` (as the kernel cuts it: 15 bytes).
    pub fn processes_named(&self, name: &str) -> Vec<Process> {
        let name: String = name.chars().take(15).collect();
        self.processes().into_iter().filter(|process| process.name == name).collect()
    }

    /// The pids of serving shims: those whose program is the given one.
    pub fn shims(&self, program: &Path) -> Vec<i32> {
        let is_shim = |process: &Process| crate::process::executable(process.pid).as_deref() == Some(program);
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // A shim may run from a sealed copy of its image, whose link names no path.
        let runs_copy = |process: &Process| {
            let text = fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            text.split('\0').next().is_some_and(|word| word.rsplit('/').next() == Some(&name))
        };
        let shims = self.processes().into_iter().filter(|process| is_shim(process) || runs_copy(process));
        shims.map(|process| process.pid).collect()
    }

    /// What systemd, where it runs, knows of containers.
    fn keep_units(&self) -> Result<()> {
        if Path::new("/run/systemd/private").exists() {
            let known = Command::new("systemctl").args(["show", "cri-containerd-*.scope"]).output();
            fs::write(self.logs.join("units"), known.context("start systemctl")?.stdout)
                .context("keep units")?;
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        if !self.logs.starts_with(self.dir()) {
            fs::write(self.logs.join("processes"), self.describe()).context("keep the list of processes")?;
            self.keep_units()?;
        }
        kill_all(&self.id);
        if has_systemd_driver() {
            // The slice above is of this process alone, too.
            let above = self.id.rsplit_once('-').map_or(self.id.as_str(), |(above, _)| above);
            systemctl("stop", &format!("{above}.slice"))?;
        }
        move_to(&self.home)?;
        cgroup::remove(&self.id)
    }

    /// What runs in the world, line by line.
    fn describe(&self) -> String {
        let line = |process: Process| {
            let Process { pid, parent, name, state, cgroups } = process;
            format!("{pid} {name} ({state}), child of {parent}, in {}\n", cgroups.join(" "))
        };
        self.processes().into_iter().map(line).collect()
    }

    /// The hierarchy in which processes of this world are marked.
    pub fn marker(&self) -> &Hierarchy {
        &self.marker
    }
}

impl Drop for World {
    #[expect(
        clippy::print_stderr,
        reason = "a destructor has no other way to say what it could not clean up"
    )]
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            eprintln!("world {}: {error:#}", self.id);
        }
    }
}

/// libtest names the thread of a test after it. A colon would not do in the archives of some CI systems.
fn logs(dir: &Path) -> Result<PathBuf> {
    let thread = thread::current();
    let logs = match (env::var_os("E2E_RESULTS"), thread.name()) {
        (Some(results), Some(test)) => PathBuf::from(results).join(test.replace("::", ".")),
        _ => dir.join("logs"),
    };
    fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
    Ok(logs)
}

pub(crate) fn has_systemd_driver() -> bool {
    env::var("CGROUP_DRIVER").is_ok_and(|driver| driver == "systemd")
}

/// As the kubelet, which makes and removes the slices of pods.
fn systemctl(verb: &str, slice: &str) -> Result<()> {
    let status = Command::new("systemctl").args([verb, slice]).status().context("start systemctl")?;
    ensure!(status.success(), "systemctl {verb} {slice}: {status}");
    Ok(())
}

/// What of the machine's `/run` the world keeps: the way to systemd, if it is to be found.
fn kept() -> Result<Vec<(&'static str, File)>> {
    let paths: &[&str] = if has_systemd_driver() { &["/run/systemd", "/run/dbus"] } else { &[] };
    let open = |path| Ok((path, File::open(path).with_context(|| format!("open {path}"))?));
    paths.iter().copied().map(open).collect()
}

fn separate() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("unshare")?;
    let none: Option<&str> = None;
    // First cut off, then share anew: a root that is shared on the machine must not carry our mounts there.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make / private")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("make / shared")?;
    let kept = kept()?;
    for path in ["/run", "/var/lib/cni"] {
        fs::create_dir_all(path).with_context(|| format!("make {path}"))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=755"))
            .with_context(|| format!("mount {path}"))?;
    }
    fs::create_dir("/run/lock").context("make /run/lock")?;
    for (path, folder) in kept {
        // By its descriptor, because the new file system lies over its name.
        let source = format!("/proc/self/fd/{}", folder.as_raw_fd());
        fs::create_dir(path).with_context(|| format!("make {path}"))?;
        mount(Some(source.as_str()), path, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("bind {path}"))?;
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("start ip")?;
    ensure!(up.success(), "ip link set lo up: {up}");
    Ok(())
}

/// The mounts of the calling thread's namespace by the number proc(5) gives each.
fn mount_ids() -> Result<BTreeSet<u64>> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").context("read the mount table")?;
    Ok(table.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect())
}

/// v2 when it is there, in whichever form; else the v1 hierarchy without a controller.
fn marker_hierarchy() -> Result<Hierarchy> {
    let all = cgroup::hierarchies()?;
    let unified = all.iter().find(|hierarchy| hierarchy.is_unified());
    let named =
        all.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name.starts_with("name=")));
    unified.or(named).cloned().context("no cgroup hierarchy to mark processes in")
}

fn own_cgroup(hierarchy: &Hierarchy) -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").context("read own cgroup")?;
    let named = |line: &&str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next().unwrap_or_default();
        hierarchy.controllers.join(",") == controllers || (hierarchy.is_unified() && controllers.is_empty())
    };
    let line = text.lines().find(named).context("own cgroup is not listed")?;
    let path = line.splitn(3, ':').nth(2).context("own cgroup has no path")?;
    Ok(hierarchy.dir(path))
}

fn move_to(dir: &Path) -> Result<()> {
    fs::write(dir.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("move into {}", dir.display()))
}

/// Ends every process in cgroups that carry `id`, except the caller, and reaps the caller's children among them.
/// Who is left to the machine's own init is gone once it has ended: that init may take its time to notice.
fn kill_all(id: &str) {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    for _ in 0..5000 {
        let others = Process::all_in(id).into_iter().filter(|process| process.pid != own);
        let left: Vec<_> = others.filter(|process| !process.is_zombie() || process.parent == own).collect();
        if left.is_empty() {
            return;
        }
        for process in left {
            thaw(&process);
            if let Some(pid) = Pid::from_raw(process.pid) {
                // It may have ended by itself.
                _ = kill_process(pid, Signal::KILL);
                _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// A frozen process of a v1 hierarchy does not die of SIGKILL.
fn thaw(process: &Process) {
    let Ok(freezer) = cgroup::with_controller("freezer") else { return };
    let path = process.cgroups.iter().find_map(|line| line.split_once(":freezer:")).map(|(_, path)| path);
    if let Some(path) = path {
        _ = fs::write(freezer.dir(path).join("freezer.state"), "THAWED");
    }
}

/// Removes what worlds left whose test was killed before it could clean up.
fn sweep() -> Result<()> {
    for dir in cgroup::named(PREFIX)? {
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid: i32| !Path::new(&format!("/proc/{pid}")).exists()) {
            kill_all(&name);
            cgroup::remove(&name)?;
        }
    }
    Ok(())
}
