//! Looking at one segment, whole: where its frames end and how. Changes nothing.

use std::io;

use super::frame::{self, Decoded, HEADER, KIND_GAP, KIND_SEAL};
use super::plan::Tail;
use super::segment::{Header, SEGMENT_HEADER, Seal};
use crate::disk::DiskFile;
use crate::ids::Lsn;

/// What a look at a segment found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub sealed: bool,
    pub tail: Tail,
    /// What is wrong at `end`, unless the tail is `End`.
    pub what: &'static str,
    /// Offset behind the last valid frame.
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
    /// Places for the sparse index.
    pub marks: Vec<(Lsn, u64)>,
}

/// Reads a file whole.
pub(crate) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.len()? as usize];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// Walks the frames of a segment whose bytes are given from its header on.
pub(crate) fn scan(bytes: &[u8], header: &Header, seal: Option<Seal>) -> Scan {
    let seed = header.seed();
    let mut found = Scan {
        sealed: seal.is_some(),
        tail: Tail::End,
        what: "",
        end: SEGMENT_HEADER as u64,
        next: header.first,
        count: 0,
        last: Lsn(header.first.0.saturating_sub(1)),
        last_time_us: header.created_us,
        proven: SEGMENT_HEADER as u64,
        weak: header.weak,
        own_end: SEGMENT_HEADER as u64,
        beyond: Lsn::NONE,
        marks: Vec::new(),
    };
    let mut group = header.first;
    loop {
        let rest = bytes.get(found.end as usize..).unwrap_or_default();
        match frame::decode(rest, seed) {
            Decoded::Frame(frame) if frame.lsn == found.next => {
                if frame.group > group || (frame.kind == KIND_SEAL && seal.is_some()) {
                    group = frame.group;
                    found.proven = found.end;
                }
                if frame.kind == KIND_SEAL {
                    found.own_end = found.end + frame.size() as u64;
                    return found;
                }
                if found.marks.last().is_none_or(|(_, at)| found.end >= at + (64 << 10)) {
                    found.marks.push((frame.lsn, found.end));
                }
                found.next = frame::next_after(&frame, rest);
                found.last = frame.lsn;
                found.last_time_us = frame.time_us;
                found.weak |= frame.weak;
                found.count += 1;
                found.end += frame.size() as u64;
            }
            Decoded::Frame(_) => found.what = "a record with another number",
            Decoded::End => found.what = "zeros where a record should be",
            Decoded::Incomplete(_) => found.what = "a record cut short",
            Decoded::Bad(what) => found.what = what,
        }
        if !found.what.is_empty() {
            break;
        }
    }
    look_beyond(bytes, seed, &mut found);
    if found.tail == Tail::End && seal.is_some() {
        // A seal is there, so the frames have to lead to it.
        found.tail = Tail::Damaged;
    }
    if found.tail == Tail::End {
        found.what = "";
    }
    found
}

/// Looks behind the last valid frame for more of this segment: the rest of a torn group, or proof of damage.
fn look_beyond(bytes: &[u8], seed: u32, found: &mut Scan) {
    let end = found.end as usize;
    found.own_end = found.end;
    let rest = bytes.get(end..).unwrap_or_default();
    // The beginning of the frame that should be here: its header came through, its checksum or its end did not.
    if frame::peek(rest).is_some_and(|frame| frame.lsn == found.next && frame.kind != 0) {
        found.tail = Tail::Torn;
        found.own_end += HEADER as u64;
    }
    // No record lies further ahead than there is room for, but for gaps; those are followed by frames that prove the damage anyway.
    let nearest = found.next;
    let mut at = end + 1;
    while at + HEADER <= bytes.len() {
        let Some(here) = bytes.get(at..) else { break };
        // Most places are told apart by one look at the header: zero kind, a number from the past, a length that does not fit.
        let candidate = frame::peek(here).filter(|frame| {
            frame.kind != 0 && frame.lsn >= nearest && frame.size() <= here.len() && frame.kind <= KIND_SEAL
        });
        let Some(Decoded::Frame(frame)) = candidate.map(|_| frame::decode(here, seed)) else {
            at += 1;
            continue;
        };
        let proves = frame.group > found.next;
        found.tail = if proves || found.tail == Tail::Damaged { Tail::Damaged } else { Tail::Torn };
        let next = if frame.kind == KIND_GAP || frame.kind == KIND_SEAL {
            frame::next_after(&frame, here)
        } else {
            frame.lsn.next()
        };
        found.beyond = found.beyond.max(next);
        at += frame.size();
        found.own_end = at as u64;
    }
}
