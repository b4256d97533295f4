//! Finding the next valid frame of a segment behind bytes that are none.
//!
//! Any byte may be where a frame begins, and what looks like a header claims a length that only its checksum can confirm. The bytes may be
//! a file's former life or a client's payload that imitates headers, so the work must not depend on what they say: one pass over
//! the bytes decides all look-alikes together. A running checksum is kept while look-alikes are open; from its value at
//! the beginning of one follows the value it must have at the end (CRC is linear), so that nothing is read twice.

use std::collections::BTreeMap;
use std::io;

use crc32fast::Hasher;

use super::frame::{self, Frame, HEADER, KIND_SEAL, NUMBER_MAX, u32_at};
use super::window::Window;
use crate::ids::Lsn;

/// Zeros are passed in steps of so many bytes.
const STEP: usize = 64;
/// Offset of the frame's kind in its header.
const KIND_AT: usize = 28;

/// What a search found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Offset of the next valid frame.
    pub frame: Option<u64>,
    /// Offset behind the last byte that is not zero, where there is no further frame.
    pub written: u64,
}

/// A look-alike whose end was not reached yet.
struct Open {
    start: u64,
    /// What the running checksum has to be at its end.
    wanted: u32,
}

/// Looks from `from` on for a frame whose checksum is right under `seed` and whose number is `floor` or more.
pub(crate) fn search(window: &mut Window<'_>, from: u64, seed: u32, floor: Lsn) -> io::Result<Found> {
    let mut summing = window.another();
    let mut open: BTreeMap<u64, Vec<Open>> = BTreeMap::new();
    let (mut crc, mut summed) = (0, from);
    let mut best: Option<u64> = None;
    let mut skim = Skim { at: from, floor, written: from };
    loop {
        let candidate = if best.is_none() { skim.next(window)? } else { None };
        // Everything that ends before this candidate's checksum begins is decided first.
        let until = candidate.as_ref().map_or(u64::MAX, |(at, _, _)| at + 4);
        while let Some(entry) = open.first_entry().filter(|entry| *entry.key() <= until) {
            let (end, ending) = entry.remove_entry();
            let ending: Vec<Open> = ending.into_iter().filter(|o| best.is_none_or(|best| o.start < best)).collect();
            if ending.is_empty() {
                continue;
            }
            crc = summing.crc(crc, summed, end)?;
            summed = end;
            let hit = ending.iter().filter(|o| o.wanted == crc).map(|o| o.start).min();
            best = best.into_iter().chain(hit).min();
        }
        let Some((at, frame, stored)) = candidate else {
            return Ok(Found { frame: best, written: skim.written });
        };
        if best.is_some() {
            continue;
        }
        if open.is_empty() {
            (crc, summed) = (0, at + 4);
        }
        crc = summing.crc(crc, summed, at + 4)?;
        summed = at + 4;
        let wanted = stored ^ shift(crc ^ seed, frame.size() as u64 - 4);
        open.entry(at + frame.size() as u64).or_default().push(Open { start: at, wanted });
    }
}

/// A checksum carried on over so many zero bits' worth of polynomial: what it contributes after `len` more bytes.
fn shift(crc: u32, len: u64) -> u32 {
    let mut hasher = Hasher::new_with_initial_len(crc, 0);
    hasher.combine(&Hasher::new_with_initial_len(0, len));
    hasher.finalize()
}

/// Passes over bytes and stops at what looks like a header.
struct Skim {
    at: u64,
    floor: Lsn,
    /// Behind the last byte known not to be zero.
    written: u64,
}

impl Skim {
    fn next(&mut self, window: &mut Window<'_>) -> io::Result<Option<(u64, Frame, u32)>> {
        let len = window.len();
        while self.at + HEADER as u64 <= len {
            let (start, mut at) = (self.at, 0);
            let bytes = window.bytes(start, HEADER + STEP)?;
            while let Some(header) = bytes.get(at..at + HEADER) {
                let place = start + at as u64;
                let ahead = bytes.get(at + KIND_AT..at + KIND_AT + STEP);
                if ahead.is_some_and(|ahead| *ahead == [0; STEP]) {
                    self.note(header.get(..KIND_AT), place);
                    at += STEP;
                    continue;
                }
                self.note(Some(header), place);
                at += 1;
                if let Some((frame, stored)) = look_alike(header, self.floor, len - place) {
                    self.at = place + 1;
                    return Ok(Some((place, frame, stored)));
                }
            }
            if at == 0 {
                break;
            }
            self.at = start + at as u64;
        }
        // Too little is left for a header, but it may be written to.
        let rest = window.bytes(self.at, HEADER)?;
        let rest = rest.get(..rest.len().min(len.saturating_sub(self.at) as usize));
        let at = self.at;
        self.note(rest, at);
        Ok(None)
    }

    fn note(&mut self, bytes: Option<&[u8]>, at: u64) {
        let bytes = bytes.unwrap_or_default();
        // Most of the time the last byte answers.
        if let Some(last) = bytes.iter().rposition(|b| *b != 0) {
            self.written = self.written.max(at + last as u64 + 1);
        }
    }
}

/// The header as a frame, if it may be one: numbers in range and zeros where the format has them.
fn look_alike(header: &[u8], floor: Lsn, left: u64) -> Option<(Frame, u32)> {
    let fixed = header.get(KIND_AT..HEADER)?;
    let [kind, flags, 0, 0] = fixed else { return None };
    if *kind == 0 || *kind > KIND_SEAL || *flags > frame::FLAG_WEAK {
        return None;
    }
    let in_range = |frame: &Frame| (floor.0..=NUMBER_MAX).contains(&frame.lsn.0) && frame.time_us <= NUMBER_MAX;
    let frame = frame::peek(header).filter(|frame| in_range(frame) && frame.size() as u64 <= left)?;
    (u64::from(u32_at(header, 24)?) <= frame.lsn.0).then_some((frame, u32_at(header, 0)?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk, ForgettingDisk, OpenHow};
    use bytes::BytesMut;
    use proptest::prelude::*;

    const SEED: u32 = 77;

    fn frame(lsn: u64, body: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        let frame = Frame { lsn: Lsn(lsn), time_us: 1, group: Lsn(lsn), kind: 3, weak: false, len: body.len() };
        frame::encode(&mut out, SEED, &frame, body);
        out
    }

    fn found(bytes: &[u8], from: u64, floor: u64) -> Found {
        let disk = ForgettingDisk::new();
        disk.overwrite(Path::new("/f"), bytes);
        let file = disk.open(Path::new("/f"), OpenHow::Read).unwrap();
        search(&mut Window::new(&*file).unwrap(), from, SEED, Lsn(floor)).unwrap()
    }

    proptest! {
        #[test]
        fn the_first_valid_frame_is_found_wherever_it_lies(
            before in proptest::collection::vec(any::<u8>(), 0..300), zeros in 0usize..200,
            body in proptest::collection::vec(any::<u8>(), 0..200), after in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = before;
            bytes.resize(bytes.len() + zeros, 0);
            let at = bytes.len() as u64;
            bytes.extend_from_slice(&frame(9, &body));
            bytes.extend_from_slice(&after);
            prop_assert_eq!(found(&bytes, 0, 9).frame, Some(at));
            prop_assert_eq!(found(&bytes, 0, 10).frame, None);
            prop_assert_eq!(found(&bytes, at + 1, 1).frame, None);
        }

        #[test]
        fn the_last_written_byte_is_found(bytes in proptest::collection::vec(0u8..2, 0..400), zeros in 0usize..300) {
            let mut all = bytes.clone();
            all.resize(all.len() + zeros, 0);
            let expected = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1);
            prop_assert_eq!(found(&all, 0, 1), Found { frame: None, written: expected });
        }
    }

    #[test]
    fn a_number_that_no_log_reaches_hides_nothing_behind_it() {
        let good = frame(9, b"behind");
        for bad in [frame(NUMBER_MAX + 1, b"number"), frame(u64::MAX, b"number")] {
            let at = bad.len() as u64;
            assert_eq!(found(&[&bad[..], &good].concat(), 0, 1).frame, Some(at));
        }
    }

    #[test]
    fn overlapping_look_alikes_hide_nothing_and_the_earliest_wins() {
        // Headers that claim everything up to the end, one in every 32 bytes, and a valid frame among them.
        let mut fake = frame(5, &[0; 40]);
        fake[4..8].copy_from_slice(&2000u32.to_le_bytes());
        let mut bytes = Vec::new();
        for _ in 0..40 {
            bytes.extend_from_slice(&fake[..HEADER]);
        }
        let inner = frame(6, b"inside");
        let outer = frame(5, &[&[1; 10][..], &inner[..], &[2; 500]].concat());
        let at = bytes.len() as u64;
        bytes.extend_from_slice(&outer);
        for _ in 0..100 {
            bytes.extend_from_slice(&fake[..HEADER]);
        }
        assert_eq!(found(&bytes, 0, 1).frame, Some(at));
        assert_eq!(found(&bytes, at + 1, 1).frame, Some(at + 32 + 10));
    }
}
