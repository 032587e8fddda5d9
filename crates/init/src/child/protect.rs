//! Kernel parameters, read-only paths and masks.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use dunnage_sys::mount::{self, FileSystemContext, attribute};
use dunnage_sys::open::{Mode, OFlags, fstat, makedev};
use dunnage_sys::{Errno, open};

use super::Child;
use super::place::{CHARACTER, DIRECTORY, kind};
use crate::text::Path;
use crate::wire::{At, Call, Failure};

const CLOSED: u64 = attribute::NOSUID | attribute::NODEV | attribute::NOEXEC;

/// Whether this is the null device, and not what an image calls so (CVE-2025-31133). The type counts too: a
/// regular file has device number 0.
pub(super) fn is_null(file: &impl AsFd) -> Result<bool, Errno> {
    let stat = fstat(file)?;
    Ok(kind(stat.st_mode) == CHARACTER && stat.st_rdev == makedev(1, 3))
}

impl Child<'_> {
    /// The procfs that the plan itself has mounted is as good as one that is attached nowhere: paths are only
    /// followed on its own mount (`EXDEV`), and its superblock exists already; a second one would cost most when
    /// it goes, 0.2 ms.
    pub(super) fn open_private_proc(&mut self) -> Result<(), Failure> {
        if self.mounted_proc.is_some() {
            self.proc = self.mounted_proc.take();
            return Ok(());
        }
        self.proc = Some(self.detached_proc()?);
        Ok(())
    }

    pub(super) fn detached_proc(&mut self) -> Result<OwnedFd, Failure> {
        let context = FileSystemContext::open(c"proc").at(Call::Fsopen)?;
        self.finish(&context, CLOSED)
    }

    pub(super) fn write_sysctl(&mut self, path: &CStr, value: &CStr) -> Result<(), Failure> {
        if self.proc.is_none() {
            return Err(Failure { call: Call::Register, errno: Errno::BADF });
        }
        let mut file = Path::new();
        file.try_push(b"sys/").at(Call::Open)?;
        file.try_push(path.to_bytes()).at(Call::Open)?;
        self.write_proc(file.as_c_str(), value.to_bytes())
    }

    pub(super) fn make_readonly(&mut self, path: &CStr) -> Result<(), Failure> {
        let Some(place) = self.existing(path)? else { return Ok(()) };
        let tree = mount::clone_of(&place, true).at(Call::OpenTree)?;
        mount::set_attributes(&tree, attribute::RDONLY, 0, false).at(Call::MountSetattr)?;
        mount::attach(&tree, &place).at(Call::MoveMount)
    }

    pub(super) fn mask(&mut self, path: &CStr) -> Result<(), Failure> {
        let Some(place) = self.existing(path)? else { return Ok(()) };
        if kind(fstat(&place).at(Call::Stat)?.st_mode) == DIRECTORY {
            self.mask_directory(&place)
        } else {
            self.mask_file(&place)
        }
    }

    /// The kernel does not clone a detached mount before 6.15, so the first mask is attached and the others
    /// are clones of it. One superblock for all: each would cost at its end as well.
    fn mask_directory(&mut self, place: &OwnedFd) -> Result<(), Failure> {
        if let Some(empty) = &self.empty {
            let another = mount::clone_of(empty, false).at(Call::OpenTree)?;
            return mount::attach(&another, place).at(Call::MoveMount);
        }
        let context = FileSystemContext::open(c"tmpfs").at(Call::Fsopen)?;
        self.configure(&context, c"nr_blocks", Some(c"1"))?;
        self.configure(&context, c"nr_inodes", Some(c"1"))?;
        self.configure(&context, c"mode", Some(c"555"))?;
        self.configure(&context, c"ro", None)?;
        let empty = self.finish(&context, CLOSED | attribute::RDONLY)?;
        mount::attach(&empty, place).at(Call::MoveMount)?;
        self.empty = Some(empty);
        Ok(())
    }

    fn mask_file(&mut self, place: &OwnedFd) -> Result<(), Failure> {
        if self.null.is_none() {
            let null = open::host(c"/dev/null", OFlags::PATH | OFlags::NOFOLLOW).at(Call::Open)?;
            if !is_null(&null).at(Call::Stat)? {
                return Err(Failure { call: Call::CheckDevice, errno: Errno::NODEV });
            }
            self.null = Some(null);
        }
        let Some(null) = &self.null else { return Ok(()) };
        // The very file that was checked.
        let cover = mount::clone_of(null, false).at(Call::OpenTree)?;
        mount::attach(&cover, place).at(Call::MoveMount)
    }

    /// `None` when there is no such path.
    fn existing(&self, path: &CStr) -> Result<Option<OwnedFd>, Failure> {
        match open::in_root(self.root()?, path, OFlags::PATH, Mode::empty()) {
            Ok(place) => Ok(Some(place)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno).at(Call::OpenTarget),
        }
    }
}
