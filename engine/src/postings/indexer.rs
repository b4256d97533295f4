//! Writing sidecars: in the background, one after the other, from the parts in memory or, where those are missing, from a scan.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::builder::encode;
use super::catalog::{Known, Postings, Sidecar, file_name, forget_file};
use super::part::Part;
use super::{IndexBuilder, SegmentIndex, Source};
use crate::disk::OpenHow;
use crate::ids::Lsn;
use crate::log::{Extent, ReadError, Reader};

/// How long the indexer sleeps when nothing is to be done.
const IDLE: Duration = Duration::from_secs(10);
/// When a sidecar that could not be written is tried again.
const AGAIN_US: u64 = 30_000_000;
/// What is scanned in one step.
const STEP_RECORDS: usize = 8192;
const STEP_BYTES: usize = 2 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Indexer {
    postings: Arc<Postings>,
    scanning: Option<Scanning>,
}

/// A stretch of a segment that no part covers.
#[derive(Debug)]
struct Scanning {
    part: Part,
    to: Lsn,
    reader: Reader,
}

/// What is to be done next.
enum Task {
    /// These parts are all of the segment.
    Write(Extent, Vec<Arc<Part>>),
    /// From the first to the second number of the segment nothing is known.
    Scan(Lsn, Lsn, Lsn),
}

impl Indexer {
    pub(crate) fn new(postings: Arc<Postings>) -> Indexer {
        Indexer { postings, scanning: None }
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        loop {
            {
                let mut catalog = self.postings.catalog.lock();
                while !catalog.work && !catalog.stop {
                    if self.postings.wanted.wait_for(&mut catalog, IDLE).timed_out() {
                        catalog.work = true;
                    }
                }
                if catalog.stop {
                    return;
                }
                catalog.work = false;
            }
            while self.step() {
                if self.postings.catalog.lock().stop {
                    return;
                }
            }
        }
    }

    /// Does one piece of work: removes what belongs to trimmed segments, scans a stretch, or writes a sidecar. False when nothing is
    /// left to do.
    pub(crate) fn step(&mut self) -> bool {
        self.clean_up();
        if let Some(scanning) = self.scanning.take() {
            self.scan(scanning);
            return true;
        }
        match self.task() {
            Some(Task::Write(extent, parts)) => self.write(&extent, &parts),
            Some(Task::Scan(segment, from, to)) => self.begin_scan(segment, from, to),
            None => return false,
        }
        true
    }

    fn clean_up(&self) {
        let first = self.postings.log.first();
        let gone = self.postings.catalog.lock().forget_below(first);
        for segment in gone {
            forget_file(&*self.postings.disk, &self.postings.dir.join(file_name(segment)));
        }
    }

    /// The newest segment that needs something.
    fn task(&self) -> Option<Task> {
        let extents = self.postings.log.extents();
        let now_us = self.postings.clock.now_us();
        let mut catalog = self.postings.catalog.lock();
        let open = catalog.open.as_ref().map(|part| (part.segment, part.first));
        for extent in extents.iter().rev() {
            let known = catalog.segments.entry(extent.first).or_default();
            let due = match known.sidecar {
                Sidecar::Missing => true,
                Sidecar::Postponed(until) => until <= now_us,
                _ => false,
            };
            if !due || extent.first == extent.next {
                continue;
            }
            let open_from = open.filter(|(segment, _)| *segment == extent.first).map(|(_, first)| first);
            // Of the segment that is being written, what the applier has not come to is not yet of interest.
            let end = match open_from {
                Some(first) => first,
                None if extent.active => known.parts.last().map_or(extent.first, |part| part.next),
                None => extent.next,
            };
            if let Some((from, to)) = uncovered(known, extent.first, end) {
                return Some(Task::Scan(extent.first, from, to));
            }
            if !extent.active && open_from.is_none() {
                return Some(Task::Write(*extent, known.parts.clone()));
            }
        }
        None
    }

    fn begin_scan(&mut self, segment: Lsn, from: Lsn, to: Lsn) {
        match self.postings.log.reader(from) {
            Ok(reader) => self.scan(Scanning { part: Part::new(segment, from), to, reader }),
            Err(error) => self.give_up(segment, &error),
        }
    }

    fn scan(&mut self, mut scanning: Scanning) {
        let mut records = Vec::new();
        if let Err(error) = scanning.reader.read_placed(STEP_RECORDS, STEP_BYTES, &mut records) {
            return self.give_up(scanning.part.segment, &error);
        }
        let (segment, to) = (scanning.part.segment, scanning.to);
        let own = |place: &crate::log::Place, lsn: Lsn| place.segment == segment && lsn < to;
        let mut done = records.is_empty() || scanning.reader.position() >= to;
        for (record, place) in &records {
            if own(place, record.lsn) {
                scanning.part.take(record, *place);
            } else {
                done = true;
                break;
            }
        }
        if done {
            scanning.part.next = to;
            self.postings.catalog.lock().keep(scanning.part);
        } else {
            self.scanning = Some(scanning);
        }
    }

    fn give_up(&self, segment: Lsn, error: &ReadError) {
        // What was trimmed meanwhile is forgotten with the next step.
        if !matches!(error, ReadError::Trimmed { .. }) {
            tracing::error!(%error, "a segment can't be read, so it gets no index");
        }
        self.postings.catalog.lock().close_head(segment, Sidecar::Unreadable);
    }

    fn write(&self, extent: &Extent, parts: &[Arc<Part>]) {
        let builders: Vec<&IndexBuilder> = parts.iter().map(|part| &part.records).collect();
        let bytes = encode(&builders, &self.postings.identity(extent));
        match self.put(extent.first, &bytes) {
            Ok(index) => {
                metrics::counter!(crate::metrics::INDEX_WRITTEN).increment(1);
                let mut catalog = self.postings.catalog.lock();
                catalog.opened(extent.first, &Arc::new(index));
                match catalog.segments.get_mut(&extent.first) {
                    Some(known) => known.parts.clear(),
                    // Trimmed meanwhile.
                    None => forget_file(&*self.postings.disk, &self.postings.dir.join(file_name(extent.first))),
                }
            }
            Err(error) => {
                let file = self.postings.dir.join(file_name(extent.first));
                tracing::warn!(file = %file.display(), %error, "the index of a segment can't be written now and is tried again later; until then it stays in memory");
                metrics::counter!(crate::metrics::INDEX_POSTPONED).increment(1);
                forget_file(&*self.postings.disk, &file.with_extension("idx-making"));
                let again = Sidecar::Postponed(self.postings.clock.now_us().saturating_add(AGAIN_US));
                self.postings.catalog.lock().close_head(extent.first, again);
            }
        }
    }

    /// Writes the file and reads its head back.
    fn put(&self, segment: Lsn, bytes: &[u8]) -> io::Result<SegmentIndex> {
        let disk = &*self.postings.disk;
        let path = self.postings.dir.join(file_name(segment));
        let making = path.with_extension("idx-making");
        let file = disk.open(&making, OpenHow::Create)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        drop(file);
        disk.rename(&making, &path)?;
        let file = disk.open(&path, OpenHow::Read)?;
        self.postings.open_index(Arc::from(file)).map_err(|fault| io::Error::other(fault.to_string()))
    }
}

/// The last stretch of `first..end` that no part covers.
fn uncovered(known: &Known, first: Lsn, end: Lsn) -> Option<(Lsn, Lsn)> {
    let mut to = end;
    for part in known.parts.iter().rev() {
        if part.next < to {
            return Some((part.next, to));
        }
        to = to.min(part.first);
    }
    (first < to).then_some((first, to))
}
