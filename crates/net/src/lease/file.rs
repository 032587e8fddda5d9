//! The open file of a lease table: reads and writes that say which table failed.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use dunnage_sys::Call;

use crate::Result;

/// An open table.
#[derive(Debug)]
pub(super) struct TableFile {
    file: File,
    /// Where the table is, or will be once it is complete.
    path: PathBuf,
    /// Writes that succeed before all others fail, as if the process had been killed.
    #[cfg(test)]
    pub(super) writes_left: std::cell::Cell<Option<u32>>,
}

impl TableFile {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self {
            file,
            path,
            #[cfg(test)]
            writes_left: std::cell::Cell::new(None),
        }
    }

    /// What lies behind the end of a file that was cut short reads as zero.
    pub(super) fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        Ok(read_or_zero(&self.file, bytes, at).call(|| format!("read {}", self.path.display()))?)
    }

    pub(super) fn word(&self, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(&mut bytes, at)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Whoever calls has the lock.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        #[cfg(test)]
        self.count_write()?;
        Ok(self.file.write_all_at(bytes, at).call(|| format!("write {}", self.path.display()))?)
    }

    pub(super) fn set_word(&self, at: u64, word: u32) -> Result<()> {
        self.write(&word.to_le_bytes(), at)
    }

    pub(super) fn set_len(&self, length: u64) -> Result<()> {
        Ok(self.file.set_len(length).call(|| format!("write {}", self.path.display()))?)
    }

    #[cfg(test)]
    fn count_write(&self) -> Result<()> {
        let left = self.writes_left.get();
        self.writes_left.set(left.map(|left| left.saturating_sub(1)));
        if left == Some(0) {
            return Err(dunnage_sys::Error::new("write after death", dunnage_sys::Errno::IO).into());
        }
        Ok(())
    }
}

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
