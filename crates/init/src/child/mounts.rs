//! Mounts of the container: made or cloned detached, set up, and only then attached to an open place.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use dunnage_plan::step::{FileSystem, Missing, MountAttributes, Target};
use dunnage_spec::mount::{Propagation, Superblock};
use dunnage_sys::mount::{self, FileSystemContext};
use dunnage_sys::open;
use dunnage_sys::open::{Mode, OFlags, fstat};

use super::Child;
use super::place::{DIRECTORY, Make, kind};
use crate::text::Text;
use crate::wire::{At, Call, Failure};

impl Child<'_> {
    pub(super) fn mount_file_system(
        &mut self,
        file_system: &FileSystem,
        target: &Target,
        propagation: &[Propagation],
        no_symlink: bool,
    ) -> Result<(), Failure> {
        let place = self.mount_point(&target.path, Make::Directory, !no_symlink)?;
        let mut mode = Text::<8>::new();
        if file_system.keep_mode && !place.made {
            mode.push_number(fstat(&place.fd).at(Call::Stat)?.st_mode & 0o7777, 8);
        }
        let made = self.new_file_system(file_system, mode.as_c_str())?;
        self.attach(&made, &place.fd, propagation)?;
        if is_plain_proc(file_system) {
            self.mounted_proc = Some(made);
        }
        Ok(())
    }

    /// A detached mount of a new instance; `mode` is that of its root, when not empty.
    fn new_file_system(&mut self, wanted: &FileSystem, mode: &CStr) -> Result<OwnedFd, Failure> {
        let context = FileSystemContext::open(&wanted.fs_type).at(Call::Fsopen)?;
        self.configure(&context, c"source", Some(&wanted.source))?;
        for (key, value) in &wanted.options {
            self.configure(&context, key, value.as_deref())?;
        }
        if !mode.is_empty() {
            self.configure(&context, c"mode", Some(mode))?;
        }
        for flag in superblock_flags(wanted.superblock).into_iter().flatten() {
            self.configure(&context, flag, None)?;
        }
        self.finish(&context, wanted.attributes)
    }

    /// Creates the superblock and mounts it.
    pub(super) fn finish(
        &mut self,
        context: &FileSystemContext,
        attributes: u64,
    ) -> Result<OwnedFd, Failure> {
        let created = context.create().at(Call::Fsconfig);
        self.explain(context, created)?;
        let mounted = context.mount(attributes).at(Call::Fsmount);
        self.explain(context, mounted)
    }

    pub(super) fn configure(
        &mut self,
        context: &FileSystemContext,
        key: &CStr,
        value: Option<&CStr>,
    ) -> Result<(), Failure> {
        let done = match value {
            Some(value) => context.set(key, value),
            None => context.set_flag(key),
        };
        let done = self.about(done.at(Call::Fsconfig), key.to_bytes());
        if let (Err(_), Some(value)) = (&done, value) {
            self.text.push(b"=");
            self.text.push(value.to_bytes());
        }
        self.explain(context, done)
    }

    /// Adds what the kernel says about a failure.
    fn explain<T>(&mut self, context: &FileSystemContext, result: Result<T, Failure>) -> Result<T, Failure> {
        if result.is_err() {
            let mut message = [0; crate::wire::TEXT];
            if let Ok(length) = context.message(&mut message) {
                // It begins with its level: `e `, `w ` or `i `.
                let message = message.get(2..length).unwrap_or_default();
                self.text.push(b"\n");
                self.text.push(message);
            }
        }
        result
    }

    /// A clone of a tree of the host, already as the container shall see it.
    pub(super) fn clone_source(
        &mut self,
        source: &CStr,
        recursive: bool,
        attributes: MountAttributes,
        recursive_attributes: MountAttributes,
    ) -> Result<OwnedFd, Failure> {
        let tree = mount::clone_path(source, recursive).at(Call::OpenSource)?;
        for (wanted, whole_tree) in [(attributes, false), (recursive_attributes, true)] {
            if !wanted.is_empty() {
                mount::set_attributes(&tree, wanted.set, wanted.clear, whole_tree).at(Call::MountSetattr)?;
            }
        }
        Ok(tree)
    }

    pub(super) fn attach_source(
        &mut self,
        tree: &OwnedFd,
        target: &Target,
        propagation: &[Propagation],
    ) -> Result<(), Failure> {
        let make = match target.missing {
            Missing::Directory => Make::Directory,
            Missing::LikeSource => match kind(fstat(tree).at(Call::Stat)?.st_mode) {
                DIRECTORY => Make::Directory,
                _ => Make::File,
            },
        };
        let place = self.mount_point(&target.path, make, true)?;
        self.attach(tree, &place.fd, propagation)
    }

    fn attach(
        &mut self,
        tree: &OwnedFd,
        place: &impl AsFd,
        propagation: &[Propagation],
    ) -> Result<(), Failure> {
        // It may now be covered.
        self.directory = None;
        mount::attach(tree, place).at(Call::MoveMount)?;
        for wanted in propagation {
            let kind = super::rootfs::kernel(wanted.kind);
            mount::set_propagation(tree, kind, wanted.recursive).at(Call::MountSetattr)?;
        }
        Ok(())
    }

    pub(super) fn set_readonly(&mut self, target: &Target) -> Result<(), Failure> {
        let place = open::in_root(self.root()?, &target.path, OFlags::PATH, Mode::empty());
        let place = place.at(Call::OpenTarget)?;
        mount::set_attributes(&place, mount::attribute::RDONLY, 0, false).at(Call::MountSetattr)
    }
}

/// A procfs in which everything can be found and written.
fn is_plain_proc(mounted: &FileSystem) -> bool {
    *mounted.fs_type == *c"proc"
        && mounted.options.is_empty()
        && mounted.superblock == Superblock::default()
        && mounted.attributes & mount::attribute::RDONLY == 0
}

/// The flags of the superblock under their names for `fsconfig`.
fn superblock_flags(superblock: Superblock) -> [Option<&'static CStr>; 6] {
    let Superblock { read_only, synchronous, dirsync, lazytime, mandlock, iversion } = superblock;
    [
        read_only.then_some(c"ro"),
        synchronous.then_some(c"sync"),
        dirsync.then_some(c"dirsync"),
        lazytime.then_some(c"lazytime"),
        mandlock.then_some(c"mand"),
        iversion.then_some(c"iversion"),
    ]
}
