//! Reading an index: its head is kept in memory, blocks and chunks are read when they are asked for.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes as Buffer;
use metrics::Counter;

use super::builder::{CHUNK, INLINE};
use super::cache::BlockCache;
use super::coding::{Bytes, checked, positions, seed};
use super::{Found, Identity, IndexFault, Position, membership};
use crate::disk::DiskFile;
use crate::ids::Lsn;
use crate::log::{u32_at, u64_at};
use crate::topic;

pub(super) const MAGIC: &[u8; 8] = b"FBAYTOPI";
/// The version written by this program, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;
/// Bytes of the header.
pub(super) const HEADER: usize = 96;
/// Bytes of the dictionary read at once for a wildcard, about.
const RUN_BYTES: u64 = 64 << 10;

/// Where the bytes of an index are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// In a file; what is asked of it is counted.
    File(Arc<dyn DiskFile>, Counter),
    /// In memory.
    Memory(Buffer),
}

impl Source {
    fn len(&self) -> Result<u64, IndexFault> {
        match self {
            Source::File(file, _) => Ok(file.len()?),
            Source::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn read(&self, at: u64, len: usize) -> Result<Buffer, IndexFault> {
        let cut = IndexFault::Damaged("it is shorter than it says");
        match self {
            Source::File(file, read) => {
                let mut bytes = vec![0; len];
                read.increment(len as u64);
                if file.read_at(&mut bytes, at)? < len { Err(cut) } else { Ok(bytes.into()) }
            }
            Source::Memory(bytes) => {
                let end = (at as usize).checked_add(len).filter(|end| *end <= bytes.len());
                end.map(|end| bytes.slice(at as usize..end)).ok_or(cut)
            }
        }
    }
}

/// A block of the dictionary.
#[derive(Debug)]
pub(super) struct BlockRef {
    /// Where its first topic ends in `names`; it begins where the one before ends.
    name_end: usize,
    pub(super) at: u64,
    pub(super) len: u32,
    chunks: u32,
}

/// An opened index. Its membership filter and its table of blocks are in memory.
#[derive(Debug)]
pub(crate) struct SegmentIndex {
    of: Identity,
    records: u64,
    topics: u64,
    seed: u32,
    source: Source,
    len: u64,
    filter: Buffer,
    names: Vec<u8>,
    pub(super) blocks: Vec<BlockRef>,
    /// Where blocks are kept, and this index's number there.
    cache: Option<(Arc<BlockCache>, u64)>,
}

/// How far a search through the dictionary has come.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    next: usize,
    end: usize,
}

/// A topic in the dictionary.
pub(crate) struct Entry<'a> {
    index: &'a SegmentIndex,
    /// Its records.
    pub count: u64,
    list: &'a [u8],
    block_end: u64,
}

impl SegmentIndex {
    /// Reads the head of an index and checks it; what it is of is for the caller to compare.
    ///
    /// # Errors
    /// See [`IndexFault`].
    pub(crate) fn open(source: Source) -> Result<SegmentIndex, IndexFault> {
        let len = source.len()?;
        let header = source.read(0, HEADER.min(len as usize))?;
        if !header.starts_with(MAGIC) {
            return Err(IndexFault::Damaged("it is no index (magic)"));
        }
        let number = |at| u32_at(&header, at).ok_or(IndexFault::Damaged("it is shorter than its header"));
        let long = |at| u64_at(&header, at).ok_or(IndexFault::Damaged("it is shorter than its header"));
        match number(8)? {
            FORMAT => {}
            version if version > FORMAT => return Err(IndexFault::Newer(version)),
            _ => return Err(IndexFault::Damaged("version")),
        }
        if crc32fast::hash(header.get(..HEADER - 4).unwrap_or_default()) != number(HEADER - 4)? {
            return Err(IndexFault::Damaged("the checksum of its header does not match"));
        }
        let log_id = header.get(16..).and_then(|b| b.first_chunk::<16>()).copied().unwrap_or_default();
        let of = Identity { log_id, first: Lsn(long(32)?), next: Lsn(long(40)?), end: long(48)? };
        let (filter_len, table_len) = (number(76)? as usize, number(80)? as usize);
        if (HEADER + filter_len + table_len) as u64 > len {
            return Err(IndexFault::Damaged("it is shorter than its head says"));
        }
        let mut head = source.read(HEADER as u64, filter_len + table_len)?;
        if crc32fast::hash(&head) != number(84)? {
            return Err(IndexFault::Damaged("the checksum of its head does not match"));
        }
        let filter = head.split_to(filter_len);
        let mut index = SegmentIndex {
            of,
            records: long(56)?,
            topics: long(64)?,
            seed: seed(&log_id, of.first),
            source,
            len,
            filter,
            names: Vec::new(),
            blocks: Vec::new(),
            cache: None,
        };
        let end = index.read_table(&head, number(72)? as usize, (HEADER + filter_len + table_len) as u64)?;
        if end != len {
            return Err(IndexFault::Damaged("its length is not what its head says"));
        }
        Ok(index)
    }

    /// The same, with blocks that were looked into kept for the next look.
    pub(crate) fn cached(self, cache: &Arc<BlockCache>) -> SegmentIndex {
        SegmentIndex { cache: Some((Arc::clone(cache), cache.number())), ..self }
    }

    /// Returns the offset behind the last block.
    fn read_table(&mut self, table: &[u8], blocks: usize, mut at: u64) -> Result<u64, IndexFault> {
        let (mut table, mut topic) = (Bytes(table), Vec::new());
        while !table.is_empty() {
            table.topic(&mut topic)?;
            self.names.extend_from_slice(&topic);
            let long = || IndexFault::Damaged("a block's length that can't be");
            let len = u32::try_from(table.int()?).map_err(|_| long())?;
            let chunks = u32::try_from(table.int()?).map_err(|_| long())?;
            self.blocks.push(BlockRef { name_end: self.names.len(), at, len, chunks });
            at = at.saturating_add(u64::from(len)).saturating_add(u64::from(chunks));
        }
        if self.blocks.len() == blocks {
            Ok(at)
        } else {
            Err(IndexFault::Damaged("its blocks are not as many as it says"))
        }
    }

    /// What it is of.
    pub(crate) fn of(&self) -> &Identity {
        &self.of
    }

    /// Records in it.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Different topics in it.
    pub(crate) fn topics(&self) -> u64 {
        self.topics
    }

    /// Bytes of memory that its head takes.
    pub(crate) fn memory(&self) -> usize {
        self.filter.len() + self.names.len() + self.blocks.len() * size_of::<BlockRef>()
    }

    fn first_topic(&self, block: usize) -> &[u8] {
        let end = |n: usize| self.blocks.get(n).map_or(self.names.len(), |b| b.name_end);
        let begin = block.checked_sub(1).map_or(0, end);
        self.names.get(begin..end(block)).unwrap_or_default()
    }

    /// Begins a search for the topics that match. Reads nothing.
    pub(crate) fn search(&self, filter: &str) -> Search {
        let wild = topic::has_wildcard(filter);
        if !wild && !membership::may_hold(&self.filter, filter.as_bytes()) {
            return Search { next: 0, end: 0 };
        }
        // What stands before the first wildcard; `a/#` also matches `a`, which comes before `a/`.
        let prefix = filter.split(['+', '#']).next().unwrap_or_default();
        let prefix = if wild { prefix.strip_suffix('/').unwrap_or(prefix) } else { prefix }.as_bytes();
        let ends_before = |n: usize, holds: &dyn Fn(&[u8]) -> bool| {
            // Partition point over block numbers.
            let (mut low, mut high) = (n, self.blocks.len());
            while low < high {
                let middle = low + (high - low) / 2;
                if holds(self.first_topic(middle)) { low = middle + 1 } else { high = middle }
            }
            low
        };
        let next = ends_before(0, &|first| first <= prefix).saturating_sub(1);
        let end = ends_before(next, &|first| first <= prefix || wild && first.starts_with(prefix));
        Search { next, end }
    }

    /// Bytes of the dictionary that a search will still read.
    pub(crate) fn cost(&self, search: &Search) -> u64 {
        let blocks = self.blocks.get(search.next..search.end).unwrap_or_default();
        blocks.iter().map(|b| u64::from(b.len)).sum()
    }

    /// Goes on with a search for about 64 KiB of the dictionary and gives each matching topic to `visit`. False at its end.
    ///
    /// # Errors
    /// See [`IndexFault`], or what `visit` finds.
    pub(crate) fn step(
        &self,
        search: &mut Search,
        filter: &str,
        mut visit: impl FnMut(&Entry<'_>) -> Result<(), IndexFault>,
    ) -> Result<bool, IndexFault> {
        let blocks = self.blocks.get(search.next..search.end).unwrap_or_default();
        let Some(first) = blocks.first() else { return Ok(false) };
        if !topic::has_wildcard(filter) {
            // An exact topic is in one block, and others that stand there are likely to be looked for too.
            look_for(&self.block(first)?, filter.as_bytes(), |count, list| visit(&self.entry(first, count, list)?))?;
            search.next += 1;
            return Ok(search.next < search.end);
        }
        // Blocks that follow each other are read at once.
        let follows = |i: usize| blocks.get(i).is_some_and(|b| b.chunks == 0) && i + 1 < blocks.len();
        let mut count = 1;
        while follows(count - 1) && blocks.get(count).is_some_and(|b| b.at + u64::from(b.len) - first.at <= RUN_BYTES) {
            count += 1;
        }
        let run = blocks.get(..count).unwrap_or_default();
        let bytes = self.source.read(first.at, run.iter().map(|b| b.len as usize).sum())?;
        for block in run {
            let begin = (block.at - first.at) as usize;
            let bytes = bytes.get(begin..begin + block.len as usize).unwrap_or_default();
            self.look_through(block, bytes, filter, &mut visit)?;
        }
        search.next += count;
        Ok(search.next < search.end)
    }

    /// A topic of a block.
    fn entry<'a>(&'a self, block: &BlockRef, count: u64, list: &'a [u8]) -> Result<Entry<'a>, IndexFault> {
        if count > self.of.next.0.saturating_sub(self.of.first.0) {
            return Err(IndexFault::Damaged("a topic with more records than there are"));
        }
        Ok(Entry { index: self, count, list, block_end: block.at.saturating_add(u64::from(block.len)) })
    }

    /// A block without its checksum, which was compared.
    fn block(&self, block: &BlockRef) -> Result<Buffer, IndexFault> {
        if let Some(kept) = self.cache.as_ref().and_then(|(cache, number)| cache.get(*number, block.at)) {
            return Ok(kept);
        }
        let bytes = self.source.read(block.at, block.len as usize)?;
        let covered = bytes.slice(..checked(self.seed, block.at, &bytes)?.len());
        if let Some((cache, number)) = &self.cache {
            cache.put(*number, block.at, &covered);
        }
        Ok(covered)
    }

    fn look_through(
        &self,
        block: &BlockRef,
        bytes: &[u8],
        filter: &str,
        visit: &mut impl FnMut(&Entry<'_>) -> Result<(), IndexFault>,
    ) -> Result<(), IndexFault> {
        let mut rest = Bytes(checked(self.seed, block.at, bytes)?);
        let mut topic = Vec::new();
        while !rest.is_empty() {
            rest.topic(&mut topic)?;
            let (count, len) = (rest.int()?, rest.size()?);
            let list = rest.take(len)?;
            if std::str::from_utf8(&topic).is_ok_and(|topic| topic::matches(filter, topic)) {
                visit(&self.entry(block, count, list)?)?;
            }
        }
        Ok(())
    }

    /// Goes on with a search as [`step`](SegmentIndex::step), and puts what it finds in `range` into `found`. False at its end.
    ///
    /// # Errors
    /// See [`IndexFault`].
    pub(crate) fn find(
        &self,
        search: &mut Search,
        filter: &str,
        range: &Range<Lsn>,
        found: &mut Found,
    ) -> Result<bool, IndexFault> {
        self.step(search, filter, |entry| {
            let wanted = found.wanted(range);
            found.matched = found.matched.saturating_add(entry.count_from(range.start)?);
            entry.positions(&wanted, |position| found.push(position))
        })
    }
}

/// Gives the count and the list of a topic, where it stands in this block; topics are in order.
fn look_for<'a>(
    block: &'a [u8],
    wanted: &[u8],
    found: impl FnOnce(u64, &'a [u8]) -> Result<(), IndexFault>,
) -> Result<(), IndexFault> {
    let (mut rest, mut topic) = (Bytes(block), Vec::with_capacity(wanted.len().max(64)));
    while !rest.is_empty() {
        rest.topic(&mut topic)?;
        let (count, len) = (rest.int()?, rest.size()?);
        let list = rest.take(len)?;
        match topic.as_slice().cmp(wanted) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return found(count, list),
            std::cmp::Ordering::Greater => break,
        }
    }
    Ok(())
}

impl Entry<'_> {
    /// The chunks of a long list: LSN of the first record, offset, bytes.
    fn chunks(&self) -> Result<Vec<(Lsn, u64, usize)>, IndexFault> {
        let mut list = Bytes(self.list);
        let mut at = self.block_end.saturating_add(list.int()?);
        let (mut chunks, mut lsn) = (Vec::new(), self.index.of.first.0);
        while !list.is_empty() {
            lsn = lsn.saturating_add(list.int()?);
            let len = list.size()?;
            chunks.push((Lsn(lsn), at, len));
            at = at.saturating_add(len as u64);
            if at > self.index.len {
                return Err(IndexFault::Damaged("a chunk that reaches beyond the file"));
            }
        }
        Ok(chunks)
    }

    /// Records from `lsn` on, and of a long list up to a chunk more.
    fn count_from(&self, lsn: Lsn) -> Result<u64, IndexFault> {
        if lsn <= self.index.of.first {
            return Ok(self.count);
        }
        if self.count > INLINE as u64 {
            let passed = self.chunks()?.iter().filter(|(first, ..)| *first <= lsn).count().saturating_sub(1);
            return Ok(self.count.saturating_sub((passed * CHUNK) as u64));
        }
        let mut count = 0;
        positions(self.list, self.index.of.first, |p| {
            count += u64::from(p.lsn >= lsn);
            true
        })?;
        Ok(count)
    }

    /// Gives its records in `range` to `each`, in order, until that returns false.
    ///
    /// # Errors
    /// See [`IndexFault`].
    pub(crate) fn positions(
        &self,
        range: &Range<Lsn>,
        mut each: impl FnMut(Position) -> bool,
    ) -> Result<(), IndexFault> {
        let of = &self.index.of;
        let mut give = |p: Position| {
            let beyond = p.lsn >= of.next || p.lsn >= range.end;
            !beyond && (p.lsn < range.start || each(p))
        };
        if self.count <= INLINE as u64 {
            positions(self.list, of.first, give)?;
            return Ok(());
        }
        let chunks = self.chunks()?;
        let passed = chunks.iter().filter(|(first, ..)| *first <= range.start).count().saturating_sub(1);
        for (_, at, len) in chunks.iter().skip(passed) {
            let bytes = self.index.source.read(*at, *len)?;
            if !positions(checked(self.index.seed, *at, &bytes)?, of.first, &mut give)? {
                break;
            }
        }
        Ok(())
    }
}
