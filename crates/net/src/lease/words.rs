//! The states of all slots, read at once.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use super::header::{END_AT, Header, SIZE};

/// The state is in the two lowest bits of a word, the owner's tag in the others.
pub(super) const STATE_MASK: u32 = 0b11;

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
    pub(super) fn of(word: u32) -> Option<Self> {
        match word & STATE_MASK {
            1 => Some(Self::Reserved),
            2 => Some(Self::Active),
            3 => Some(Self::Releasing),
            _ => None,
        }
    }
}

/// The state words of all slots that were ever used.
pub(super) struct Words {
    words: Vec<u8>,
    /// Behind the last slot that was ever used.
    pub(super) end: u32,
}

impl Words {
    pub(super) fn load(header: &Header, file: &File) -> std::io::Result<Self> {
        let mut end = [0; 4];
        read_or_zero(file, &mut end, END_AT)?;
        let end = u32::from_le_bytes(end).min(header.slots());
        let mut words = vec![0; 4 * end as usize];
        read_or_zero(file, &mut words, SIZE)?;
        Ok(Self { words, end })
    }

    pub(super) fn used(&self) -> impl Iterator<Item = (u32, u32)> {
        let words = self.words.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        (0..).zip(words).filter(|(_, word)| LeaseState::of(*word).is_some())
    }

    pub(super) fn free_from(&self, cursor: u32, usable: &std::ops::Range<u32>) -> Option<u32> {
        let start = if usable.contains(&cursor) { cursor } else { usable.start };
        (start..usable.end).chain(usable.start..start).find(|slot| {
            let at = 4 * *slot as usize;
            self.words.get(at).is_none_or(|byte| LeaseState::of(u32::from(*byte)).is_none())
        })
    }
}

/// What lies behind the end of a file that was cut short reads as zero, which is "free".
pub(super) fn read_or_zero(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
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
