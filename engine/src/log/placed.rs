//! Records by their place: what an index needs to know of a record, and reading it back with one positional read.

use crate::sync::atomic::Ordering;
use std::path::Path;

use bytes::BytesMut;
use metrics::Counter;

use super::error::ReadError;
use super::frame::{self, Decoded, KIND_GAP};
use super::reader::{Reader, record_of};
use super::{Log, Record};
use crate::ids::Lsn;
use crate::postings::Position;

/// Records that lie closer than this to each other are read at once, up to [`RUN_BYTES`].
const CLOSE_BYTES: u64 = 4 << 10;
const RUN_BYTES: u64 = 256 << 10;

/// Where a record lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// First record number of its segment.
    pub segment: Lsn,
    /// Offset of its frame.
    pub at: u64,
    /// Bytes of its frame.
    pub len: u32,
}

/// A segment's reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Its first record number.
    pub first: Lsn,
    /// The number after its last record.
    pub next: Lsn,
    /// Offset behind its last record.
    pub end: u64,
    /// More is written to it.
    pub active: bool,
}

impl Reader {
    /// As [`read_batch`](Reader::read_batch), with the place of each record.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn read_placed(
        &mut self,
        max_records: usize,
        max_bytes: usize,
        out: &mut Vec<(Record, Place)>,
    ) -> Result<usize, ReadError> {
        let end = self.durable_end();
        let (mut count, mut bytes) = (0, 0);
        while count < max_records && bytes < max_bytes.max(1) && self.position() < end {
            let Some((frame, data)) = self.step()? else { continue };
            if frame.kind >= KIND_GAP {
                continue;
            }
            bytes += frame.size();
            count += 1;
            out.push((record_of(&frame, data), self.place()));
        }
        Ok(count)
    }
}

impl Log {
    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.core().options.dir
    }

    /// Counts what readers ask of the disk.
    pub(crate) fn read_bytes(&self) -> Counter {
        self.core().metrics.read_bytes.clone()
    }

    /// The reach of every segment, oldest first.
    pub(crate) fn extents(&self) -> Vec<Extent> {
        let segments = self.core().segments.read();
        let after = segments.values().skip(1).map(|s| Some(s.first())).chain(std::iter::once(None));
        let both = segments.values().zip(after);
        both.map(|(s, after)| Extent {
            first: s.first(),
            next: after.unwrap_or_else(|| s.next()),
            end: s.end(),
            active: after.is_none(),
        })
        .collect()
    }

    /// The reach of the segment that a record lies in, or will; `None` when it is trimmed.
    pub(crate) fn extent_of(&self, lsn: Lsn) -> Option<Extent> {
        let segments = self.core().segments.read();
        let (first, segment) = segments.range(..=lsn.0).next_back()?;
        let after = segments.range(first + 1..).next().map(|(first, _)| Lsn(*first));
        Some(Extent {
            first: Lsn(*first),
            next: after.unwrap_or_else(|| segment.next()),
            end: segment.end(),
            active: after.is_none(),
        })
    }

    /// Reads records that are durable and whose places are known, in order; the longest run from the first on that lies close
    /// together in one segment, at least one. Appends them to `out`. False when what lies there is not what it should be: the place is
    /// wrong, or the segment is damaged, which reading in order tells.
    ///
    /// # Errors
    /// `Trimmed`, `Io`.
    pub(crate) fn read_at(&self, positions: &[Position], out: &mut Vec<Record>) -> Result<bool, ReadError> {
        let Some(first) = positions.first() else { return Ok(true) };
        self.core().check_trimmed(first.lsn)?;
        let segment = self.core().segment_of(first.lsn).ok_or_else(|| self.core().trimmed())?;
        let (next, file) = (segment.next(), self.core().file_of(&segment)?);
        let mut end = first.at + u64::from(first.len);
        let mut count = 1;
        for position in positions.iter().skip(1) {
            let behind = position.at + u64::from(position.len);
            let fits = position.lsn < next && position.at >= end && position.at - end <= CLOSE_BYTES;
            if !fits || behind - first.at > RUN_BYTES {
                break;
            }
            (end, count) = (behind, count + 1);
        }
        if end > segment.file_len.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut bytes = BytesMut::zeroed((end - first.at) as usize);
        self.core().metrics.read_bytes.increment(bytes.len() as u64);
        let read = file.read_at(&mut bytes, first.at);
        let read = read.map_err(|source| ReadError::Io { file: segment.path.clone(), source })?;
        bytes.truncate(read);
        let bytes = bytes.freeze();
        for position in positions.iter().take(count) {
            let begin = (position.at - first.at) as usize;
            let Some(frame) = bytes.get(begin..begin + position.len as usize).map(|b| bytes.slice_ref(b)) else {
                return Ok(false);
            };
            match frame::decode(&frame, segment.seed) {
                Decoded::Frame(found) if found.lsn == position.lsn && found.size() == frame.len() => {
                    out.push(record_of(&found, frame));
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}
