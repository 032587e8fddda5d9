//! The lease tables of a host, and one of them while it is locked.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dunnage_sys::flock::Flock;
use dunnage_sys::netns::NetnsId;
use dunnage_sys::{Call, Errno};
use ipnet::Ipv4Net;

use super::header::{self, Header};
use super::record::{self, Owner, Record};
use crate::{Error, NetworkName, Result};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const SUFFIX: &str = "tab";
/// The network's own address and the gateway are not for pods.
const FIRST: u32 = 2;
/// The state is in the two lowest bits of a word, the owner's tag in the others.
const STATE_MASK: u32 = 0b11;

/// Where a lease is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Being attached.
    Reserved = 1,
    /// In use.
    Active = 2,
    /// Being detached.
    Releasing = 3,
}

impl LeaseState {
    fn of(word: u32) -> Option<Self> {
        match word & STATE_MASK {
            1 => Some(Self::Reserved),
            2 => Some(Self::Active),
            3 => Some(Self::Releasing),
            _ => None,
        }
    }
}

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
    /// or from before a reboot.
    ///
    /// # Errors
    /// [`Error::Damaged`], or [`Error::Foreign`] when it has leases of another subnet.
    pub fn lock(&self) -> Result<LockedLeases<'_>> {
        std::fs::create_dir_all(&self.dir).call(|| format!("create directory {}", self.dir.display()))?;
        let lock = self.lock_dir()?;
        let file = match self.open()? {
            Some(file) => file,
            None => self.create()?,
        };
        Ok(LockedLeases { store: self, file, _lock: lock })
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
        Ok(self.open()?.map(|file| LockedLeases { store: self, file, _lock: lock }))
    }

    /// The lock is on the directory, because a lock on a file that can be removed excludes nobody who opened
    /// it before; and because all networks of a host share the nftables table and the forwarding switches.
    fn lock_dir(&self) -> Result<Flock<File>> {
        let dir = File::open(&self.dir).call(|| format!("open {}", self.dir.display()))?;
        Ok(Flock::exclusive(dir)?)
    }

    /// Addresses there are, with the three that pods do not get.
    fn slots(&self) -> u32 {
        1 << (32 - u32::from(self.header.subnet.prefix_len()))
    }

    /// The slots that pods get: neither the network's own address, nor the gateway, nor broadcast.
    fn usable(&self) -> std::ops::Range<u32> {
        FIRST..self.slots() - 1
    }

    fn open(&self) -> Result<Option<File>> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).call(|| format!("open {}", self.path.display()))?,
        };
        let mut bytes = [0; header::FIXED];
        read_or_zero(&file, &mut bytes, 0).call(|| format!("read {}", self.path.display()))?;
        let found = Header::decode(&bytes).map_err(|error| self.damaged(error.0))?;
        if found.boot_id != self.header.boot_id {
            return Ok(None);
        }
        if found.subnet != self.header.subnet {
            return self.replace_unless_used(&file, found);
        }
        Ok(Some(file))
    }

    /// A table of another subnet gives way once nobody has an address of it.
    fn replace_unless_used(&self, file: &File, found: Header) -> Result<Option<File>> {
        let subnet = found.subnet;
        let other = Self { dir: self.dir.clone(), path: self.path.clone(), header: found };
        let used = Words::load(&other, file)?.used().count();
        if used == 0 {
            return Ok(None);
        }
        Err(Error::Foreign {
            what: "lease table",
            name: self.path.display().to_string(),
            reason: format!("has {used} leases in {subnet}, not in {}", self.header.subnet),
        })
    }

    /// Makes an empty table, complete before it gets its name.
    fn create(&self) -> Result<File> {
        let new = self.path.with_extension("new");
        let named = || format!("create {}", self.path.display());
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&new);
        let file = file.call(named)?;
        let filled = (|| {
            file.set_len(self.record_at(self.slots()))?;
            file.write_all_at(&self.header.encode(), 0)?;
            file.write_all_at(&FIRST.to_le_bytes(), header::CURSOR_AT)?;
            std::fs::rename(&new, &self.path)
        })();
        filled.inspect_err(|_| drop(std::fs::remove_file(&new))).call(named)?;
        Ok(file)
    }

    fn word_at(slot: u32) -> u64 {
        header::SIZE + 4 * u64::from(slot)
    }

    fn record_at(&self, slot: u32) -> u64 {
        Self::word_at(self.slots()) + record::SIZE as u64 * u64::from(slot)
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), reason }
    }
}

/// A table that nobody else can change until this is dropped.
#[derive(Debug)]
pub struct LockedLeases<'a> {
    store: &'a LeaseStore,
    file: File,
    _lock: Flock<File>,
}

impl LockedLeases<'_> {
    /// Reserves an address; the one after the last that was given, so that one that was released rests as
    /// long as possible.
    ///
    /// # Errors
    /// [`Error::Exhausted`]; [`Error::Attached`] when the owner has a lease in any state.
    pub fn reserve(&mut self, owner: &Owner, netns: NetnsId) -> Result<Lease> {
        let words = Words::load(self.store, &self.file)?;
        if let Some(lease) = self.find_in(&words, owner)? {
            let address =
                std::net::Ipv4Addr::from(u32::from(self.store.header.subnet.network()) + lease.slot);
            return Err(Error::Attached { owner: owner.to_string(), address: address.into() });
        }
        let usable = self.store.usable();
        let slot =
            words.free_from(self.word(header::CURSOR_AT)?, &usable).ok_or_else(|| Error::Exhausted {
                subnet: self.store.header.subnet,
                used: u32::try_from(words.used().count()).unwrap_or(u32::MAX),
                total: usable.end - usable.start,
            })?;
        let record = Record { owner: owner.clone(), netns };
        // The order matters: see the module.
        self.set(header::CURSOR_AT, slot + 1)?;
        self.set(header::END_AT, words.end.max(slot + 1))?;
        self.write(&record.encode(slot), self.store.record_at(slot))?;
        self.set(LeaseStore::word_at(slot), owner.tag() << 2 | LeaseState::Reserved as u32)?;
        Ok(Lease { slot, state: LeaseState::Reserved, holder: Some((record.owner, netns)) })
    }

    /// The lease of this owner.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn find(&self, owner: &Owner) -> Result<Option<Lease>> {
        self.find_in(&Words::load(self.store, &self.file)?, owner)
    }

    /// Every lease, by address.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        let words = Words::load(self.store, &self.file)?;
        words.used().map(|(slot, word)| self.lease(slot, word)).collect()
    }

    /// Whether no address is leased.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(Words::load(self.store, &self.file)?.used().next().is_none())
    }

    /// Moves a lease to another state.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn set_state(&mut self, lease: &mut Lease, state: LeaseState) -> Result<()> {
        let at = LeaseStore::word_at(lease.slot);
        self.set(at, self.word(at)? & !STATE_MASK | state as u32)?;
        lease.state = state;
        Ok(())
    }

    /// Gives an address back.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn release(&mut self, lease: &Lease) -> Result<()> {
        self.set(LeaseStore::word_at(lease.slot), 0)
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
        self.read(&mut bytes, self.store.record_at(slot))?;
        let holder = Record::decode(&bytes, slot).map(|record| (record.owner, record.netns));
        let state = LeaseState::of(word).expect("only slots with a state are used");
        Ok(Lease { slot, state, holder })
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

/// The state words of all slots that were ever used.
struct Words {
    words: Vec<u8>,
    end: u32,
}

impl Words {
    fn load(store: &LeaseStore, file: &File) -> Result<Self> {
        let named = || format!("read {}", store.path.display());
        let mut end = [0; 4];
        read_or_zero(file, &mut end, header::END_AT).call(named)?;
        let end = u32::from_le_bytes(end).min(store.slots());
        let mut words = vec![0; 4 * end as usize];
        read_or_zero(file, &mut words, header::SIZE).call(named)?;
        Ok(Self { words, end })
    }

    fn used(&self) -> impl Iterator<Item = (u32, u32)> {
        let words = self.words.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        (0..).zip(words).filter(|(_, word)| LeaseState::of(*word).is_some())
    }

    fn free_from(&self, cursor: u32, usable: &std::ops::Range<u32>) -> Option<u32> {
        let start = if usable.contains(&cursor) { cursor } else { usable.start };
        (start..usable.end).chain(usable.start..start).find(|slot| {
            let at = 4 * *slot as usize;
            self.words.get(at).is_none_or(|byte| LeaseState::of(u32::from(*byte)).is_none())
        })
    }
}

/// What lies behind the end of a file that was cut short reads as zero, which is "free".
fn read_or_zero(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => {
                bytes[filled..].fill(0);
                return Ok(());
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
