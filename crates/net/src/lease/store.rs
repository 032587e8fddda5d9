//! The lease tables of a host: found, begun, locked.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dunnage_sys::flock::Flock;
use dunnage_sys::netns::NetnsId;
use dunnage_sys::{Call, Errno};

use super::header::{self, Header};
use super::host_local;
use super::locked::LockedLeases;
use super::record::{Given, LeaseKind, Owner};
use super::words::{LeaseState, read_or_zero};
use crate::range::Ranges;
use crate::segment::Segments;
use crate::{Error, NetworkName, Result};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const UPTIME: &str = "/proc/uptime";
pub(super) const SUFFIX: &str = "tab";

/// An address that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its place in the table.
    pub slot: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// Where it is in its life.
    pub state: LeaseState,
    /// Who has it and in which network namespace; `None` when that part of the table is damaged.
    pub holder: Option<(Owner, NetnsId)>,
    pub(crate) given: Given,
}

impl Lease {
    /// How it came about.
    #[must_use]
    pub fn kind(&self) -> LeaseKind {
        self.given.kind
    }

    /// Whether it is this owner's.
    pub(crate) fn is_of(&self, owner: &Owner) -> bool {
        self.holder.as_ref().is_some_and(|(holder, _)| holder == owner)
    }
}

/// The lease table of one network.
#[derive(Debug)]
pub struct LeaseStore {
    pub(super) dir: PathBuf,
    pub(super) path: PathBuf,
    pub(super) ranges: Ranges,
    pub(super) import: Option<PathBuf>,
    boot_id: [u8; 36],
}

impl LeaseStore {
    /// Names the table of network `name` in `dir`; nothing is made yet.
    ///
    /// # Errors
    /// The boot id cannot be read.
    pub fn new(dir: &Path, name: &NetworkName, ranges: Ranges) -> Result<Self> {
        let text = std::fs::read_to_string(BOOT_ID).call(|| format!("read {BOOT_ID}"))?;
        let boot_id = text.trim().as_bytes().try_into();
        let boot_id =
            boot_id.map_err(|_| dunnage_sys::Error::new(format!("read {BOOT_ID}"), Errno::INVAL))?;
        let path = dir.join(format!("{name}.{SUFFIX}"));
        Ok(Self { dir: dir.to_owned(), path, ranges, import: None, boot_id })
    }

    /// Takes over the leases of `host-local` in `dir` when the table is begun.
    #[must_use]
    pub fn import_from(mut self, dir: Option<PathBuf>) -> Self {
        self.import = dir;
        self
    }

    /// Waits for the lock of all networks in the directory and opens the table; makes it when it is missing
    /// or from before a reboot.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn lock(&self) -> Result<LockedLeases<'_>> {
        std::fs::create_dir_all(&self.dir).call(|| format!("create directory {}", self.dir.display()))?;
        let lock = self.lock_dir()?;
        let (file, header) = match self.open()? {
            Some(found) => found,
            None => self.create()?,
        };
        Ok(LockedLeases::new(self, header, file, lock))
    }

    /// As [`Self::lock`], or `None` when there is no table and nothing to begin one with.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub fn lock_existing(&self) -> Result<Option<LockedLeases<'_>>> {
        if !self.dir.exists() && !self.has_import() {
            return Ok(None);
        }
        if self.has_import() {
            return self.lock().map(Some);
        }
        let lock = self.lock_dir()?;
        Ok(self.open()?.map(|(file, header)| LockedLeases::new(self, header, file, lock)))
    }

    /// As [`Self::lock_existing`], or `None` when somebody has the lock.
    pub(crate) fn try_lock_existing(&self) -> Result<Option<LockedLeases<'_>>> {
        let Some((file, header)) = self.open()? else { return Ok(None) };
        let dir = File::open(&self.dir).call(|| format!("open {}", self.dir.display()))?;
        Ok(Flock::try_exclusive(dir)?.map(|lock| LockedLeases::new(self, header, file, lock)))
    }

    /// Whether the table can be read, without waiting for whoever has the lock.
    ///
    /// # Errors
    /// [`Error::Damaged`], or the file cannot be read.
    pub fn check(&self) -> Result<()> {
        self.open().map(drop)
    }

    /// The header that an empty table gets.
    pub(super) fn header(&self) -> Header {
        let base6 = self.ranges.v6.as_ref().map(|range| range.first);
        Header { boot_id: self.boot_id, segments: self.ranges.segments(), base6 }
    }

    /// Whether there is a table of this boot.
    pub(crate) fn has_begun(&self) -> bool {
        self.open().is_ok_and(|found| found.is_some())
    }

    fn has_import(&self) -> bool {
        let leases = self.import.as_deref().and_then(|dir| std::fs::read_dir(dir).ok());
        leases.is_some_and(|mut entries| entries.next().is_some())
    }

    /// The lock is on the directory, because a lock on a file that can be removed excludes nobody who opened
    /// it before; and because all networks of a host share the nftables table and the forwarding switches.
    fn lock_dir(&self) -> Result<Flock<File>> {
        let dir = File::open(&self.dir).call(|| format!("open {}", self.dir.display()))?;
        Ok(Flock::exclusive(dir)?)
    }

    fn open(&self) -> Result<Option<(File, Header)>> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).call(|| format!("open {}", self.path.display()))?,
        };
        let mut bytes = [0; header::WHOLE];
        read_or_zero(&file, &mut bytes, 0).call(|| format!("read {}", self.path.display()))?;
        let found = Header::decode(&bytes).map_err(|error| self.damaged(error.0))?;
        Ok((found.boot_id == self.boot_id).then_some((file, found)))
    }

    /// Makes a table, complete with what is taken over, before it gets its name.
    pub(super) fn create(&self) -> Result<(File, Header)> {
        let new = self.path.with_extension("new");
        let named = || format!("create {}", self.path.display());
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&new);
        let file = file.call(named)?;
        let filled = self.fill(&file).and_then(|header| {
            std::fs::rename(&new, &self.path).call(named)?;
            Ok(header)
        });
        let header = filled.inspect_err(|_| drop(std::fs::remove_file(&new)))?;
        Ok((file, header))
    }

    fn fill(&self, file: &File) -> Result<Header> {
        let named = || format!("write {}", self.path.display());
        let mut header = self.header();
        let imported = match &self.import {
            Some(dir) => host_local::load(dir, uptime()?)?,
            None => Vec::new(),
        };
        write_header(file, &header).call(named)?;
        file.set_len(header::record_at(header.segments.slots())).call(named)?;
        super::locked::take_over(file, &self.ranges, &mut header, &imported).call(named)?;
        Ok(header)
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), reason }
    }

    pub(super) fn boot_id(&self) -> &[u8; 36] {
        &self.boot_id
    }

    pub(super) fn wanted(&self) -> Segments {
        self.ranges.segments()
    }
}

/// Segments first: the fixed part says how many there are.
pub(super) fn write_header(file: &File, header: &Header) -> std::io::Result<()> {
    let (fixed, segments) = header.encode();
    file.write_all_at(&segments, header::SEGMENTS_AT as u64)?;
    file.write_all_at(&fixed, 0)
}

/// Time since the machine started.
pub(super) fn uptime() -> Result<Duration> {
    let text = std::fs::read_to_string(UPTIME).call(|| format!("read {UPTIME}"))?;
    let seconds = text.split(['.', ' ']).next().and_then(|word| word.parse().ok());
    let seconds = seconds.ok_or_else(|| dunnage_sys::Error::new(format!("read {UPTIME}"), Errno::INVAL))?;
    Ok(Duration::from_secs(seconds))
}
