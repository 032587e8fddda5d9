//! Bytes in a buffer of fixed size: the strings of a process that must not allocate.

use std::ffi::CStr;

use dunnage_sys::Errno;

/// Longest path the kernel takes, with its NUL.
pub(crate) const PATH_MAX: usize = 4096;

/// A path under construction.
pub(crate) type Path = Text<PATH_MAX>;

/// At most `N - 1` bytes, always followed by a NUL.
#[derive(Debug)]
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// Appends as much as fits.
    pub(crate) fn push(&mut self, more: &[u8]) {
        let room = (N - 1).saturating_sub(self.length);
        let more = &more[..more.len().min(room)];
        self.bytes[self.length..self.length + more.len()].copy_from_slice(more);
        self.truncate(self.length + more.len());
    }

    /// Appends all or nothing.
    pub(crate) fn try_push(&mut self, more: &[u8]) -> Result<(), Errno> {
        if more.len() > (N - 1).saturating_sub(self.length) {
            return Err(Errno::NAMETOOLONG);
        }
        self.push(more);
        Ok(())
    }

    /// Appends a number, in decimal or octal.
    pub(crate) fn push_number(&mut self, number: u32, radix: u32) {
        if number >= radix {
            self.push_number(number / radix, radix);
        }
        let digit = u8::try_from(number % radix).unwrap_or(0);
        self.push(&[b'0' + digit]);
    }

    pub(crate) fn clear(&mut self) {
        self.truncate(0);
    }

    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = length.min(N - 1);
        self.bytes[self.length] = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Up to the first NUL.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes[..=self.length]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_takes_what_fits_and_keeps_its_nul() {
        let mut text = Text::<8>::new();
        text.push(b"12345");
        assert_eq!(text.try_push(b"678"), Err(Errno::NAMETOOLONG));
        text.push(b"678");
        assert_eq!(text.as_c_str(), c"1234567");
        text.truncate(2);
        text.push_number(0o755, 8);
        assert_eq!(text.as_c_str(), c"12755");
    }
}
