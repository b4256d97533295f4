//! What there is of postings, by segment: sidecar files, and parts in memory where there is none yet.
//!
//! The applier feeds it; the delivery worker asks it; the indexer writes sidecars and scans what neither covers. One lock, held
//! for moments: no file is read under it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::cache::BlockCache;
use super::part::Part;
use super::{Identity, IndexFault, SegmentIndex, Source};
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile, OpenHow};
use crate::ids::Lsn;
use crate::log::{Extent, Log, Place, Record};

/// Records in a part before the next one is begun.
const PART_RECORDS: u64 = 16 * 1024;
/// Memory that the heads of opened sidecars may take.
const HEADS_BYTES: usize = 32 << 20;
/// Memory that blocks of their dictionaries may take.
const BLOCKS_BYTES: usize = 16 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Postings {
    pub(super) log: Log,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    /// The log's folder.
    pub(super) dir: PathBuf,
    pub(super) catalog: Mutex<Catalog>,
    /// What was read of dictionaries lately.
    blocks: Arc<BlockCache>,
    /// The indexer waits here.
    pub(super) wanted: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) segments: BTreeMap<Lsn, Known>,
    /// What the applier is adding to.
    pub(super) open: Option<Part>,
    /// Memory that opened heads take.
    heads: usize,
    /// Grows with each use of a sidecar.
    uses: u64,
    /// There may be something to do for the indexer.
    pub(super) work: bool,
    pub(super) stop: bool,
}

/// What is known of a segment.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) sidecar: Sidecar,
    /// In order, none overlapping.
    pub(super) parts: Vec<Arc<Part>>,
    used: u64,
}

/// The state of a segment's sidecar.
#[derive(Debug, Default)]
pub(super) enum Sidecar {
    /// To be written once the segment is sealed.
    #[default]
    Missing,
    /// There is a file, not looked into yet.
    There,
    /// Its head is in memory.
    Open(Arc<SegmentIndex>),
    /// It could not be written; to be tried again at this time, us since 1970.
    Postponed(u64),
    /// The segment does not read, so it has none: whoever needs it reads the log and is told.
    Unreadable,
}

/// What covers a record.
#[derive(Debug)]
pub(crate) enum Cover {
    /// The whole of a sealed segment.
    Index(Arc<SegmentIndex>),
    /// A part of a segment.
    Part(Arc<Part>),
    /// The part that is being added to, as far as this number.
    Open,
    /// Nothing up to this number.
    Nothing(Lsn),
}

/// The name of a segment's sidecar.
pub(super) fn file_name(segment: Lsn) -> String {
    format!("{:020}.idx", segment.0)
}

impl Postings {
    /// For a log on a disk, whose records are fed from `applied` on. Looks for sidecars; those of the segment that is being written
    /// and of segments that are gone are removed.
    ///
    /// # Errors
    /// The folder can't be listed.
    pub(crate) fn new(log: Log, disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, applied: Lsn) -> io::Result<Postings> {
        let (extents, dir) = (log.extents(), log.dir().to_owned());
        let mut catalog = Catalog { work: true, ..Catalog::default() };
        catalog.open = extents.last().map(|active| Part::new(active.first, applied.max(active.first)));
        catalog.segments = extents.iter().map(|extent| (extent.first, Known::default())).collect();
        for path in disk.list(&dir)? {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if let Some((digits, "idx")) = name.split_once('.').filter(|(digits, _)| digits.len() == 20)
                && let Ok(first) = digits.parse::<u64>()
            {
                let sealed = extents.iter().any(|extent| extent.first.0 == first && !extent.active);
                match catalog.segments.get_mut(&Lsn(first)).filter(|_| sealed) {
                    Some(known) => known.sidecar = Sidecar::There,
                    None => forget_file(&*disk, &path),
                }
            } else if name.ends_with(".idx-making") {
                forget_file(&*disk, &path);
            }
        }
        let blocks = Arc::new(BlockCache::new(BLOCKS_BYTES));
        Ok(Postings { log, disk, clock, dir, catalog: Mutex::new(catalog), blocks, wanted: Condvar::new() })
    }

    /// Takes in records that the applier has read: all there are from `from` to `to`.
    pub(crate) fn feed(&self, from: Lsn, records: &[(Record, Place)], to: Lsn) {
        let mut catalog = self.catalog.lock();
        for (record, place) in records {
            let fits = |part: &Part| part.segment == place.segment && part.records.records() < PART_RECORDS;
            let begin = match catalog.open.take_if(|part| !fits(part)) {
                Some(mut part) if part.segment < place.segment => {
                    part.next = part.next.max(place.segment);
                    catalog.keep(part);
                    catalog.work = true;
                    self.wanted.notify_one();
                    place.segment
                }
                Some(part) => {
                    let next = part.next;
                    catalog.keep(part);
                    next
                }
                None => from.max(place.segment),
            };
            catalog.open.get_or_insert_with(|| Part::new(place.segment, begin)).take(record, *place);
        }
        if let Some(part) = &mut catalog.open {
            part.next = part.next.max(to);
        }
    }

    /// What covers the record `lsn`, and where its cover ends.
    pub(crate) fn cover(&self, lsn: Lsn) -> Cover {
        let Some(extent) = self.log.extent_of(lsn) else { return Cover::Nothing(Lsn(u64::MAX)) };
        if !extent.active
            && let Some(index) = self.sidecar(&extent)
        {
            return Cover::Index(index);
        }
        let catalog = self.catalog.lock();
        let parts = catalog.segments.get(&extent.first).map(|known| known.parts.as_slice()).unwrap_or_default();
        if let Some(part) = parts.iter().find(|part| part.covers(lsn)) {
            return Cover::Part(Arc::clone(part));
        }
        let open = catalog.open.as_ref().filter(|part| part.segment == extent.first);
        if open.is_some_and(|part| part.covers(lsn)) {
            return Cover::Open;
        }
        let behind = parts.iter().map(|part| part.first).chain(open.map(|part| part.first)).find(|first| *first > lsn);
        let end = if extent.active { Lsn(u64::MAX) } else { extent.next };
        Cover::Nothing(behind.unwrap_or(end))
    }

    /// Where the stretch begins that holds `lsn` and that nothing covers.
    pub(super) fn uncovered_from(&self, lsn: Lsn) -> Lsn {
        let Some(extent) = self.log.extent_of(lsn) else { return self.log.first() };
        let catalog = self.catalog.lock();
        let parts = catalog.segments.get(&extent.first).map(|known| known.parts.as_slice()).unwrap_or_default();
        let open = catalog.open.as_ref().filter(|part| part.segment == extent.first).map(|part| part.next);
        let ends = parts.iter().map(|part| part.next).chain(open).filter(|next| *next <= lsn);
        ends.max().unwrap_or(extent.first)
    }

    /// Lets `look` into the part that is being added to. It holds up the applier meanwhile.
    pub(super) fn with_open<T>(&self, look: impl FnOnce(Option<&Part>) -> T) -> T {
        look(self.catalog.lock().open.as_ref())
    }

    /// The sidecar of a sealed segment, opened on first use.
    pub(super) fn sidecar(&self, extent: &Extent) -> Option<Arc<SegmentIndex>> {
        {
            let mut catalog = self.catalog.lock();
            catalog.uses += 1;
            let uses = catalog.uses;
            let known = catalog.segments.get_mut(&extent.first)?;
            known.used = uses;
            match &known.sidecar {
                Sidecar::Open(index) => return Some(Arc::clone(index)),
                Sidecar::There => {}
                _ => return None,
            }
        }
        match self.open_sidecar(extent) {
            Ok(index) => {
                let index = Arc::new(index);
                self.catalog.lock().opened(extent.first, &index);
                Some(index)
            }
            Err(fault) => {
                self.distrust(extent.first, &fault);
                None
            }
        }
    }

    fn open_sidecar(&self, extent: &Extent) -> Result<SegmentIndex, IndexFault> {
        let file: Arc<dyn DiskFile> =
            Arc::from(self.disk.open(&self.dir.join(file_name(extent.first)), OpenHow::Read)?);
        let index = self.open_index(file)?;
        if *index.of() == self.identity(extent) { Ok(index) } else { Err(IndexFault::Foreign) }
    }

    /// Opens an index of this log whose blocks are kept once they were read.
    pub(super) fn open_index(&self, file: Arc<dyn DiskFile>) -> Result<SegmentIndex, IndexFault> {
        Ok(SegmentIndex::open(Source::File(file, self.log.read_bytes()))?.cached(&self.blocks))
    }

    pub(super) fn identity(&self, extent: &Extent) -> Identity {
        Identity { log_id: self.log.id(), first: extent.first, next: extent.next, end: extent.end }
    }

    /// A sidecar turned out to be unusable: its segment is read without it until there is a new one.
    pub(crate) fn distrust(&self, segment: Lsn, fault: &IndexFault) {
        let file = self.dir.join(file_name(segment));
        tracing::warn!(file = %file.display(), %fault, "the index of a segment is built anew; until then the segment is read as a whole");
        metrics::counter!(crate::metrics::INDEX_UNUSABLE).increment(1);
        let mut catalog = self.catalog.lock();
        catalog.close_head(segment, Sidecar::Missing);
        catalog.work = true;
        self.wanted.notify_one();
    }

    /// The index of the segment that holds `lsn` told a place where that record does not lie.
    pub(crate) fn misled(&self, lsn: Lsn) {
        if let Some(extent) = self.log.extent_of(lsn) {
            self.distrust(extent.first, &IndexFault::Damaged("a record does not lie where it says"));
        }
    }

    /// There may be something to do: a segment was trimmed.
    pub(crate) fn look(&self) {
        self.catalog.lock().work = true;
        self.wanted.notify_one();
    }

    /// Ends the indexer.
    pub(crate) fn stop(&self) {
        self.catalog.lock().stop = true;
        self.wanted.notify_all();
    }
}

/// Removes a file that means nothing any more; that it stays is harmless.
pub(super) fn forget_file(disk: &dyn Disk, path: &std::path::Path) {
    if let Err(error) = disk.remove(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "an index that is of no use any more can't be removed");
    }
}

impl Catalog {
    /// Files a part of a segment.
    pub(super) fn keep(&mut self, part: Part) {
        let known = self.segments.entry(part.segment).or_default();
        let at = known.parts.partition_point(|other| other.first < part.first);
        known.parts.insert(at, Arc::new(part));
    }

    /// A sidecar was opened. Others that were not used for long are closed when there are too many.
    pub(super) fn opened(&mut self, segment: Lsn, index: &Arc<SegmentIndex>) {
        if !self.segments.contains_key(&segment) {
            return;
        }
        self.close_head(segment, Sidecar::Open(Arc::clone(index)));
        self.heads += index.memory();
        while self.heads > HEADS_BYTES {
            let open = self.segments.iter().filter(|(s, k)| **s != segment && matches!(k.sidecar, Sidecar::Open(_)));
            let Some(oldest) = open.min_by_key(|(_, k)| k.used).map(|(s, _)| *s) else { break };
            self.close_head(oldest, Sidecar::There);
        }
    }

    pub(super) fn close_head(&mut self, segment: Lsn, to: Sidecar) {
        let Some(known) = self.segments.get_mut(&segment) else { return };
        if let Sidecar::Open(index) = std::mem::replace(&mut known.sidecar, to) {
            self.heads = self.heads.saturating_sub(index.memory());
        }
    }

    /// Forgets the segments before `first`; returns them.
    pub(super) fn forget_below(&mut self, first: Lsn) -> Vec<Lsn> {
        let kept = self.segments.split_off(&first);
        let gone: Vec<Lsn> = self.segments.keys().copied().collect();
        for segment in &gone {
            self.close_head(*segment, Sidecar::Missing);
        }
        self.segments = kept;
        gone
    }
}
