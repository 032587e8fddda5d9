//! One entry of `mounts`, with its options parsed into what they mean to the kernel.

mod check;
mod options;

use std::path::PathBuf;

pub(crate) use options::propagation;

/// A mount, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path in the container, without `..`.
    pub destination: PathBuf,
    /// What appears there.
    pub source: MountSource,
    /// Attributes of the mount itself (`MOUNT_ATTR_*`).
    pub attributes: Attributes,
    /// Attributes that also go to everything mounted below (`rro`, `rnosuid`, …).
    pub recursive: Attributes,
    /// Propagation changes, in order; empty means none asked for.
    pub propagation: Vec<Propagation>,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// An existing file or directory of the host (`bind`, `rbind`).
    Bind {
        /// Absolute path on the host.
        path: PathBuf,
        /// With everything mounted below it.
        recursive: bool,
    },
    /// A new instance of a file system.
    FileSystem {
        /// `proc`, `tmpfs`, `sysfs`, `mqueue`, `devpts`, `overlay`, …
        fs_type: String,
        /// The `source` string, `none` or a device.
        source: String,
        /// Options of the file system, in order: `size=64k` is `("size", Some("64k"))`.
        options: Vec<(String, Option<String>)>,
        /// Superblock flags.
        superblock: Superblock,
    },
    /// `cgroup`: the container's own part of the cgroup tree, however this host mounts it.
    Cgroup,
}

/// Superblock options that the new mount API sets through `fsconfig` flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Superblock {
    /// `ro`. On a new file system `ro` also makes the superblock read-only, as mount(8) does.
    pub read_only: bool,
    /// `sync`.
    pub synchronous: bool,
    /// `dirsync`.
    pub dirsync: bool,
    /// `lazytime`.
    pub lazytime: bool,
    /// `mand`.
    pub mandlock: bool,
    /// `iversion`.
    pub iversion: bool,
}

/// Attributes to set and to clear; what is in neither stays as it is (on a bind: as the source has it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// To set.
    pub set: AttributeSet,
    /// To clear.
    pub clear: AttributeSet,
    /// Access time mode to set, when one was asked for.
    pub atime: Option<Atime>,
}

impl Attributes {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Mount attributes with one bit each (mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttributeSet {
    /// `ro`
    pub readonly: bool,
    /// `nosuid`
    pub nosuid: bool,
    /// `nodev`
    pub nodev: bool,
    /// `noexec`
    pub noexec: bool,
    /// `nodiratime`
    pub nodiratime: bool,
    /// `nosymfollow` (5.14)
    pub nosymfollow: bool,
}

/// The access time modes, of which a mount has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atime {
    /// The kernel's default.
    Relatime,
    /// Never.
    Noatime,
    /// Always.
    Strictatime,
}

/// Propagation of a mount (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// To whom events go.
    pub kind: PropagationKind,
    /// Applied to everything below as well (`rshared`, `rslave`, …).
    pub recursive: bool,
}

/// To whom mount events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropagationKind {
    /// Nobody.
    Private,
    /// Both ways.
    Shared,
    /// From the host only.
    Slave,
    /// Nobody, and it cannot be bound.
    Unbindable,
}
