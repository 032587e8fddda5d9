//! The container's root: attached as a private mount, and at last the only root there is.

use std::ffi::CStr;

use dunnage_spec::mount::{Propagation, PropagationKind};
use dunnage_sys::open::{Mode, fstat};
use dunnage_sys::{Errno, mount, open, surroundings};

use super::{Child, PLACE};
use crate::wire::{At, Call, Failure};

/// The kernel's word.
pub(super) fn kernel(kind: PropagationKind) -> mount::Propagation {
    match kind {
        PropagationKind::Private => mount::Propagation::Private,
        PropagationKind::Shared => mount::Propagation::Shared,
        PropagationKind::Slave => mount::Propagation::Slave,
        PropagationKind::Unbindable => mount::Propagation::Unbindable,
    }
}

fn propagate_root(propagation: Propagation) -> Result<(), Failure> {
    let root = open::host(c"/", PLACE).at(Call::Open)?;
    mount::set_propagation(&root, kernel(propagation.kind), propagation.recursive).at(Call::MountSetattr)
}

pub(super) fn set_rootfs_propagation(propagation: Propagation) -> Result<(), Failure> {
    propagate_root(propagation)
}

pub(super) fn set_root_readonly() -> Result<(), Failure> {
    let root = open::host(c"/", PLACE).at(Call::Open)?;
    mount::set_attributes(&root, mount::attribute::RDONLY, 0, false).at(Call::MountSetattr)
}

impl Child<'_> {
    pub(super) fn set_root_propagation(&mut self, propagation: Propagation) -> Result<(), Failure> {
        self.host_is_shared = propagation.kind == PropagationKind::Shared;
        propagate_root(propagation)
    }

    pub(super) fn attach_rootfs(&mut self, path: &CStr) -> Result<(), Failure> {
        let directory = open::host(path, PLACE).at(Call::Open)?;
        if self.host_is_shared {
            // A mount below a shared one would appear on the host, and pivot_root refuses it.
            make_parent_private(&directory)?;
        }
        let tree = mount::clone_of(&directory, true).at(Call::OpenTree)?;
        mount::attach(&tree, &directory).at(Call::MoveMount)?;
        self.set_root(tree)
    }

    pub(super) fn open_rootfs(&mut self, path: &CStr) -> Result<(), Failure> {
        let directory = open::host(path, PLACE).at(Call::Open)?;
        self.set_root(directory)
    }

    fn set_root(&mut self, root: std::os::fd::OwnedFd) -> Result<(), Failure> {
        let stat = fstat(&root).at(Call::Stat)?;
        self.root_identity = Some((stat.st_dev, stat.st_ino));
        self.root = Some(root);
        Ok(())
    }

    pub(super) fn pivot_root(&mut self) -> Result<(), Failure> {
        let old = open::host(c"/", PLACE).at(Call::Open)?;
        surroundings::fchdir(self.root()?).at(Call::Fchdir)?;
        mount::pivot_to_working_directory().at(Call::PivotRoot)?;
        surroundings::fchdir(&old).at(Call::Fchdir)?;
        if self.host_is_shared {
            // Otherwise the host's own mounts would go with the detached copies. Slave, not private: private
            // leaves a moment in which a mount of the host is held by the copy (runc's devicemapper races).
            mount::set_propagation(&old, mount::Propagation::Slave, true).at(Call::MountSetattr)?;
        }
        mount::detach_working_directory().at(Call::Umount)?;
        surroundings::chdir(c"/").at(Call::Chdir)?;
        // Both are of the old root.
        (self.null, self.directory) = (None, None);
        Ok(())
    }

    pub(super) fn chroot(&mut self) -> Result<(), Failure> {
        surroundings::fchdir(self.root()?).at(Call::Fchdir)?;
        surroundings::chroot(c".").at(Call::Chroot)?;
        surroundings::chdir(c"/").at(Call::Chdir)
    }
}

/// The mount that holds `directory` is somewhere above it: only its root can be changed, so walk up.
fn make_parent_private(directory: &impl std::os::fd::AsFd) -> Result<(), Failure> {
    let mut at = open::in_root(directory, c".", PLACE, Mode::empty()).at(Call::Open)?;
    loop {
        match mount::set_propagation(&at, mount::Propagation::Private, false) {
            Err(Errno::INVAL) => {}
            result => return result.at(Call::MountSetattr),
        }
        let above = open::above(&at).at(Call::Open)?;
        let (here, there) = (fstat(&at).at(Call::Stat)?, fstat(&above).at(Call::Stat)?);
        if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) {
            return Err(Failure { call: Call::MountSetattr, errno: Errno::INVAL });
        }
        at = above;
    }
}
