//! Numbers and checksums of the index.

use super::{IndexFault, Position};
use crate::event::codec::put_int;
use crate::ids::Lsn;

/// What is left of an encoded part of the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn int(&mut self) -> Result<u64, IndexFault> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(IndexFault::Damaged("a number is cut short"))?;
            self.0 = rest;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(IndexFault::Damaged("a number is too long"))
    }

    /// A length or count.
    pub(super) fn size(&mut self) -> Result<usize, IndexFault> {
        usize::try_from(self.int()?).map_err(|_| IndexFault::Damaged("a length that can't be"))
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], IndexFault> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(IndexFault::Damaged("a part is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// Replaces what differs of the topic before by what follows here.
    pub(super) fn topic(&mut self, topic: &mut Vec<u8>) -> Result<(), IndexFault> {
        let shared = self.size()?;
        let rest = self.size()?;
        if shared > topic.len() {
            return Err(IndexFault::Damaged("a topic shares more than there is"));
        }
        topic.truncate(shared);
        topic.extend_from_slice(self.take(rest)?);
        Ok(())
    }
}

/// Appends a topic as the difference to the one before it.
pub(super) fn put_topic(out: &mut Vec<u8>, before: &[u8], topic: &[u8]) {
    let shared = before.iter().zip(topic).take_while(|(a, b)| a == b).count();
    let rest = topic.get(shared..).unwrap_or_default();
    put_int(out, shared as u64);
    put_int(out, rest.len() as u64);
    out.extend_from_slice(rest);
}

/// Appends positions in the order of their numbers, which are not below `first`.
pub(super) fn put_positions(out: &mut Vec<u8>, first: Lsn, positions: &[Position]) {
    let (mut lsn, mut at) = (first.0, 0u64);
    for position in positions {
        put_int(out, position.lsn.0.saturating_sub(lsn));
        let step = position.at.wrapping_sub(at) as i64;
        put_int(out, ((step << 1) ^ (step >> 63)) as u64);
        put_int(out, u64::from(position.len));
        (lsn, at) = (position.lsn.0, position.at);
    }
}

/// Reads positions and gives them to `each` in order, until it returns false. True when it came to the end.
pub(super) fn positions(bytes: &[u8], first: Lsn, mut each: impl FnMut(Position) -> bool) -> Result<bool, IndexFault> {
    let mut bytes = Bytes(bytes);
    let (mut lsn, mut at) = (first.0, 0u64);
    while !bytes.is_empty() {
        lsn = lsn.checked_add(bytes.int()?).ok_or(IndexFault::Damaged("a record number that can't be"))?;
        let zigzag = bytes.int()?;
        at = at.wrapping_add(((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)) as u64);
        let len = u32::try_from(bytes.int()?).map_err(|_| IndexFault::Damaged("a frame's length that can't be"))?;
        if !each(Position { lsn: Lsn(lsn), at, len }) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The checksum of a block or chunk that lies at `offset`.
pub(super) fn checksum(seed: u32, offset: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&offset.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Where the checksums of an index start from.
pub(super) fn seed(log_id: &[u8; 16], first: Lsn) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(log_id);
    hasher.update(&first.0.to_le_bytes());
    hasher.finalize()
}

/// Takes the checksum off the end of a block or chunk and compares it.
pub(super) fn checked(seed: u32, offset: u64, bytes: &[u8]) -> Result<&[u8], IndexFault> {
    let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(IndexFault::Damaged("a part is cut short"))?;
    if u32::from_le_bytes(*crc) == checksum(seed, offset, covered) {
        Ok(covered)
    } else {
        Err(IndexFault::Damaged("a checksum does not match"))
    }
}
