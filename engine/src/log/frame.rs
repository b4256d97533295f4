//! One frame: a record as it lies in a segment.
//!
//! ```text
//!  0        4        8                16               24       28   29   30    32
//! +--------+--------+----------------+----------------+--------+----+----+-----+------ - -
//! |  crc   | length |      lsn       |    time_us     | behind |kind|flag|  0  | body ...
//! +--------+--------+----------------+----------------+--------+----+----+-----+------ - -
//! ```
//!
//! All numbers are little-endian. `length` counts the body. `crc` is CRC-32 (IEEE) of everything behind it, started from the segment's
//! seed, so that a frame of another segment (a recycled file's former life) never reads as valid. `lsn - behind` is the first LSN
//! of the group: every record before it was on disk when this frame was written. Flag bit 0 says that the frame was written
//! in a weaker durability level. A header of zeros is the end of the log: `kind` is never 0.

use bytes::{BufMut, BytesMut};

use crate::ids::Lsn;

/// Bytes in front of a body.
pub(crate) const HEADER: usize = 32;
/// The LSN jumps ahead: the body is the next LSN (u64).
pub(crate) const KIND_GAP: u8 = 128;
/// Why numbers were skipped, the ninth byte of a gap's body: they were lost to damage. Without it, or with 0, they were never given out or never
/// told durable.
pub(crate) const GAP_DAMAGE: u8 = 1;
/// As above: a reader had stored them, and the log did not know them.
pub(crate) const GAP_BEYOND: u8 = 2;
/// The segment ends here; see `segment::Seal`.
pub(crate) const KIND_SEAL: u8 = 129;
/// Written in a weaker durability level than `synced`.
pub(crate) const FLAG_WEAK: u8 = 1;
/// Numbers and times above are none: no log comes so far, and below it nothing that is added to them overflows.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// What a frame says about its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub lsn: Lsn,
    pub time_us: u64,
    /// First LSN of the group.
    pub group: Lsn,
    pub kind: u8,
    pub weak: bool,
    /// Length of the body.
    pub len: usize,
}

impl Frame {
    /// Bytes of header and body.
    pub fn size(&self) -> usize {
        HEADER + self.len
    }
}

/// What lies at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A valid frame.
    Frame(Frame),
    /// Zeros, or no bytes at all: nothing was written here.
    End,
    /// The frame claims to need this many bytes, more than there are.
    Incomplete(usize),
    /// Not a frame of this segment.
    Bad(&'static str),
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk::<8>()?))
}

pub(crate) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// Appends a frame to `out`. `frame.len` is taken from the body.
pub(crate) fn encode(out: &mut BytesMut, seed: u32, frame: &Frame, body: &[u8]) {
    let start = out.len();
    out.reserve(HEADER + body.len());
    stage(out, frame.lsn, frame.time_us, frame.kind, body);
    finish(out.get_mut(start..).unwrap_or_default(), seed, frame.group, frame.weak);
}

/// Appends a frame that lacks its group, its flags and its checksum: see [`finish`].
#[inline]
pub(crate) fn stage(out: &mut BytesMut, lsn: Lsn, time_us: u64, kind: u8, body: &[u8]) {
    // One header in one piece: a buffer checks its room at every call.
    let mut header = [0; HEADER];
    {
        let mut rest = header.as_mut_slice();
        rest.put_u32_le(0);
        rest.put_u32_le(body.len() as u32);
        rest.put_u64_le(lsn.0);
        rest.put_u64_le(time_us);
        rest.put_u32_le(0);
        rest.put_u8(kind);
    }
    out.extend_from_slice(&header);
    out.extend_from_slice(body);
}

/// Gives the staged frame at the beginning of `bytes` its number and time. Returns the length of its body; `None` when it is cut short.
pub(crate) fn number(bytes: &mut [u8], lsn: Lsn, time_us: u64) -> Option<usize> {
    let len = u32_at(bytes, 4)? as usize;
    let mut place = bytes.get_mut(8..24)?;
    place.put_u64_le(lsn.0);
    place.put_u64_le(time_us);
    Some(len)
}

/// Completes the staged frame that `bytes` are: records before `group` were on disk when it was written.
#[inline]
pub(crate) fn finish(bytes: &mut [u8], seed: u32, group: Lsn, weak: bool) {
    let lsn = u64_at(bytes, 8).unwrap_or_default();
    let behind = (lsn - group.0.min(lsn)).min(u64::from(u32::MAX)) as u32;
    if let Some(place) = bytes.get_mut(24..28) {
        place.copy_from_slice(&behind.to_le_bytes());
    }
    if let Some(flags) = bytes.get_mut(29) {
        *flags = if weak { FLAG_WEAK } else { 0 };
    }
    let crc = checksum(seed, bytes.get(4..).unwrap_or_default());
    if let Some(place) = bytes.first_chunk_mut::<4>() {
        *place = crc.to_le_bytes();
    }
}

/// Reads the header alone, without the checksum; `None` when it is cut short.
#[inline]
pub(crate) fn peek(bytes: &[u8]) -> Option<Frame> {
    let lsn = u64_at(bytes, 8)?;
    let behind = u64::from(u32_at(bytes, 24)?);
    Some(Frame {
        lsn: Lsn(lsn),
        time_us: u64_at(bytes, 16)?,
        group: Lsn(lsn.saturating_sub(behind)),
        kind: *bytes.get(28)?,
        weak: *bytes.get(29)? & FLAG_WEAK != 0,
        len: u32_at(bytes, 4)? as usize,
    })
}

/// Reads the frame at the beginning of `bytes`, which reach to the end of what was read.
#[inline]
pub(crate) fn decode(bytes: &[u8], seed: u32) -> Decoded {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return if bytes.iter().all(|b| *b == 0) { Decoded::End } else { Decoded::Incomplete(HEADER) };
    };
    let Some(frame) = peek(header) else { return Decoded::Bad("header") };
    if frame.kind == 0 {
        return if *header == [0; HEADER] { Decoded::End } else { Decoded::Bad("kind 0") };
    }
    let Some(covered) = bytes.get(4..frame.size()) else { return Decoded::Incomplete(frame.size()) };
    if u32_at(header, 0) != Some(checksum(seed, covered)) {
        return Decoded::Bad("checksum does not match");
    }
    if next_after(&frame, bytes).0 > NUMBER_MAX || frame.time_us > NUMBER_MAX {
        return Decoded::Bad("a number or a time that no log reaches");
    }
    Decoded::Frame(frame)
}

/// The body of the frame at the beginning of `bytes`.
pub(crate) fn body_of<'a>(bytes: &'a [u8], frame: &Frame) -> &'a [u8] {
    bytes.get(HEADER..frame.size()).unwrap_or_default()
}

/// The LSN after a frame: the next number, or where a gap leads; a seal takes no number.
pub(crate) fn next_after(frame: &Frame, bytes: &[u8]) -> Lsn {
    match frame.kind {
        KIND_GAP => u64_at(body_of(bytes, frame), 0).map_or(frame.lsn.next(), |to| Lsn(to).max(frame.lsn.next())),
        KIND_SEAL => frame.lsn,
        _ => frame.lsn.next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(seed: u32, frame: &Frame, body: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        encode(&mut out, seed, frame, body);
        out
    }

    proptest! {
        #[test]
        fn a_frame_reads_back_and_only_under_its_own_seed(
            seed: u32, other: u32, lsn in 1..NUMBER_MAX, behind in 0u64..1000, time_us in 0..NUMBER_MAX, kind in 1u8..KIND_GAP, weak: bool,
            body in proptest::collection::vec(any::<u8>(), 0..300), more in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let frame = Frame { lsn: Lsn(lsn), time_us, group: Lsn(lsn.saturating_sub(behind)), kind, weak, len: body.len() };
            let mut bytes = encoded(seed, &frame, &body);
            bytes.extend_from_slice(&more);
            prop_assert_eq!(decode(&bytes, seed), Decoded::Frame(frame));
            prop_assert_eq!(body_of(&bytes, &frame), &body[..]);
            if seed != other {
                prop_assert_eq!(decode(&bytes, other), Decoded::Bad("checksum does not match"));
            }
        }

        #[test]
        fn no_flipped_bit_and_no_cut_gives_a_frame(
            body in proptest::collection::vec(any::<u8>(), 0..100), at: usize, bit in 0u8..8, cut: usize,
        ) {
            let frame = Frame { lsn: Lsn(7), time_us: 1, group: Lsn(5), kind: 3, weak: false, len: body.len() };
            let good = encoded(1, &frame, &body);
            let mut bad = good.clone();
            let at = at % bad.len();
            bad[at] ^= 1 << bit;
            prop_assert!(!matches!(decode(&bad, 1), Decoded::Frame(_)));
            prop_assert!(!matches!(decode(&good[..cut % good.len()], 1), Decoded::Frame(_)));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), seed: u32) {
            let _ = decode(&bytes, seed);
        }
    }

    #[test]
    fn zeros_are_the_end() {
        assert_eq!(decode(&[0; 100], 5), Decoded::End);
        assert_eq!(decode(&[], 5), Decoded::End);
    }
}
