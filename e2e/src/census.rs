//! A census of what a test can leave behind: taken before and after, it must be equal.
//!
//! It counts mounts, cgroups in every hierarchy, network namespaces and links, processes and zombies, files and
//! folders below `/run`, listening sockets, address leases, what nftables and the routing table have, and
//! containerd's work folders. Of the machine itself
//! it counts only what carries the world's id, because others may work there too; with `CENSUS=machine` (set in
//! CI, where nothing else runs) every mount, cgroup and link of the machine counts that is not another world's.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cgroup;
use crate::fault;
use crate::process;
use crate::programs::installed;
use crate::wait;
use crate::world::{self, World};

/// How long what is torn down after its caller was answered may take to vanish.
const SETTLE: Duration = Duration::from_secs(20);

/// What the shim has learnt about the machine's containerd, once for every version of it.
const ANSWERS: &str = "/run/dunnage/.containerd";

/// The machine's, where systemd runs: also of scopes in other worlds.
const SYSTEMD: &str = "/run/systemd";

/// The bridge of the rig's pod network stays, as on a node: it belongs to the network, not to a pod.
const BRIDGE: &str = "e2e0";

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A mount in the world's own namespace.
    Mount,
    /// A mount in the machine's namespace.
    MachineMount,
    /// A cgroup in any hierarchy.
    Cgroup,
    /// A process or zombie of the world.
    Process,
    /// A network namespace beside the world's own that a process of the world is in or holds open, or that a mount
    /// gives a name.
    NetworkNamespace,
    /// A network link in the world's namespace.
    Link,
    /// A network link in the machine's namespace.
    MachineLink,
    /// A file, folder or named namespace below `/run`.
    File,
    /// A listening socket.
    Socket,
    /// An address taken from the pod network.
    Lease,
    /// A line or an element of nftables in the world's namespace.
    Firewall,
    /// An IPv4 route of the world's namespace.
    Route,
    /// A work folder of containerd on disk.
    WorkDir,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mount => "mount",
            Self::MachineMount => "mount in the machine's namespace",
            Self::Cgroup => "cgroup",
            Self::Process => "process",
            Self::NetworkNamespace => "network namespace",
            Self::Link => "link",
            Self::MachineLink => "link in the machine's namespace",
            Self::File => "file",
            Self::Socket => "listening socket",
            Self::Lease => "address lease",
            Self::Firewall => "line of nftables",
            Self::Route => "route",
            Self::WorkDir => "work folder",
        })
    }
}

/// Everything counted at one moment, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    items: BTreeMap<Kind, BTreeSet<String>>,
}

impl Census {
    /// Counts now.
    ///
    /// # Errors
    /// When one of the kernel's tables cannot be read.
    pub fn take(world: &World) -> Result<Self> {
        let whole = env::var("CENSUS").is_ok_and(|scope| scope == "machine");
        let scope = |item: &String| {
            item.contains(world.id()) || (whole && !item.contains(world::PREFIX) && !is_service(item))
        };
        let machine = world.machine().to_string();
        // The rig's own daemon is no leak, and has another pid after a restart.
        let mut processes = world.processes();
        processes.retain(|process| process.name != "containerd");
        // Reaping what was left to the machine's own init is its business, and some take their time.
        processes.retain(|process| !(process.is_zombie() && process.parent == 1));
        let items = BTreeMap::from([
            (Kind::Mount, mounts("thread-self", |id| !world.is_inherited(id))?),
            (Kind::MachineMount, mounts(&machine, |_| true)?.into_iter().filter(scope).collect()),
            (Kind::Cgroup, cgroups()?.into_iter().filter(scope).collect()),
            (Kind::Process, processes.iter().map(describe).collect()),
            (Kind::NetworkNamespace, network_namespaces(world, &processes)?),
            (Kind::Link, links("thread-self")?),
            (Kind::MachineLink, if whole { links(&machine)? } else { BTreeSet::new() }),
            (Kind::File, files(world)),
            (Kind::Socket, sockets()?),
            (Kind::Lease, leases(world)),
            (Kind::Firewall, firewall()?),
            (Kind::Route, routes()?),
            (Kind::WorkDir, work_dirs(world)),
        ]);
        Ok(Self { items })
    }

    /// What was not there before (`+`) and what is missing now (`-`), one line each.
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let empty = BTreeSet::new();
        let mut changes = Vec::new();
        for (kind, before) in &self.items {
            let after = later.items.get(kind).unwrap_or(&empty);
            changes.extend(after.difference(before).map(|item| format!("+ {kind}: {item}")));
            changes.extend(before.difference(after).map(|item| format!("- {kind}: {item}")));
        }
        changes
    }

    /// Requires that the world comes back to this census.
    ///
    /// # Errors
    /// The changes that remain: what leaked, and what should not have been removed.
    pub async fn require_same(&self, world: &World) -> Result<()> {
        self.require_same_within(world, SETTLE * wait::patience()).await
    }

    /// The same with so much time to settle.
    ///
    /// # Errors
    /// As [`Self::require_same`].
    pub async fn require_same_within(&self, world: &World, settle: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let changes = self.changes(&Self::take(world)?);
            if changes.is_empty() {
                return Ok(());
            }
            let waited = start.elapsed();
            ensure!(waited < settle, "left behind after {waited:?}:\n{}", changes.join("\n"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The counted items of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.items.get(&kind).into_iter().flatten().map(String::as_str)
    }
}

/// Whether it belongs to a service manager, whose services come and go.
fn is_service(item: &str) -> bool {
    ["/system.slice", "/user.slice", "/init.scope"].iter().any(|part| item.contains(part))
}

/// `PLACE (TYPE from SOURCE)` of each mount with a wanted number in the namespace of the task `who` of proc(5).
fn mounts(who: &str, wanted: impl Fn(u64) -> bool) -> Result<BTreeSet<String>> {
    let path = format!("/proc/{who}/mountinfo");
    let table = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let mut stacked: BTreeMap<String, usize> = BTreeMap::new();
    for line in table.lines() {
        let (place, filesystem) = line.split_once(" - ").with_context(|| format!("not a mount: {line}"))?;
        let mut words = place.split(' ');
        let id =
            words.next().and_then(|id| id.parse().ok()).with_context(|| format!("not a mount: {line}"))?;
        if !wanted(id) {
            continue;
        }
        let place = words.nth(3).unwrap_or_default();
        let mut words = filesystem.split(' ');
        let (kind, source) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        *stacked.entry(format!("{place} ({kind} from {source})")).or_default() += 1;
    }
    // The same place can be mounted over several times: each counts.
    let item =
        |(text, times): (String, usize)| if times > 1 { format!("{text}, {times} times") } else { text };
    Ok(stacked.into_iter().map(item).collect())
}

fn cgroups() -> Result<BTreeSet<String>> {
    Ok(cgroup::named("")?.into_iter().map(|dir| dir.to_string_lossy().into_owned()).collect())
}

fn describe(process: &process::Process) -> String {
    let zombie = if process.is_zombie() { ", a zombie" } else { "" };
    format!("{} (pid {}, child of {}{zombie})", process.name, process.pid, process.parent)
}

fn links(who: &str) -> Result<BTreeSet<String>> {
    let path = format!("/proc/{who}/net/dev");
    let table = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    Ok(table.lines().filter_map(name).filter(|name| name != BRIDGE).collect())
}

/// The rig's own, in which the test is, is there before and after.
fn network_namespaces(world: &World, processes: &[process::Process]) -> Result<BTreeSet<String>> {
    let own = fs::read_link("/proc/thread-self/ns/net").context("read own network namespace")?;
    let table = fs::read_to_string("/proc/thread-self/mountinfo").context("read the mount table")?;
    // The root of such a mount is the namespace itself.
    let named = table.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let id = words.next()?.parse().ok()?;
        let root = words.nth(2)?;
        (root.starts_with("net:[") && !world.is_inherited(id)).then(|| root.to_owned())
    });
    let mut namespaces = process::namespaces(processes, "net");
    namespaces.extend(named);
    namespaces.remove(&*own.to_string_lossy());
    Ok(namespaces)
}

/// Everything below `/run`, which is the world's own, except the folders that belong to no single container.
fn files(world: &World) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(Path::new("/run"), &mut |path, is_dir| {
        let stands = path.starts_with(ANSWERS)
            || path.starts_with(fault::PLACE)
            || (path.starts_with(SYSTEMD) && !is_unit_of(path, world.id()))
            || (is_dir && is_standing(path, world.id()));
        if !stands {
            found.insert(path.to_string_lossy().into_owned());
        }
    });
    found
}

/// Whether systemd made that file for a scope in the world's slice.
fn is_unit_of(path: &Path, id: &str) -> bool {
    let slice = format!("Slice={id}.slice");
    path.extension().is_some_and(|end| end == "scope")
        && fs::read_to_string(path).is_ok_and(|unit| unit.lines().any(|line| line == slice))
}

/// Folders that containerd and runtimes make once and keep: the first two levels and, below them, one folder per
/// containerd namespace.
fn is_standing(path: &Path, id: &str) -> bool {
    let depth = path.components().count() - 2;
    let name = path.file_name().unwrap_or_default();
    depth <= 2
        || (depth == 3 && [id, "k8s.io", "containers", "sandboxes"].iter().any(|standing| name == *standing))
}

fn walk(dir: &Path, found: &mut impl FnMut(&Path, bool)) {
    // Folders vanish while they are walked through; then there is nothing to count.
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        found(&entry.path(), is_dir);
        // The inside of a mounted root file system is the image's; the mount itself is counted.
        if is_dir && entry.file_name() != "rootfs" {
            walk(&entry.path(), found);
        }
    }
}

/// Listening unix sockets by path (`@` for abstract ones) and TCP ports.
fn sockets() -> Result<BTreeSet<String>> {
    /// `__SO_ACCEPTCON` of the kernel's `include/linux/net.h`.
    const LISTENS: &str = "00010000";
    /// `TCP_LISTEN`.
    const TCP_LISTENS: &str = "0A";
    let unix = fs::read_to_string("/proc/thread-self/net/unix").context("read unix sockets")?;
    let mut sockets: BTreeSet<String> = unix
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(3) == Some(&LISTENS))
        .filter_map(|words| words.get(7).map(|path| (*path).to_owned()))
        .collect();
    for table in ["tcp", "tcp6"] {
        // IPv6 may be absent.
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let listening = lines.filter(|words| words.get(3) == Some(&TCP_LISTENS));
        sockets.extend(listening.filter_map(|words| words.get(1).map(|local| format!("{table} {local}"))));
    }
    Ok(sockets)
}

/// Of the reference plugin a file each, of ours a word each that says who has the place in its table.
fn leases(world: &World) -> BTreeSet<String> {
    let is_address = |name: &String| name.parse::<std::net::IpAddr>().is_ok();
    let of_reference = names(&world.dir().join("containerd/leases/e2e")).filter(is_address);
    let tables = names(Path::new(LEASE_TABLES)).filter(|name| name.ends_with(".tab"));
    of_reference.chain(tables.flat_map(|table| places(&table))).collect()
}

/// Where `dunnage-cni` keeps its lease tables.
const LEASE_TABLES: &str = "/run/dunnage/ipam";

/// A page says how many words there are; then comes a word for each place, whose lowest two bits are zero while
/// nobody has it.
fn places(table: &str) -> Vec<String> {
    const WORDS_AT: usize = 4096;
    const COUNT_AT: usize = 132;
    let bytes = fs::read(Path::new(LEASE_TABLES).join(table)).unwrap_or_default();
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let count = word(COUNT_AT).map_or(0, |count| count as usize);
    let is_taken = |place: &usize| word(WORDS_AT + 4 * place).is_some_and(|word| word & 0b11 != 0);
    (0..count).filter(is_taken).map(|place| format!("place {place} of {table}")).collect()
}

/// By line, and where a line is a list of elements, by element: their order is the kernel's.
fn firewall() -> Result<BTreeSet<String>> {
    let output = Command::new(installed("nft")?).args(["list", "ruleset"]).output().context("start nft")?;
    ensure!(output.status.success(), "nft list ruleset: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let items = text.split(['\n', ',', '{', '}']).map(str::trim).filter(|item| !item.is_empty());
    Ok(items.map(str::to_owned).collect())
}

/// Link, destination and mask of each, as the kernel writes them.
fn routes() -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/thread-self/net/route").context("read routes")?;
    let routes = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let item = |words: Vec<&str>| match words[..] {
        [link, to, _, _, _, _, _, mask, ..] if link != BRIDGE => Some(format!("{to}/{mask} by {link}")),
        _ => None,
    };
    Ok(routes.filter_map(item).collect())
}

fn work_dirs(world: &World) -> BTreeSet<String> {
    let root = world.dir().join("containerd/root/io.containerd.runtime.v2.task");
    let namespaces: Vec<String> = names(&root).collect();
    let below = |namespace: &String| names(&root.join(namespace));
    namespaces.iter().flat_map(below).collect()
}

fn names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(kind: Kind, items: &[&str]) -> Census {
        Census { items: BTreeMap::from([(kind, items.iter().map(|&item| item.to_owned()).collect())]) }
    }

    #[test]
    fn changes_name_what_leaked_and_what_is_missing() {
        let before = census(Kind::Cgroup, &["/a", "/b"]);
        let after = census(Kind::Cgroup, &["/b", "/c"]);
        assert_eq!(before.changes(&after), ["+ cgroup: /c", "- cgroup: /a"]);
    }

    #[test]
    fn only_folders_of_no_single_container_stand() {
        let standing = |path: &str| is_standing(Path::new(path), "e2e");
        assert!(standing("/run/dunnage/e2e"));
        assert!(standing("/run/containerd/io.containerd.runtime.v2.task/k8s.io"));
        assert!(!standing("/run/dunnage/e2e/c1"));
        assert!(!standing("/run/containerd/io.containerd.runtime.v2.task/c1"));
    }
}
