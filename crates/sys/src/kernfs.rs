//! Directories of a kernel filesystem (cgroupfs, sysfs) and the small files in them.
//!
//! Everything is relative to an open directory, so that nothing can be exchanged under a path after it was
//! checked, and one value is one `write` call: the kernel parses each call by itself. Names and paths of
//! errors are added by the caller, who knows what the value was for.

use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags};

use crate::Errno;

/// Which filesystem a directory is on, by the magic number of `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// One hierarchy of cgroup v1.
    Cgroup,
    /// The unified hierarchy, cgroup v2.
    Cgroup2,
    /// Anything else.
    Other,
}

// linux/magic.h
const CGROUP_SUPER_MAGIC: i64 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `O_RDONLY`
    Read,
    /// `O_WRONLY`, never creating or truncating.
    Write,
}

/// An open directory, good for `openat`, not for listing by itself (`O_PATH`).
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// Opens a directory by its absolute path, following symbolic links.
    ///
    /// # Errors
    /// The errno of `open`.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        rustix::fs::open(path, DIRECTORY, Mode::empty()).map(Self)
    }

    /// Opens a directory below this one; no `..`, symbolic link or mount point may lie on the way.
    ///
    /// # Errors
    /// The errno of `openat2`; `EXDEV` and `ELOOP` say that the way leads out.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<Self, Errno> {
        let path = path.as_ref();
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(&self.0, path, DIRECTORY, Mode::empty(), resolve) {
            // Before Linux 5.6, and where a container's seccomp profile has never heard of openat2 (EPERM).
            Err(Errno::NOSYS | Errno::PERM) => self.walk(path),
            opened => opened.map(Self),
        }
    }

    fn walk(&self, path: &Path) -> Result<Self, Errno> {
        let mut dir: Option<OwnedFd> = None;
        for component in path.components() {
            let Component::Normal(name) = component else { return Err(Errno::XDEV) };
            let at = dir.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
            dir = Some(rustix::fs::openat(at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?);
        }
        dir.map(Self).ok_or(Errno::INVAL)
    }

    /// Makes a directory, mode 0755; `false` when it was there already.
    ///
    /// # Errors
    /// The errno of `mkdirat`, except `EEXIST`.
    pub fn make_dir(&self, path: impl AsRef<Path>) -> Result<bool, Errno> {
        match rustix::fs::mkdirat(&self.0, path.as_ref(), Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Removes an empty directory; `false` when there was none.
    ///
    /// # Errors
    /// The errno of `unlinkat`, except `ENOENT`.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<bool, Errno> {
        match rustix::fs::unlinkat(&self.0, path.as_ref(), AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Opens a file of this directory.
    ///
    /// # Errors
    /// The errno of `openat`.
    pub fn open_file(&self, name: impl AsRef<OsStr>, access: Access) -> Result<OwnedFd, Errno> {
        let access = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::WRONLY,
        };
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.0, name.as_ref(), flags, Mode::empty())
    }

    /// Opens a file of this directory only to name it (`O_PATH`), as [`crate::inotify`] needs.
    ///
    /// # Errors
    /// The errno of `openat`.
    pub fn open_name(&self, name: impl AsRef<OsStr>) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.0, name.as_ref(), flags, Mode::empty())
    }

    /// Writes one value in one call.
    ///
    /// # Errors
    /// The errno of `openat` or `write`; which of the two is not told apart, the kernel's files are there or
    /// they are not (`ENOENT`).
    pub fn write(&self, name: impl AsRef<OsStr>, value: impl AsRef<[u8]>) -> Result<(), Errno> {
        let file = self.open_file(name, Access::Write)?;
        write_once(&file, value.as_ref())
    }

    /// Reads a whole file into `buffer`, which is emptied first.
    ///
    /// # Errors
    /// The errno of `openat` or `read`.
    pub fn read(&self, name: impl AsRef<OsStr>, buffer: &mut Vec<u8>) -> Result<(), Errno> {
        let file = self.open_file(name, Access::Read)?;
        read_again(&file, buffer)
    }

    /// The names of the directories in this one, in no order.
    ///
    /// # Errors
    /// The errno of `openat` or `getdents64`.
    pub fn subdirs(&self) -> Result<Vec<OsString>, Errno> {
        self.list(|kind| kind == FileType::Directory)
    }

    /// The names of the files in this directory, in no order.
    ///
    /// # Errors
    /// The errno of `openat` or `getdents64`.
    pub fn files(&self) -> Result<Vec<OsString>, Errno> {
        self.list(|kind| kind == FileType::RegularFile)
    }

    fn list(&self, wanted: impl Fn(FileType) -> bool) -> Result<Vec<OsString>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = rustix::fs::openat(&self.0, c".", flags, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(listing, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if wanted(entry.file_type()) && name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Which filesystem the directory is on.
    ///
    /// # Errors
    /// The errno of `fstatfs`.
    pub fn filesystem(&self) -> Result<Filesystem, Errno> {
        Ok(match rustix::fs::fstatfs(&self.0)?.f_type {
            CGROUP_SUPER_MAGIC => Filesystem::Cgroup,
            CGROUP2_SUPER_MAGIC => Filesystem::Cgroup2,
            _ => Filesystem::Other,
        })
    }
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Writes one value in one call to an open file.
///
/// # Errors
/// The errno of `write`; `EIO` when the kernel took only a part.
pub fn write_once(file: impl AsFd, value: &[u8]) -> Result<(), Errno> {
    let written = rustix::io::retry_on_intr(|| rustix::io::write(file.as_fd(), value))?;
    if written == value.len() { Ok(()) } else { Err(Errno::IO) }
}

/// Reads an open file from its beginning, also when it was read before, into `buffer`, which is emptied first.
///
/// # Errors
/// The errno of `pread`.
pub fn read_again(file: impl AsFd, buffer: &mut Vec<u8>) -> Result<(), Errno> {
    buffer.clear();
    loop {
        if buffer.capacity() - buffer.len() < 1024 {
            // Doubles, so that the second reading of the same file needs one call and no memory.
            buffer.reserve(buffer.capacity().max(4096));
        }
        let offset = buffer.len() as u64;
        match rustix::io::pread(file.as_fd(), rustix::buffer::spare_capacity(buffer), offset) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
