//! What lies in a stretch of the log or in a residue file: its messages by topic, with their sizes, and what did not read.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use crate::event::codec::KIND_PUBLISHED;
use crate::event::{Event, Message, Published, QoS};
use crate::ids::Lsn;
use crate::log::{Log, ReadError, Record, ResidueFile};
use crate::topic;

const READ_RECORDS: usize = 4096;
const READ_BYTES: usize = 1 << 20;

/// A message, as much of it as tells who is owed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub lsn: Lsn,
    /// Bytes of its frame's body.
    pub bytes: u32,
    pub qos: QoS,
    /// CRC-32 of the publisher's name: a subscription that does not want its own messages is not owed them.
    pub publisher: u32,
}

/// Messages of a range by topic.
#[derive(Debug, Default)]
pub(super) struct Scan {
    topics: BTreeMap<ByteString, Vec<Match>>,
    /// All of them, in order.
    numbers: Vec<Lsn>,
    /// What filters match, once somebody asked.
    filters: HashMap<ByteString, Arc<[Match]>>,
    /// Record numbers that could not be read, because their bytes are damaged.
    pub unreadable: Vec<Range<Lsn>>,
}

impl Scan {
    /// Reads a range of the log. What is damaged is noted and passed over to the next segment.
    ///
    /// # Errors
    /// The disk failed; a later attempt may come through.
    pub fn of_log(log: &Log, range: &Range<Lsn>) -> Result<Scan, ReadError> {
        let mut scan = Scan::default();
        let unreadable = each_in_log(log, range, |record| scan.take(&record))?;
        scan.unreadable = unreadable;
        Ok(scan)
    }

    /// Reads a residue file.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn of_residue(file: &ResidueFile) -> Result<Scan, ReadError> {
        let mut scan = Scan::default();
        let mut walk = file.walk(Lsn::NONE);
        while let Some(record) = walk.next_record()? {
            scan.take(&record);
        }
        Ok(scan)
    }

    fn take(&mut self, record: &Record) {
        let Some(message) = message_of(record) else { return };
        let found = Match {
            lsn: record.lsn,
            bytes: u32::try_from(record.body.len()).unwrap_or(u32::MAX),
            qos: message.qos,
            publisher: crc32fast::hash(message.publisher.as_bytes()),
        };
        self.numbers.push(record.lsn);
        match self.topics.get_mut(&message.topic) {
            Some(matches) => matches.push(found),
            None => {
                // The name is a slice of what was read: a copy does not keep all of that in memory.
                self.topics.insert(ByteString::from(AsRef::<str>::as_ref(&message.topic)), vec![found]);
            }
        }
    }

    /// True when the record is among the messages.
    pub fn holds(&self, lsn: Lsn) -> bool {
        self.numbers.binary_search(&lsn).is_ok()
    }

    /// Every topic and its messages, in order.
    pub fn topics(&self) -> impl Iterator<Item = (&ByteString, &[Match])> {
        self.topics.iter().map(|(topic, matches)| (topic, matches.as_slice()))
    }

    /// The messages whose topic matches the filter, in order.
    pub fn matching(&mut self, filter: &str) -> Arc<[Match]> {
        if let Some(known) = self.filters.get(filter) {
            return Arc::clone(known);
        }
        let found: Arc<[Match]> = if topic::has_wildcard(filter) {
            let prefix = filter.split(['+', '#']).next().unwrap_or_default();
            let from = prefix.strip_suffix('/').unwrap_or(prefix);
            let mut found: Vec<Match> = self
                .topics
                .range::<str, _>((Bound::Included(from), Bound::Unbounded))
                .take_while(|(topic, _)| topic.starts_with(from))
                .filter(|(topic, _)| topic::matches(filter, topic))
                .flat_map(|(_, matches)| matches.iter().copied())
                .collect();
            found.sort_unstable_by_key(|m| m.lsn);
            found.into()
        } else {
            self.topics.get(filter).map(|matches| matches.as_slice().into()).unwrap_or_default()
        };
        // A filter that finds nothing costs a look at the topics: remembering each of them could cost more.
        if !found.is_empty() || topic::has_wildcard(filter) {
            self.filters.insert(filter.into(), Arc::clone(&found));
        }
        found
    }
}

/// The message of a publish record.
pub(super) fn message_of(record: &Record) -> Option<Message> {
    if record.kind != KIND_PUBLISHED {
        return None;
    }
    match Event::decode(record.kind, Bytes::clone(&record.body)) {
        Ok(Event::Published(Published { message, .. })) => Some(message),
        _ => None,
    }
}

/// Gives every readable record of a range of the log to `each`, in order. Returns what did not read because it is damaged.
///
/// # Errors
/// The disk failed.
pub(super) fn each_in_log(
    log: &Log,
    range: &Range<Lsn>,
    mut each: impl FnMut(Record),
) -> Result<Vec<Range<Lsn>>, ReadError> {
    let mut unreadable = Vec::new();
    let mut records = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let mut reader = log.reader(at)?;
        let fault = loop {
            match reader.read_batch(READ_RECORDS, READ_BYTES, &mut records) {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error),
            }
            records.drain(..).filter(|record| record.lsn < range.end).for_each(&mut each);
            if reader.position() >= range.end {
                break None;
            }
        };
        records.drain(..).filter(|record| record.lsn < range.end).for_each(&mut each);
        match fault {
            None => break,
            Some(ReadError::Corrupt { lsn, .. }) => {
                let from = lsn.max(reader.position());
                let segments = log.segments();
                let behind = segments.iter().find(|segment| segment.next > from).map_or(range.end, |s| s.next);
                unreadable.push(from..behind.min(range.end));
                at = behind;
            }
            Some(error) => return Err(error),
        }
    }
    Ok(unreadable)
}
