//! Which free place is given next: the first behind the cursor that has rested, in turn, or the one that has
//! rested longest when none has rested enough.

use std::ops::Range;

use super::file::TableFile;
use super::free::Free;
use super::hint::CHUNK;
use super::words::Words;
use crate::Result;
use crate::segment::Interval;

/// Looks only where hints allow such a place, so that a look costs what a chunk costs; in all `places` before it
/// says that there is none.
pub(super) fn vacancy(
    words: &Words,
    file: &TableFile,
    places: &[Interval],
    cursor: u32,
    rested: u32,
) -> Result<Option<u32>> {
    let search = Search { words, file, places, cursor, rested };
    if let Some(slot) = search.by_hints()? {
        return Ok(Some(slot));
    }
    for part in search.parts() {
        words.look(file, part.chunk)?;
    }
    search.by_hints()
}

/// A part of a chunk.
struct Part {
    chunk: usize,
    /// Its first slot.
    start: u32,
    within: Range<u32>,
}

struct Search<'a> {
    words: &'a Words,
    file: &'a TableFile,
    places: &'a [Interval],
    cursor: u32,
    /// What was given back later than this rests.
    rested: u32,
}

impl Search<'_> {
    fn by_hints(&self) -> Result<Option<u32>> {
        match self.first_rested()? {
            Some(slot) => Ok(Some(slot)),
            None => self.longest_resting(),
        }
    }

    /// A hint that allowed too much is made to fit.
    fn first_rested(&self) -> Result<Option<u32>> {
        for part in self.parts().filter(|part| self.words.hint(part.chunk).free_since <= self.rested) {
            let mut free = part.free(self.words.chunk(self.file, part.chunk)?);
            if let Some((_, slot)) = free.find(|(since, _)| *since <= self.rested) {
                return Ok(Some(slot));
            }
            self.words.look(self.file, part.chunk)?;
        }
        Ok(None)
    }

    fn longest_resting(&self) -> Result<Option<u32>> {
        let mut by_time: Vec<(u32, Part)> =
            self.parts().map(|part| (self.words.hint(part.chunk).free_since, part)).collect();
        by_time.retain(|(since, _)| *since != u32::MAX);
        by_time.sort_by_key(|(since, _)| *since);
        let mut longest: Option<(u32, u32)> = None;
        for (since, part) in by_time {
            if longest.is_some_and(|(longest, _)| longest <= since) {
                break;
            }
            let words = self.words.look(self.file, part.chunk)?;
            let here = part.free(words).min_by_key(|(since, _)| *since);
            longest = longest.into_iter().chain(here).min_by_key(|(since, _)| *since);
        }
        Ok(longest.map(|(_, slot)| slot))
    }

    /// The chunks of the places, from the cursor on and then those before it.
    fn parts(&self) -> impl Iterator<Item = Part> {
        let cursor = u64::from(self.cursor);
        let behind = self.places.iter().map(move |&(first, end)| (first.max(cursor), end));
        let before = self.places.iter().map(move |&(first, end)| (first, end.min(cursor)));
        behind.chain(before).flat_map(|(first, end)| {
            let slot = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            let (first, end) = (slot(first), slot(end));
            let chunks = if first < end { first / CHUNK..end.div_ceil(CHUNK) } else { 0..0 };
            chunks.map(move |chunk| {
                let start = chunk * CHUNK;
                let within = first.saturating_sub(start)..(end - start).min(CHUNK);
                Part { chunk: chunk as usize, start, within }
            })
        })
    }
}

impl Part {
    /// When each of its free slots was given back, and which it is.
    fn free<'a>(&self, words: &'a [u32]) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        let start = self.start;
        self.within.clone().filter_map(move |at| {
            let word = words.get(at as usize).copied().unwrap_or(0);
            Free::of(word).map(|free| (free.since, start + at))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::header;
    use super::super::hint::{self, Hint};
    use super::*;

    const SLOTS: u32 = 3 * CHUNK;
    const RESTED: u32 = 100;

    /// A table whose chunks are full but for a few places.
    #[derive(Debug, Clone)]
    struct Filled {
        words: Vec<u32>,
        cursor: u32,
        places: Vec<Interval>,
    }

    fn filled() -> impl Strategy<Value = Filled> {
        let free = prop::collection::vec((0..SLOTS, prop_oneof![Just(0), 90..110u32, 101..110u32]), 0..6);
        let places = prop_oneof![
            Just(vec![(0, u64::from(SLOTS))]),
            Just(vec![(2, 1000), (1030, 1031), (1500, 3071)]),
            (0..3000u64).prop_map(|first| vec![(first, first + 60)]),
        ];
        (free, 0..=SLOTS, places).prop_map(|(free, cursor, places)| {
            let mut words = vec![2; SLOTS as usize];
            for (slot, since) in free {
                words[slot as usize] = Free { since, lingers: false }.encode();
            }
            Filled { words, cursor, places }
        })
    }

    /// What would be given if every word was read: what has rested, and when what has not was given back.
    fn expected(filled: &Filled) -> (Option<u32>, Option<u32>) {
        let cursor = u64::from(filled.cursor);
        let behind = filled.places.iter().map(|&(first, end)| (first.max(cursor), end));
        let before = filled.places.iter().map(|&(first, end)| (first, end.min(cursor)));
        let slots = behind.chain(before).flat_map(|(first, end)| first..end);
        let free: Vec<(u32, u32)> = slots
            .filter_map(|slot| {
                let slot = u32::try_from(slot).unwrap();
                Free::of(filled.words[slot as usize]).map(|free| (free.since, slot))
            })
            .collect();
        let rested = free.iter().find(|(since, _)| *since <= RESTED).map(|(_, slot)| *slot);
        (rested, free.iter().map(|(since, _)| *since).min())
    }

    fn table(filled: &Filled, hints: &[Hint]) -> (TableFile, Words) {
        let file = TableFile::new(tempfile::tempfile().unwrap(), "table".into());
        for (at, number) in [(header::CURSOR_AT, filled.cursor), (header::END_AT, SLOTS)] {
            file.set_word(at as u64, number).unwrap();
        }
        let words: Vec<u8> = filled.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.write(&words, header::word_at(0)).unwrap();
        for (chunk, hint) in hints.iter().enumerate() {
            file.write(&hint.encode(), header::hint_at(chunk)).unwrap();
        }
        let mut page = [0; header::SIZE];
        file.read(&mut page, 0).unwrap();
        (file, Words::new(&page, SLOTS))
    }

    proptest! {
        #[test]
        fn hints_that_allow_more_than_there_is_change_nothing(
            filled in filled(),
            wider in prop::collection::vec(prop_oneof![Just(u32::MAX), 0..110u32], 3),
        ) {
            let chunks = filled.words.chunks(CHUNK as usize);
            let hints: Vec<Hint> = chunks.zip(&wider).map(|(words, since)| {
                let hint = words.iter().fold(Hint::NONE, |hint, word| hint.with(*word));
                Hint { free_since: hint.free_since.min(*since), ..hint }
            }).collect();
            let (file, words) = table(&filled, &hints);
            let found = vacancy(&words, &file, &filled.places, filled.cursor, RESTED).unwrap();
            match expected(&filled) {
                (Some(slot), _) => prop_assert_eq!(found, Some(slot)),
                (None, Some(since)) => {
                    let word = filled.words[found.unwrap() as usize];
                    prop_assert_eq!(Free::of(word).unwrap().since, since);
                }
                (None, None) => prop_assert_eq!(found, None),
            }
        }

        #[test]
        fn damaged_hints_hide_no_place(
            filled in filled(),
            damaged in prop::collection::vec(prop_oneof![Just([u8::MAX; hint::SIZE]), any::<[u8; hint::SIZE]>()], 3),
        ) {
            let hints: Vec<Hint> = damaged.iter().map(Hint::decode).collect();
            let (file, words) = table(&filled, &hints);
            let found = vacancy(&words, &file, &filled.places, filled.cursor, RESTED).unwrap();
            let (rested, since) = expected(&filled);
            prop_assert_eq!(found.is_some(), rested.is_some() || since.is_some());
            if let Some(slot) = found {
                prop_assert!(Free::of(filled.words[slot as usize]).is_some());
                let within = |(first, end): &Interval| (*first..*end).contains(&u64::from(slot));
                prop_assert!(filled.places.iter().any(within));
            }
        }
    }
}
