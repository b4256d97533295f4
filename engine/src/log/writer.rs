//! What a leader does with a group: one buffer, one write, one sync, then the watermark.

use crate::sync::atomic::Ordering;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use super::core::Core;
use super::frame::{self, Frame};
use super::gathered::Gathered;
use super::options::Durability;
use super::segment::{Header, SEAL_MIN, SEGMENT_HEADER, Seal, Segment};
use super::spare;
use super::tail::CachedGroup;
use crate::disk::{DiskFile, is_no_space};
use crate::ids::Lsn;

/// A group larger than this goes to the disk in several writes, so that its first records do not wait for its last.
const GROUP_BYTES: usize = 4 << 20;
/// Frames whose memory is so many times as large as they are are copied for the tail cache; smaller ones count as this many bytes.
const LOOSE: usize = 4;
const SMALL: usize = 1 << 10;

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
}

/// Frames on their way to the disk: the first `len` bytes of a part.
#[derive(Debug)]
struct Pending {
    len: usize,
    first: Lsn,
    next: Lsn,
    records: u64,
    /// Offsets in the part for the sparse index.
    marks: Vec<(Lsn, u64)>,
}

impl Default for Pending {
    fn default() -> Pending {
        Pending { len: 0, first: Lsn::NONE, next: Lsn::NONE, records: 0, marks: Vec::new() }
    }
}

impl Writer {
    /// Writes a group that was taken from the queue and moves the watermark over it. The frames are completed where they were staged, so
    /// that they are copied no more, and end in the tail cache; what that lets go is memory for the next group.
    pub fn write(&mut self, core: &Core, gathered: &mut Gathered, group: u64) -> io::Result<()> {
        for mut part in gathered.take_parts() {
            let mut pending = Pending::default();
            while pending.len < part.len() {
                let frame = part.get(pending.len..).and_then(frame::peek);
                let cut = || io::Error::other("a record was cut short before it was written");
                let frame = frame.ok_or_else(cut)?;
                if self.at + (pending.len + frame.size() + SEAL_MIN) as u64 > self.capacity() {
                    let full = std::mem::take(&mut pending);
                    let frames = part.split_to(full.len);
                    self.roll(core, gathered, full, frames, &frame, group)?;
                } else if pending.len >= GROUP_BYTES {
                    let full = std::mem::take(&mut pending);
                    let frames = part.split_to(full.len);
                    self.flush(core, gathered, full, frames, group)?;
                }
                let end = pending.len + frame.size();
                let bytes = part.get_mut(pending.len..end).ok_or_else(cut)?;
                self.put(core, &mut pending, &frame, bytes);
            }
            self.flush(core, gathered, pending, part, group)?;
        }
        Ok(())
    }

    fn capacity(&self) -> u64 {
        self.segment.file_len.load(Ordering::Relaxed)
    }

    /// Completes a frame.
    #[inline]
    fn put(&mut self, core: &Core, pending: &mut Pending, frame: &Frame, bytes: &mut [u8]) {
        if pending.records == 0 {
            pending.first = frame.lsn;
        }
        let weak = core.options.durability.is_weak();
        let group = if weak { self.synced } else { pending.first };
        frame::finish(bytes, self.segment.seed, group, weak);
        let at = pending.len as u64;
        if pending.marks.last().is_none_or(|(_, last)| at >= last + (64 << 10)) {
            pending.marks.push((frame.lsn, at));
        }
        pending.next = frame::next_after(frame, bytes);
        pending.records += 1;
        pending.len += frame.size();
        self.count += 1;
        self.last = frame.lsn;
        self.last_time_us = frame.time_us;
    }

    /// Writes what is pending, syncs as the durability level asks, and publishes it.
    fn flush(
        &mut self,
        core: &Core,
        gathered: &mut Gathered,
        pending: Pending,
        frames: BytesMut,
        group: u64,
    ) -> io::Result<()> {
        if pending.records == 0 {
            return Ok(());
        }
        let sync = self.sync_next || core.options.durability == Durability::Synced;
        self.sync_next = false;
        self.commit(core, gathered, pending, frames, sync, group)
    }

    /// Ends the segment with a seal and begins the next one with the frame `next`. The seal is written when everything before it is on disk: that
    /// it is there proves that they were.
    fn roll(
        &mut self,
        core: &Core,
        gathered: &mut Gathered,
        pending: Pending,
        frames: BytesMut,
        next: &Frame,
        group: u64,
    ) -> io::Result<()> {
        if pending.records > 0 {
            self.commit(core, gathered, pending, frames, true, group)?;
        }
        self.sync(core)?;
        self.write_seal(core, next.lsn, next.time_us, self.capacity())?;
        self.begin_segment(core, next.lsn)
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

    fn commit(
        &mut self,
        core: &Core,
        gathered: &mut Gathered,
        pending: Pending,
        mut frames: BytesMut,
        sync: bool,
        group: u64,
    ) -> io::Result<()> {
        let started = Instant::now();
        self.file.write_all_at(&frames, self.at)?;
        let written = Instant::now();
        core.metrics.write.record(written.duration_since(started).as_secs_f64());
        if sync {
            self.file.sync_data()?;
            core.metrics.sync.record(written.elapsed().as_secs_f64());
            core.count_sync();
        }
        core.pace.note(started.elapsed());
        core.count_group(pending.records, frames.len());
        for (lsn, at) in &pending.marks {
            self.segment.note(*lsn, self.at + at);
        }
        let (segment, at) = (self.segment.first(), self.at);
        self.at += frames.len() as u64;
        if sync {
            self.synced = pending.next;
        }
        self.segment.extend(self.at, pending.next);
        let (first, next) = (pending.first, pending.next);
        if frames.capacity() > LOOSE * frames.len().max(SMALL) {
            // The tail cache would hold all of the memory for a few records.
            let small = BytesMut::from(frames.as_ref());
            gathered.keep(std::mem::replace(&mut frames, small));
        }
        let cached = CachedGroup { first, next, frames: frames.freeze(), segment, at };
        if let Some(memory) = core.tail.push(cached) {
            gathered.keep(memory);
        }
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
