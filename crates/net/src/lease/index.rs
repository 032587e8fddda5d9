//! From the tag of an owner to the slots that may be its: cells of 8 bytes, open addressing, linear probing.
//!
//! There are at least twice as many cells as slots. Each used slot has a cell, written before its word says that
//! it is used. What a cell says counts only together with that word and the record. A cell whose slot was freed
//! is emptied at once, and those behind it that the gap would cut off move up: each is copied before the cell
//! that it had is taken, so that a crash leaves one too many and never one too few.

use super::file::TableFile;
use super::header;
use crate::Result;

/// Cells that are read at once.
const WINDOW: u32 = 16;
/// At half full the longest way is some 50 cells; behind so many there is too much of what crashes left.
const PROBES: u32 = 1024;

/// An index in the file. A table that grows gets one of another size; one that is made anew is on the other side.
#[derive(Debug)]
pub(super) struct Index {
    bits: u32,
    side: bool,
    /// The cells that were read last, as they are now, and which they are: who asks for a tag often writes it next.
    first: u32,
    read: Vec<u64>,
}

/// What a cell says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The owner's part of a word.
    pub(super) tag: u32,
    pub(super) slot: u32,
}

impl Entry {
    /// Zero is an empty cell.
    fn encode(entry: Option<Self>) -> u64 {
        entry.map_or(0, |entry| u64::from(entry.tag) << 32 | u64::from(entry.slot.wrapping_add(1)))
    }

    fn decode(cell: u64) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = cell.to_le_bytes();
        let slot = u32::from_le_bytes([a, b, c, d]).wrapping_sub(1);
        (cell != 0).then_some(Self { tag: u32::from_le_bytes([e, f, g, h]), slot })
    }
}

impl Index {
    pub(super) fn new(slots: u32, side: bool) -> Self {
        let bits = slots.max(WINDOW).next_power_of_two().trailing_zeros() + 1;
        Self { bits, side, first: 0, read: Vec::new() }
    }

    pub(super) fn side(&self) -> bool {
        self.side
    }

    /// What a table of so many slots has, if that is another one.
    pub(super) fn for_slots(&self, slots: u32) -> Option<Self> {
        Some(Self::new(slots, self.side)).filter(|other| other.bits != self.bits)
    }

    /// Room for one that is made while this one counts.
    pub(super) fn other_side(&self) -> Self {
        Self { side: !self.side, read: Vec::new(), ..*self }
    }

    fn cells(&self) -> u32 {
        1 << self.bits
    }

    /// Where the search for a tag begins. Similar names have similar tags: Fibonacci hashing spreads them.
    fn home(&self, tag: u32) -> u32 {
        tag.wrapping_mul(0x9e37_79b1) >> (32 - self.bits)
    }

    fn way(&self, tag: u32) -> impl Iterator<Item = u32> + use<> {
        let (home, cells) = (self.home(tag), self.cells());
        (0..cells.min(PROBES)).map(move |step| (home + step) & (cells - 1))
    }

    /// The slots that may have this tag.
    pub(super) fn slots(&mut self, file: &TableFile, tag: u32) -> Result<Vec<u32>> {
        let mut slots = Vec::new();
        for at in self.way(tag) {
            match self.get(file, at)? {
                Some(entry) if entry.tag == tag => slots.push(entry.slot),
                Some(_) => {}
                None => break,
            }
        }
        Ok(slots)
    }

    /// Whether there was room.
    pub(super) fn insert(&mut self, file: &TableFile, entry: Entry) -> Result<bool> {
        for at in self.way(entry.tag) {
            match self.get(file, at)? {
                None => {
                    self.set(file, at, Some(entry))?;
                    return Ok(true);
                }
                Some(there) if there == entry => return Ok(true),
                Some(_) => {}
            }
        }
        Ok(false)
    }

    /// Removes an entry, and what a crash has left of moving it.
    pub(super) fn remove(&mut self, file: &TableFile, entry: Entry) -> Result<()> {
        while let Some(at) = self.locate(file, entry)? {
            self.empty(file, at)?;
        }
        Ok(())
    }

    fn locate(&mut self, file: &TableFile, entry: Entry) -> Result<Option<u32>> {
        for at in self.way(entry.tag) {
            match self.get(file, at)? {
                Some(there) if there == entry => return Ok(Some(at)),
                Some(_) => {}
                None => break,
            }
        }
        Ok(None)
    }

    /// Moves up what an empty cell would cut off from its home, one after the other.
    fn empty(&mut self, file: &TableFile, mut gap: u32) -> Result<()> {
        let mask = self.cells() - 1;
        let mut at = gap;
        for _ in 1..self.cells() {
            at = (at + 1) & mask;
            let Some(entry) = self.get(file, at)? else { break };
            let from_home = at.wrapping_sub(self.home(entry.tag)) & mask;
            let from_gap = at.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.set(file, gap, Some(entry))?;
                gap = at;
            }
        }
        self.set(file, gap, None)
    }

    /// Makes this the index of nothing but these; to be called before anybody uses it.
    pub(super) fn fill(&mut self, file: &TableFile, entries: impl Iterator<Item = Entry>) -> Result<()> {
        for at in 0..self.cells() {
            if self.get(file, at)?.is_some() {
                self.set(file, at, None)?;
            }
        }
        for entry in entries {
            self.insert(file, entry)?;
        }
        Ok(())
    }

    /// What is in all its cells.
    #[cfg(test)]
    pub(super) fn entries(&mut self, file: &TableFile) -> Result<Vec<Entry>> {
        (0..self.cells()).filter_map(|at| self.get(file, at).transpose()).collect()
    }

    fn get(&mut self, file: &TableFile, cell: u32) -> Result<Option<Entry>> {
        if self.place(cell) >= self.read.len() {
            let mut bytes = [0; 8 * WINDOW as usize];
            let count = (self.cells() - cell).min(WINDOW) as usize;
            file.read(&mut bytes[..8 * count], self.at(cell))?;
            self.first = cell;
            self.read.clear();
            self.read.extend(bytes.as_chunks().0[..count].iter().map(|bytes| u64::from_le_bytes(*bytes)));
        }
        Ok(Entry::decode(self.read[self.place(cell)]))
    }

    fn set(&mut self, file: &TableFile, cell: u32, entry: Option<Entry>) -> Result<()> {
        let encoded = Entry::encode(entry);
        file.write(&encoded.to_le_bytes(), self.at(cell))?;
        let place = self.place(cell);
        if let Some(read) = self.read.get_mut(place) {
            *read = encoded;
        }
        Ok(())
    }

    fn at(&self, cell: u32) -> u64 {
        header::index_at(self.cells(), self.side) + 8 * u64::from(cell)
    }

    fn place(&self, cell: u32) -> usize {
        cell.wrapping_sub(self.first) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file() -> TableFile {
        TableFile::new(tempfile::tempfile().unwrap(), "table".into())
    }

    fn knows(index: &mut Index, file: &TableFile, entry: Entry) -> bool {
        index.slots(file, entry.tag).unwrap().contains(&entry.slot)
    }

    #[derive(Debug, Clone)]
    struct Step {
        tag: u32,
        slot: u32,
        insert: bool,
        dies_after: u32,
    }

    /// Few tags, so that ways cross and wrap around.
    fn step() -> impl Strategy<Value = Step> {
        let step = (0..12u32, 0..16u32, any::<bool>(), 0..12u32);
        step.prop_map(|(tag, slot, insert, dies_after)| Step { tag: tag << 2, slot, insert, dies_after })
    }

    proptest! {
        #[test]
        fn an_entry_is_found_until_it_is_removed_whatever_dies_between_two_writes(
            steps in prop::collection::vec(step(), 1..80)
        ) {
            let (file, mut index) = (file(), Index::new(16, false));
            // A slot is of one tag.
            let mut of_slot = std::collections::BTreeMap::new();
            let mut deaths = 0;
            for Step { tag, slot, insert, dies_after } in steps {
                let entry = Entry { tag, slot };
                let before = of_slot.get(&slot).copied();
                file.writes_left.set((dies_after < 4).then_some(dies_after));
                let done = match before {
                    None if insert => index.insert(&file, entry),
                    Some(tag) if !insert => index.remove(&file, Entry { tag, slot }).map(|()| true),
                    _ => Ok(true),
                };
                file.writes_left.set(None);
                deaths += usize::from(done.is_err());
                match before {
                    None if insert && matches!(done, Ok(true)) => drop(of_slot.insert(slot, tag)),
                    Some(_) if !insert => drop(of_slot.remove(&slot)),
                    _ => {}
                }
                for (slot, tag) in &of_slot {
                    let known = knows(&mut index, &file, Entry { tag: *tag, slot: *slot });
                    prop_assert!(known, "slot {}", slot);
                }
                let left = index.entries(&file).unwrap().len() - of_slot.len();
                prop_assert!(left <= deaths, "{} cells of nobody after {} deaths", left, deaths);
            }
        }
    }

    #[test]
    fn an_index_that_is_made_anew_has_nothing_that_was_there_before() {
        let (file, mut index) = (file(), Index::new(4096, true));
        let entry = |slot: u32| Entry { tag: slot << 2, slot };
        index.fill(&file, (0..4096).map(entry)).unwrap();
        index.fill(&file, (4..4096).step_by(2).map(entry)).unwrap();
        let mut entries: Vec<u32> = index.entries(&file).unwrap().iter().map(|entry| entry.slot).collect();
        entries.sort_unstable();
        assert_eq!(entries, (4..4096).step_by(2).collect::<Vec<_>>());
        assert!(knows(&mut index, &file, entry(4)) && !knows(&mut index, &file, entry(5)));
        assert!(!knows(&mut index.other_side(), &file, entry(4)), "has its own room");
    }
}
