//! What a shim that is gone has left of a container, taken down by its record.
//!
//! Runs in the short process that containerd calls as `delete`, after crashes and after ordinary removals
//! alike: it must find nothing to do quickly, be repeatable, and touch no other container.

use std::time::{Duration, Instant, SystemTime};

use dunnage_cgroup::{Cgroup, Layout, Removal};
use dunnage_spec::ContainerId;

use crate::error::{Error, Result};
use crate::record::{Record, Store};
use crate::rootfs::MountedRootfs;
use crate::state::Exit;

/// How the container ended, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leftover {
    /// Pid of the init; 0 when there was none.
    pub pid: u32,
    /// Recorded by the shim, or 137 now.
    pub exit: Exit,
}

// containerd allows 5 seconds for the whole `delete`.
const PATIENCE: Duration = Duration::from_secs(4);

/// Kills and removes what is left. `None`: there is no record, so nothing is.
///
/// # Errors
/// What could not be taken down; the record stays then, for the next try.
pub fn take_down(store: &Store, id: &ContainerId) -> Result<Option<Leftover>> {
    let Some(record) = store.load(id)? else {
        store.remove_unwritten(id)?;
        return Ok(None);
    };
    let content = record.content();
    let killed = Exit { status: 137, at: SystemTime::now() };
    let leftover =
        Leftover { pid: content.init.map_or(0, |init| init.pid), exit: content.exit().unwrap_or(killed) };
    remove(&record)?;
    record.remove()?;
    Ok(Some(leftover))
}

/// The containers for which containerd executes no `delete` when the shim of their pod has died.
///
/// containerd 2.0 to 2.3 routes the calls of a pod's containers to the shim of its sandbox, and when that dies
/// cleans up after the sandbox alone (containerd/containerd#13293).
///
/// # Errors
/// When the records cannot be listed.
pub fn routed_to(store: &Store, sandbox: &ContainerId) -> Result<Vec<ContainerId>> {
    let mut routed = Vec::new();
    for id in store.ids()? {
        // What cannot be read is for the `delete` of that container to complain about.
        let Ok(Some(record)) = store.load(&id) else { continue };
        if record.content().routed_to.as_deref() == Some(sandbox.as_str()) && id != *sandbox {
            routed.push(id);
        }
    }
    Ok(routed)
}

fn remove(record: &Record) -> Result<()> {
    let content = record.content();
    // By cgroup and not by pid: it names all processes of the container and no others.
    if let Some(cgroup) = Cgroup::open(&Layout::detect()?, &content.cgroup())? {
        remove_cgroup(&cgroup)?;
    }
    if let Some(rootfs) = &content.mounted_rootfs {
        MountedRootfs::adopt(rootfs).unmount()?;
    }
    Ok(())
}

fn remove_cgroup(cgroup: &Cgroup) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        cgroup.kill()?;
        match cgroup.remove()? {
            Removal::Gone => return Ok(()),
            Removal::Busy if Instant::now() > deadline => {
                return Err(Error::StillBusy(cgroup.path().to_owned()));
            }
            Removal::Busy => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use dunnage_spec::resources::CgroupPath;

    use super::*;

    #[test]
    fn containers_whose_bundle_named_the_sandbox_are_those_routed_to_it() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path(), &"k8s.io".parse().unwrap());
        let sandbox_of = [("pod", None), ("web", Some("pod")), ("other", Some("pod2")), ("old", None)];
        for (name, sandbox) in sandbox_of {
            let bundle = root.path().join("bundles").join(name);
            std::fs::create_dir_all(&bundle).unwrap();
            if let Some(sandbox) = sandbox {
                std::fs::write(bundle.join("sandbox"), sandbox).unwrap();
            }
            let cgroup = CgroupPath::Cgroupfs(name.into());
            store.create(&name.parse().unwrap(), &bundle, &cgroup, None).unwrap();
            std::fs::remove_dir_all(&bundle).unwrap();
        }
        let routed = |sandbox: &str| routed_to(&store, &sandbox.parse().unwrap()).unwrap();
        assert_eq!(routed("pod"), ["web".parse().unwrap()]);
        assert_eq!(routed("web"), []);
    }
}
