//! Nodes and links in the container's `/dev`, by the descriptor of their directory (CVE-2026-41579).

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use dunnage_sys::open::{Mode, OFlags, fstat, makedev, symlinkat};
use dunnage_sys::{Errno, open, surroundings};

use super::Child;
use super::place::kind;
use crate::text::Text;
use crate::wire::{At, Call, Failure};

/// A device node or fifo as it shall be.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl<'a> Child<'a> {
    pub(super) fn make_node(&mut self, path: &'a CStr, node: &Node) -> Result<(), Failure> {
        let (directory, name) = self.directory_of(path)?;
        // The mode is exactly that of the spec.
        surroundings::set_umask(0);
        let made = open::make_node(directory, name, node.mode, node.major, node.minor);
        surroundings::set_umask(0o022);
        match made {
            // Made by root with its final mode: nothing is left to do.
            Ok(()) if (node.uid, node.gid) == (0, 0) => Ok(()),
            Ok(()) | Err(Errno::EXIST) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW;
                let open = open::in_root_without_symlinks(directory, name, flags, Mode::empty());
                adjust(&open.at(Call::Open)?, node)
            }
            Err(errno) => Err(errno).at(Call::Mknod),
        }
    }

    pub(super) fn make_symlink(
        &mut self,
        target: &CStr,
        path: &'a CStr,
        replace: bool,
    ) -> Result<(), Failure> {
        let (directory, name) = self.directory_of(path)?;
        match symlinkat(target, directory, name) {
            Err(Errno::EXIST) if replace => {
                open::remove(directory, name).at(Call::Unlink)?;
                symlinkat(target, directory, name).at(Call::Symlink)
            }
            Err(Errno::EXIST) => Ok(()),
            result => result.at(Call::Symlink),
        }
    }
}

/// Checks that the open file is the node, and gives it its owner and mode. A node of the image that is another
/// device must not pass for it.
fn adjust(file: &OwnedFd, node: &Node) -> Result<(), Failure> {
    let stat = fstat(file).at(Call::Stat)?;
    if kind(stat.st_mode) != kind(node.mode) || stat.st_rdev != makedev(node.major, node.minor) {
        return Err(Failure { call: Call::CheckNode, errno: Errno::EXIST });
    }
    if (stat.st_uid, stat.st_gid) != (node.uid, node.gid) {
        open::set_owner(file, Some(node.uid), Some(node.gid)).at(Call::Chown)?;
    }
    // After the owner: a change of owner may clear bits.
    let mode = node.mode & 0o7777;
    if stat.st_mode & 0o7777 != mode { set_mode(file, mode).at(Call::Chmod) } else { Ok(()) }
}

/// Before 6.6 the way to an `O_PATH` descriptor is the host's procfs, which is still in place.
fn set_mode(file: &OwnedFd, mode: u32) -> Result<(), Errno> {
    match open::set_mode(file, mode) {
        Err(Errno::NOSYS) => {
            let mut path = Text::<32>::new();
            path.push(b"/proc/self/fd/");
            path.push_number(open::number(file), 10);
            open::set_mode_of_path(path.as_c_str(), mode)
        }
        result => result,
    }
}
