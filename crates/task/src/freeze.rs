//! Waiting for the freezer, beside the driver's loop.

use std::rc::Rc;
use std::time::Duration;

use dunnage_cgroup::{Cgroup, FreezeState};
use tokio::time::{Instant, sleep};

use crate::command::Target;
use crate::error::{Error, Result};
use crate::mailbox::{Mailbox, Notice, tell};

// A process that sits in the kernel (a hung network file system) freezes only when it comes back.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// Freezes `cgroup` and tells the mailbox when it is frozen, or could not be and runs on.
pub(crate) fn watch(cgroup: Rc<Cgroup>, target: Target, mailbox: Mailbox) {
    tokio::task::spawn_local(async move {
        let mut frozen = freeze(&cgroup, &target).await;
        if frozen.is_err()
            && let Err(error) = cgroup.thaw()
        {
            frozen = Err(error.into());
        }
        tell(&mailbox, &target, Notice::Frozen(frozen));
    });
}

async fn freeze(cgroup: &Cgroup, target: &Target) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut freezing = cgroup.freeze()?;
    while freezing.step()? != FreezeState::Frozen {
        if Instant::now() > deadline {
            return Err(Error::NotFrozen(target.id.clone(), PATIENCE));
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
