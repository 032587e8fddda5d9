//! The lease tables of a host: found and locked.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dunnage_sys::flock::Flock;
use dunnage_sys::room::has_room;
use dunnage_sys::{Call, Errno};
use ipnet::IpNet;

use super::locked::LockedLeases;
use super::table::{SUFFIX, Table};
use crate::range::Ranges;
use crate::{NetworkName, Result};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The lease table of one network.
#[derive(Debug)]
pub struct LeaseStore {
    table: Table,
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
        Ok(Self { table: Table { dir: dir.to_owned(), path, ranges, import: None, boot_id } })
    }

    /// Takes over the leases of `host-local` in `dir` when the table is begun.
    #[must_use]
    pub fn import_from(mut self, dir: Option<PathBuf>) -> Self {
        self.table.import = dir;
        self
    }

    /// Waits for the lock of all networks in the directory and opens the table; makes it when it is missing
    /// or from before a reboot.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`].
    pub fn lock(&self) -> Result<LockedLeases<'_>> {
        let lock = loop {
            if let Some(lock) = self.lock_dir()? {
                break lock;
            }
            std::fs::create_dir_all(&self.table.dir)
                .call(|| format!("create directory {}", self.table.dir.display()))?;
        };
        let found = match self.table.open()? {
            Some(found) => found,
            None => self.table.create()?,
        };
        Ok(LockedLeases::new(&self.table, found, lock))
    }

    /// As [`Self::lock`], or `None` when there is no table and nothing to begin one with.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub fn lock_existing(&self) -> Result<Option<LockedLeases<'_>>> {
        if self.has_import() {
            return self.lock().map(Some);
        }
        let Some(lock) = self.lock_dir()? else { return Ok(None) };
        Ok(self.table.open()?.map(|found| LockedLeases::new(&self.table, found, lock)))
    }

    /// As [`Self::lock_existing`], or `None` when somebody has the lock.
    pub(crate) fn try_lock_existing(&self) -> Result<Option<LockedLeases<'_>>> {
        let dir = match File::open(&self.table.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.call(|| format!("open {}", self.table.dir.display()))?,
        };
        let Some(lock) = Flock::try_exclusive(dir)? else { return Ok(None) };
        Ok(self.table.open()?.map(|found| LockedLeases::new(&self.table, found, lock)))
    }

    /// Whether the table can be read, without waiting for whoever has the lock.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`], or the file cannot be read.
    pub fn check(&self) -> Result<()> {
        self.table.open()?;
        Ok(has_room(&self.table.dir)?)
    }

    /// Whether nobody has an address; without the lock.
    pub(crate) fn is_unused(&self) -> Result<bool> {
        match self.table.open()? {
            Some((_, slots)) => Ok(slots.used()?.is_empty()),
            None => Ok(true),
        }
    }

    /// As [`LockedLeases::subnets_of_others`], without the lock.
    pub(crate) fn subnets_of_others(&self) -> Result<Vec<(IpNet, String)>> {
        if self.table.dir.exists() { self.table.subnets_of_others() } else { Ok(Vec::new()) }
    }

    /// Whether there is a table of this boot.
    pub(crate) fn has_begun(&self) -> bool {
        self.table.open().is_ok_and(|found| found.is_some())
    }

    fn has_import(&self) -> bool {
        let leases = self.table.import.as_deref().and_then(|dir| std::fs::read_dir(dir).ok());
        leases.is_some_and(|mut entries| entries.next().is_some())
    }

    /// The lock is on the directory, because a lock on a file that can be removed excludes nobody who opened
    /// it before; and because all networks of a host share the nftables table and the forwarding switches.
    ///
    /// `None` when the directory was removed with its last table, which excludes nobody who makes it anew.
    fn lock_dir(&self) -> Result<Option<Flock<File>>> {
        let dir = match File::open(&self.table.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.call(|| format!("open {}", self.table.dir.display()))?,
        };
        let identity = |of: &Metadata| (of.dev(), of.ino());
        let opened = dir.metadata().call(|| format!("look up {}", self.table.dir.display()))?;
        let lock = Flock::exclusive(dir)?;
        let there =
            std::fs::metadata(&self.table.dir).is_ok_and(|found| identity(&found) == identity(&opened));
        Ok(there.then_some(lock))
    }
}
