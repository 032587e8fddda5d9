//! What the driver knows of its host, found once.

use std::path::Path;

use dunnage_cgroup::{Cgroup, Layout};
use dunnage_plan::{CgroupMount, FilterCache, HostFacts};
use dunnage_spec::Process;

use crate::error::Result;
use crate::record::Store;

/// The host, as every container of the sandbox sees it.
#[derive(Debug)]
pub struct Host {
    pub(crate) layout: Layout,
    pub(crate) facts: HostFacts,
    pub(crate) filters: FilterCache,
    pub(crate) store: Store,
}

impl Host {
    /// Looks at the host.
    ///
    /// # Errors
    /// There is no usable cgroup hierarchy.
    pub fn detect(store: Store) -> Result<Self> {
        let layout = Layout::detect()?;
        let facts = facts(&layout);
        Ok(Self { layout, facts, filters: FilterCache::default(), store })
    }

    /// The container's own part of the cgroup tree, for its `/sys/fs/cgroup`.
    pub(crate) fn cgroup_mounts(cgroup: &Cgroup) -> Vec<CgroupMount> {
        let mount = |source: dunnage_cgroup::MountSource| CgroupMount {
            v1_options: (!source.unified).then(|| v1_options(&source.name)),
            name: source.name,
            symlinks: source.links,
            host_path: source.path,
        };
        cgroup.mount_sources().into_iter().map(mount).collect()
    }
}

/// The option string that mounts a v1 hierarchy. One without controllers is mounted by its name (cgroups(7));
/// `systemd` is the one there is.
#[must_use]
pub fn v1_options(name: &str) -> String {
    if name == "systemd" { format!("name={name}") } else { name.to_owned() }
}

/// The facts that lowering needs of this host.
#[must_use]
pub fn facts(layout: &Layout) -> HostFacts {
    HostFacts {
        last_capability: read_number("/proc/sys/kernel/cap_last_cap").unwrap_or(40),
        unified_cgroup: layout.is_unified(),
        apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with(b"Y")),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        kcore: Path::new("/proc/kcore").exists(),
    }
}

fn read_number(path: &str) -> Option<u8> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Home directory of the process's user by the `/etc/passwd` of the root file system; `None` when it is not
/// needed (the environment has one) or not known.
pub(crate) fn home(rootfs: &Path, process: &Process) -> Option<String> {
    if process.env.iter().any(|entry| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        return None;
    }
    let passwd = dunnage_sys::image_file::read(rootfs, Path::new("etc/passwd"), MAX_PASSWD).ok()?;
    let uid = process.user.uid.to_string();
    String::from_utf8_lossy(&passwd).lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.nth(2) == Some(uid.as_str());
        found.then(|| fields.nth(2)).flatten().filter(|home| home.starts_with('/')).map(str::to_owned)
    })
}

// The image decides how long its file is; what a shim reads of it is bounded.
const MAX_PASSWD: usize = 1 << 20;
