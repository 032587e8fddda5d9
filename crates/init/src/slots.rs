//! The descriptors a plan asks for, opened before the clone.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dunnage_plan::{Plan, Slot, SlotId};
use dunnage_sys::open::{self, OFlags};
use dunnage_sys::{Call, Errno};

use crate::Error;

/// The open slots of one plan.
#[derive(Debug)]
pub(crate) struct Slots<'a> {
    slots: Vec<Opened<'a>>,
}

#[derive(Debug)]
enum Opened<'a> {
    Here(OwnedFd),
    Given(BorrowedFd<'a>),
}

impl<'a> Slots<'a> {
    /// Opens every slot; `init` is the pidfd for [`Slot::Init`].
    pub(crate) fn open(plan: &Plan, init: Option<BorrowedFd<'a>>) -> Result<Self, Error> {
        let open = |slot: &Slot| match slot {
            Slot::Namespace { path, kind } => open_namespace(path, kind.as_str()).map(Opened::Here),
            Slot::Init => init.map(Opened::Given).ok_or_else(Error::no_init),
        };
        Ok(Self { slots: plan.slots.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// In the order of the plan.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.slots.iter().map(Opened::as_fd).collect()
    }

    /// One of them.
    pub(crate) fn get(&self, id: SlotId) -> Option<BorrowedFd<'_>> {
        self.slots.get(usize::from(id.0)).map(Opened::as_fd)
    }
}

impl Opened<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Here(fd) => fd.as_fd(),
            Self::Given(fd) => *fd,
        }
    }
}

fn open_namespace(path: &Path, kind: &str) -> Result<OwnedFd, Error> {
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL);
    text.and_then(|text| open::host(&text, OFlags::RDONLY))
        .and_then(open::above_streams)
        .call(|| format!("open the {kind} namespace {}", path.display()))
        .map_err(Error::from)
}
