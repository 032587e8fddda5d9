//! Mounts by descriptor: the calls of the new mount API, each with its safe flags inside.
//!
//! Owns the calls. Nothing here takes a path that is resolved while mounting, except for `.` and what the
//! caller says is a path of the host. For the cloned child: nothing allocates.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use crate::Errno;
use crate::raw::outcome;

/// `MOUNT_ATTR_*` bits.
pub mod attribute {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id bits and file capabilities mean nothing.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
}

/// Where mount events go (`MS_PRIVATE`, …).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Propagation {
    /// `MS_UNBINDABLE`
    Unbindable = 1 << 17,
    /// `MS_PRIVATE`
    Private = 1 << 18,
    /// `MS_SLAVE`
    Slave = 1 << 19,
    /// `MS_SHARED`
    Shared = 1 << 20,
}

/// A file system being configured (`fsopen`).
#[derive(Debug)]
pub struct FileSystemContext(OwnedFd);

impl FileSystemContext {
    /// `fsopen`.
    ///
    /// # Errors
    /// `ENODEV` when the kernel does not know the type.
    pub fn open(fs_type: &CStr) -> Result<Self, Errno> {
        fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).map(Self)
    }

    /// A parameter with a value.
    ///
    /// # Errors
    /// `EINVAL` when the file system does not know it or its value; [`Self::message`] may say more.
    pub fn set(&self, key: &CStr, value: &CStr) -> Result<(), Errno> {
        fsconfig_set_string(self.0.as_fd(), key, value)
    }

    /// A parameter without a value.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_flag(&self, key: &CStr) -> Result<(), Errno> {
        fsconfig_set_flag(self.0.as_fd(), key)
    }

    /// Makes the superblock, or finds the existing one.
    ///
    /// # Errors
    /// Whatever the file system says; [`Self::message`] may say more.
    pub fn create(&self) -> Result<(), Errno> {
        fsconfig_create(self.0.as_fd())
    }

    /// A mount of it that is attached nowhere yet.
    ///
    /// # Errors
    /// `EPERM` when it would reveal what is hidden in the mount namespace of an unprivileged user.
    pub fn mount(&self, attributes: u64) -> Result<OwnedFd, Errno> {
        fsmount(self.0.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attribute_flags(attributes)?)
    }

    /// The next message of the kernel about what failed, such as `e tmpfs: Bad value for 'size'`; gives its
    /// length.
    ///
    /// # Errors
    /// `ENODATA` when there is none.
    pub fn message(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::read(self.0.as_fd(), buffer)
    }
}

fn attribute_flags(attributes: u64) -> Result<MountAttrFlags, Errno> {
    Ok(MountAttrFlags::from_bits_retain(u32::try_from(attributes).map_err(|_| Errno::INVAL)?))
}

/// A detached clone of the mount at a host path, symlinks followed.
///
/// # Errors
/// `ENOENT`, or `EINVAL` when it is unbindable.
pub fn clone_path(path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    open_tree(CWD, path, clone_flags(recursive))
}

/// A detached clone of the mount at the very file that is open.
///
/// # Errors
/// `EINVAL` when the mount is unbindable or not in this mount namespace.
pub fn clone_of(fd: impl AsFd, recursive: bool) -> Result<OwnedFd, Errno> {
    open_tree(fd, c"", clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// Attaches a detached mount on top of whatever is mounted at the open `target`.
///
/// # Errors
/// `ENOTDIR` when one is a directory and the other is not.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// `mount_setattr` on the mount whose root is open.
///
/// # Errors
/// `EINVAL` when `fd` is not the root of a mount, `EPERM` when a locked attribute would change.
pub fn set_attributes(fd: impl AsFd, set: u64, clear: u64, recursive: bool) -> Result<(), Errno> {
    mount_setattr(fd.as_fd(), &MountAttr { set, clear, ..MountAttr::default() }, recursive)
}

/// Changes the propagation of the mount whose root is open.
///
/// # Errors
/// As [`set_attributes`].
pub fn set_propagation(fd: impl AsFd, propagation: Propagation, recursive: bool) -> Result<(), Errno> {
    let attr = MountAttr { propagation: propagation as u64, ..MountAttr::default() };
    mount_setattr(fd.as_fd(), &attr, recursive)
}

/// `struct mount_attr`, linux/mount.h (5.12).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

fn mount_setattr(fd: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> Result<(), Errno> {
    let flags = if recursive { libc::AT_EMPTY_PATH | libc::AT_RECURSIVE } else { libc::AT_EMPTY_PATH };
    let (path, attr) = (c"".as_ptr(), std::ptr::from_ref(attr));
    // SAFETY: the string and the structure, of the given size, outlive the call, which only reads them.
    let returned = unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), path, flags, attr, size_of::<MountAttr>())
    };
    outcome(returned).map(drop)
}

/// `pivot_root(".", ".")`: the mount at the working directory becomes the root of the mount namespace, and the
/// old root lies on top of it until [`detach_working_directory`] (pivot_root(2), "pivot_root(".", ".")").
///
/// # Errors
/// `EINVAL` when it is not a mount point or its parent is shared.
pub fn pivot_to_working_directory() -> Result<(), Errno> {
    rustix::process::pivot_root(c".", c".")
}

/// `umount2(".", MNT_DETACH)`.
///
/// # Errors
/// `EINVAL` when it is not a mount point.
pub fn detach_working_directory() -> Result<(), Errno> {
    unmount(c".", UnmountFlags::DETACH)
}
