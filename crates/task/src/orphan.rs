//! Orphans: processes whose parent in a container has ended before them.
//!
//! In a pid namespace of its own the container's init inherits and buries them. In the namespace of the host
//! they come to the shim, the nearest subreaper (prctl(2)), and stay zombies until it waits for them. Only
//! then is SIGCHLD listened to; the exits that matter come from pidfds.

use std::time::Duration;

use dunnage_sys::{Errno, Error};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::AbortHandle;

use crate::mailbox::{Mailbox, Message};

/// Tells the mailbox whenever a child has ended.
pub(crate) fn watch(mailbox: Mailbox) -> Result<AbortHandle, Error> {
    let mut ended = signal(SignalKind::child()).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        Error::new("listen for SIGCHLD", errno)
    })?;
    let watching = async move {
        while ended.recv().await.is_some() {
            tell(&mailbox);
        }
    };
    Ok(tokio::task::spawn_local(watching).abort_handle())
}

/// Tells it once more, when whoever is watched will have been waited for.
pub(crate) fn look_again(mailbox: Mailbox) {
    tokio::task::spawn_local(async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        tell(&mailbox);
    });
}

fn tell(mailbox: &Mailbox) {
    if let Some(mailbox) = mailbox.upgrade() {
        let _ = mailbox.send(Message::Orphans);
    }
}
