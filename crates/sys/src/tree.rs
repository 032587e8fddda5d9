//! Trees of files whose names somebody else chose: image layers being unpacked, root file systems being read,
//! directories being removed.
//!
//! Everything is done by descriptor and one plain name, so no symbolic link, `..` or absolute path inside the
//! tree leads out of it. Owns the calls; what may be in a tree is the caller's to say.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir as Entries, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};

use crate::{Call, Errno, Error, Result};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An open directory of such a tree.
#[derive(Debug)]
pub struct Tree(OwnedFd);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A device with these numbers.
    Device {
        /// Whether it is a block device; else a character device.
        block: bool,
        /// Major and minor number.
        number: (u32, u32),
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Owner, mode and times of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: i64,
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Tree {
    /// Opens a directory by a path of the host, which is trusted.
    ///
    /// # Errors
    /// The failed `open`.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
            .call(|| format!("open {}", path.display()))
            .map(Self)
    }

    /// Opens a directory of the tree. Links on the way are followed as a process would whose root this is:
    /// an absolute target and `..` at the top stay inside.
    ///
    /// # Errors
    /// The errno of `openat2`.
    pub fn dir_in_root(&self, path: &Path) -> std::result::Result<Self, Errno> {
        self.in_root(path, OFlags::RDONLY | OFlags::DIRECTORY).map(Self)
    }

    /// Opens a regular file of the tree for reading; links are followed as by [`Tree::dir_in_root`].
    ///
    /// # Errors
    /// The errno of `openat2`; `EINVAL` when it is no regular file.
    pub fn file_in_root(&self, path: &Path) -> std::result::Result<File, Errno> {
        // NONBLOCK: a named pipe in the place of the file must not stop us.
        let fd = self.in_root(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        Ok(File::from(fd))
    }

    fn in_root(&self, path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        loop {
            // EAGAIN: something was renamed meanwhile, so that the kernel cannot vouch for `..` (openat2(2)).
            match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    /// How many directories lie between this one and the root of the file system it is in, for a limit on
    /// depth that links cannot get around.
    ///
    /// # Errors
    /// `ENAMETOOLONG` beyond the longest path of Linux.
    pub fn depth(&self) -> std::result::Result<usize, Errno> {
        use std::os::fd::AsRawFd;
        let link = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        let path = rustix::fs::readlink(link, Vec::new())?;
        Ok(path.as_bytes().iter().filter(|b| **b == b'/').count())
    }

    /// What `name` is, its own and not a link's; `None` when there is none.
    ///
    /// # Errors
    /// The errno of `fstatat`.
    pub fn kind(&self, name: &OsStr) -> std::result::Result<Option<Kind>, Errno> {
        Ok(self.stat(name)?.as_ref().map(kind))
    }

    /// Owner, mode and times of the directory `name`; `None` when there is no directory of this name.
    ///
    /// # Errors
    /// The errno of `fstatat`.
    pub fn directory_attributes(&self, name: &OsStr) -> std::result::Result<Option<Attributes>, Errno> {
        let stat = self.stat(name)?.filter(|stat| kind(stat) == Kind::Directory);
        Ok(stat.map(|stat| Attributes {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            modified: stat.st_mtime,
        }))
    }

    fn stat(&self, name: &OsStr) -> std::result::Result<Option<Stat>, Errno> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Opens the directory `name`, which must be one itself and no link, on the same mount.
    ///
    /// # Errors
    /// The errno of `openat2`; `EXDEV` at a mount point.
    pub fn dir(&self, name: &OsStr) -> std::result::Result<Self, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.0, name, DIRECTORY, Mode::empty(), resolve).map(Self)
    }

    /// Makes a directory and opens it.
    ///
    /// # Errors
    /// The errno of `mkdirat` or `openat2`.
    pub fn make_dir(&self, name: &OsStr, mode: u32) -> std::result::Result<Self, Errno> {
        rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode))?;
        self.dir(name)
    }

    /// Makes a regular file, readable by its owner until its attributes are set, and opens it for writing.
    ///
    /// # Errors
    /// The errno of `openat`; `EEXIST` when the name is taken, be it by a link.
    pub fn make_file(&self, name: &OsStr) -> std::result::Result<File, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
    }

    /// Makes a symbolic link; where it leads is not looked at.
    ///
    /// # Errors
    /// The errno of `symlinkat`.
    pub fn make_symlink(&self, name: &OsStr, target: &Path) -> std::result::Result<(), Errno> {
        rustix::fs::symlinkat(target, &self.0, name)
    }

    /// Gives the file `from` of another directory a second name here. A link is linked itself.
    ///
    /// # Errors
    /// The errno of `linkat`.
    pub fn make_link(&self, name: &OsStr, dir: &Self, from: &OsStr) -> std::result::Result<(), Errno> {
        rustix::fs::linkat(&dir.0, from, &self.0, name, AtFlags::empty())
    }

    /// Makes a device, a named pipe or a socket.
    ///
    /// # Errors
    /// The errno of `mknodat`; `EINVAL` for other kinds.
    pub fn make_node(&self, name: &OsStr, kind: Kind) -> std::result::Result<(), Errno> {
        let (file_type, (major, minor)) = match kind {
            Kind::Device { block: true, number } => (FileType::BlockDevice, number),
            Kind::Device { block: false, number } => (FileType::CharacterDevice, number),
            Kind::Fifo => (FileType::Fifo, (0, 0)),
            Kind::Socket => (FileType::Socket, (0, 0)),
            Kind::Directory | Kind::File | Kind::Symlink => return Err(Errno::INVAL),
        };
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(&self.0, name, file_type, Mode::from_raw_mode(0o600), device)
    }

    /// Sets owner, mode and times of `name` itself. A symbolic link has no mode of its own.
    ///
    /// # Errors
    /// The errno of `fchownat`, `fchmodat` or `utimensat`.
    pub fn set_attributes(&self, name: &OsStr, attributes: Attributes) -> std::result::Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::chownat(&self.0, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        // After the owner, because chown(2) clears set-id bits. Not through a link: chmodat would follow it.
        if self.kind(name)? != Some(Kind::Symlink) {
            rustix::fs::chmodat(
                &self.0,
                name,
                Mode::from_raw_mode(attributes.mode & 0o7777),
                AtFlags::empty(),
            )?;
        }
        let time = Timespec { tv_sec: attributes.modified, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(&self.0, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Sets an extended attribute of this directory.
    ///
    /// # Errors
    /// The errno of `fsetxattr`.
    pub fn set_xattr(&self, name: &str, value: &[u8]) -> std::result::Result<(), Errno> {
        set_xattr(&self.0, name, value)
    }

    /// Removes `name`, and all below it when it is a directory; one that is not there is a success.
    ///
    /// However deep the tree, three descriptors are open at most: what lies deeper is first moved up to `self`.
    /// Mount points are not entered.
    ///
    /// # Errors
    /// The failed call with the name.
    pub fn remove(&self, name: &OsStr) -> Result<()> {
        let named = |call: &str, name: &OsStr| format!("{call} {}", Path::new(name).display());
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(Error::new(named("unlink", name), errno)),
        }
        let root = self.dir(name).call(|| named("open", name))?;
        // Entries that came up are seen again by a later round, because each round empties what it saw.
        let mut moved = 0_u64;
        while root.remove_round(&mut moved).call(|| named("empty", name))? {}
        rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR).call(|| named("rmdir", name))
    }

    /// Removes every entry of this directory, after moving up those of its subdirectories that are directories
    /// themselves; says whether any was moved.
    fn remove_round(&self, moved: &mut u64) -> std::result::Result<bool, Errno> {
        let before = *moved;
        for entry in Entries::read_from(&self.0)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || self.unlink_file(name)? {
                continue;
            }
            let below = self.dir(name)?;
            for entry in Entries::read_from(&below.0)? {
                let entry = entry?;
                let inner = OsStr::from_bytes(entry.file_name().to_bytes());
                if inner == "." || inner == ".." || below.unlink_file(inner)? {
                    continue;
                }
                below.move_up(inner, self, moved)?;
            }
            rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?;
        }
        Ok(*moved != before)
    }

    /// Unlinks `name`; `false` when it is a directory.
    fn unlink_file(&self, name: &OsStr) -> std::result::Result<bool, Errno> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::ISDIR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn move_up(&self, name: &OsStr, to: &Self, moved: &mut u64) -> std::result::Result<(), Errno> {
        loop {
            let fresh = format!(".{moved}");
            *moved += 1;
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&self.0, name, &to.0, fresh, flags) {
                Err(Errno::EXIST) => {}
                done => return done,
            }
        }
    }
}

/// Sets an extended attribute of an open file.
///
/// # Errors
/// The errno of `fsetxattr`.
pub fn set_xattr(file: impl AsFd, name: &str, value: &[u8]) -> std::result::Result<(), Errno> {
    rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
}

/// Removes a directory of the host with all below it; one that is not there is a success.
///
/// # Errors
/// As [`Tree::remove`].
pub fn remove_all(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(format!("remove {}", path.display()), Errno::INVAL));
    };
    match Tree::open(parent) {
        Err(error) if error.errno() == Errno::NOENT => Ok(()),
        opened => opened?.remove(name),
    }
}

fn kind(stat: &Stat) -> Kind {
    let device = |block| Kind::Device {
        block,
        number: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::BlockDevice => device(true),
        FileType::CharacterDevice => device(false),
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => Kind::File,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        (dir, tree)
    }

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn links_in_a_tree_lead_to_places_in_the_tree() {
        let (dir, tree) = tree();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "inside").unwrap();
        for (link, target) in [("absolute", "/etc"), ("climbing", "../../../../etc"), ("twice", "absolute")] {
            tree.make_symlink(name(link), Path::new(target)).unwrap();
            let file = tree.file_in_root(&Path::new(link).join("passwd")).unwrap();
            assert_eq!(std::io::read_to_string(file).unwrap(), "inside", "{link}");
        }
        assert_eq!(tree.dir(name("absolute")).unwrap_err(), Errno::NOTDIR);
        assert_eq!(tree.file_in_root(Path::new("etc")).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_does_not_stop_the_reader() {
        let (_dir, tree) = tree();
        tree.make_node(name("passwd"), Kind::Fifo).unwrap();
        assert_eq!(tree.file_in_root(Path::new("passwd")).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn attributes_are_those_of_the_name_and_not_of_what_it_links_to() {
        let (dir, tree) = tree();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        tree.make_symlink(name("link"), Path::new("file")).unwrap();
        let wanted = Attributes { uid: 1234, gid: 2345, mode: 0o4751, modified: 1_000_000 };
        let before = std::fs::metadata(dir.path().join("file")).unwrap();
        tree.set_attributes(name("link"), wanted).unwrap();
        let after = std::fs::metadata(dir.path().join("file")).unwrap();
        assert_eq!((before.uid(), before.mode(), before.mtime()), (after.uid(), after.mode(), after.mtime()));
        assert_eq!(std::fs::symlink_metadata(dir.path().join("link")).unwrap().uid(), 1234);
        tree.set_attributes(name("file"), wanted).unwrap();
        let set = std::fs::metadata(dir.path().join("file")).unwrap();
        assert_eq!((set.uid(), set.gid(), set.permissions().mode() & 0o7777), (1234, 2345, 0o4751));
        assert_eq!(set.mtime(), 1_000_000);
    }

    #[test]
    fn a_tree_deeper_than_any_path_or_descriptor_table_is_removed() {
        let (dir, tree) = tree();
        let mut below = tree.make_dir(name("deep"), 0o755).unwrap();
        for _ in 0..5000 {
            below.make_file(name("f")).unwrap();
            below.make_symlink(name("out"), Path::new("/")).unwrap();
            below = below.make_dir(name("d"), 0o755).unwrap();
        }
        // Names that moving up would like to use.
        std::fs::create_dir_all(dir.path().join("deep/.0/.1/.2")).unwrap();
        drop(below);
        tree.remove(name("deep")).unwrap();
        assert_eq!(tree.kind(name("deep")).unwrap(), None);
        tree.remove(name("deep")).unwrap();
    }

    #[test]
    fn removing_a_link_leaves_what_it_leads_to() {
        let (dir, tree) = tree();
        std::fs::create_dir(dir.path().join("kept")).unwrap();
        std::fs::write(dir.path().join("kept/file"), "x").unwrap();
        std::fs::create_dir(dir.path().join("gone")).unwrap();
        std::os::unix::fs::symlink("../kept", dir.path().join("gone/link")).unwrap();
        tree.remove(name("gone")).unwrap();
        assert!(dir.path().join("kept/file").exists());
    }

    #[test]
    fn a_mount_in_a_tree_is_not_entered() {
        let (dir, tree) = tree();
        std::fs::create_dir_all(dir.path().join("tree/mount")).unwrap();
        std::fs::create_dir(dir.path().join("kept")).unwrap();
        std::fs::write(dir.path().join("kept/file"), "x").unwrap();
        let target = dir.path().join("tree/mount");
        crate::classic_mount::bind(&dir.path().join("kept"), &target, false).unwrap();
        let removed = tree.remove(name("tree"));
        crate::classic_mount::unmount(&target).unwrap();
        assert!(removed.is_err());
        assert!(dir.path().join("kept/file").exists());
    }
}
