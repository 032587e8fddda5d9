//! What the word of a free slot says.

use super::record::STATE_MASK;

/// When the address was given back, and whether the link that had it may still be there, detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Free {
    /// Seconds since boot; 0 for a slot that was never used.
    pub(super) since: u32,
    pub(super) lingers: bool,
}

const LINGERS: u32 = 0b100;

impl Free {
    pub(super) fn encode(self) -> u32 {
        self.since << 3 | if self.lingers { LINGERS } else { 0 }
    }

    /// `None` for a slot that is used.
    pub(super) fn of(word: u32) -> Option<Self> {
        (word & STATE_MASK == 0).then_some(Self { since: word >> 3, lingers: word & LINGERS != 0 })
    }
}
