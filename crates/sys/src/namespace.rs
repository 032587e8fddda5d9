//! Namespaces of any kind: the bits of clone, `setns` and `unshare`.
//!
//! What is special about network namespaces is in `netns`.

use std::os::fd::{AsFd, OwnedFd};

use bitflags::bitflags;
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe};

use crate::Errno;

bitflags! {
    /// Kinds of namespace, as `CLONE_NEW*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Kinds: u32 {
        /// `CLONE_NEWNS`
        const MOUNT = ThreadNameSpaceType::MOUNT.bits();
        /// `CLONE_NEWCGROUP`
        const CGROUP = ThreadNameSpaceType::CONTROL_GROUP.bits();
        /// `CLONE_NEWUTS`
        const UTS = ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME.bits();
        /// `CLONE_NEWIPC`
        const IPC = ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION.bits();
        /// `CLONE_NEWPID`
        const PID = ThreadNameSpaceType::PROCESS_ID.bits();
        /// `CLONE_NEWNET`
        const NETWORK = ThreadNameSpaceType::NETWORK.bits();
    }
}

/// `setns`: moves the calling thread to the namespace that `fd` is, or to those kinds of the process that the
/// pidfd `fd` names (5.8), all or none. `PID` changes only where its children are born.
///
/// # Errors
/// `EINVAL` when `fd` is another kind of namespace, `EPERM` without privilege over it, `ESRCH` when the
/// process has ended.
pub fn join(fd: impl AsFd, kinds: Kinds) -> Result<(), Errno> {
    move_into_thread_name_spaces(fd.as_fd(), ThreadNameSpaceType::from_bits_retain(kinds.bits()))
}

/// `unshare`: moves the calling thread to new namespaces.
///
/// # Errors
/// `ENOSPC` above the limit of namespaces, `EPERM` without privilege.
pub fn unshare(kinds: Kinds) -> Result<(), Errno> {
    // SAFETY: only CLONE_FILES can make descriptors of other threads disappear, and no kind is that bit.
    unsafe { unshare_unsafe(UnshareFlags::from_bits_retain(kinds.bits())) }
}

/// The pid namespace that the calling thread itself is in, to come back to after [`join`].
///
/// # Errors
/// `ENOENT` when /proc is not mounted.
pub fn own_pid() -> Result<OwnedFd, Errno> {
    open(c"/proc/thread-self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
