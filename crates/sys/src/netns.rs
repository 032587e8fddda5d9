//! Network namespaces: made, entered, recognised, pinned to a path.
//!
//! Owns the calls. A namespace is per thread, so whoever calls [`unshare`] or [`enter`] should be a thread
//! that ends soon: going back can fail, and a thread left in the wrong namespace poisons all that runs on it.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, open, openat, unlink};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::raw::outcome_of_int;
use crate::{Call, Errno, Error, Result};

const THREAD_NETNS: &CStr = c"/proc/thread-self/ns/net";
/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// `NS_GET_NSTYPE` of linux/nsfs.h (since 4.11): the flag of clone(2) for this kind of namespace.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// What tells one namespace from every other one of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// Device of nsfs.
    pub dev: u64,
    /// Inode in nsfs.
    pub ino: u64,
}

/// Moves the calling thread to a new, empty network namespace.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `ENOSPC` above `user.max_net_namespaces`.
pub fn unshare() -> Result<()> {
    // SAFETY: only CLONE_FILES can make descriptors of other threads disappear, and it is not set.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.call(|| "unshare the network namespace")
}

/// Moves the calling thread to `netns`.
///
/// # Errors
/// `EINVAL` when the descriptor is another kind of namespace, `EPERM` without privilege over it.
pub fn enter(netns: impl AsFd) -> Result<()> {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .call(|| "enter a network namespace")
}

/// Opens the network namespace of the calling thread.
///
/// # Errors
/// `ENOENT` when /proc is not mounted.
pub fn own() -> Result<OwnedFd> {
    open(THREAD_NETNS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .call(|| "open /proc/thread-self/ns/net")
}

/// Tells which namespace an open descriptor is, or `None` when it is a plain file, because the pin was unmounted, or
/// another kind of namespace.
///
/// # Errors
/// `fstatfs`, `ioctl` or `fstat` failed.
pub fn identify(fd: impl AsFd) -> Result<Option<NetnsId>> {
    let kind = fstatfs(fd.as_fd()).call(|| "statfs a network namespace")?;
    if u64::try_from(kind.f_type) != Ok(NSFS_MAGIC) {
        return Ok(None);
    }
    // SAFETY: the request has no argument.
    let kind = outcome_of_int(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_NSTYPE) });
    if Ok(libc::CLONE_NEWNET) != kind.call(|| "ask for the kind of a namespace")?.try_into() {
        return Ok(None);
    }
    let stat = fstat(fd.as_fd()).call(|| "stat a network namespace")?;
    Ok(Some(NetnsId { dev: stat.st_dev, ino: stat.st_ino }))
}

/// Pins the calling thread's network namespace to `path`, a file that this call makes.
///
/// # Errors
/// `EEXIST` when the path is taken; nothing is left behind by a failure.
pub fn pin(path: &Path) -> Result<()> {
    openat(CWD, path, OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC, Mode::RUSR)
        .call(|| format!("create {}", path.display()))?;
    mount(THREAD_NETNS, path, c"", MountFlags::BIND, None::<&CStr>).map_err(|errno| {
        let _ = unlink(path);
        Error::new(format!("bind-mount the network namespace on {}", path.display()), errno)
    })
}

/// Removes a pin; one that is not there, or not there any more, is a success.
///
/// # Errors
/// `umount2` or `unlink` failed.
pub fn unpin(path: &Path) -> Result<()> {
    loop {
        // MNT_DETACH because a copy of the mount in another mount namespace would make it EBUSY. EINVAL: not
        // a mount point, so all of a stack of mounts is gone.
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno).call(|| format!("umount {}", path.display())),
        }
    }
    match unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).call(|| format!("unlink {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_namespace_outlives_its_thread_and_goes_with_its_pin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        let made = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare().unwrap();
                    pin(&path).unwrap();
                    identify(own().unwrap()).unwrap().unwrap()
                })
                .join()
                .unwrap()
        });
        let opened = std::fs::File::open(&path).unwrap();
        assert_eq!(identify(&opened).unwrap(), Some(made));
        assert_ne!(identify(own().unwrap()).unwrap(), Some(made));
        unpin(&path).unwrap();
        assert!(!path.exists());
        unpin(&path).unwrap();
    }

    #[test]
    fn a_taken_path_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(pin(&path).unwrap_err().errno(), Errno::EXIST);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        assert_eq!(identify(std::fs::File::open(&path).unwrap()).unwrap(), None);
        assert_eq!(identify(std::fs::File::open("/proc/self/ns/mnt").unwrap()).unwrap(), None);
    }
}
