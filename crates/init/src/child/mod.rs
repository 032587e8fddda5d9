//! The child's end: one loop over the steps of the plan, in a process that must not allocate, lock or panic.
//!
//! Owns the registers: what only exists in the child. Each step is a short function in the module of its
//! meaning. Every path of the container is resolved below the root register, and every mount is moved by
//! descriptor, so nothing outside of the container is reachable through what an image contains.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dunnage_plan::{Plan, SlotId, Step};
use dunnage_sys::clone::{Alone, Arguments, exit};
use dunnage_sys::namespace::{self, Kinds};
use dunnage_sys::open::OFlags;
use dunnage_sys::seccomp::Filter;
use dunnage_sys::{Errno, identity, open, signal, surroundings};

use crate::streams::Streams;
use crate::text::Text;
use crate::wire::{At, Call, Failure, LONGEST, PROLOGUE, Record, TEXT};

mod devices;
mod gate;
mod identify;
mod isolate;
mod mounts;
mod place;
mod protect;
mod rootfs;
mod streams;
mod terminal;

pub(crate) use isolate::bit;

/// What the parent made ready before the clone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inheritance<'a> {
    pub(crate) plan: &'a Plan,
    /// The child's end of the socket.
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) slots: &'a [BorrowedFd<'a>],
    pub(crate) streams: Streams<'a>,
    /// One for each `LoadSeccomp`, in order.
    pub(crate) filters: &'a [Filter],
    pub(crate) arguments: Option<&'a Arguments<'a>>,
    pub(crate) cgroups: &'a [OwnedFd],
    /// The clone could not put the child into its cgroup.
    pub(crate) late: Option<Late<'a>>,
}

/// What is left to do for a child that was not born in its cgroup.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Late<'a> {
    /// Its `cgroup.procs`.
    pub(crate) procs: BorrowedFd<'a>,
    /// Make the cgroup namespace that the clone would have made.
    pub(crate) namespace: bool,
}

/// The child and its registers.
#[derive(Debug)]
struct Child<'a> {
    alone: Alone,
    given: Inheritance<'a>,
    /// The container's root.
    root: Option<OwnedFd>,
    /// Device and inode of it: nothing may be mounted over it.
    root_identity: Option<(u64, u64)>,
    /// Mounts of the parent's copied table still propagate to the host.
    host_is_shared: bool,
    /// The plan's own mount of a plain procfs, from before anything could be put over parts of it.
    mounted_proc: Option<OwnedFd>,
    /// A procfs of the child's pid namespace, to be used only on its own mount.
    proc: Option<OwnedFd>,
    /// The host's `/dev/null`, checked.
    null: Option<OwnedFd>,
    /// The empty file system that masks directories.
    empty: Option<OwnedFd>,
    /// The directory of the last node or link, by its path.
    directory: Option<(&'a [u8], OwnedFd)>,
    /// Filters loaded so far.
    filters: usize,
    /// Only known descriptors are left open, because a filter may refuse `close_range`.
    sealed: bool,
    /// The first `chdir` was refused.
    refused: bool,
    /// Index of the program's path that was found.
    found: usize,
    /// Details of a failure.
    text: Text<TEXT>,
}

/// Executes the plan. Ends in the program, or in the exit of the child.
pub(crate) fn run(alone: Alone, given: Inheritance<'_>) {
    let mut child = Child {
        alone,
        given,
        root: None,
        root_identity: None,
        host_is_shared: false,
        mounted_proc: None,
        proc: None,
        null: None,
        empty: None,
        directory: None,
        filters: 0,
        sealed: false,
        refused: false,
        found: 0,
        text: Text::new(),
    };
    if let Err(failure) = child.prologue() {
        child.fail(PROLOGUE, failure);
    }
    let mut number: u16 = 0;
    for planned in &given.plan.steps {
        if let Err(failure) = crate::fault::check(number).and_then(|()| child.step(&planned.step)) {
            child.fail(number, failure);
        }
        number = number.saturating_add(1);
    }
    child.fail(PROLOGUE, Failure { call: Call::NoProgram, errno: Errno::NOEXEC });
}

impl<'a> Child<'a> {
    /// Puts the child's own house in order: it holds nothing of the parent but what the plan needs.
    fn prologue(&mut self) -> Result<(), Failure> {
        // Also the parent's end of this socket and of every other newborn's: when the parent is gone, those
        // must read an end of file.
        let cgroups = self.given.cgroups.iter().map(AsFd::as_fd);
        self.close_all_but(cgroups.chain(self.given.late.map(|late| late.procs)))?;
        signal::reset().at(Call::Signals)?;
        // Before it can be seen from any container (CVE-2016-9962).
        identity::forbid_dumps().at(Call::Itself)?;
        // That of the parent may be anything; directories are made 0755 and files 0644.
        surroundings::set_umask(0o022);
        self.given.late.map_or(Ok(()), |late| self.join_late(late))
    }

    /// Closes everything but what later steps need, and `more`.
    fn close_all_but<'f>(&self, more: impl Iterator<Item = BorrowedFd<'f>>) -> Result<(), Failure>
    where
        'a: 'f,
    {
        let Inheritance { streams, slots, socket, .. } = self.given;
        let streams = [streams.stdin, streams.stdout, streams.stderr].into_iter().flatten();
        let keep = streams.chain(slots.iter().copied()).chain([socket]).chain(more);
        self.alone.close_all_but(keep).at(Call::CloseRange)
    }

    fn step(&mut self, step: &'a Step) -> Result<(), Failure> {
        match step {
            Step::JoinCgroups => self.join_cgroups(),
            Step::JoinNamespace { slot, kind } => self.join_namespace(*slot, *kind),
            Step::JoinInit { slot, kinds } => self.join_init(*slot, kinds),
            Step::NewCgroupNamespace => namespace::unshare(Kinds::CGROUP).at(Call::Itself),
            Step::NewSession => surroundings::setsid().map(drop).at(Call::Itself),
            Step::SetOomScore(score) => self.set_oom_score(*score),
            Step::NewKeyring(name) => isolate::new_keyring(name),
            Step::RaiseLoopback => surroundings::raise_loopback().at(Call::Itself),

            Step::SetRootPropagation(propagation) => self.set_root_propagation(*propagation),
            Step::AttachRootfs(path) => self.attach_rootfs(path),
            Step::OpenRootfs(path) => self.open_rootfs(path),

            Step::MountFileSystem { file_system, target, propagation, no_symlink } => {
                self.mount_file_system(file_system, target, propagation, *no_symlink)
            }
            Step::BindMount { source, recursive, attributes, recursive_attributes, target, propagation } => {
                let tree = self.clone_source(source, *recursive, *attributes, *recursive_attributes)?;
                self.attach_source(&tree, target, propagation)
            }
            Step::SetReadonly { target } => self.set_readonly(target),

            Step::MakeNode { path, mode, major, minor, uid, gid } => {
                let node = devices::Node { mode: *mode, major: *major, minor: *minor, uid: *uid, gid: *gid };
                self.make_node(path, &node)
            }
            Step::MakeSymlink { target, path, replace } => self.make_symlink(target, path, *replace),

            Step::OpenPrivateProc => self.open_private_proc(),
            Step::WriteSysctl { path, value } => self.write_sysctl(path, value),
            Step::MakeReadonly { path } => self.make_readonly(path),
            Step::Mask { path } => self.mask(path),

            Step::PivotRoot => self.pivot_root(),
            Step::Chroot => self.chroot(),
            Step::SetRootfsPropagation(propagation) => rootfs::set_rootfs_propagation(*propagation),
            Step::SetRootReadonly => rootfs::set_root_readonly(),

            Step::SetHostname(name) => surroundings::sethostname(name.to_bytes()).at(Call::Itself),
            Step::SetDomainname(name) => surroundings::setdomainname(name.to_bytes()).at(Call::Itself),
            Step::OpenTerminal { size, uid, console } => self.open_terminal(*size, *uid, *console),
            Step::SetStreams { uid } => self.set_streams(*uid),
            Step::SetUmask(mask) => {
                surroundings::set_umask(*mask);
                Ok(())
            }
            Step::MakeWorkingDirectory(path) => self.make_working_directory(path),

            Step::SetRlimit(limit) => identify::set_rlimit(*limit),
            Step::SetApparmorProfile(name) => self.set_apparmor_profile(name),
            Step::SetSelinuxLabel(label) => self.set_selinux_label(label),
            Step::SetNoNewPrivileges => identity::set_no_new_privileges().at(Call::Itself),
            Step::LoadSeccomp(_) => self.load_seccomp(),
            Step::ChangeDirectory(path) => self.change_directory(path),
            Step::DropBounding { keep, last } => self.drop_bounding(*keep, *last),
            Step::KeepCapabilities(keep) => identity::keep_capabilities(*keep).at(Call::Itself),
            Step::SetGroups(groups) => identity::set_groups(groups).at(Call::Itself),
            Step::SetIds { uid, gid } => identify::set_ids(*uid, *gid),
            Step::RetryChangeDirectory(path) => self.retry_change_directory(path),
            Step::VerifyWorkingDirectory => self.verify_working_directory(),
            Step::SetCapabilities { effective, permitted, inheritable } => {
                identity::set_capabilities(*effective, *permitted, *inheritable).at(Call::Itself)
            }
            Step::SetAmbient(mask) => self.set_ambient(*mask),
            Step::FindProgram => self.find_program(),

            Step::Ready => self.say(crate::wire::CREATED),
            Step::AwaitStart => self.await_go(),
            Step::CloseDescriptors => self.close_descriptors(),
            Step::Execute => self.execute(),
        }
    }

    /// The last words. Waits until the parent has looked at the scene and kills, or is gone.
    fn fail(&mut self, step: u16, failure: Failure) -> ! {
        let text = std::mem::replace(&mut self.text, Text::new());
        let mut buffer = [0; LONGEST];
        let _ = open::write(self.given.socket, Record { step, failure, text }.encode(&mut buffer));
        let _ = open::read(self.given.socket, &mut [0; 1]);
        exit(1)
    }

    fn slot(&self, slot: SlotId) -> Result<BorrowedFd<'a>, Failure> {
        self.given.slots.get(usize::from(slot.0)).copied().ok_or(Errno::BADF).at(Call::Slot)
    }

    fn root(&self) -> Result<BorrowedFd<'_>, Failure> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF).at(Call::Register)
    }

    /// Adds what a failed call was about.
    fn about<T>(&mut self, result: Result<T, Failure>, what: &[u8]) -> Result<T, Failure> {
        if result.is_err() {
            self.text.push(what);
        }
        result
    }
}

/// How a directory is opened only to be a place.
const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
