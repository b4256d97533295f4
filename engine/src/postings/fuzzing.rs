//! What the fuzz targets of indexes reach. Not part of the public API.

use std::ops::Range;

use bytes::Bytes;

use super::coding::{checksum, seed};
use super::index::HEADER;
use super::{Found, Identity, IndexBuilder, Position, SegmentIndex, Source};
use crate::ids::Lsn;
use crate::log::u32_at;

/// A record in an index: its topic, number, offset and length of its frame.
pub type IndexedRecord = (String, u64, u64, u32);

/// What a search found: number, offset and length of each record, and the number below which they are all.
pub type Places = (Vec<(u64, u64, u32)>, u64);

/// The bytes of an index of a log's records, which are in the order of their numbers, from `first` on and below `next`.
#[must_use]
pub fn index_of(log_id: [u8; 16], first: u64, next: u64, records: &[IndexedRecord]) -> Vec<u8> {
    let mut builder = IndexBuilder::default();
    let mut end = 0;
    for (topic, lsn, at, len) in records {
        builder.add(topic, Position { lsn: Lsn(*lsn), at: *at, len: *len });
        end = at + u64::from(*len);
    }
    builder.encode(&Identity { log_id, first: Lsn(first), next: Lsn(next), end })
}

/// Opens the bytes of an index and finds at most `limit` records of the range whose topic matches.
///
/// # Errors
/// What is wrong with the bytes.
pub fn search_index(bytes: &[u8], filter: &str, range: Range<u64>, limit: usize) -> Result<Places, String> {
    let index = SegmentIndex::open(Source::Memory(Bytes::copy_from_slice(bytes))).map_err(|e| e.to_string())?;
    let range = Lsn(range.start)..Lsn(range.end);
    let (mut search, mut found) = (index.search(filter), Found::new(range.end, limit));
    while index.find(&mut search, filter, &range, &mut found).map_err(|e| e.to_string())? {}
    let (positions, until) = found.finish();
    Ok((positions.iter().map(|p| (p.lsn.0, p.at, p.len)).collect(), until.0))
}

/// Puts the checksums of an index right, as far as its parts can be made out.
pub fn repair_index(bytes: &mut [u8]) {
    fn put(bytes: &mut [u8], at: usize, crc: u32) {
        if let Some(place) = bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
    }
    let length = |bytes: &[u8], at| u32_at(bytes, at).unwrap_or(0) as usize;
    let head = HEADER..HEADER.saturating_add(length(bytes, 76)).saturating_add(length(bytes, 80));
    if let Some(covered) = bytes.get(head).map(crc32fast::hash) {
        put(bytes, 84, covered);
    }
    if let Some(covered) = bytes.get(..HEADER - 4).map(crc32fast::hash) {
        put(bytes, HEADER - 4, covered);
    }
    let Ok(index) = SegmentIndex::open(Source::Memory(Bytes::copy_from_slice(bytes))) else { return };
    let seed = seed(&index.of().log_id, index.of().first);
    for block in &index.blocks {
        let begin = block.at as usize;
        let Some(end) = (begin + block.len as usize).checked_sub(4) else { continue };
        if let Some(crc) = bytes.get(begin..end).map(|covered| checksum(seed, block.at, covered)) {
            put(bytes, end, crc);
        }
    }
}
