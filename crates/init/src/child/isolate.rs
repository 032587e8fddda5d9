//! Joining namespaces, and what is the process's own: session, OOM score, keyring.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use dunnage_plan::SlotId;
use dunnage_spec::namespace::NamespaceKind;
use dunnage_sys::namespace::{self, Kinds};
use dunnage_sys::open::{OFlags, fstat, fstatfs};
use dunnage_sys::{Errno, keyring, open};

use super::{Child, Late, PLACE};
use crate::text::Text;
use crate::wire::{At, Call, Failure};

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC_MAGIC: u64 = 0x9fa0;
/// Inode of the root of every procfs (`PROC_ROOT_INO`).
const PROC_ROOT: u64 = 1;

/// The bit of a kind.
pub(crate) fn bit(kind: NamespaceKind) -> Kinds {
    match kind {
        NamespaceKind::Pid => Kinds::PID,
        NamespaceKind::Network => Kinds::NETWORK,
        NamespaceKind::Mount => Kinds::MOUNT,
        NamespaceKind::Ipc => Kinds::IPC,
        NamespaceKind::Uts => Kinds::UTS,
        NamespaceKind::Cgroup => Kinds::CGROUP,
    }
}

/// A name that is refused is no harm: the process keeps the session keyring of the parent only where the
/// system does not let it have one of its own.
pub(super) fn new_keyring(name: &CStr) -> Result<(), Failure> {
    match keyring::join_session(name) {
        Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => Ok(()),
        result => result.at(Call::Itself),
    }
}

impl Child<'_> {
    /// The kernel takes `0` for the writer itself; may it do so is decided by who opened the file.
    pub(super) fn join_cgroups(&mut self) -> Result<(), Failure> {
        for tasks in self.given.cgroups {
            let joined = open::write(tasks, b"0").map(drop).at(Call::Write);
            if joined.is_err() {
                self.tell_path_of(tasks);
            }
            joined?;
        }
        // Descriptors of the host's cgroups must not be around for longer than that (CVE-2024-21626).
        self.close_all_but(std::iter::empty())
    }

    /// The path of an open file, for a message.
    fn tell_path_of(&mut self, file: &OwnedFd) {
        let mut link = Text::<32>::new();
        link.push(b"/proc/self/fd/");
        link.push_number(open::number(file), 10);
        let mut path = [0; crate::wire::TEXT];
        if let Ok(length) = open::read_host_link(link.as_c_str(), &mut path) {
            self.text.push(&path[..length]);
        }
    }

    /// What the clone could not do.
    pub(super) fn join_late(&mut self, late: Late<'_>) -> Result<(), Failure> {
        open::write(late.procs, b"0").at(Call::JoinCgroup)?;
        if late.namespace {
            namespace::unshare(Kinds::CGROUP).at(Call::Unshare)?;
        }
        Ok(())
    }

    pub(super) fn join_namespace(&mut self, slot: SlotId, kind: NamespaceKind) -> Result<(), Failure> {
        namespace::join(self.slot(slot)?, bit(kind)).at(Call::Itself)
    }

    pub(super) fn join_init(&mut self, slot: SlotId, kinds: &[NamespaceKind]) -> Result<(), Failure> {
        let kinds = kinds.iter().fold(Kinds::empty(), |bits, kind| bits | bit(*kind));
        namespace::join(self.slot(slot)?, kinds).at(Call::Itself)
    }

    pub(super) fn set_oom_score(&mut self, score: i32) -> Result<(), Failure> {
        let mut value = Text::<16>::new();
        if score < 0 {
            value.push(b"-");
        }
        value.push_number(score.unsigned_abs(), 10);
        self.write_proc(c"self/oom_score_adj", value.as_bytes())
    }

    /// Writes to a file of procfs in one call.
    pub(super) fn write_proc(&mut self, path: &CStr, value: &[u8]) -> Result<(), Failure> {
        let file = self.open_proc(path, OFlags::WRONLY)?;
        open::write(&file, value).map(drop).at(Call::Write)
    }

    /// Opens a file of the proc register, or of a `/proc` that is proved to be the root of a procfs: another
    /// file in its place, or one mounted over it, would turn a write into something else (CVE-2019-16884,
    /// CVE-2025-52881).
    pub(super) fn open_proc(&mut self, path: &CStr, flags: OFlags) -> Result<OwnedFd, Failure> {
        if let Some(proc) = &self.proc {
            match open::same_mount(proc, path, flags) {
                // The plan has mounted something over it; what is attached nowhere cannot be covered.
                Err(Errno::XDEV) => {
                    let proc = self.detached_proc()?;
                    return open::same_mount(self.proc.insert(proc), path, flags).at(Call::Open);
                }
                result => return result.at(Call::Open),
            }
        }
        let proc = open::host(c"/proc", PLACE).at(Call::Open)?;
        let kind = fstatfs(&proc).at(Call::CheckProc)?.f_type;
        let inode = fstat(&proc).at(Call::CheckProc)?.st_ino;
        if u64::try_from(kind) != Ok(PROC_MAGIC) || inode != PROC_ROOT {
            return Err(Failure { call: Call::CheckProc, errno: Errno::NOTDIR });
        }
        open::same_mount(&proc, path, flags).at(Call::Open)
    }
}
