//! The vocabulary of a plan: phases, slots and steps.
//!
//! A step is named after what the kernel does. Every string is a C string already and every list is complete,
//! because the child that executes the steps must not allocate (architecture, decision 1).

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;

use dunnage_spec::mount::{Propagation, Superblock};
use dunnage_spec::namespace::NamespaceKind;
use dunnage_spec::process::{Rlimit, WindowSize};

/// Everything the birth of one process needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Namespaces made by the clone itself. `Cgroup` is among them only when the child is born in its cgroup.
    pub new_namespaces: Vec<NamespaceKind>,
    /// The pid namespace to be born in, when it is neither new nor the parent's. The parent enters it for
    /// its children just before the clone: joining from inside would need a second clone (setns(2)).
    pub pid_namespace: Option<SlotId>,
    /// What the parent opens before the clone, by [`SlotId`].
    pub slots: Vec<Slot>,
    /// In order; phases never go backwards.
    pub steps: Vec<Planned>,
    /// What [`Step::FindProgram`] looks for and [`Step::Execute`] runs; absent when the spec has no process.
    pub program: Option<Program>,
}

/// A step, when it belongs, and why it stands there.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Part of the birth.
    pub phase: Phase,
    /// What the kernel does.
    pub step: Step,
    /// The reason for the step or for its place; printed by `dunnage plan`.
    pub why: &'static str,
}

/// Parts of a birth, in order. A plan whose phases go backwards is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Wait for the cgroup, join and make namespaces, leave the parent's session.
    Isolate,
    /// The root file system as a private mount.
    Rootfs,
    /// The mounts of the spec, in its order.
    Mounts,
    /// Nodes and links in `/dev`.
    Devices,
    /// Kernel parameters, read-only and masked paths.
    Protect,
    /// The container's root becomes `/`.
    Pivot,
    /// Names, terminal, streams, working directory.
    Environment,
    /// Limits, ids, capabilities, filters.
    Identity,
    /// Created: report, and wait for start.
    Gate,
    /// The program.
    Execute,
}

/// Index into [`Plan::slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u8);

/// A descriptor that the parent opens before the clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// A namespace file, `O_RDONLY`; the kernel checks the kind at `setns`.
    Namespace {
        /// Absolute host path.
        path: PathBuf,
        /// What it must be.
        kind: NamespaceKind,
    },
    /// The pidfd of the container's init, given by the caller: its namespaces are joined in one call.
    Init,
}

/// Where something is mounted or made, resolved by the child below the root descriptor with
/// `RESOLVE_IN_ROOT`, so that no symlink in the image leads out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Relative to the container's root, without leading slash or `..`; `proc`, `dev/pts`.
    pub path: CString,
    /// What is made when it does not exist.
    pub missing: Missing,
}

/// What to do when a [`Target`] does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Make a directory (0755), with its parents.
    Directory,
    /// Make what the source is: a directory, or an empty file for anything else.
    LikeSource,
}

/// A `mount_setattr(2)` request: `MOUNT_ATTR_*` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountAttributes {
    /// `attr_set`
    pub set: u64,
    /// `attr_clr`; holds all atime bits whenever `set` has one.
    pub clear: u64,
}

impl MountAttributes {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A new instance of a file system (`fsopen`, `fsconfig`, `fsmount`, `move_mount`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// `proc`, `tmpfs`, …
    pub fs_type: CString,
    /// `source` parameter.
    pub source: CString,
    /// Parameters in order; a value of `None` is a flag.
    pub options: Vec<(CString, Option<CString>)>,
    /// Flags of the superblock.
    pub superblock: Superblock,
    /// `MOUNT_ATTR_*` bits given to `fsmount`.
    pub attributes: u64,
    /// tmpfs without `mode=`: the new root gets the mode of the directory it covers.
    pub keep_mode: bool,
}

/// A program, ready for `execve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The name as the user wrote it, for messages.
    pub name: CString,
    /// Paths to try, in the order of `PATH`; only one when the name has a slash.
    pub candidates: Vec<CString>,
    /// Arguments.
    pub args: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
}

/// A classic BPF program for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Shared with the cache it came from.
    pub program: Arc<dunnage_seccomp::Program>,
}

/// One thing the child does. Each is one short function of `dunnage-init`.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Join the cgroups that the child was not born in, by writing `0` to each file that the parent opened
    /// for it: `tasks` of every v1 hierarchy.
    ///
    /// The child writes and not the parent: for a thread that moves itself, alone, the kernel skips
    /// `cgroup_threadgroup_rwsem`, whose writer waits for an RCU grace period. Measured with starts 60 ms
    /// apart, nine hierarchies: 0.24 ms, against 15.7 ms for the parent writing the pid to `cgroup.procs`.
    JoinCgroups,
    /// `setns(slot, kind)`.
    JoinNamespace {
        /// Namespace file.
        slot: SlotId,
        /// Kind.
        kind: NamespaceKind,
    },
    /// `setns(pidfd, kinds)`: all at once, atomically (5.8).
    JoinInit {
        /// The pidfd.
        slot: SlotId,
        /// Kinds.
        kinds: Vec<NamespaceKind>,
    },
    /// `unshare(CLONE_NEWCGROUP)`, after the child is in its cgroups: their directories become its root.
    NewCgroupNamespace,
    /// `setsid`.
    NewSession,
    /// `/proc/self/oom_score_adj`.
    SetOomScore(i32),
    /// `keyctl(KEYCTL_JOIN_SESSION_KEYRING, name)`; ENOSYS, EPERM and EACCES are tolerated.
    NewKeyring(CString),
    /// Loopback up in a network namespace made by this clone.
    RaiseLoopback,

    /// `mount(NULL, "/", propagation)` of the copied mount table.
    SetRootPropagation(Propagation),
    /// Clone the tree at this host path and put the clone on top of it; it becomes the root register. The
    /// mount below it is made private first: with a shared root (`rootfsPropagation`) the clone would show up
    /// on the host, and pivot_root(2) refuses a shared parent.
    AttachRootfs(CString),
    /// Without a mount namespace of its own: only open the root (register) at this host path.
    OpenRootfs(CString),

    /// Make and attach a new file system.
    MountFileSystem {
        /// What.
        file_system: FileSystem,
        /// Where.
        target: Target,
        /// Changes after it is attached, in order.
        propagation: Vec<Propagation>,
        /// The target must be a real directory and not a symlink (proc, sysfs: CVE-2023-28642).
        no_symlink: bool,
    },
    /// Clone an existing tree of the host and attach it.
    BindMount {
        /// Absolute host path.
        source: CString,
        /// With everything mounted below it.
        recursive: bool,
        /// For the topmost mount.
        attributes: MountAttributes,
        /// For the whole tree.
        recursive_attributes: MountAttributes,
        /// Where.
        target: Target,
        /// Changes after it is attached, in order.
        propagation: Vec<Propagation>,
    },
    /// Make an attached mount read-only, after what had to be made in it was made; before the pivot or after
    /// it, always by the root register.
    SetReadonly {
        /// The mount.
        target: Target,
    },

    /// `mknodat` (parents are made, 0755), then owner and mode by descriptor; an equal node that exists is
    /// accepted.
    MakeNode {
        /// Relative to the root.
        path: CString,
        /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, with permission bits.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// `symlinkat`; one that exists is accepted, unless `replace`.
    MakeSymlink {
        /// What it points to.
        target: CString,
        /// Relative to the root.
        path: CString,
        /// Remove what is there first (`/dev/ptmx`).
        replace: bool,
    },

    /// A procfs of the child's own pid namespace, attached nowhere: the proc register. Nothing the image or
    /// the mounts put over `/proc` can redirect a write to it (CVE-2025-52881). A plain procfs that the
    /// plan has mounted itself serves as well, as long as nothing covers what is to be written: paths are only
    /// followed on its own mount.
    OpenPrivateProc,
    /// Write below `sys/` of the proc register.
    WriteSysctl {
        /// `net/ipv4/ip_forward`.
        path: CString,
        /// Value.
        value: CString,
    },
    /// Cover a path with a read-only clone of itself; a path that does not exist is skipped.
    MakeReadonly {
        /// Relative to the root.
        path: CString,
    },
    /// Cover a file with the host's `/dev/null` (checked to be 1:3, CVE-2025-31133) and a directory with an
    /// empty read-only tmpfs shared by all of them; a path that does not exist is skipped.
    Mask {
        /// Relative to the root.
        path: CString,
    },

    /// `pivot_root(".", ".")` onto the root register, old root detached, `/` is the container's.
    PivotRoot,
    /// `chroot`, for containers in the mount namespace of another.
    Chroot,
    /// Propagation of `/` as the spec wants it.
    SetRootfsPropagation(Propagation),
    /// `/` read-only.
    SetRootReadonly,

    /// `sethostname`.
    SetHostname(CString),
    /// `setdomainname`.
    SetDomainname(CString),
    /// A pseudo terminal of the container's devpts: master to the parent, the other end becomes the streams
    /// and the controlling terminal.
    OpenTerminal {
        /// Initial size.
        size: Option<WindowSize>,
        /// Owner of the terminal.
        uid: u32,
        /// Bind it over `dev/console`.
        console: bool,
    },
    /// Streams given by the parent become 0, 1 and 2; an absent one is the container's own `/dev/null`.
    SetStreams {
        /// New owner of pipes and fifos, so that `/dev/stdout` can be opened again by the process.
        uid: u32,
    },
    /// `umask`.
    SetUmask(u32),
    /// Make the working directory (0755) with its parents when it does not exist. Stands after the pivot and
    /// before `/` becomes read-only.
    MakeWorkingDirectory(CString),

    /// `prlimit(0, …)`.
    SetRlimit(Rlimit),
    /// `/proc/self/attr/apparmor/exec` of the proc register.
    SetApparmorProfile(CString),
    /// `/proc/self/attr/exec` of the proc register.
    SetSelinuxLabel(CString),
    /// `PR_SET_NO_NEW_PRIVS`.
    SetNoNewPrivileges,
    /// `seccomp(SECCOMP_SET_MODE_FILTER)`.
    LoadSeccomp(Filter),
    /// `chdir` with all privileges; EACCES and EPERM are left to the second try.
    ChangeDirectory(CString),
    /// `PR_CAPBSET_DROP` of every capability that is not in the mask, up to `last`.
    DropBounding {
        /// What stays.
        keep: u64,
        /// Newest capability of the kernel.
        last: u8,
    },
    /// `PR_SET_KEEPCAPS`, so that the change of user does not clear the permitted set.
    KeepCapabilities(bool),
    /// `setgroups`.
    SetGroups(Vec<u32>),
    /// `setresgid`, `setresuid`.
    SetIds {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// `chdir` as the user (root-squashed and 0700 homes), when the first try was refused.
    RetryChangeDirectory(CString),
    /// `getcwd` must be inside the root (CVE-2024-21626).
    VerifyWorkingDirectory,
    /// `capset`.
    SetCapabilities {
        /// Mask.
        effective: u64,
        /// Mask.
        permitted: u64,
        /// Mask.
        inheritable: u64,
    },
    /// `PR_CAP_AMBIENT_CLEAR_ALL`, then one raise for each.
    SetAmbient(u64),
    /// Find the first candidate of [`Plan::program`] that exists and may be executed by the user; its index
    /// goes to the program register.
    FindProgram,

    /// Tell the parent: created.
    Ready,
    /// Wait for start; when the parent is gone, exit.
    AwaitStart,

    /// `close_range(3, ~0)`: really closed, not only marked (CVE-2024-21626). The socket to the parent
    /// stays, marked close-on-exec: its end of file tells that `execve` succeeded.
    CloseDescriptors,
    /// `execve` of the found candidate of [`Plan::program`].
    Execute,
}
