//! The first page of a lease table: what it is for, and what the host looked like before.

use std::ops::Range;

use ipnet::Ipv4Net;

use super::record::{self, checksum};
use crate::config::PREFIXES;

/// Bytes reserved for the header.
pub(super) const SIZE: u64 = 4096;
/// Bytes that are written and checked.
pub(super) const FIXED: usize = 72;
/// Where the words that change begin: cursor, end of use, what was switched on.
pub(super) const CURSOR_AT: u64 = 128;
pub(super) const END_AT: u64 = 132;
pub(super) const SWITCHED_AT: u64 = 136;

const MAGIC: &[u8; 8] = b"dunleas\n";
const VERSION: u32 = 1;

/// The network's own address and the gateway are not for pods.
pub(super) const FIRST: u32 = 2;

/// The part of a header that never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// `/proc/sys/kernel/random/boot_id`, 36 characters.
    pub(super) boot_id: [u8; 36],
    pub(super) subnet: Ipv4Net,
}

/// Where the state of a slot is.
pub(super) fn word_at(slot: u32) -> u64 {
    SIZE + 4 * u64::from(slot)
}

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable(pub(super) &'static str);

impl Header {
    /// Addresses there are, with the three that pods do not get.
    pub(super) fn slots(&self) -> u32 {
        1 << (32 - u32::from(self.subnet.prefix_len()))
    }

    /// The slots that pods get: neither the network's own address, nor the gateway, nor broadcast.
    pub(super) fn usable(&self) -> Range<u32> {
        FIRST..self.slots() - 1
    }

    /// Where the record of a slot is.
    pub(super) fn record_at(&self, slot: u32) -> u64 {
        word_at(self.slots()) + record::SIZE as u64 * u64::from(slot)
    }

    pub(super) fn encode(&self) -> [u8; FIXED] {
        let mut bytes = [0; FIXED];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.subnet.addr().octets());
        bytes[16] = self.subnet.prefix_len();
        bytes[20..56].copy_from_slice(&self.boot_id);
        let sum = checksum(&[&bytes[..64]]);
        bytes[64..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; FIXED]) -> Result<Self, Unreadable> {
        if &bytes[..8] != MAGIC {
            return Err(Unreadable("is not a lease table"));
        }
        if bytes[8..12] != VERSION.to_le_bytes() {
            return Err(Unreadable("is of another version of this program"));
        }
        if bytes[64..] != checksum(&[&bytes[..64]]).to_le_bytes() {
            return Err(Unreadable("has a damaged header"));
        }
        let address: [u8; 4] = bytes[12..16].try_into().expect("four bytes");
        let subnet = Ipv4Net::new(address.into(), bytes[16]).ok();
        let subnet = subnet.filter(|net| PREFIXES.contains(&net.prefix_len()));
        let subnet = subnet.ok_or(Unreadable("has a subnet of impossible size"))?;
        Ok(Self { boot_id: bytes[20..56].try_into().expect("36 bytes"), subnet })
    }
}
