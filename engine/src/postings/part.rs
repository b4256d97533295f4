//! A stretch of the log whose topics are known in memory: what is not in a sidecar yet.

use std::ops::Range;

use super::{Found, IndexBuilder, Position};
use crate::event::codec::{KIND_PUBLISHED, published_topic};
use crate::ids::Lsn;
use crate::log::{Place, Record};
use crate::topic;

/// The records `first..next` of one segment.
#[derive(Debug)]
pub(crate) struct Part {
    /// First record of its segment.
    pub segment: Lsn,
    pub first: Lsn,
    pub next: Lsn,
    /// Bytes of its frames.
    pub bytes: u64,
    pub records: IndexBuilder,
}

impl Part {
    pub(super) fn new(segment: Lsn, first: Lsn) -> Part {
        Part { segment, first, next: first, bytes: 0, records: IndexBuilder::default() }
    }

    /// Takes the next record of its segment.
    pub(super) fn take(&mut self, record: &Record, place: Place) {
        self.next = record.lsn.next();
        self.bytes += u64::from(place.len);
        if record.kind == KIND_PUBLISHED
            && let Some(topic) = published_topic(&record.body)
        {
            self.records.add(topic, Position { lsn: record.lsn, at: place.at, len: place.len });
        }
    }

    pub(super) fn covers(&self, lsn: Lsn) -> bool {
        self.first <= lsn && lsn < self.next
    }

    /// Puts the matching records in `range` into `found`.
    pub(super) fn find(&self, filter: &str, range: &Range<Lsn>, found: &mut Found) {
        self.each(filter, |positions| {
            let begin = positions.partition_point(|p| p.lsn < range.start);
            let end = positions.partition_point(|p| p.lsn < range.end);
            found.matched += end.saturating_sub(begin) as u64;
            for position in positions.get(begin..end).unwrap_or_default() {
                if !found.push(*position) {
                    break;
                }
            }
        });
    }

    /// Gives the records of each matching topic, in order.
    pub(super) fn each(&self, filter: &str, mut each: impl FnMut(&[Position])) {
        if !topic::has_wildcard(filter) {
            if let Some(records) = self.records.topics.get(filter) {
                each(records.as_slice());
            }
            return;
        }
        for (name, records) in &self.records.topics {
            if topic::matches(filter, name) {
                each(records.as_slice());
            }
        }
    }
}
