//! What a leader does with a group: one buffer, one write, one sync, then the watermark.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::BytesMut;

use super::core::Core;
use super::frame::{self, Frame, HEADER, KIND_GAP, u64_at};
use super::gathered::{Gathered, Numbered};
use super::options::Durability;
use super::segment::{Header, SEAL_MIN, SEGMENT_HEADER, Seal, Segment};
use super::spare;
use super::tail::CachedGroup;
use crate::disk::{DiskFile, is_no_space};
use crate::ids::Lsn;

/// A group larger than this goes to the disk in several writes, so that its first records do not wait for its last.
const GROUP_BYTES: usize = 4 << 20;

/// The active segment and where the next frame goes. Only the leader touches it.
#[derive(Debug)]
pub(crate) struct Writer {
    pub segment: Arc<Segment>,
    pub file: Arc<dyn DiskFile>,
    /// Offset of the next frame.
    pub at: u64,
    /// Every record before it is on disk.
    pub synced: Lsn,
    /// Records in the segment, and the last of them.
    pub count: u64,
    pub last: Lsn,
    pub last_time_us: u64,
    pub sealed: bool,
    /// The next write is synced whatever the durability level: it marks the log as written in a weaker one.
    pub sync_next: bool,
    pub spare_buffer: BytesMut,
}

/// Frames on their way to the disk.
struct Pending {
    buffer: BytesMut,
    first: Lsn,
    next: Lsn,
    records: u64,
    /// Offsets in the buffer for the sparse index.
    marks: Vec<(Lsn, u64)>,
}

impl Writer {
    /// Writes a group that was taken from the queue and moves the watermark over it.
    pub fn write(&mut self, core: &Core, gathered: &Gathered, group: u64) -> io::Result<()> {
        let mut left = gathered.bytes();
        let mut pending = self.begin(left);
        for record in gathered.records() {
            let need = HEADER + record.body.len();
            if self.at + (pending.buffer.len() + need + SEAL_MIN) as u64 > self.capacity() {
                self.roll(core, pending, record.lsn, record.time_us, group)?;
                pending = self.begin(left);
            } else if pending.buffer.len() >= GROUP_BYTES {
                self.flush(core, pending, group)?;
                pending = self.begin(left);
            }
            self.put(core, &mut pending, record);
            left = left.saturating_sub(need);
        }
        self.flush(core, pending, group)
    }

    fn capacity(&self) -> u64 {
        self.segment.file_len.load(Ordering::Relaxed)
    }

    fn begin(&mut self, bytes: usize) -> Pending {
        let mut buffer = std::mem::take(&mut self.spare_buffer);
        buffer.clear();
        let room = (self.capacity().saturating_sub(self.at) as usize).min(bytes).min(2 * GROUP_BYTES);
        // A buffer that is far too large would be pinned by the tail cache for a few records.
        if buffer.capacity() < room || buffer.capacity() > 4 * room {
            buffer = BytesMut::with_capacity(room);
        }
        Pending { buffer, first: Lsn::NONE, next: Lsn::NONE, records: 0, marks: Vec::new() }
    }

    fn put(&mut self, core: &Core, pending: &mut Pending, record: Numbered<'_>) {
        let Numbered { lsn, time_us, kind, body } = record;
        if pending.records == 0 {
            pending.first = lsn;
        }
        let group = if core.options.durability.is_weak() { self.synced } else { pending.first };
        let frame = Frame { lsn, time_us, group, kind, weak: core.options.durability.is_weak(), len: body.len() };
        let at = pending.buffer.len() as u64;
        if pending.marks.last().is_none_or(|(_, last)| at >= last + (64 << 10)) {
            pending.marks.push((lsn, at));
        }
        frame::encode(&mut pending.buffer, self.segment.seed, &frame, body);
        pending.next = lsn.next();
        if kind == KIND_GAP {
            pending.next = u64_at(body, 0).map_or(pending.next, Lsn);
        }
        pending.records += 1;
        self.count += 1;
        self.last = lsn;
        self.last_time_us = time_us;
    }

    /// Writes what is pending, syncs as the durability level asks, and publishes it.
    fn flush(&mut self, core: &Core, pending: Pending, group: u64) -> io::Result<()> {
        if pending.records == 0 {
            return Ok(());
        }
        let sync = self.sync_next || core.options.durability == Durability::Synced;
        self.sync_next = false;
        self.commit(core, pending, sync, group)
    }

    /// Ends the segment with a seal and begins the next one at `next`. The seal is written when everything before it is on disk: that
    /// it is there proves that they were.
    fn roll(&mut self, core: &Core, pending: Pending, next: Lsn, time_us: u64, group: u64) -> io::Result<()> {
        if pending.records > 0 {
            self.commit(core, pending, true, group)?;
        }
        self.sync(core)?;
        self.write_seal(core, next, time_us, self.capacity())?;
        self.begin_segment(core, next)
    }

    fn write_seal(&mut self, core: &Core, next: Lsn, time_us: u64, end: u64) -> io::Result<()> {
        let seal = Seal { at: self.at, count: self.count, last: self.last, next, time_us };
        let mut bytes = BytesMut::with_capacity(end.saturating_sub(self.at) as usize);
        seal.encode(&mut bytes, &self.segment.header, end);
        self.file.write_all_at(&bytes, self.at)?;
        if end != self.capacity() {
            // The seal first: a file that is shorter than it was made and has no seal is damaged, and no crash may leave one.
            self.file.sync_data()?;
            self.file.set_len(end)?;
            self.segment.file_len.store(end, Ordering::Relaxed);
        }
        self.file.sync_data()?;
        core.count_sync();
        self.sealed = true;
        Ok(())
    }

    fn commit(&mut self, core: &Core, pending: Pending, sync: bool, group: u64) -> io::Result<()> {
        let started = Instant::now();
        self.file.write_all_at(&pending.buffer, self.at)?;
        let written = Instant::now();
        core.metrics.write.record(written.duration_since(started).as_secs_f64());
        if sync {
            self.file.sync_data()?;
            core.metrics.sync.record(written.elapsed().as_secs_f64());
            core.count_sync();
        }
        core.count_group(pending.records, pending.buffer.len());
        for (lsn, at) in &pending.marks {
            self.segment.note(*lsn, self.at + at);
        }
        let (segment, at) = (self.segment.first(), self.at);
        self.at += pending.buffer.len() as u64;
        if sync {
            self.synced = pending.next;
        }
        self.segment.extend(self.at, pending.next);
        let (first, next) = (pending.first, pending.next);
        let cached = CachedGroup { first, next, frames: pending.buffer.freeze(), segment, at };
        self.spare_buffer = core.tail.push(cached).unwrap_or_default();
        core.watermark.publish(next, group);
        Ok(())
    }

    /// Begins the segment whose first record is `first`.
    pub fn begin_segment(&mut self, core: &Core, first: Lsn) -> io::Result<()> {
        let header = Header {
            log_id: core.log_id,
            first,
            created_us: core.clock.now_us(),
            weak: core.options.durability.is_weak(),
            reused: false,
            bytes: 0,
        };
        let spare = core.spares.take(&core.disk)?;
        let (segment, file) = loop {
            match spare::install(&core.disk, &core.options.dir, &spare, header) {
                // The folder had no room for the longer name: nothing has changed, and it is tried again.
                Err(e) if is_no_space(&e) && core.disk.latch().reason().is_none() && core.spares.hold() => {}
                installed => break installed?,
            }
        };
        self.segment = Arc::new(segment);
        self.file = file;
        self.at = SEGMENT_HEADER as u64;
        self.count = 0;
        self.sealed = false;
        core.segments.write().insert(first.0, self.segment.clone());
        core.metrics.segments.set(core.segments.read().len() as f64);
        Ok(())
    }

    /// Syncs what a weaker durability level has left to the operating system.
    pub fn sync(&mut self, core: &Core) -> io::Result<()> {
        let next = self.segment.next();
        if self.synced < next {
            self.file.sync_data()?;
            core.count_sync();
            self.synced = next;
        }
        Ok(())
    }

    /// Seals the segment for a clean shutdown and gives the unused rest of the file back. A segment without records stays as it is: its
    /// name is the next one's.
    pub fn seal(&mut self, core: &Core) -> io::Result<()> {
        self.sync(core)?;
        if self.count == 0 || self.sealed {
            return Ok(());
        }
        self.write_seal(core, self.segment.next(), self.last_time_us, self.at + SEAL_MIN as u64)
    }
}
