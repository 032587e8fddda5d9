//! A zstd stream of any number of frames, as layers are; the decoder of `ruzstd` reads one.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Decoded at a time.
const CHUNK: usize = 64 << 10;

/// Decodes frame after frame and passes over skippable ones (RFC 8878, section 3.1.2).
pub(super) struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), inside: false }
    }

    /// Starts the next frame; `false` at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.inside {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    let some = BlockDecodingStrategy::UptoBytes(CHUNK);
                    self.decoder.decode_blocks(&mut self.source, some).map_err(io::Error::other)?;
                }
                let count = self.decoder.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
                self.inside = false;
            }
            if !self.next_frame()? {
                return Ok(0);
            }
            self.inside = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    #[test]
    fn frames_follow_each_other_and_skippable_ones_are_passed_over() {
        let first: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut stream = compress_to_vec(first.as_slice(), CompressionLevel::Fastest);
        stream.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, b'x', b'y', b'z']);
        stream.extend(compress_to_vec(&b"second"[..], CompressionLevel::Fastest));
        let mut decoded = Vec::new();
        Frames::new(stream.as_slice()).read_to_end(&mut decoded).unwrap();
        assert_eq!(decoded.len(), first.len() + 6);
        assert!(decoded.starts_with(&first) && decoded.ends_with(b"second"));
    }

    #[test]
    fn a_cut_or_broken_stream_is_an_error() {
        let whole = compress_to_vec(&[7_u8; 100_000][..], CompressionLevel::Fastest);
        let cut = &whole[..whole.len() - 1];
        assert!(Frames::new(cut).read_to_end(&mut Vec::new()).is_err());
        let skip = [0x50, 0x2a, 0x4d, 0x18, 200, 0, 0, 0, b'x'];
        assert!(Frames::new(&skip[..]).read_to_end(&mut Vec::new()).is_err());
        assert!(Frames::new(&b"no zstd at all"[..]).read_to_end(&mut Vec::new()).is_err());
    }
}
