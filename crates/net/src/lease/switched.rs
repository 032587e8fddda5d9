//! What was switched on in the kernel for a network, to be switched off with the last one.

use std::fs::OpenOptions;

use dunnage_sys::Call;

use super::file::TableFile;
use super::header;
use super::locked::LockedLeases;
use crate::Result;

impl LockedLeases<'_> {
    /// Bits that say what was switched on in the kernel for this network.
    pub(crate) fn switched(&self) -> Result<u32> {
        self.slots.file.word(header::SWITCHED_AT as u64)
    }

    pub(crate) fn set_switched(&mut self, bits: u32) -> Result<()> {
        self.slots.file.set_word(header::SWITCHED_AT as u64, bits)
    }

    /// Hands those bits to another network of the directory; `false` when there is none.
    pub(crate) fn hand_over_switched(&self) -> Result<bool> {
        let Some((other, _)) = self.table.others()?.into_iter().next() else { return Ok(false) };
        let file = OpenOptions::new().read(true).write(true).open(&other);
        let file = TableFile::new(file.call(|| format!("open {}", other.display()))?, other);
        let both = file.word(header::SWITCHED_AT as u64)? | self.switched()?;
        file.set_word(header::SWITCHED_AT as u64, both)?;
        Ok(true)
    }
}
