//! Reading: from the tail cache where it can, else from the segments in large positional reads.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use metrics::Counter;

use super::core::Core;
use super::error::{NotDurable, ReadError};
use super::frame::{self, Frame, GAP_DAMAGE, HEADER, KIND_GAP};
use super::placed::Place;
use super::run::Run;
use super::search::search;
use super::segment::Segment;
use super::tail::CachedGroup;
use super::walk::{FrameWalk, WalkError};
use super::watermark::WaitDurable;
use super::window::{Lies, Window};
use super::{Record, RecordRef};
use crate::disk::DiskFile;
use crate::ids::Lsn;

/// Where a reader takes its records from.
#[derive(Debug)]
enum Source {
    None,
    /// Frames of a group of the tail cache.
    Memory {
        frames: Run,
        next: Lsn,
        /// First record of their segment, and the offset of the next of them in it.
        segment: Lsn,
        at: u64,
    },
    /// A segment, held so that it is not recycled.
    Disk {
        segment: Arc<Segment>,
        walk: FrameWalk,
    },
}

impl Source {
    /// The frame stepped on.
    #[inline]
    fn current(&self) -> &[u8] {
        match self {
            Source::None => &[],
            Source::Memory { frames, .. } => frames.current(),
            Source::Disk { walk, .. } => walk.current(),
        }
    }

    /// The same, sharing the memory.
    #[inline]
    fn share(&self) -> Bytes {
        match self {
            Source::None => Bytes::new(),
            Source::Memory { frames, .. } => frames.share(),
            Source::Disk { walk, .. } => walk.share(),
        }
    }
}

/// Reads records in order, durable ones only.
///
/// Bodies are slices of larger buffers, shared and not copied: copy what you keep for long.
#[derive(Debug)]
pub struct Reader {
    core: Arc<Core>,
    position: Lsn,
    source: Source,
    /// Of the frame given last.
    place: Place,
}

impl Reader {
    pub(crate) fn new(core: Arc<Core>, from: Lsn) -> Result<Reader, ReadError> {
        let reader = Reader { core, position: from.max(Lsn::FIRST), source: Source::None, place: Place::default() };
        reader.core.check_trimmed(reader.position)?;
        Ok(reader)
    }

    /// The next record to be given.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Appends the next records to `out`, at most `max_records` and about `max_bytes` (one record at least); 0 at the durable watermark.
    ///
    /// # Errors
    /// `Trimmed` when the position was trimmed before it was reached, `Corrupt` and `Io` with the place. The position stays.
    pub fn read_batch(
        &mut self,
        max_records: usize,
        max_bytes: usize,
        out: &mut Vec<Record>,
    ) -> Result<usize, ReadError> {
        let end = self.core.watermark.end();
        let (mut count, mut bytes) = (0, 0);
        while count < max_records && bytes < max_bytes.max(1) && self.position < end {
            let Some(frame) = self.advance()? else { continue };
            if frame.kind >= KIND_GAP {
                self.passed(&frame);
                continue;
            }
            bytes += frame.size();
            count += 1;
            out.push(record_of(&frame, self.source.share()));
        }
        Ok(count)
    }

    /// Gives the next records to `visit` as they lie in the reader's memory, at most `max_records` and about `max_bytes` (one record at least):
    /// for who looks at records and keeps none of them; nothing is allocated or shared for a record. Returns their number; 0 at the durable
    /// watermark.
    ///
    /// # Errors
    /// As [`read_batch`](Reader::read_batch); the records before the fault were visited.
    pub fn visit(
        &mut self,
        max_records: usize,
        max_bytes: usize,
        mut visit: impl FnMut(RecordRef<'_>),
    ) -> Result<usize, ReadError> {
        let end = self.core.watermark.end();
        let (mut count, mut bytes) = (0, 0);
        while count < max_records && bytes < max_bytes.max(1) && self.position < end {
            let Some(frame) = self.advance()? else { continue };
            if frame.kind >= KIND_GAP {
                self.passed(&frame);
                continue;
            }
            bytes += frame.size();
            count += 1;
            let body = frame::body_of(self.source.current(), &frame);
            visit(RecordRef { lsn: frame.lsn, time_us: frame.time_us, kind: frame.kind, body });
        }
        Ok(count)
    }

    pub(super) fn durable_end(&self) -> Lsn {
        self.core.watermark.end()
    }

    /// Where the frame given last lies.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Counts and names the records that damage has cost, where a repair has put a gap in their place.
    fn passed(&self, frame: &Frame) {
        let data = self.source.current();
        let next = frame::next_after(frame, data);
        if frame.kind == KIND_GAP && data.get(HEADER + 8) == Some(&GAP_DAMAGE) {
            let lost = next.0.saturating_sub(frame.lsn.0);
            metrics::counter!(crate::metrics::LOG_DAMAGE_GAP_RECORDS_TOTAL).increment(lost);
            tracing::warn!(from = frame.lsn.0, to = next.0, lost, "a reader passes records that were lost to damage");
        }
    }

    /// As [`advance`](Reader::advance), with the frame's bytes.
    pub(super) fn step(&mut self) -> Result<Option<(Frame, Bytes)>, ReadError> {
        Ok(self.advance()?.map(|frame| (frame, self.source.share())))
    }

    /// Steps on one frame at or after the position, which is then in the source; `None` when the source has to change.
    #[inline]
    fn advance(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            let (frame, next) = match &mut self.source {
                Source::None => {
                    self.source = self.find()?;
                    return Ok(None);
                }
                Source::Memory { frames, next, segment, at } => {
                    // Checked when it was encoded, and in memory ever since.
                    let rest = frames.rest();
                    let Some(frame) = frame::peek(rest).filter(|frame| frame.size() <= rest.len()) else {
                        self.position = self.position.max(*next);
                        self.source = Source::None;
                        return Ok(None);
                    };
                    let after = frame::next_after(&frame, rest);
                    frames.step(frame.size());
                    self.place = Place { segment: *segment, at: *at, len: frame.size() as u32 };
                    *at += frame.size() as u64;
                    (frame, after)
                }
                Source::Disk { segment, walk } => match walk.step() {
                    Ok(Some(frame)) => {
                        let len = frame.size() as u32;
                        self.place = Place { segment: segment.first(), at: walk.at - u64::from(len), len };
                        (frame, walk.next)
                    }
                    Ok(None) => {
                        if walk.next >= segment.next() && !self.core.is_active(segment) {
                            self.position = self.position.max(segment.next());
                        }
                        self.source = Source::None;
                        return Ok(None);
                    }
                    Err(e) => {
                        let error = e.at(&segment.path, walk.at, walk.next);
                        self.source = Source::None;
                        return Err(error);
                    }
                },
            };
            if frame.lsn >= self.position || next > self.position {
                let skipped_to = frame.lsn.max(self.position);
                self.position = next.max(skipped_to);
                if frame.lsn == skipped_to || frame.kind >= KIND_GAP {
                    return Ok(Some(frame));
                }
            }
        }
    }

    fn find(&self) -> Result<Source, ReadError> {
        if let Some(group) = self.core.tail.get(self.position) {
            let CachedGroup { frames, next, segment, at, .. } = group;
            return Ok(Source::Memory { frames: Run::new(frames), next, segment, at });
        }
        self.core.check_trimmed(self.position)?;
        let segment = self.core.segment_of(self.position).ok_or_else(|| self.core.trimmed())?;
        let file = self.core.file_of(&segment)?;
        // Its first record is where its frames begin.
        if self.position > segment.first() {
            build_index(&segment, &file, &self.core.metrics.read_bytes);
        }
        let (next, at) = segment.place_before(self.position);
        let asked = self.core.metrics.read_bytes.clone();
        let walk = FrameWalk::new(file, segment.seed, next, at, segment.end(), asked);
        Ok(Source::Disk { segment, walk })
    }

    /// Blocks the thread until there is something to read: `true`; `false` when `timeout` has passed.
    ///
    /// # Errors
    /// The log has stopped and everything durable was read.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, NotDurable> {
        match self.core.watermark.wait_timeout(self.position, timeout) {
            None => Ok(false),
            Some(verdict) => verdict.map(|()| true),
        }
    }

    /// Resolves when there is something to read, or the log has stopped and everything durable was read.
    #[must_use]
    pub fn ready(&self) -> WaitDurable {
        WaitDurable::new(self.core.watermark.clone(), self.position)
    }
}

/// Covers a segment that was written by an earlier run, on first use. What is behind damage gets an entry of its own, so that who wants that
/// does not come to the damage; the read that does reports it.
fn build_index(segment: &Segment, file: &Arc<dyn DiskFile>, asked: &Counter) {
    if segment.index_is_complete() {
        return;
    }
    let from = |lsn, at| FrameWalk::new(file.clone(), segment.seed, lsn, at, segment.end(), asked.clone());
    let mut walk = from(segment.first(), super::segment::SEGMENT_HEADER as u64);
    loop {
        let (lsn, at) = (walk.next, walk.at);
        match walk.step() {
            Ok(Some(_)) => segment.note(lsn, at),
            Ok(None) | Err(WalkError::Io(_)) => break,
            Err(WalkError::Damaged(_)) => match behind_damage(&**file, segment.seed, walk.at, walk.next) {
                Ok(Some((lsn, at))) if at < segment.end() => {
                    segment.note_always(lsn, at);
                    walk = from(lsn, at);
                }
                _ => break,
            },
        }
    }
    segment.set_index_complete();
}

/// The first frame at or behind a place that does not read, with a number from `floor` on.
fn behind_damage(file: &dyn DiskFile, seed: u32, at: u64, floor: Lsn) -> std::io::Result<Option<(Lsn, u64)>> {
    let mut window = Window::new(file)?;
    let Some(place) = search(&mut window, at, seed, floor)?.frame else { return Ok(None) };
    match window.frame(place, seed)? {
        Lies::Frame(frame, _) => Ok(Some((frame.lsn, place))),
        Lies::End | Lies::Bad(_) => Ok(None),
    }
}

/// The record of a frame, whose bytes `body` are.
#[inline]
pub(crate) fn record_of(frame: &Frame, mut body: Bytes) -> Record {
    body.advance(HEADER.min(body.len()));
    Record { lsn: frame.lsn, time_us: frame.time_us, kind: frame.kind, body }
}

impl Core {
    pub(crate) fn first(&self) -> Lsn {
        self.segments.read().first_key_value().map_or(Lsn::FIRST, |(first, _)| Lsn(*first))
    }

    pub(super) fn trimmed(&self) -> ReadError {
        ReadError::Trimmed { first: self.first() }
    }

    pub(crate) fn check_trimmed(&self, position: Lsn) -> Result<(), ReadError> {
        if position < self.first() { Err(self.trimmed()) } else { Ok(()) }
    }

    pub(super) fn segment_of(&self, lsn: Lsn) -> Option<Arc<Segment>> {
        self.segments.read().range(..=lsn.0).next_back().map(|(_, segment)| segment.clone())
    }

    fn is_active(&self, segment: &Arc<Segment>) -> bool {
        self.segments.read().last_key_value().is_some_and(|(_, last)| Arc::ptr_eq(last, segment))
    }

    pub(super) fn file_of(&self, segment: &Segment) -> Result<Arc<dyn DiskFile>, ReadError> {
        segment.file(&self.disk).map_err(|source| ReadError::Io { file: segment.path.clone(), source })
    }
}
