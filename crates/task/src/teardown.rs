//! Taking a container's host objects down: processes, cgroup, root file system, record. In this order, each
//! tried whatever became of the others.

use std::time::Duration;

use dunnage_cgroup::{Cgroup, Removal};
use tokio::time::Instant;

use crate::container::Held;
use crate::error::Error;

/// What is left is an error; everything else was removed all the same.
pub(crate) type Outcome = Result<(), Error>;

// Killed processes leave a cgroup when the kernel gets to it, and a cgroup cannot be removed before that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes everything down; the first failure is returned.
pub(crate) async fn take_down(held: Held) -> Outcome {
    let Held { cgroup, rootfs, record, oom_watch, orphan_watch } = held;
    for watch in [oom_watch, orphan_watch].into_iter().flatten() {
        watch.abort();
    }
    let cgroup = match &cgroup {
        Some(cgroup) => remove_cgroup(cgroup).await,
        None => Ok(()),
    };
    let rootfs = rootfs.map_or(Ok(()), |rootfs| rootfs.unmount().map_err(Error::from));
    // The record stays while anything else does: it is what a later `delete` cleans up by.
    cgroup.and(rootfs)?;
    Ok(record.map_or(Ok(()), crate::record::Record::remove)?)
}

async fn remove_cgroup(cgroup: &Cgroup) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        match cgroup.remove()? {
            Removal::Gone => return Ok(()),
            Removal::Busy if Instant::now() > deadline => {
                return Err(Error::StillBusy(cgroup.path().to_owned()));
            }
            Removal::Busy => cgroup.kill()?,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
