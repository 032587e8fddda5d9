//! The first page of a lease table: what it is for, and what the host looked like before.

use ipnet::IpNet;

use super::hint;
use super::record::{self, checksum};
use crate::segment::{RANGE_MAX, SEGMENTS_MAX, SLOTS_MAX, Segment, Segments, number, numbered};

/// Bytes reserved for the header.
pub(super) const SIZE: usize = 4096;
/// All of them.
pub(super) type Page = [u8; SIZE];
/// Bytes of the part that says what the table is, with the checksum at its end.
pub(super) const FIXED: usize = 96;
const SUM_AT: usize = 88;
/// Where the addresses are that go along with the slots.
const ALONG_AT: usize = 56;
/// Where the words that change begin: cursor and end of use, which are one aligned word of 64 bits; what was switched
/// on; on which side the index is.
pub(super) const CURSOR_AT: usize = 128;
pub(super) const END_AT: usize = CURSOR_AT + 4;
pub(super) const SWITCHED_AT: usize = 136;
pub(super) const SIDE_AT: usize = 140;
/// Where the segments are, and the bytes of each: first address, number of addresses, prefix of the subnet.
pub(super) const SEGMENTS_AT: usize = 256;
const SEGMENT: usize = 24;
const _: () = assert!(ALONG_AT + SEGMENT <= SUM_AT);
/// Where the hints are, up to the end of the page.
const HINTS_AT: usize = 1024;
const _: () = assert!(SEGMENTS_AT + SEGMENT * SEGMENTS_MAX <= HINTS_AT);
const _: () = assert!(HINTS_AT + hint::SIZE * (SLOTS_MAX / hint::CHUNK) as usize <= SIZE);

const MAGIC: &[u8; 8] = b"dunleas\n";
const VERSION: u32 = 4;

/// What a table is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// `/proc/sys/kernel/random/boot_id`, 36 characters.
    pub(super) boot_id: [u8; 36],
    pub(super) segments: Segments,
}

/// Where the state of a slot is.
pub(super) fn word_at(slot: u32) -> u64 {
    SIZE as u64 + 4 * u64::from(slot)
}

/// Where the hint of a chunk is.
pub(super) fn hint_at(chunk: usize) -> u64 {
    (HINTS_AT + hint::SIZE * chunk) as u64
}

pub(super) fn hint(page: &Page, chunk: usize) -> &[u8; hint::SIZE] {
    page[HINTS_AT + hint::SIZE * chunk..].first_chunk().expect("a page has all hints of a table")
}

/// Cells of the largest index.
const CELLS_MAX: u32 = 2 * SLOTS_MAX;

/// Where an index of so many cells is, a power of two. Each size has its own room behind the words, on two sides.
pub(super) fn index_at(cells: u32, side: bool) -> u64 {
    word_at(SLOTS_MAX) + 8 * (u64::from(cells) + if side { 2 * u64::from(CELLS_MAX) } else { 0 })
}

/// Where the record of a slot is. There is room for the words and the index of all the slots a table can ever have,
/// so that records stay where they are when it grows; what was never written takes no memory.
pub(super) fn record_at(slot: u32) -> u64 {
    index_at(2 * CELLS_MAX, true) + record::SIZE as u64 * u64::from(slot)
}

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable(pub(super) &'static str);

impl Header {
    /// The fixed part and the segments. Segments are only ever appended, and count only once the fixed part says
    /// so: they are to be written first.
    pub(super) fn encode(&self) -> ([u8; FIXED], Vec<u8>) {
        let segments: Vec<u8> = self.segments.iter().flat_map(encode).collect();
        let mut bytes = [0; FIXED];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let count = u32::try_from(segments.len() / SEGMENT).expect("at most 32 segments");
        bytes[12..16].copy_from_slice(&count.to_le_bytes());
        bytes[20..56].copy_from_slice(&self.boot_id);
        if let Some(along) = &self.segments.along {
            bytes[ALONG_AT..ALONG_AT + SEGMENT].copy_from_slice(&encode(along));
        }
        let sum = checksum(&[&bytes[..SUM_AT], &segments]);
        bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        (bytes, segments)
    }

    pub(super) fn decode(bytes: &Page) -> Result<Self, Unreadable> {
        if &bytes[..8] != MAGIC {
            return Err(Unreadable("is not a lease table"));
        }
        if bytes[8..12] != VERSION.to_le_bytes() {
            return Err(Unreadable(
                "is of another version of this program: remove the pods with that one, or restart the machine",
            ));
        }
        let damaged = Unreadable("has a damaged header");
        let count = word(bytes, 12) as usize;
        let segments = bytes[SEGMENTS_AT..HINTS_AT].get(..count.saturating_mul(SEGMENT)).ok_or(damaged)?;
        if bytes[SUM_AT..FIXED] != checksum(&[&bytes[..SUM_AT], segments]).to_le_bytes() {
            return Err(damaged);
        }
        let mut all = Segments::default();
        for bytes in segments.as_chunks().0 {
            let segment = decode(bytes, RANGE_MAX);
            if !segment.is_some_and(|segment| all.append(segment)) {
                return Err(Unreadable("has a subnet of impossible size"));
            }
        }
        // Zeroes, which nothing goes along with, are of no length.
        all.along = decode(bytes[ALONG_AT..].first_chunk().expect("a page is larger"), SLOTS_MAX);
        Ok(Self { boot_id: bytes[20..56].try_into().expect("36 bytes"), segments: all })
    }
}

fn encode(segment: &Segment) -> [u8; SEGMENT] {
    let mut bytes = [0; SEGMENT];
    bytes[..16].copy_from_slice(&segment.first.to_be_bytes());
    bytes[16..20].copy_from_slice(&segment.length.to_le_bytes());
    // As for the IPv6 address that an IPv4 address is mapped to.
    let longer = if segment.net.addr().is_ipv4() { 96 } else { 0 };
    bytes[20] = segment.net.prefix_len() + longer;
    bytes
}

/// `None` for what no segment can be.
fn decode(bytes: &[u8; SEGMENT], most: u32) -> Option<Segment> {
    let first = u128::from_be_bytes(*bytes.first_chunk()?);
    let address = numbered(first);
    let prefix = bytes[20].checked_sub(if address.is_ipv4() { 96 } else { 0 })?;
    let net = IpNet::new(address, prefix).ok()?.trunc();
    let segment = Segment { net, first, length: word(bytes, 16) };
    (number(address) == first && segment.is_sound(most)).then_some(segment)
}

/// A number of the page.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
