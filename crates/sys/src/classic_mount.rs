//! mount(2) and umount2(2) on paths of the host, for the root file systems that containerd describes as
//! fstab-like entries. Everything inside a container goes through descriptors instead (`mount`).

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags};

use crate::{Call, Errno, Error, Result};

pub use rustix::mount::MountFlags as Flags;

/// Mounts `source` of type `fs_type` on `target`. `data` is the option string of the file system, at most one
/// page.
///
/// # Errors
/// The failed call, as `mount overlay on /bundle/rootfs`.
pub fn mount(source: &str, target: &Path, fs_type: &str, flags: MountFlags, data: &str) -> Result<()> {
    let name = || format!("mount {fs_type} {source} on {}", target.display());
    let data = CString::new(data).map_err(|_| Error::new(name(), Errno::INVAL))?;
    rustix::mount::mount(source, target, fs_type, flags, data.as_c_str()).call(name)
}

/// Binds a file or a tree. Flags of the mount itself need [`remount`] afterwards: the kernel ignores them here
/// (mount(2), "Creating a bind mount").
///
/// # Errors
/// The failed call.
pub fn bind(source: &Path, target: &Path, recursive: bool) -> Result<()> {
    let name = || format!("bind {} on {}", source.display(), target.display());
    let flags = if recursive { MountFlags::BIND | MountFlags::REC } else { MountFlags::BIND };
    rustix::mount::mount(source, target, "", flags, None).call(name)
}

/// Changes the flags of a bind mount.
///
/// # Errors
/// The failed call.
pub fn remount(target: &Path, flags: MountFlags) -> Result<()> {
    rustix::mount::mount_remount(target, MountFlags::BIND | flags, c"")
        .call(|| format!("remount {}", target.display()))
}

/// Detaches the topmost mount at `target`; `false` when nothing is mounted there.
///
/// # Errors
/// The failed call.
pub fn unmount(target: &Path) -> Result<bool> {
    match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        // EINVAL: not a mount point (umount2(2)).
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(errno) => {
            Err(Error::new(format!("unmount {}", target.as_os_str().as_bytes().escape_ascii()), errno))
        }
    }
}
