//! How this machine's cgroups are mounted, found out once per process.
//!
//! Unified: one tree for everything. Legacy: one tree per controller or group of controllers. Hybrid: the
//! legacy trees and beside them a unified one without controllers, in which processes are still placed since
//! that is where they can be born (`CLONE_INTO_CGROUP`) and killed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use dunnage_sys::kernfs::{Dir, Filesystem};
use dunnage_sys::{Call, Errno};

use crate::controller::Controller;
use crate::error::{Error, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// Which of the three ways of mounting cgroups this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Cgroup v2 only.
    Unified,
    /// Controllers on v1, and a v2 tree without controllers.
    Hybrid,
    /// Cgroup v1 only.
    Legacy,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub struct Hierarchy {
    name: String,
    controllers: Vec<Controller>,
    unified: bool,
    mount_point: PathBuf,
    root: Dir,
    available: OnceLock<Vec<String>>,
}

impl Hierarchy {
    fn new(options: &[&str], mount_point: PathBuf, root: Dir) -> Self {
        let name = match options {
            [] if mount_point == Path::new(ROOT) => String::new(),
            [] => "unified".to_owned(),
            _ => options.join(",").trim_start_matches("name=").to_owned(),
        };
        let controllers = options.iter().filter_map(|option| Controller::parse(option)).collect();
        Self { name, controllers, unified: options.is_empty(), mount_point, root, available: OnceLock::new() }
    }

    /// As the directory is called in `/sys/fs/cgroup`: `cpu,cpuacct`, `systemd`, `unified`; empty when the unified
    /// tree is mounted on `/sys/fs/cgroup` itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The v1 controllers of this tree; empty for named trees and for the unified one, whose controllers differ
    /// from directory to directory.
    #[must_use]
    pub fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// Whether it is cgroup v2.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// The v2 controllers to enable below the mount point; none on a hybrid machine. Read once.
    pub(crate) fn available(&self) -> &[String] {
        self.available.get_or_init(|| {
            let mut text = Vec::new();
            // A tree without the file, as on v1, has nothing to enable.
            let _ = self.root.read("cgroup.controllers", &mut text);
            String::from_utf8_lossy(&text).split_whitespace().map(str::to_owned).collect()
        })
    }

    /// The directory at the mount point, which need not be the root of the hierarchy (cgroup namespaces, bind
    /// mounts).
    #[must_use]
    pub fn root(&self) -> &Dir {
        &self.root
    }
}

/// The mounted hierarchies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout {
    mode: Mode,
    hierarchies: Arc<[Arc<Hierarchy>]>,
}

impl Layout {
    /// Looks at `/sys/fs/cgroup` and, where controllers are on v1, at `/proc/self/cgroup` and if that does not
    /// suffice at `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`Error::NoCgroups`], or the call that failed.
    pub fn detect() -> Result<Self> {
        match Dir::open(Path::new(ROOT)) {
            Ok(root) if root.filesystem().call(|| format!("statfs {ROOT}"))? == Filesystem::Cgroup2 => {
                let hierarchy = Arc::new(Hierarchy::new(&[], PathBuf::from(ROOT), root));
                Ok(Self { mode: Mode::Unified, hierarchies: Arc::new([hierarchy]) })
            }
            Ok(_) | Err(Errno::NOENT) => Self::legacy(&text("/proc/self/cgroup")?),
            Err(errno) => Err(dunnage_sys::Error::new(format!("open {ROOT}"), errno).into()),
        }
    }

    fn legacy(membership: &str) -> Result<Self> {
        let mut hierarchies = Vec::new();
        // Reading the mount table of a node with hundreds of pods takes milliseconds, and the directories
        // are where everybody expects them: it is read only when one is not.
        let mut mounts: Option<Vec<CgroupMount>> = None;
        for options in memberships(membership) {
            let mut found = conventional(&options);
            // The unified tree is always listed, and on legacy machines mounted nowhere.
            let expected = !options.is_empty() || hierarchies.is_empty();
            if found.is_none() && expected {
                if mounts.is_none() {
                    mounts = Some(parse_mountinfo(&text("/proc/self/mountinfo")?));
                }
                found = mounts.iter().flatten().find_map(|mount| mounted(&options, mount));
            }
            hierarchies.extend(found);
        }
        if hierarchies.len() > 1 {
            // Whatever controllers v1 has left over for the unified tree of a hybrid machine stay where they are:
            // passing them on would forbid processes in directories where systemd and others put them.
            for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.unified) {
                hierarchy.available.get_or_init(Vec::new);
            }
        }
        // Controllers first, the unified tree last: it is the one whose events and births the others support.
        hierarchies.sort_by_key(|hierarchy: &Hierarchy| hierarchy.unified);
        let hierarchies: Arc<[Arc<Hierarchy>]> = hierarchies.into_iter().map(Arc::new).collect();
        Ok(Self { mode: mode(&hierarchies).ok_or(Error::NoCgroups)?, hierarchies })
    }

    /// The hierarchies for which `keep` is true, as if the others were not mounted: a container is then limited,
    /// counted and found in these alone.
    ///
    /// # Errors
    /// [`Error::NoCgroups`] when none is left.
    pub fn only(&self, keep: impl Fn(&Hierarchy) -> bool) -> Result<Self> {
        let hierarchies: Arc<[_]> =
            self.hierarchies.iter().filter(|hierarchy| keep(hierarchy)).cloned().collect();
        Ok(Self { mode: mode(&hierarchies).ok_or(Error::NoCgroups)?, hierarchies })
    }

    /// Every hierarchy a container gets a directory in; the unified one is the last.
    #[must_use]
    pub fn hierarchies(&self) -> &[Arc<Hierarchy>] {
        &self.hierarchies
    }

    /// Which of the three ways this machine has.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether cgroup v2 is all there is.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.mode == Mode::Unified
    }

    /// Hierarchies made of plain directories, for tests on trees that this machine does not have.
    #[cfg(test)]
    pub(crate) fn fake(trees: &[(&[&str], &Path)]) -> Self {
        let open = |(options, path): &(&[&str], &Path)| {
            Arc::new(Hierarchy::new(options, path.to_path_buf(), Dir::open(path).unwrap()))
        };
        let hierarchies: Arc<[_]> = trees.iter().map(open).collect();
        Self { mode: mode(&hierarchies).unwrap(), hierarchies }
    }
}

fn mode(hierarchies: &[Arc<Hierarchy>]) -> Option<Mode> {
    let last = hierarchies.last()?;
    Some(match (last.unified, hierarchies.len()) {
        (true, 1) => Mode::Unified,
        (true, _) => Mode::Hybrid,
        (false, _) => Mode::Legacy,
    })
}

fn text(path: &str) -> Result<String> {
    Ok(std::fs::read_to_string(path).call(|| format!("read {path}"))?)
}

/// The second field of each line of `/proc/self/cgroup`: `cpu,cpuacct`, `name=systemd`, or nothing for v2
/// (cgroups(7)). It lists the hierarchies that exist, mounted or not.
fn memberships(text: &str) -> Vec<Vec<&str>> {
    let fields = text.lines().filter_map(|line| line.split(':').nth(1));
    fields.map(|field| field.split(',').filter(|option| !option.is_empty()).collect()).collect()
}

/// The hierarchy with these mount options at one of the places where systemd and its predecessors put it.
fn conventional(options: &[&str]) -> Option<Hierarchy> {
    let names: Vec<String> = match options {
        [] => vec!["unified".to_owned()],
        [one] => vec![one.trim_start_matches("name=").to_owned()],
        [first, second] => vec![options.join(","), format!("{second},{first}")],
        _ => vec![options.join(",")],
    };
    names.iter().find_map(|name| open(options, Path::new(ROOT).join(name)))
}

fn mounted(options: &[&str], mount: &CgroupMount) -> Option<Hierarchy> {
    let same = if options.is_empty() {
        mount.unified
    } else {
        !mount.unified && options.iter().all(|option| mount.options.iter().any(|has| has == option))
    };
    if same { open(options, mount.mount_point.clone()) } else { None }
}

fn open(options: &[&str], mount_point: PathBuf) -> Option<Hierarchy> {
    let expected = if options.is_empty() { Filesystem::Cgroup2 } else { Filesystem::Cgroup };
    let root = Dir::open(&mount_point).ok()?;
    // Something else may be mounted over it.
    if root.filesystem().ok()? != expected {
        return None;
    }
    Some(Hierarchy::new(options, mount_point, root))
}

#[derive(Debug, PartialEq, Eq)]
struct CgroupMount {
    mount_point: PathBuf,
    unified: bool,
    /// Of the superblock: controllers and `name=` among others.
    options: Vec<String>,
}

/// The cgroup mounts of a mount table (proc(5)), those under `/sys/fs/cgroup` first.
fn parse_mountinfo(table: &str) -> Vec<CgroupMount> {
    let mut mounts: Vec<_> = table.lines().filter_map(parse_mount).collect();
    mounts.sort_by_key(|mount| !mount.mount_point.starts_with(ROOT));
    mounts
}

fn parse_mount(line: &str) -> Option<CgroupMount> {
    let (place, filesystem) = line.split_once(" - ")?;
    let mount_point = unescape(place.split(' ').nth(4)?);
    let mut filesystem = filesystem.split(' ');
    let unified = match filesystem.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = filesystem.nth(1)?.split(',').map(str::to_owned).collect();
    Some(CgroupMount { mount_point, unified, options })
}

/// `\040` → space: white space and backslashes are octal in the mount table.
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;

    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_membership_file_lists_the_hierarchies_that_exist() {
        let text = "9:name=systemd:/x:y\n8:cpu,cpuacct:/\n0::/user.slice\n";
        assert_eq!(memberships(text), [vec!["name=systemd"], vec!["cpu", "cpuacct"], vec![]]);
    }

    #[test]
    fn mountinfo_gives_cgroup_mounts_with_those_at_the_usual_place_first() {
        let table = "\
            40 31 0:37 /docker/1 /mnt/a\\040b rw,relatime shared:1 - cgroup cgroup rw,name=systemd\n\
            23 1 0:20 / /sys rw - sysfs sysfs rw\n\
            33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";
        let mounts = parse_mountinfo(table);
        let places: Vec<_> = mounts.iter().map(|mount| mount.mount_point.to_str().unwrap()).collect();
        assert_eq!(places, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified", "/mnt/a b"]);
        assert_eq!(mounts[0].options, ["rw", "cpu", "cpuacct"]);
        assert!(mounts[1].unified);
    }

    #[test]
    fn only_complete_octal_escapes_are_undone() {
        assert_eq!(unescape(r"/a\134b\011c\9\04"), Path::new("/a\\b\tc\\9\\04"));
    }

    #[test]
    fn this_machine_has_at_least_one_hierarchy_and_the_unified_one_is_the_last() {
        let layout = Layout::detect().unwrap();
        let unified: Vec<_> = layout.hierarchies().iter().map(|hierarchy| hierarchy.is_unified()).collect();
        assert!(!unified.is_empty());
        assert!(unified.is_sorted());
        for hierarchy in layout.hierarchies() {
            assert!(hierarchy.mount_point().join("cgroup.procs").exists(), "{hierarchy:?}");
        }
    }
}
