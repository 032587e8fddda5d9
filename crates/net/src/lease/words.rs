//! The words of all slots, read by the thousand when they are asked for, and the hints that say which to ask.

use std::cell::{Cell, OnceCell};

use super::file::TableFile;
use super::free::Free;
use super::header::{self, Page};
use super::hint::{CHUNK, Hint};
use crate::Result;

/// Bytes of the words of a chunk.
const BYTES: usize = 4 * CHUNK as usize;

/// The words as they were when the lock was taken and as they were written since.
#[derive(Debug)]
pub(super) struct Words {
    chunks: Vec<Chunk>,
    /// Behind the last slot that was ever used.
    end: u32,
    /// Behind the slot that was given last.
    cursor: u32,
}

#[derive(Debug)]
struct Chunk {
    hint: Cell<Hint>,
    /// Whether the hint is known to fit.
    fits: Cell<bool>,
    /// Up to the end of use.
    words: OnceCell<Vec<u32>>,
}

impl Words {
    pub(super) fn new(page: &Page, slots: u32) -> Self {
        let mut words = Self {
            chunks: Vec::new(),
            end: header::word(page, header::END_AT).min(slots),
            cursor: header::word(page, header::CURSOR_AT),
        };
        words.grow(page, slots);
        words
    }

    /// To be called once the table has so many slots.
    pub(super) fn grow(&mut self, page: &Page, slots: u32) {
        for number in self.chunks.len()..slots.div_ceil(CHUNK) as usize {
            let hint = Cell::new(Hint::decode(header::hint(page, number)));
            self.chunks.push(Chunk { hint, fits: Cell::new(false), words: OnceCell::new() });
        }
    }

    pub(super) fn cursor(&self) -> u32 {
        self.cursor
    }

    /// Has the cursor behind a slot, and the end of use, which is to come before anything says that it is used.
    pub(super) fn advance(&mut self, file: &TableFile, slot: u32) -> Result<()> {
        self.set_behind(file, slot + 1, self.end.max(slot + 1))
    }

    /// Has the end of use behind a slot.
    pub(super) fn reach(&mut self, file: &TableFile, slot: u32) -> Result<()> {
        self.set_behind(file, self.cursor, self.end.max(slot + 1))
    }

    fn set_behind(&mut self, file: &TableFile, cursor: u32, end: u32) -> Result<()> {
        if (self.cursor, self.end) != (cursor, end) {
            let both = u64::from(end) << 32 | u64::from(cursor);
            file.write(&both.to_le_bytes(), header::CURSOR_AT as u64)?;
            (self.cursor, self.end) = (cursor, end);
        }
        Ok(())
    }

    /// What may be in a chunk.
    pub(super) fn hint(&self, chunk: usize) -> Hint {
        self.chunks.get(chunk).map_or(Hint::NONE, |chunk| chunk.hint.get())
    }

    /// The words of a chunk, up to the end of use.
    pub(super) fn chunk(&self, file: &TableFile, number: usize) -> Result<&[u32]> {
        let Some(chunk) = self.chunks.get(number) else { return Ok(&[]) };
        if let Some(words) = chunk.words.get() {
            return Ok(words);
        }
        let words = self.read(file, number, &mut [0; BYTES])?.collect();
        Ok(chunk.words.get_or_init(|| words))
    }

    fn read<'a>(
        &self,
        file: &TableFile,
        number: usize,
        bytes: &'a mut [u8; BYTES],
    ) -> Result<impl Iterator<Item = u32> + use<'a>> {
        let first = first(number);
        let count = self.end.saturating_sub(first).min(CHUNK);
        let bytes = &mut bytes[..4 * count as usize];
        file.read(bytes, header::word_at(first))?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)))
    }

    /// As [`Self::chunk`], and has its hint fit.
    pub(super) fn look(&self, file: &TableFile, number: usize) -> Result<&[u32]> {
        let words = self.chunk(file, number)?;
        let Some(chunk) = self.chunks.get(number).filter(|chunk| !chunk.fits.get()) else { return Ok(words) };
        let mut fitting = words.iter().fold(Hint::NONE, |hint, word| hint.with(*word));
        if words.len() < CHUNK as usize {
            fitting = fitting.with(0);
        }
        // The next to be given is here, and would only write this again.
        fitting.debris |= chunk.hint.get().debris && number == self.cursor_chunk();
        self.set_hint(file, number, fitting)?;
        chunk.fits.set(true);
        Ok(words)
    }

    pub(super) fn word(&self, file: &TableFile, slot: u32) -> Result<u32> {
        let (number, at) = place(slot);
        Ok(self.chunk(file, number)?.get(at).copied().unwrap_or(0))
    }

    pub(super) fn set(&mut self, file: &TableFile, slot: u32, word: u32) -> Result<()> {
        let (number, at) = place(slot);
        self.set_hint(file, number, self.hint(number).with(word))?;
        file.set_word(header::word_at(slot), word)?;
        let Some(chunk) = self.chunks.get_mut(number) else { return Ok(()) };
        chunk.fits.set(false);
        if let Some(words) = chunk.words.get_mut() {
            words.resize(words.len().max(at + 1), 0);
            words[at] = word;
        }
        Ok(())
    }

    fn set_hint(&self, file: &TableFile, number: usize, hint: Hint) -> Result<()> {
        let Some(chunk) = self.chunks.get(number).filter(|chunk| chunk.hint.get() != hint) else {
            return Ok(());
        };
        file.write(&hint.encode(), header::hint_at(number))?;
        chunk.hint.set(hint);
        Ok(())
    }

    /// The slots with such words, all of them looked at, and none kept.
    pub(super) fn all(&self, file: &TableFile, wanted: impl Fn(u32) -> bool) -> Result<Vec<(u32, u32)>> {
        let (mut found, mut read, mut bytes) = (Vec::new(), Vec::new(), [0; BYTES]);
        for (number, chunk) in self.chunks.iter().enumerate() {
            let words = match chunk.words.get() {
                Some(words) => words,
                None => {
                    read.clear();
                    read.extend(self.read(file, number, &mut bytes)?);
                    &read
                }
            };
            // Asked of all of them at once, which the processor does eight at a time; mostly there is none.
            if words.iter().fold(false, |any, word| any | wanted(*word)) {
                let words = (first(number)..).zip(words.iter().copied());
                found.extend(words.filter(|(_, word)| wanted(*word)));
            }
        }
        Ok(found)
    }

    /// The slots with such words, looked for where a hint allows them; at most `limit`. A hint that allowed too much
    /// is made to fit.
    pub(super) fn hinted(
        &self,
        file: &TableFile,
        hinted: impl Fn(Hint) -> bool,
        wanted: impl Fn(u32) -> bool,
        limit: usize,
    ) -> Result<Vec<(u32, u32)>> {
        let mut found = Vec::new();
        let around = (self.cursor_chunk()..self.chunks.len()).chain(0..self.cursor_chunk());
        for number in around.filter(|number| hinted(self.hint(*number))) {
            let before = found.len();
            let words = (first(number)..).zip(self.chunk(file, number)?.iter().copied());
            found.extend(words.filter(|(_, word)| wanted(*word)).take(limit - before));
            if found.len() == before {
                self.look(file, number)?;
            }
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    /// Whether no slot is used. Hints find one that is; that there is none, all the words must say.
    pub(super) fn is_empty(&self, file: &TableFile) -> Result<bool> {
        if !self.hinted(file, |hint| hint.used, is_used, 1)?.is_empty() {
            return Ok(false);
        }
        let used = self.all(file, is_used)?;
        for (slot, _) in &used {
            self.look(file, place(*slot).0)?;
        }
        Ok(used.is_empty())
    }

    /// Where the slot is that was given last, and the next most likely.
    fn cursor_chunk(&self) -> usize {
        place(self.cursor.saturating_sub(1)).0.min(self.chunks.len().saturating_sub(1))
    }
}

pub(super) fn is_used(word: u32) -> bool {
    Free::of(word).is_none()
}

/// The chunk of a slot, and where in it.
fn place(slot: u32) -> (usize, usize) {
    ((slot / CHUNK) as usize, (slot % CHUNK) as usize)
}

/// The first slot of a chunk.
fn first(chunk: usize) -> u32 {
    u32::try_from(chunk).unwrap_or(u32::MAX).saturating_mul(CHUNK)
}
