//! Names nobody else has.

use std::fs::File;
use std::io::Read;

use anyhow::Context;

/// A container id: 128 random bits in hexadecimal.
pub(crate) fn fresh() -> anyhow::Result<String> {
    random().map(hex::encode)
}

/// A pod's uid: a random UUID (RFC 9562, version 4).
pub(crate) fn uid() -> anyhow::Result<String> {
    let mut bytes = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex::encode(bytes);
    Ok([&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-"))
}

fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut source = File::open("/dev/urandom").context("open /dev/urandom")?;
    source.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_a_random_uuid() {
        let (one, two) = (uid().unwrap(), uid().unwrap());
        assert_ne!(one, two);
        assert_eq!((one.len(), one.as_bytes()[14]), (36, b'4'));
        assert!(matches!(one.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_eq!(fresh().unwrap().len(), 32);
    }
}
