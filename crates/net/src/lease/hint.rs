//! What is known of the words of 1024 slots without reading them.
//!
//! A hint allows more than there is, never less: it is made wider before a word is written that it does not
//! allow, and made to fit when all the words have been read. A crash between the two costs a look. Nothing is
//! destroyed or refused on the word of a hint alone, so that one that was damaged costs looks, too.

use super::free::Free;
use super::record::LeaseState;

/// Slots that have a hint together: a page of words.
pub(super) const CHUNK: u32 = 1024;
/// Bytes of a hint.
pub(super) const SIZE: usize = 12;
const USED: u32 = 1;
const DEBRIS: u32 = 2;

/// What there may be among the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hint {
    /// One that is used.
    pub(super) used: bool,
    /// One that is in the middle of a change.
    pub(super) debris: bool,
    /// Free ones that were given back at this time or later, in seconds since boot; 0 for never used, the greatest
    /// number for none.
    pub(super) free_since: u32,
    /// As above, those whose link may still be there.
    pub(super) lingers_since: u32,
}

impl Hint {
    /// Of no slot at all.
    pub(super) const NONE: Self =
        Self { used: false, debris: false, free_since: u32::MAX, lingers_since: u32::MAX };

    /// What allows that word as well.
    pub(super) fn with(mut self, word: u32) -> Self {
        if let Some(free) = Free::of(word) {
            self.free_since = self.free_since.min(free.since);
            if free.lingers {
                self.lingers_since = self.lingers_since.min(free.since);
            }
        } else {
            self.used = true;
            self.debris |= LeaseState::of(word) != Some(LeaseState::Active);
        }
        self
    }

    /// Zeroes are what fits slots that were never used.
    pub(super) fn encode(self) -> [u8; SIZE] {
        let bits = if self.used { USED } else { 0 } | if self.debris { DEBRIS } else { 0 };
        let lingers = if self.lingers_since == u32::MAX { 0 } else { self.lingers_since };
        let mut bytes = [0; SIZE];
        bytes[..4].copy_from_slice(&bits.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.free_since.to_le_bytes());
        bytes[8..].copy_from_slice(&lingers.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; SIZE]) -> Self {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let lingers_since = if number(8) == 0 { u32::MAX } else { number(8) };
        let bits = number(0);
        Self { used: bits & USED != 0, debris: bits & DEBRIS != 0, free_since: number(4), lingers_since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_reads_back_and_zeroes_are_of_slots_that_were_never_used() {
        let lingering = Free { since: 7, lingers: true }.encode();
        let rested = Free { since: 3, lingers: false }.encode();
        for words in [&[][..], &[0], &[LeaseState::Active as u32], &[lingering, rested], &[lingering, 1]] {
            let hint = words.iter().fold(Hint::NONE, |hint, word| hint.with(*word));
            assert_eq!(Hint::decode(&hint.encode()), hint);
        }
        assert_eq!(Hint::decode(&[0; SIZE]), Hint::NONE.with(0));
    }

    #[test]
    fn a_hint_allows_every_word_that_it_was_told() {
        let lingering = Free { since: 7, lingers: true }.encode();
        let resting = Free { since: 9, lingers: false }.encode();
        let active = 0xabc0 | LeaseState::Active as u32;
        let reserved = 0xabc0 | LeaseState::Reserved as u32;
        let hint = [lingering, resting, active].iter().fold(Hint::NONE, |hint, word| hint.with(*word));
        assert_eq!(hint, Hint { used: true, debris: false, free_since: 7, lingers_since: 7 });
        assert_eq!(hint.with(reserved).with(0), Hint { debris: true, free_since: 0, ..hint });
    }
}
