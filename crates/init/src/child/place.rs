//! Finding a place in the container, and making it when it is missing.
//!
//! Owns resolution: always below the root register, so neither symlinks nor `..` of the image lead out. A
//! link that leads nowhere is followed as far as its text goes, inside the root, and what it names is made:
//! images depend on it.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dunnage_sys::open::{Mode, OFlags, fstat, mkdirat, readlinkat_raw};
use dunnage_sys::{Errno, open};

use super::{Child, PLACE};
use crate::text::Path;
use crate::wire::{At, Call, Failure};

/// Links in one path before it is a loop, as in the kernel (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

/// What is made when a place does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    Directory,
    File,
}

/// A place that was found or made.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) fd: OwnedFd,
    pub(super) made: bool,
}

/// File type bits of a mode.
pub(super) fn kind(mode: u32) -> u32 {
    mode & 0o170_000
}

/// `S_IFDIR`
pub(super) const DIRECTORY: u32 = 0o040_000;
/// `S_IFCHR`
pub(super) const CHARACTER: u32 = 0o020_000;
/// `S_IFIFO`
pub(super) const FIFO: u32 = 0o010_000;
/// `S_IFREG`
pub(super) const REGULAR: u32 = 0o100_000;
/// `S_IFLNK`
const LINK: u32 = 0o120_000;

impl<'a> Child<'a> {
    /// Where something is to be mounted: never the root itself, which a link of the image could name.
    pub(super) fn mount_point(&self, path: &CStr, make: Make, follow: bool) -> Result<Place, Failure> {
        let place = self.place(path, make, follow)?;
        let stat = fstat(&place.fd).at(Call::Stat)?;
        if self.root_identity == Some((stat.st_dev, stat.st_ino)) {
            return Err(Failure { call: Call::CheckTarget, errno: Errno::INVAL });
        }
        Ok(place)
    }

    /// Opens `path` as a place, making it when it is missing. Without `follow` no part of it may be a link.
    pub(super) fn place(&self, path: &CStr, make: Make, follow: bool) -> Result<Place, Failure> {
        let root = self.root()?;
        let open = if follow { open::in_root } else { open::in_root_without_symlinks };
        match open(root, path, OFlags::PATH, Mode::empty()) {
            Ok(fd) => return Ok(Place { fd, made: false }),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).at(Call::OpenTarget),
        }
        let made = make_last(root, path, make)?;
        // What is missing still: directories above, or the end of a link that leads nowhere.
        match open(root, path, OFlags::PATH, Mode::empty()) {
            Ok(fd) => Ok(Place { fd, made }),
            Err(Errno::NOENT) => Ok(Place { fd: make_all(root, path, make)?, made: true }),
            Err(errno) => Err(errno).at(Call::OpenTarget),
        }
    }

    /// The directory and the name of `path`. The directory is remembered, since nodes come in groups.
    pub(super) fn directory_of(&mut self, path: &'a CStr) -> Result<(BorrowedFd<'_>, &'a CStr), Failure> {
        let (directory, name) = split(path).at(Call::OpenTarget)?;
        if self.directory.as_ref().is_none_or(|(known, _)| *known != directory) {
            let mut text = Path::new();
            text.try_push(if directory.is_empty() { b"." } else { directory }).at(Call::OpenTarget)?;
            let place = self.place(text.as_c_str(), Make::Directory, true)?;
            self.directory = Some((directory, place.fd));
        }
        let fd = self.directory.as_ref().map(|(_, fd)| fd.as_fd()).ok_or(Errno::BADF).at(Call::Register)?;
        Ok((fd, name))
    }
}

/// `a/b/c` is `a/b` and `c`.
fn split(path: &CStr) -> Result<(&[u8], &CStr), Errno> {
    let bytes = path.to_bytes_with_nul();
    let slash = bytes.iter().rposition(|&byte| byte == b'/');
    let (directory, name) = slash.map_or((&[][..], bytes), |at| (&bytes[..at], &bytes[at + 1..]));
    let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
    if name.is_empty() { Err(Errno::NOENT) } else { Ok((directory, name)) }
}

/// The common case: only the last name is missing. Gives whether it was made.
fn make_last(root: BorrowedFd<'_>, path: &CStr, make: Make) -> Result<bool, Failure> {
    let (directory, name) = split(path).at(Call::OpenTarget)?;
    let mut text = Path::new();
    text.try_push(if directory.is_empty() { b"." } else { directory }).at(Call::OpenTarget)?;
    match open::in_root_without_symlinks(root, text.as_c_str(), PLACE, Mode::empty()) {
        Ok(directory) => make_one(directory.as_fd(), name, make),
        Err(_) => Ok(false),
    }
}

/// `false` when the name is taken.
fn make_one(directory: BorrowedFd<'_>, name: &CStr, make: Make) -> Result<bool, Failure> {
    let (made, call) = match make {
        Make::Directory => (mkdirat(directory, name, Mode::from_raw_mode(0o755)), Call::Mkdir),
        Make::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY;
            let mode = Mode::from_raw_mode(0o644);
            (open::in_root_without_symlinks(directory, name, flags, mode).map(drop), Call::Create)
        }
    };
    match made {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno).at(call),
    }
}

/// Walks `path` one name at a time, following links by their text, and makes whatever is missing.
fn make_all(root: BorrowedFd<'_>, path: &CStr, make: Make) -> Result<OwnedFd, Failure> {
    // `real` has been walked and has no links; `rest` comes next.
    let (mut real, mut rest) = (Path::new(), Path::new());
    rest.try_push(path.to_bytes()).at(Call::OpenTarget)?;
    let mut links = 0;
    loop {
        let mut name = Path::new();
        let Some(last) = take_first(&mut rest, &mut name) else { break };
        match name.as_bytes() {
            b"." => {}
            b".." => pop(&mut real),
            name => {
                push_name(&mut real, name).at(Call::OpenTarget)?;
                let make = if last { make } else { Make::Directory };
                if let Some(link) = enter(root, &real, make, last)? {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Failure { call: Call::OpenTarget, errno: Errno::LOOP });
                    }
                    follow(&mut real, &mut rest, &link).at(Call::OpenTarget)?;
                }
            }
        }
    }
    if real.is_empty() {
        real.push(b".");
    }
    open::in_root_without_symlinks(root, real.as_c_str(), OFlags::PATH, Mode::empty()).at(Call::OpenTarget)
}

/// Looks at the last name of `real`: `None` when it is there or was made, or the text of the link that it is.
fn enter(root: BorrowedFd<'_>, real: &Path, make: Make, last: bool) -> Result<Option<Path>, Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let found = match open::in_root_without_symlinks(root, real.as_c_str(), flags, Mode::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT) => {
            make_last(root, real.as_c_str(), make)?;
            return Ok(None);
        }
        Err(errno) => return Err(errno).at(Call::OpenTarget),
    };
    match kind(fstat(&found).at(Call::Stat)?.st_mode) {
        LINK => read_link(&found).at(Call::Readlink).map(Some),
        DIRECTORY => Ok(None),
        _ if last => Ok(None),
        _ => Err(Failure { call: Call::OpenTarget, errno: Errno::NOTDIR }),
    }
}

fn read_link(link: &OwnedFd) -> Result<Path, Errno> {
    let mut buffer = [0; crate::text::PATH_MAX];
    let length = readlinkat_raw(link, c"", &mut buffer[..])?;
    let mut text = Path::new();
    text.try_push(&buffer[..length])?;
    Ok(text)
}

/// Puts the text of the link at the end of `real` in its place.
fn follow(real: &mut Path, rest: &mut Path, link: &Path) -> Result<(), Errno> {
    if link.as_bytes().starts_with(b"/") {
        real.clear();
    } else {
        pop(real);
    }
    let mut next = Path::new();
    next.try_push(link.as_bytes())?;
    next.try_push(b"/")?;
    next.try_push(rest.as_bytes())?;
    *rest = next;
    Ok(())
}

/// Moves the first name of `rest` to `name`; gives whether it was the last one.
fn take_first(rest: &mut Path, name: &mut Path) -> Option<bool> {
    let bytes = rest.as_bytes();
    let start = bytes.iter().position(|&byte| byte != b'/')?;
    let length = bytes[start..].iter().position(|&byte| byte == b'/').unwrap_or(bytes.len() - start);
    name.push(&bytes[start..start + length]);
    let mut after = Path::new();
    after.push(&bytes[start + length..]);
    *rest = after;
    Some(rest.as_bytes().iter().all(|&byte| byte == b'/'))
}

fn push_name(real: &mut Path, name: &[u8]) -> Result<(), Errno> {
    if !real.is_empty() {
        real.try_push(b"/")?;
    }
    real.try_push(name)
}

/// At the root, `..` is the root.
fn pop(real: &mut Path) {
    let length = real.as_bytes().iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    real.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_directory_and_a_name() {
        assert_eq!(split(c"dev/pts/ptmx"), Ok((&b"dev/pts"[..], c"ptmx")));
        assert_eq!(split(c"etc"), Ok((&b""[..], c"etc")));
        assert_eq!(split(c"etc/"), Err(Errno::NOENT));
    }

    #[test]
    fn names_come_one_at_a_time_and_the_last_one_is_known() {
        let (mut rest, mut names) = (Path::new(), Vec::new());
        rest.push(b"//a/b//");
        loop {
            let mut name = Path::new();
            let Some(last) = take_first(&mut rest, &mut name) else { break };
            names.push((name.as_bytes().to_vec(), last));
        }
        assert_eq!(names, [(b"a".to_vec(), false), (b"b".to_vec(), true)]);
    }

    #[test]
    fn a_link_takes_the_place_of_its_name_and_never_leads_above_the_root() {
        let (mut real, mut rest, mut link) = (Path::new(), Path::new(), Path::new());
        real.push(b"a/link");
        rest.push(b"c");
        link.push(b"../../../b");
        follow(&mut real, &mut rest, &link).unwrap();
        assert_eq!((real.as_bytes(), rest.as_bytes()), (&b"a"[..], &b"../../../b/c"[..]));
        pop(&mut real);
        pop(&mut real);
        assert!(real.is_empty());
    }
}
