//! What `/proc` says about processes, as the machine sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

/// A process of the machine.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id in the initial pid namespace of the test.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Name of the program, at most 15 bytes.
    pub name: String,
    /// State letter of proc(5): `Z` is a zombie.
    pub state: char,
    /// Its cgroup in every hierarchy, as `/proc/PID/cgroup` writes them.
    pub cgroups: Vec<String>,
}

impl Process {
    /// Reads one process; `None` when it is gone.
    pub fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may itself contain them: the last one closes it.
        let (before, after) = stat.rsplit_once(") ")?;
        let (_, name) = before.split_once(" (")?;
        let mut fields = after.split(' ');
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(Self {
            pid,
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            name: name.to_owned(),
            cgroups: cgroups.lines().map(str::to_owned).collect(),
        })
    }

    /// Every process of the machine.
    pub fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(Self::read)
            .collect()
    }

    /// The processes whose cgroups carry `id`. A zombie goes by its parent as well: on cgroup v1 it has left its cgroups
    /// (`proc_cgroup_show` says `/`), and only v2 remembers them.
    pub fn all_in(id: &str) -> Vec<Self> {
        let mut all = Self::all();
        let parents: BTreeSet<i32> =
            all.iter().filter(|process| process.is_in(id)).map(|it| it.pid).collect();
        all.retain(|process| process.is_in(id) || (process.is_zombie() && parents.contains(&process.parent)));
        all
    }

    /// Whether any of its cgroups carries `id` in its path.
    pub fn is_in(&self, id: &str) -> bool {
        self.cgroups.iter().any(|line| line.contains(id))
    }

    /// Whether it has ended and waits for its parent to notice.
    pub fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }
}

/// The program a process runs, unless it is gone or a zombie.
pub fn executable(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The identity of one of a process's namespaces, such as `net:[4026531840]`.
pub fn namespace(pid: i32, kind: &str) -> Option<String> {
    Some(fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?.to_string_lossy().into_owned())
}

/// The open descriptors of a process: number and what it refers to.
pub fn descriptors(pid: i32) -> BTreeMap<i32, String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            Some((number, target.to_string_lossy().into_owned()))
        })
        .collect()
}

/// How many of a process's descriptors refer to each kind of thing: `socket`, `pipe`, `anon_inode:[pidfd]`, or
/// a path. Numbers of sockets and pipes are dropped, so that two moments can be compared.
pub fn descriptor_kinds(pid: i32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for target in descriptors(pid).into_values() {
        let kind = match target.split_once(":[") {
            Some((kind, _)) if kind != "anon_inode" => kind.to_owned(),
            _ => target,
        };
        *kinds.entry(kind).or_insert(0) += 1;
    }
    kinds
}

/// The distinct namespaces of a kind that the given processes are in or hold open.
pub fn namespaces(processes: &[Process], kind: &str) -> BTreeSet<String> {
    let open = |pid| descriptors(pid).into_values().filter(|target| target.starts_with(&format!("{kind}:[")));
    processes
        .iter()
        .flat_map(|process| namespace(process.pid, kind).into_iter().chain(open(process.pid)))
        .collect()
}
