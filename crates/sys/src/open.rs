//! Files by descriptor: resolution that cannot leave a tree, and what is done to files without their path.
//!
//! Owns `openat2` with its retry, and the `*at` calls with the flags that are safe in a hostile tree. For the
//! cloned child: nothing allocates; paths are C strings.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, ResolveFlags, Uid, chownat, openat2};

use crate::Errno;
use crate::raw::outcome;

pub use rustix::fs::{
    Access, Mode, OFlags, Stat, accessat, fstat, fstatfs, major, makedev, mkdirat, readlinkat_raw, statat,
    symlinkat,
};
pub use rustix::io::{close, fcntl_dupfd_cloexec, read, write};

/// Times `openat2` is tried again when a rename somewhere in the system disturbed the walk (EAGAIN,
/// openat2(2)); far more than any measured storm needs.
const RETRIES: u32 = 10_000;

/// Opens `path` as a process would whose root is the directory `root`: neither symlinks nor `..` lead out.
///
/// # Errors
/// As openat2(2).
pub fn in_root(root: impl AsFd, path: &CStr, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    resolve(root, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// [`in_root`], without following any symlink: `ELOOP`.
///
/// # Errors
/// As openat2(2).
pub fn in_root_without_symlinks(
    root: impl AsFd,
    path: &CStr,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let resolution = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    resolve(root, path, flags, mode, resolution)
}

/// Opens `path` below `dir`, on the same mount: `EXDEV` when anything is mounted on the way. A link such as
/// `/proc/self` may be followed, a magic one not.
///
/// # Errors
/// As openat2(2).
pub fn same_mount(dir: impl AsFd, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolution = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    resolve(dir, path, flags, Mode::empty(), resolution)
}

fn resolve(
    dir: impl AsFd,
    path: &CStr,
    flags: OFlags,
    mode: Mode,
    resolution: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match openat2(dir.as_fd(), path, flags | OFlags::CLOEXEC, mode, resolution) {
            Err(Errno::AGAIN | Errno::INTR) if tries < RETRIES => tries += 1,
            result => return result,
        }
    }
}

/// Opens a path of the host, symlinks followed.
///
/// # Errors
/// As open(2).
pub fn host(path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a node named `name`, which has no slash, in `dir`; `mode` has the type and permission bits.
///
/// # Errors
/// As mknod(2); an existing name is never followed.
pub fn make_node(dir: impl AsFd, name: &CStr, mode: u32, major: u32, minor: u32) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(mode);
    rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode), makedev(major, minor))
}

/// Removes the file `name` of `dir`.
///
/// # Errors
/// As unlink(2).
pub fn remove(dir: impl AsFd, name: &CStr) -> Result<(), Errno> {
    rustix::fs::unlinkat(dir, name, AtFlags::empty())
}

/// Changes the owner of an open file, `O_PATH` too; `None` leaves a part as it is.
///
/// # Errors
/// As fchownat(2).
pub fn set_owner(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    chownat(fd, c"", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::EMPTY_PATH)
}

/// Changes the permission bits of an open file, `O_PATH` too (`fchmodat2`, 6.6).
///
/// # Errors
/// `ENOSYS` on older kernels.
pub fn set_mode(fd: impl AsFd, mode: u32) -> Result<(), Errno> {
    const SYS_FCHMODAT2: libc::c_long = 452;
    let (fd, path, flags) = (fd.as_fd().as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the string outlives the call, which only reads it.
    let returned = unsafe { libc::syscall(SYS_FCHMODAT2, fd, path, mode, flags) };
    outcome(returned).map(drop)
}

/// Whether `path` may be executed by the real ids of the caller.
///
/// # Errors
/// `EACCES`, also on a mount without execution.
pub fn may_execute(path: &CStr) -> Result<(), Errno> {
    accessat(CWD, path, Access::EXEC_OK, AtFlags::empty())
}

/// `stat`, symlinks followed.
///
/// # Errors
/// As stat(2).
pub fn stat(path: &CStr) -> Result<Stat, Errno> {
    statat(CWD, path, AtFlags::empty())
}

/// Reads a symlink of the host into `buffer`; gives the length, cut to the buffer's.
///
/// # Errors
/// As readlink(2).
pub fn read_host_link(path: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    readlinkat_raw(CWD, path, buffer)
}

/// Opens the file `name` of a directory of the host.
///
/// # Errors
/// As open(2).
pub fn within(directory: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// The directory above an open one; that of the root is the root.
///
/// # Errors
/// As open(2).
pub fn above(directory: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, c"..", flags, Mode::empty())
}

/// `chmod` of a path of the host, symlinks followed.
///
/// # Errors
/// As chmod(2).
pub fn set_mode_of_path(path: &CStr, mode: u32) -> Result<(), Errno> {
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
}

/// The number of a descriptor, for a name below `/proc/self/fd`.
pub fn number(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// The same file with a number above those of the standard streams, which are about to be replaced.
///
/// # Errors
/// `EMFILE`.
pub fn above_streams(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { fcntl_dupfd_cloexec(fd, 3) }
}
