//! The log's format, read a second time: from the tables of `docs/FORMAT.md` alone, without a line of the engine's. What the
//! engine reads is compared with it, and it puts checksums right, so that a fuzzer gets past them.

use forebay_engine::fuzzing;

/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = 32;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER: usize = 64;

/// A frame, by the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub lsn: u64,
    pub time_us: u64,
    pub behind: u32,
    pub kind: u8,
    pub weak: bool,
    pub body: Vec<u8>,
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The frame at the beginning of `bytes`, when it is whole and its checksum holds.
pub fn frame_at(bytes: &[u8], seed: u32) -> Option<Frame> {
    let len = u32_at(bytes, 4)? as usize;
    let whole = bytes.get(..FRAME_HEADER + len)?;
    let frame = Frame {
        lsn: u64_at(whole, 8)?,
        time_us: u64_at(whole, 16)?,
        behind: u32_at(whole, 24)?,
        kind: whole[28],
        weak: whole[29] & 1 != 0,
        body: whole[FRAME_HEADER..].to_vec(),
    };
    // Numbers and times end at 2^62; a gap names the number after it, a seal is numbered as what comes next.
    let next = match frame.kind {
        128 => u64_at(&frame.body, 0).unwrap_or(0).max(frame.lsn.saturating_add(1)),
        129 => frame.lsn,
        _ => frame.lsn.saturating_add(1),
    };
    let possible = frame.kind != 0 && next <= 1 << 62 && frame.time_us <= 1 << 62;
    (possible && u32_at(whole, 0)? == crc(seed, &whole[4..])).then_some(frame)
}

/// Where the checksums of a segment's frames start from; `None` for bytes that are not a segment of version 1.
pub fn segment_seed(bytes: &[u8]) -> Option<u32> {
    let header = bytes.get(..SEGMENT_HEADER)?;
    let valid = header.starts_with(b"FOREBLOG")
        && u32_at(header, 8)? == 1
        && u32_at(header, 60)? == crc32fast::hash(&header[..60]);
    valid.then(|| crc(crc(0, &header[16..32]), &header[32..40]))
}

/// Every frame that lies anywhere in a segment and whose checksum holds.
pub fn frames_in(bytes: &[u8]) -> Vec<Frame> {
    let Some(seed) = segment_seed(bytes) else { return Vec::new() };
    (SEGMENT_HEADER..bytes.len()).filter_map(|at| frame_at(&bytes[at..], seed)).collect()
}

/// Puts the checksum of the segment's header right, and of each frame that follows another without a hole.
pub fn repair_checksums(bytes: &mut [u8]) {
    if bytes.len() < SEGMENT_HEADER {
        return;
    }
    let header = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&header.to_le_bytes());
    let Some(seed) = segment_seed(bytes) else { return };
    let mut at = SEGMENT_HEADER;
    while let Some(len) = u32_at(bytes, at + 4) {
        let end = at + FRAME_HEADER + len as usize;
        if end > bytes.len() || bytes[at + 28] == 0 {
            return;
        }
        let sum = crc(seed, &bytes[at + 4..end]);
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
}

/// `seed u32 | repair u8 | frame`.
pub fn frame(data: &[u8]) {
    let (Some(seed), Some(mode)) = (u32_at(data, 0), data.get(4)) else { return };
    let mut bytes = data[5..].to_vec();
    if *mode & 1 == 1
        && let Some(len) = u32_at(&bytes, 4)
        && let Some(covered) = bytes.get(4..FRAME_HEADER.saturating_add(len as usize))
    {
        let sum = crc(seed, covered);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
    }
    let expected = frame_at(&bytes, seed);
    let found = fuzzing::decode_frame(&bytes, seed);
    let Some(found) = found else {
        assert_eq!(expected, None, "the engine does not see a frame that is there");
        return;
    };
    let group = found.lsn.0 - found.group.0;
    let seen = Frame {
        lsn: found.lsn.0,
        time_us: found.time_us,
        behind: group as u32,
        kind: found.kind,
        weak: found.weak,
        body: found.body.clone(),
    };
    // A group can't begin before the first number.
    let expected =
        expected.map(|frame| Frame { behind: frame.behind.min(u32::try_from(frame.lsn).unwrap_or(u32::MAX)), ..frame });
    assert_eq!(Some(seen), expected, "the engine and the tables read different frames");
    let again = fuzzing::encode_frame(&found, seed);
    assert_eq!(fuzzing::decode_frame(&again, seed).as_ref(), Some(&found), "an encoded frame reads as another");
}
