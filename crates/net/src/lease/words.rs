//! The states of all slots, read at once.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use super::header::{END_AT, SIZE};
use super::record::{LeaseState, STATE_MASK};
use crate::segment::Interval;

/// What the word of a free slot says: when the address was given back, and whether the link that had it may still
/// be there, detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Free {
    /// Seconds since boot, at least one.
    pub(super) since: u32,
    pub(super) lingers: bool,
}

const LINGERS: u32 = 0b100;

impl Free {
    pub(super) fn encode(self) -> u32 {
        self.since << 3 | if self.lingers { LINGERS } else { 0 }
    }

    /// `None` for a slot that was never used, or is.
    fn of(word: u32) -> Option<Self> {
        (word & STATE_MASK == 0 && word != 0)
            .then_some(Self { since: word >> 3, lingers: word & LINGERS != 0 })
    }
}

/// The state words of all slots that were ever used, as they were when the lock was taken and as they were written
/// since: a table of 65,536 addresses is read once for each lock and not for each question.
#[derive(Debug)]
pub(super) struct Words(Vec<u32>);

impl Words {
    pub(super) fn load(slots: u32, file: &File) -> std::io::Result<Self> {
        let mut end = [0; 4];
        read_or_zero(file, &mut end, END_AT)?;
        let end = u32::from_le_bytes(end).min(slots);
        let mut bytes = vec![0; 4 * end as usize];
        read_or_zero(file, &mut bytes, SIZE)?;
        Ok(Self(bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()))
    }

    /// Behind the last slot that was ever used.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// To be called once the file says so.
    pub(super) fn set(&mut self, slot: u32, word: u32) {
        let at = slot as usize;
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        self.0[at] = word;
    }

    fn all(&self) -> impl Iterator<Item = (u32, u32)> {
        (0..).zip(self.0.iter().copied())
    }

    pub(super) fn used(&self) -> impl Iterator<Item = (u32, u32)> {
        self.all().filter(|(_, word)| LeaseState::of(*word).is_some())
    }

    /// Slots whose detached link may still be there, given back before `before` (in seconds since boot).
    pub(super) fn lingering(&self, before: u32) -> impl Iterator<Item = u32> {
        let waiting = move |word| Free::of(word).is_some_and(|free| free.lingers && free.since <= before);
        self.all().filter(move |(_, word)| waiting(*word)).map(|(slot, _)| slot)
    }

    pub(super) fn word(&self, slot: u32) -> u32 {
        self.0.get(slot as usize).copied().unwrap_or(0)
    }

    pub(super) fn is_free(&self, slot: u32) -> bool {
        LeaseState::of(self.word(slot)).is_none()
    }

    /// The next free slot from the cursor on, in turn; one that was given back after `rested` only when there is
    /// no other.
    pub(super) fn free_from(&self, cursor: u32, places: &[Interval], rested: u32) -> Option<u32> {
        let cursor = u64::from(cursor);
        let behind = places.iter().map(move |&(first, end)| (first.max(cursor), end));
        let before = places.iter().map(move |&(first, end)| (first, end.min(cursor)));
        let slots = behind.chain(before).flat_map(|(first, end)| first..end);
        let mut resting = None;
        for slot in slots.filter_map(|slot| u32::try_from(slot).ok()).filter(|slot| self.is_free(*slot)) {
            match Free::of(self.word(slot)) {
                Some(free) if free.since > rested => {
                    if resting.is_none_or(|(since, _)| free.since < since) {
                        resting = Some((free.since, slot));
                    }
                }
                _ => return Some(slot),
            }
        }
        resting.map(|(_, slot)| slot)
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
