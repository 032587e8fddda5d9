//! The cgroup that the options name for the shim itself.
//!
//! `start` joins it before it spawns the serving process, which is then born there; so nothing has to be undone
//! when it cannot be joined.

use std::path::Path;

use dunnage_cgroup::Layout;
use dunnage_sys::Call;

/// Moves this process into the existing cgroup `path` of every hierarchy that has it.
pub(crate) fn join(path: &str) -> anyhow::Result<()> {
    let layout = Layout::detect()?;
    let mut joined = false;
    for hierarchy in layout.hierarchies() {
        joined |= join_below(hierarchy.mount_point(), path)?;
    }
    anyhow::ensure!(joined, "shim cgroup {path}: no such cgroup");
    Ok(())
}

/// False when there is no such cgroup.
fn join_below(mount_point: &Path, path: &str) -> dunnage_sys::Result<bool> {
    let directory = mount_point.join(path.trim_start_matches('/'));
    if !directory.is_dir() {
        return Ok(false);
    }
    let procs = directory.join("cgroup.procs");
    // 0 is whoever writes.
    std::fs::write(&procs, "0").call(|| format!("write 0 to {}", procs.display()))?;
    Ok(true)
}
