//! The slots of an open table: words, index and records, written in the order that a crash cannot hurt.

use std::cell::RefCell;

use super::file::TableFile;
use super::free::Free;
use super::header::{self, Page};
use super::index::{Entry, Index};
use super::record::{self, LeaseState, Record, STATE_MASK};
use super::words::{Words, is_used};
use crate::Result;

/// A file and what was read of it.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) file: TableFile,
    pub(super) words: Words,
    index: RefCell<Index>,
}

impl Slots {
    pub(super) fn new(file: TableFile, page: &Page, slots: u32) -> Self {
        let side = header::word(page, header::SIDE_AT) != 0;
        Self { file, words: Words::new(page, slots), index: RefCell::new(Index::new(slots, side)) }
    }

    /// What a table of more slots has for an index, complete; `None` when it is the same.
    pub(super) fn index_for(&self, slots: u32) -> Result<Option<Index>> {
        let mut index = self.index.borrow().for_slots(slots);
        if let Some(index) = &mut index {
            index.fill(&self.file, self.entries()?)?;
        }
        Ok(index)
    }

    /// To be called once the header says that there are so many, with what [`Self::index_for`] gave.
    pub(super) fn grow(&mut self, slots: u32, index: Option<Index>) -> Result<()> {
        let mut page = [0; header::SIZE];
        self.file.read(&mut page, 0)?;
        self.words.grow(&page, slots);
        if let Some(index) = index {
            self.index = RefCell::new(index);
        }
        Ok(())
    }

    pub(super) fn word(&self, slot: u32) -> Result<u32> {
        self.words.word(&self.file, slot)
    }

    /// Writes who has a slot: end of use, record, index, word. The cell of whoever had it before goes last.
    pub(super) fn put(&mut self, slot: u32, record: &Record, state: LeaseState) -> Result<()> {
        let before = self.word(slot)?;
        let tag = record.owner.tag();
        self.words.reach(&self.file, slot)?;
        self.file.write(&record.encode(slot), header::record_at(slot))?;
        self.enter(tag, slot)?;
        self.words.set(&self.file, slot, tag | state as u32)?;
        if before & !STATE_MASK == tag { Ok(()) } else { self.leave(slot, before) }
    }

    pub(super) fn set_state(&mut self, slot: u32, state: LeaseState) -> Result<()> {
        let word = self.word(slot)? & !STATE_MASK | state as u32;
        self.words.set(&self.file, slot, word)
    }

    pub(super) fn free(&mut self, slot: u32, free: Free) -> Result<()> {
        let before = self.word(slot)?;
        self.words.set(&self.file, slot, free.encode())?;
        self.leave(slot, before)
    }

    /// What can be read of who has a slot.
    pub(super) fn record(&self, slot: u32) -> Result<Option<Record>> {
        let mut bytes = [0; record::SIZE];
        self.file.read(&mut bytes, header::record_at(slot))?;
        Ok(Record::decode(&bytes, slot))
    }

    /// The used slots with a tag that the index knows, and their words.
    pub(super) fn indexed(&self, tag: u32) -> Result<Vec<(u32, u32)>> {
        let mut found = Vec::new();
        let slots = self.index.borrow_mut().slots(&self.file, tag)?;
        for slot in slots {
            let word = self.word(slot)?;
            if is_used(word) && word & !STATE_MASK == tag {
                found.push((slot, word));
            }
        }
        Ok(found)
    }

    /// As [`Self::indexed`], from all words.
    pub(super) fn tagged(&self, tag: u32) -> Result<Vec<(u32, u32)>> {
        self.words.all(&self.file, |word| is_used(word) & (word & !STATE_MASK == tag))
    }

    pub(super) fn used(&self) -> Result<Vec<(u32, u32)>> {
        self.words.all(&self.file, is_used)
    }

    /// Those that are in the middle of a change.
    pub(super) fn cut_short(&self) -> Result<Vec<(u32, u32)>> {
        let cut_short = |word| is_used(word) && LeaseState::of(word) != Some(LeaseState::Active);
        self.words.hinted(&self.file, |hint| hint.debris, cut_short, usize::MAX)
    }

    /// Free ones whose link may still be there, given back before `before`, in seconds since boot.
    pub(super) fn lingering(&self, before: u32, limit: usize) -> Result<Vec<u32>> {
        let waiting = |word| Free::of(word).is_some_and(|free| free.lingers && free.since <= before);
        let found = self.words.hinted(&self.file, |hint| hint.lingers_since <= before, waiting, limit)?;
        Ok(found.into_iter().map(|(slot, _)| slot).collect())
    }

    fn entries(&self) -> Result<impl Iterator<Item = Entry> + use<>> {
        Ok(self.used()?.into_iter().map(|(slot, word)| Entry { tag: word & !STATE_MASK, slot }))
    }

    /// Has the index know a slot. Where crashes and damage have left no room, it is made anew, and counts once it
    /// is complete.
    pub(super) fn enter(&self, tag: u32, slot: u32) -> Result<()> {
        let entry = Entry { tag, slot };
        let mut index = self.index.borrow_mut();
        if index.insert(&self.file, entry)? {
            return Ok(());
        }
        let mut other = index.other_side();
        other.fill(&self.file, self.entries()?.chain([entry]))?;
        self.file.set_word(header::SIDE_AT as u64, u32::from(other.side()))?;
        *index = other;
        Ok(())
    }

    /// How many cells of the index say anything.
    #[cfg(test)]
    pub(super) fn cells(&self) -> Result<usize> {
        Ok(self.index.borrow_mut().entries(&self.file)?.len())
    }

    fn leave(&self, slot: u32, before: u32) -> Result<()> {
        if !is_used(before) {
            return Ok(());
        }
        self.index.borrow_mut().remove(&self.file, Entry { tag: before & !STATE_MASK, slot })
    }
}
