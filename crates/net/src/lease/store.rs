//! The lease tables of a host, and one of them while it is locked.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dunnage_sys::flock::Flock;
use dunnage_sys::netns::NetnsId;
use dunnage_sys::{Call, Errno};
use ipnet::Ipv4Net;

use super::header::{self, FIRST, Header};
use super::record::{self, Owner, Record};
use super::words::{LeaseState, STATE_MASK, Words, read_or_zero};
use crate::{Error, NetworkName, Result};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const SUFFIX: &str = "tab";

/// An address that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Offset of the address into the subnet.
    pub slot: u32,
    /// Where it is in its life.
    pub state: LeaseState,
    /// Who has it and in which network namespace; `None` when that part of the table is damaged.
    pub holder: Option<(Owner, NetnsId)>,
}

/// The lease table of one network.
#[derive(Debug)]
pub struct LeaseStore {
    dir: PathBuf,
    path: PathBuf,
    header: Header,
}

impl LeaseStore {
    /// Names the table of network `name` in `dir`; nothing is made yet.
    ///
    /// # Errors
    /// The boot id cannot be read.
    pub fn new(dir: &Path, name: &NetworkName, subnet: Ipv4Net) -> Result<Self> {
        let text = std::fs::read_to_string(BOOT_ID).call(|| format!("read {BOOT_ID}"))?;
        let boot_id = text.trim().as_bytes().try_into();
        let boot_id =
            boot_id.map_err(|_| dunnage_sys::Error::new(format!("read {BOOT_ID}"), Errno::INVAL))?;
        let path = dir.join(format!("{name}.{SUFFIX}"));
        Ok(Self { dir: dir.to_owned(), path, header: Header { boot_id, subnet } })
    }

    /// Waits for the lock of all networks in the directory and opens the table; makes it when it is missing
    /// or from before a reboot. It may be of another subnet: see [`LockedLeases::subnet`].
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn lock(&self) -> Result<LockedLeases<'_>> {
        std::fs::create_dir_all(&self.dir).call(|| format!("create directory {}", self.dir.display()))?;
        let lock = self.lock_dir()?;
        let (file, header) = match self.open()? {
            Some(found) => found,
            None => (self.create()?, self.header.clone()),
        };
        Ok(LockedLeases { store: self, header, file, _lock: lock })
    }

    /// As [`Self::lock`], or `None` when there is no table.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub fn lock_existing(&self) -> Result<Option<LockedLeases<'_>>> {
        if !self.dir.exists() {
            return Ok(None);
        }
        let lock = self.lock_dir()?;
        Ok(self.open()?.map(|(file, header)| LockedLeases { store: self, header, file, _lock: lock }))
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
        let mut bytes = [0; header::FIXED];
        read_or_zero(&file, &mut bytes, 0).call(|| format!("read {}", self.path.display()))?;
        let found = Header::decode(&bytes).map_err(|error| self.damaged(error.0))?;
        Ok((found.boot_id == self.header.boot_id).then_some((file, found)))
    }

    /// Makes an empty table, complete before it gets its name.
    fn create(&self) -> Result<File> {
        let new = self.path.with_extension("new");
        let named = || format!("create {}", self.path.display());
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&new);
        let file = file.call(named)?;
        let filled = (|| {
            file.set_len(self.header.record_at(self.header.slots()))?;
            file.write_all_at(&self.header.encode(), 0)?;
            file.write_all_at(&FIRST.to_le_bytes(), header::CURSOR_AT)?;
            std::fs::rename(&new, &self.path)
        })();
        filled.inspect_err(|_| drop(std::fs::remove_file(&new))).call(named)?;
        Ok(file)
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), reason }
    }
}

/// A table that nobody else can change until this is dropped.
#[derive(Debug)]
pub struct LockedLeases<'a> {
    store: &'a LeaseStore,
    header: Header,
    file: File,
    _lock: Flock<File>,
}

impl LockedLeases<'_> {
    /// The subnet that the leases are of, which is another one than the store's after that was changed.
    #[must_use]
    pub fn subnet(&self) -> Ipv4Net {
        self.header.subnet
    }

    /// The address of a slot.
    #[must_use]
    pub fn address(&self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.header.subnet.network()) + slot)
    }

    /// Begins an empty table, of the store's subnet.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn renew(&mut self) -> Result<()> {
        self.file = self.store.create()?;
        self.header = self.store.header.clone();
        Ok(())
    }

    /// Reserves an address; the one after the last that was given, so that one that was released rests as
    /// long as possible.
    ///
    /// # Errors
    /// [`Error::Exhausted`]; [`Error::Attached`] when the owner has a lease in any state.
    pub fn reserve(&mut self, owner: &Owner, netns: NetnsId) -> Result<Lease> {
        let words = self.words()?;
        if let Some(lease) = self.find_in(&words, owner)? {
            let address = self.address(lease.slot).into();
            return Err(Error::Attached { owner: owner.to_string(), address });
        }
        let usable = self.header.usable();
        let slot =
            words.free_from(self.word(header::CURSOR_AT)?, &usable).ok_or_else(|| Error::Exhausted {
                subnet: self.header.subnet,
                used: u32::try_from(words.used().count()).unwrap_or(u32::MAX),
                total: usable.end - usable.start,
            })?;
        let record = Record { owner: owner.clone(), netns };
        // The order matters: see the module.
        self.set(header::CURSOR_AT, slot + 1)?;
        self.set(header::END_AT, words.end.max(slot + 1))?;
        self.write(&record.encode(slot), self.header.record_at(slot))?;
        self.set(header::word_at(slot), owner.tag() << 2 | LeaseState::Reserved as u32)?;
        Ok(Lease { slot, state: LeaseState::Reserved, holder: Some((record.owner, netns)) })
    }

    /// The lease of this owner.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn find(&self, owner: &Owner) -> Result<Option<Lease>> {
        self.find_in(&self.words()?, owner)
    }

    /// Every lease, by address.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        let words = self.words()?;
        words.used().map(|(slot, word)| self.lease(slot, word)).collect()
    }

    /// Whether no address is leased.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.words()?.used().next().is_none())
    }

    /// Moves a lease to another state.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn set_state(&mut self, lease: &mut Lease, state: LeaseState) -> Result<()> {
        let at = header::word_at(lease.slot);
        self.set(at, self.word(at)? & !STATE_MASK | state as u32)?;
        lease.state = state;
        Ok(())
    }

    /// Gives an address back.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn release(&mut self, lease: &Lease) -> Result<()> {
        self.set(header::word_at(lease.slot), 0)
    }

    /// Removes the table itself.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&mut self) -> Result<()> {
        let path = &self.store.path;
        Ok(std::fs::remove_file(path).call(|| format!("remove {}", path.display()))?)
    }

    /// Bits that say what was switched on in the kernel for this network.
    pub(crate) fn switched(&self) -> Result<u32> {
        self.word(header::SWITCHED_AT)
    }

    pub(crate) fn set_switched(&mut self, bits: u32) -> Result<()> {
        self.set(header::SWITCHED_AT, bits)
    }

    /// Hands those bits to another network of the directory; `false` when there is none.
    pub(crate) fn hand_over_switched(&self) -> Result<bool> {
        let Some(other) = self.another_table()? else { return Ok(false) };
        let named = || format!("write {}", other.display());
        let file = OpenOptions::new().read(true).write(true).open(&other).call(named)?;
        let mut word = [0; 4];
        file.read_exact_at(&mut word, header::SWITCHED_AT).call(named)?;
        let both = u32::from_le_bytes(word) | self.switched()?;
        file.write_all_at(&both.to_le_bytes(), header::SWITCHED_AT).call(named)?;
        Ok(true)
    }

    /// A table of this boot other than this one.
    fn another_table(&self) -> Result<Option<PathBuf>> {
        let dir = &self.store.dir;
        for entry in std::fs::read_dir(dir).call(|| format!("list {}", dir.display()))? {
            let path = entry.call(|| format!("list {}", dir.display()))?.path();
            if path != self.store.path
                && path.extension().is_some_and(|end| end == SUFFIX)
                && self.is_live(&path)
            {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    fn is_live(&self, path: &Path) -> bool {
        let mut bytes = [0; header::FIXED];
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut bytes, 0));
        read.is_ok() && Header::decode(&bytes).is_ok_and(|found| found.boot_id == self.store.header.boot_id)
    }

    fn find_in(&self, words: &Words, owner: &Owner) -> Result<Option<Lease>> {
        let tag = owner.tag() << 2;
        for (slot, word) in words.used().filter(|(_, word)| word & !STATE_MASK == tag) {
            let lease = self.lease(slot, word)?;
            if lease.holder.as_ref().is_some_and(|(holder, _)| holder == owner) {
                return Ok(Some(lease));
            }
        }
        Ok(None)
    }

    fn lease(&self, slot: u32, word: u32) -> Result<Lease> {
        let mut bytes = [0; record::SIZE];
        self.read(&mut bytes, self.header.record_at(slot))?;
        let holder = Record::decode(&bytes, slot).map(|record| (record.owner, record.netns));
        let state = LeaseState::of(word).expect("only slots with a state are used");
        Ok(Lease { slot, state, holder })
    }

    fn words(&self) -> Result<Words> {
        let words = Words::load(&self.header, &self.file);
        Ok(words.call(|| format!("read {}", self.store.path.display()))?)
    }

    fn word(&self, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(&mut bytes, at)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn set(&mut self, at: u64, word: u32) -> Result<()> {
        self.write(&word.to_le_bytes(), at)
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        Ok(read_or_zero(&self.file, bytes, at).call(|| format!("read {}", self.store.path.display()))?)
    }

    fn write(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        Ok(self.file.write_all_at(bytes, at).call(|| format!("write {}", self.store.path.display()))?)
    }
}
