//! A descriptor that becomes readable when the kernel changes one of its own files: `memory.events` and
//! `cgroup.events` of cgroup v2 (cgroups(7), "Cgroups v2 notification").

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::Errno;

/// Watches one file, opened by [`crate::kernfs::Dir::open_name`], for modification. Non-blocking.
///
/// # Errors
/// The errno of `inotify_init1` or `inotify_add_watch`; `ENOENT` when `/proc` is not mounted, `EMFILE` and
/// `ENOSPC` at the limits in `/proc/sys/fs/inotify`.
pub fn watch(file: impl AsFd) -> Result<OwnedFd, Errno> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // There is no inotify_add_watch by descriptor; this link is the descriptor, not a path that can change.
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    inotify::add_watch(&watch, link, WatchFlags::MODIFY)?;
    Ok(watch)
}

/// Forgets what has been reported so far; whether there was anything.
///
/// # Errors
/// The errno of `read`, except `EAGAIN`.
pub fn drain(watch: impl AsFd) -> Result<bool, Errno> {
    let mut events = [0; 4096];
    let mut any = false;
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(watch.as_fd(), &mut events)) {
            Ok(_) => any = true,
            Err(Errno::AGAIN) => return Ok(any),
            Err(errno) => return Err(errno),
        }
    }
}
