//! Looking at one segment, whole, in bounded memory: its readable runs, where they end and how. Changes nothing.

use std::io;

use super::frame::{self, HEADER, KIND_SEAL};
use super::plan::Tail;
use super::search::search;
use super::segment::{Header, SEGMENT_HEADER, Seal};
use super::window::{Lies, Window};
use crate::disk::DiskFile;
use crate::ids::Lsn;

/// Bytes for one entry of the sparse index.
const MARK_STEP: u64 = 64 << 10;

/// Frames that follow each other without a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Offset of its first frame.
    pub at: u64,
    /// Offset behind its last frame.
    pub end: u64,
    /// Number of its first record, and the number after its last one.
    pub first: Lsn,
    pub next: Lsn,
    /// Times of its first and last record.
    pub first_time_us: u64,
    pub last_time_us: u64,
    pub last: Lsn,
    pub count: u64,
    /// The frame at `end` is a seal, at the end of the segment's frames; its size is not in `end`.
    pub seal: Option<u64>,
}

/// What a look at a segment found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub sealed: bool,
    pub tail: Tail,
    /// What is wrong at `end`, unless the tail is `End`.
    pub what: &'static str,
    /// Offset behind the last valid frame of the first run.
    pub end: u64,
    /// The number after it.
    pub next: Lsn,
    pub count: u64,
    pub last: Lsn,
    pub last_time_us: u64,
    /// Frames from this offset on are not proven to be synced.
    pub proven: u64,
    /// Written in a weaker durability level, at least in part.
    pub weak: bool,
    /// Behind `end`: offset behind the last bytes that belong to this segment, and the highest number there.
    pub own_end: u64,
    pub beyond: Lsn,
    /// All readable runs; the first one begins behind the header and may be empty.
    pub runs: Vec<Run>,
    /// Places for the sparse index, of the first run.
    pub marks: Vec<(Lsn, u64)>,
}

/// Reads a small file whole.
pub(crate) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.len()? as usize];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// What the walks share.
struct Walk {
    seed: u32,
    /// First number of the newest group seen.
    group: Lsn,
    weak: bool,
    what: &'static str,
}

/// Walks the frames of a segment. `seal` is the one found from the end of the file.
pub(crate) fn scan(window: &mut Window<'_>, header: &Header, seal: Option<Seal>) -> io::Result<Scan> {
    let mut walk = Walk { seed: header.seed(), group: header.first, weak: header.weak, what: "" };
    let begin = SEGMENT_HEADER as u64;
    let (mut proven, mut marks) = (begin, Vec::new());
    let run = walk.run(window, begin, header.first, header.created_us, &mut |frame, at| {
        if frame.proves_all_before || (frame.seal && seal.is_some()) {
            proven = at;
        }
        if !frame.seal && marks.last().is_none_or(|(_, last)| at >= last + MARK_STEP) {
            marks.push((frame.lsn, at));
        }
    })?;
    let mut found = Scan {
        sealed: seal.is_some(),
        tail: Tail::End,
        what: walk.what,
        end: run.end,
        next: run.next,
        count: run.count,
        last: run.last,
        last_time_us: run.last_time_us,
        proven,
        weak: walk.weak,
        own_end: run.end,
        beyond: Lsn::NONE,
        runs: vec![run],
        marks,
    };
    if let Some(size) = run.seal {
        found.own_end = run.end + size;
        found.what = "";
        return Ok(found);
    }
    look_beyond(window, header, &mut walk, &mut found)?;
    if found.tail == Tail::End && seal.is_some() {
        // A seal is there, so the frames have to lead to it.
        found.tail = Tail::Damaged;
    }
    if found.tail == Tail::End {
        found.what = "";
    }
    Ok(found)
}

/// A frame as a walk sees it.
struct Step {
    lsn: Lsn,
    seal: bool,
    /// It is of a later group than those before it: they had been synced when it was written.
    proves_all_before: bool,
}

impl Walk {
    /// Follows frames from `at` on while they are valid and their numbers follow each other.
    fn run(
        &mut self,
        window: &mut Window<'_>,
        at: u64,
        first: Lsn,
        before_us: u64,
        see: &mut dyn FnMut(Step, u64),
    ) -> io::Result<Run> {
        let last = Lsn(first.0.saturating_sub(1));
        let (first_time_us, last_time_us) = (before_us, before_us);
        let mut run = Run { at, end: at, first, next: first, first_time_us, last_time_us, last, count: 0, seal: None };
        loop {
            match window.frame(run.end, self.seed)? {
                Lies::Frame(frame, next) if frame.lsn == run.next => {
                    let proves_all_before = frame.group > self.group;
                    self.group = self.group.max(frame.group);
                    let seal = frame.kind == KIND_SEAL;
                    see(Step { lsn: frame.lsn, seal, proves_all_before }, run.end);
                    if seal {
                        run.seal = Some(frame.size() as u64);
                        return Ok(run);
                    }
                    if run.count == 0 {
                        run.first_time_us = frame.time_us;
                    }
                    run.next = next;
                    run.last = frame.lsn;
                    run.last_time_us = frame.time_us;
                    run.count += 1;
                    run.end += frame.size() as u64;
                    self.weak |= frame.weak;
                }
                Lies::Frame(..) => self.what = "a record with another number",
                Lies::End => self.what = "zeros where a record should be",
                Lies::Bad(what) => self.what = what,
            }
            if !self.what.is_empty() {
                return Ok(run);
            }
        }
    }
}

/// Looks behind the first run for more of this segment: the rest of a torn group, or proof of damage.
fn look_beyond(window: &mut Window<'_>, header: &Header, walk: &mut Walk, found: &mut Scan) -> io::Result<()> {
    if let Some(end) = torn_frame(window, found, walk.seed)? {
        found.tail = Tail::Torn;
        found.own_end = end;
    }
    let (mut at, mut floor) = (found.end, found.next);
    loop {
        let beyond = search(window, at, walk.seed, floor)?;
        let Some(place) = beyond.frame else {
            // A file that had no life before this one is zero where nothing was written.
            if !header.reused && beyond.written > at {
                found.own_end = found.own_end.max(beyond.written);
                if found.tail == Tail::End {
                    found.tail = Tail::Torn;
                }
            }
            return Ok(());
        };
        let Lies::Frame(first, _) = window.frame(place, walk.seed)? else {
            // Its checksum is right and what it says is not (a gap that leads nowhere): no frame, and nothing of a former life.
            if found.tail == Tail::End {
                found.tail = Tail::Torn;
            }
            found.own_end = found.own_end.max(place + HEADER as u64);
            at = place + 1;
            continue;
        };
        let mut proves = false;
        let expected = found.next;
        let what = std::mem::take(&mut walk.what);
        walk.group = Lsn::NONE;
        let before = found.runs.last().map_or(0, |run| run.last_time_us);
        let run = walk.run(window, place, first.lsn, before, &mut |_, _| {})?;
        walk.what = what;
        proves |= walk.group > expected;
        found.tail = if proves || found.tail == Tail::Damaged { Tail::Damaged } else { Tail::Torn };
        found.beyond = found.beyond.max(run.next);
        (at, floor) = (run.end + run.seal.unwrap_or(0), run.next);
        found.own_end = found.own_end.max(at);
        let sealed = run.seal.is_some();
        found.runs.push(run);
        if sealed {
            return Ok(());
        }
    }
}

/// The frame that should be at the end of the first run, when its header came through, or all but its number: where it ends.
fn torn_frame(window: &mut Window<'_>, found: &Scan, seed: u32) -> io::Result<Option<u64>> {
    let (end, left) = (found.end, window.len().saturating_sub(found.end));
    let Some(mut header) = window.bytes(end, HEADER)?.first_chunk::<HEADER>().copied() else { return Ok(None) };
    let Some(frame) = frame::peek(&header) else { return Ok(None) };
    let fits = frame.size() as u64 <= left;
    let frame_end = if fits { end + frame.size() as u64 } else { end + HEADER as u64 };
    if frame.lsn == found.next {
        return Ok(Some(frame_end));
    }
    if let Some(place) = header.get_mut(8..16) {
        place.copy_from_slice(&found.next.0.to_le_bytes());
    }
    let ours = fits && matches!(window.frame_of(end, left, &header, seed)?, Lies::Frame(..));
    Ok(ours.then_some(frame_end))
}
