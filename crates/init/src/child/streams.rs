//! Standard streams, and the working directory they start in.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dunnage_sys::open::{Mode, OFlags, fcntl_dupfd_cloexec, fstat};
use dunnage_sys::{Errno, open, surroundings};

use super::place::{FIFO, Make, kind};
use super::protect::is_null;
use super::{Child, PLACE};
use crate::wire::{At, Call, Failure};

impl Child<'_> {
    pub(super) fn set_streams(&mut self, uid: u32) -> Result<(), Failure> {
        let streams = self.given.streams;
        let mut ready: [Option<OwnedFd>; 3] = [None, None, None];
        for (ready, given) in ready.iter_mut().zip([streams.stdin, streams.stdout, streams.stderr]) {
            // A copy above 2 first: one given descriptor may bear the number that another is to get.
            *ready = Some(match given {
                Some(stream) => copy_for(stream, uid)?,
                None => self.open_null()?,
            });
        }
        for (number, stream) in (0..).zip(ready.iter().flatten()) {
            self.alone.duplicate_to(stream.as_fd(), number).at(Call::Dup)?;
        }
        Ok(())
    }

    /// The container's own: the host's would be a way to the host's mount.
    fn open_null(&mut self) -> Result<OwnedFd, Failure> {
        self.root_or_slash()?;
        let null = open::in_root(self.root()?, c"dev/null", OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
        let null = self.about(null.at(Call::Open), b"/dev/null")?;
        let checked = if is_null(&null).at(Call::Stat)? { Ok(null) } else { Err(Errno::NODEV) };
        self.about(checked.at(Call::CheckDevice), b"/dev/null")
    }

    pub(super) fn make_working_directory(&mut self, path: &CStr) -> Result<(), Failure> {
        self.root_or_slash()?;
        match self.place(path, Make::Directory, true) {
            // Whether it is needed, and with which rights, `ChangeDirectory` will say.
            Err(Failure { errno: Errno::ROFS | Errno::ACCESS | Errno::PERM, .. }) => Ok(()),
            result => result.map(drop),
        }
    }

    pub(super) fn change_directory(&mut self, path: &CStr) -> Result<(), Failure> {
        match surroundings::chdir(path) {
            Err(Errno::ACCESS | Errno::PERM) => {
                self.refused = true;
                Ok(())
            }
            result => result.at(Call::Itself),
        }
    }

    pub(super) fn retry_change_directory(&mut self, path: &CStr) -> Result<(), Failure> {
        if self.refused { surroundings::chdir(path).at(Call::Itself) } else { Ok(()) }
    }

    /// A directory that the process reached through a leaked descriptor has no path from its root
    /// (CVE-2024-21626).
    pub(super) fn verify_working_directory(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; crate::text::PATH_MAX];
        let path = surroundings::working_directory(&mut buffer).at(Call::Getcwd)?;
        if path.to_bytes().starts_with(b"/") {
            return Ok(());
        }
        self.text.push(path.to_bytes());
        Err(Failure { call: Call::Getcwd, errno: Errno::NOENT })
    }

    /// In the namespaces of another container there was no rootfs to attach: its root is `/`.
    pub(super) fn root_or_slash(&mut self) -> Result<(), Failure> {
        if self.root.is_none() {
            self.root = Some(open::host(c"/", PLACE).at(Call::Open)?);
        }
        Ok(())
    }
}

/// A copy of a given stream. A pipe also gets its owner, so that the process can open `/dev/stdout` again.
fn copy_for(stream: BorrowedFd<'_>, uid: u32) -> Result<OwnedFd, Failure> {
    let stat = fstat(stream).at(Call::Stat)?;
    if kind(stat.st_mode) == FIFO && stat.st_uid != uid {
        match open::set_owner(stream, Some(uid), None) {
            // What a file system without owners, or a read-only one, answers.
            Ok(()) | Err(Errno::PERM | Errno::ROFS | Errno::INVAL) => {}
            Err(errno) => return Err(errno).at(Call::Chown),
        }
    }
    fcntl_dupfd_cloexec(stream, 3).at(Call::Dup)
}
