//! Frames: the ten byte header and the decoder that cuts a byte stream into frames.
//!
//! Owns the size limit. The decoder keeps only a frame that came in part, so an idle connection holds no
//! buffer, and a header that promises more than follows costs no memory.

/// Bytes of a header.
pub const HEADER_LEN: usize = 10;
/// Most bytes of a payload.
pub const MAX_PAYLOAD: u32 = 4 << 20;
/// Least capacity of the buffer for a frame that came in part.
const FIRST_CAPACITY: usize = 4096;

/// What a frame is; other numbers are ignored by both sides.
pub mod kind {
    /// Opens a stream with a `Request`.
    pub const REQUEST: u8 = 1;
    /// Ends a stream with a `Response`.
    pub const RESPONSE: u8 = 2;
    /// A message of a streaming call.
    pub const DATA: u8 = 3;
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// The sender will send nothing more on this stream.
    pub const REMOTE_CLOSED: u8 = 1;
    /// The sender will send more on this stream: a streaming call.
    pub const REMOTE_OPEN: u8 = 2;
    /// The frame has no message, not even an empty one.
    pub const NO_DATA: u8 = 4;
}

/// The first ten bytes of a frame; numbers are big endian on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload.
    pub length: u32,
    /// Odd for streams that a client opened.
    pub stream: u32,
    /// One of [`kind`].
    pub kind: u8,
    /// Bits of [`flag`].
    pub flags: u8,
}

impl Header {
    /// As on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, l3, s0, s1, s2, s3, self.kind, self.flags]
    }

    /// From the wire; any ten bytes are a header.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = *bytes;
        Self {
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            kind,
            flags,
        }
    }
}

/// What a [`Decoder`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A complete frame.
    Whole(Header, &'a [u8]),
    /// The header of a frame beyond [`MAX_PAYLOAD`]; its payload is skipped as it comes.
    Oversize(Header),
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The start of a frame whose rest has not come yet.
    partial: Vec<u8>,
    /// `partial` was handed out as a whole frame and is free to go.
    handed_out: bool,
    /// Bytes of a refused payload still to come.
    skip: u32,
}

impl Decoder {
    /// Takes the next frame off `input`. `None` means that all of `input` is used up and more is needed.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<Frame<'a>> {
        if self.handed_out {
            self.handed_out = false;
            // Given back, not cleared: a connection that once saw a large frame should not keep its size.
            self.partial = Vec::new();
        }
        self.skip_refused(input);
        if self.partial.is_empty()
            && let Some((header, rest)) = input.split_first_chunk::<HEADER_LEN>()
        {
            let header = Header::from_bytes(header);
            if header.length > MAX_PAYLOAD {
                *input = rest;
                return Some(self.refuse(header));
            }
            if let Some((payload, rest)) = rest.split_at_checked(header.length as usize) {
                *input = rest;
                return Some(Frame::Whole(header, payload));
            }
        }
        self.next_from_parts(input)
    }

    /// Bytes held for a frame that came in part.
    #[must_use]
    pub fn held(&self) -> usize {
        self.partial.capacity()
    }

    fn next_from_parts(&mut self, input: &mut &[u8]) -> Option<Frame<'_>> {
        self.take(input, HEADER_LEN);
        let header = Header::from_bytes(self.partial.first_chunk::<HEADER_LEN>()?);
        if header.length > MAX_PAYLOAD {
            self.partial = Vec::new();
            return Some(self.refuse(header));
        }
        let whole = HEADER_LEN + header.length as usize;
        self.take(input, whole);
        if self.partial.len() < whole {
            return None;
        }
        self.handed_out = true;
        self.partial.get(HEADER_LEN..).map(|payload| Frame::Whole(header, payload))
    }

    /// Moves bytes from `input` to `partial` until that has `whole` bytes. Capacity doubles as bytes really
    /// come, up to exactly `whole`.
    fn take(&mut self, input: &mut &[u8], whole: usize) {
        let missing = whole.saturating_sub(self.partial.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        *input = rest;
        let needed = self.partial.len() + missing;
        if needed > self.partial.capacity() {
            let wanted =
                needed.max(self.partial.capacity() * 2).max(FIRST_CAPACITY).min(whole.max(FIRST_CAPACITY));
            self.partial.reserve_exact(wanted - self.partial.len());
        }
        self.partial.extend_from_slice(taken);
    }

    fn refuse(&mut self, header: Header) -> Frame<'static> {
        self.skip = header.length;
        Frame::Oversize(header)
    }

    fn skip_refused(&mut self, input: &mut &[u8]) {
        let here = self.skip.min(u32::try_from(input.len()).unwrap_or(u32::MAX));
        *input = &input[here as usize..];
        self.skip -= here;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Owned copy of a [`Frame`], to collect.
    #[derive(Debug, PartialEq, Eq)]
    enum Seen {
        Whole(Header, Vec<u8>),
        Oversize(Header),
    }

    fn feed(decoder: &mut Decoder, mut input: &[u8], seen: &mut Vec<Seen>) {
        while let Some(frame) = decoder.next(&mut input) {
            seen.push(match frame {
                Frame::Whole(header, payload) => Seen::Whole(header, payload.to_vec()),
                Frame::Oversize(header) => Seen::Oversize(header),
            });
        }
        assert!(input.is_empty(), "the decoder asks for more before it used what it had");
    }

    fn request(length: u32, stream: u32) -> Header {
        Header { length, stream, kind: kind::REQUEST, flags: 0 }
    }

    #[test]
    fn a_header_is_ten_bytes_in_network_order() {
        let header = Header { length: 0x0001_0203, stream: 0x0405_0607, kind: 2, flags: 5 };
        assert_eq!(header.to_bytes(), [0, 1, 2, 3, 4, 5, 6, 7, 2, 5]);
        assert_eq!(Header::from_bytes(&header.to_bytes()), header);
    }

    #[test]
    fn the_largest_payload_passes_and_one_byte_more_is_refused_and_skipped() {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for length in [MAX_PAYLOAD, MAX_PAYLOAD + 1, 3] {
            feed(&mut decoder, &request(length, 1).to_bytes(), &mut seen);
            let payload = vec![b'x'; length as usize];
            for part in payload.chunks(65536) {
                feed(&mut decoder, part, &mut seen);
                assert!(decoder.held() <= HEADER_LEN + MAX_PAYLOAD as usize);
            }
        }
        assert!(matches!(&seen[0], Seen::Whole(_, payload) if payload.len() == MAX_PAYLOAD as usize));
        assert_eq!(seen[1], Seen::Oversize(request(MAX_PAYLOAD + 1, 1)));
        assert_eq!(seen[2], Seen::Whole(request(3, 1), b"xxx".to_vec()));
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn a_promise_of_much_costs_nothing_and_an_idle_decoder_holds_nothing() {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        feed(&mut decoder, &request(MAX_PAYLOAD, 1).to_bytes(), &mut seen);
        assert!(decoder.held() <= FIRST_CAPACITY);
        let mut decoder = Decoder::default();
        feed(&mut decoder, &request(4, 1).to_bytes(), &mut seen);
        feed(&mut decoder, b"abcd", &mut seen);
        assert_eq!(decoder.held(), 0);
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            frames in prop::collection::vec((any::<u32>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            cuts in prop::collection::vec(1..40_usize, 1..50),
        ) {
            let mut stream = Vec::new();
            let mut sent = Vec::new();
            for (id, flags, payload) in frames {
                let header = Header { length: u32::try_from(payload.len()).unwrap(), stream: id, kind: 3, flags };
                stream.extend_from_slice(&header.to_bytes());
                stream.extend_from_slice(&payload);
                sent.push(Seen::Whole(header, payload));
            }
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (part, after) = rest.split_at((*cut).min(rest.len()));
                feed(&mut decoder, part, &mut seen);
                rest = after;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(seen, sent);
            prop_assert_eq!(decoder.held(), 0);
        }

        #[test]
        fn random_bytes_never_panic_and_never_cost_more_than_twice_what_came(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..20),
        ) {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            let mut came = 0;
            for part in parts {
                came += part.len();
                feed(&mut decoder, &part, &mut seen);
                prop_assert!(decoder.held() <= FIRST_CAPACITY.max(2 * came));
            }
        }
    }
}
