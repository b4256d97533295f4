//! One segment file: its header, its seal, and what is known of it in memory.
//!
//! ```text
//!  0         8     12    16            32          40           48       56   60   64
//! +---------+-----+-----+-------------+-----------+------------+--------+----+----+--------+--------+- -
//! | FOREBLOG| ver |flags|   log id    | first lsn | created_us | length |  0 | crc| frame  | frame  |
//! +---------+-----+-----+-------------+-----------+------------+--------+----+----+--------+--------+- -
//! ```
//!
//! The header is synced before the file gets its name (first LSN, 20 digits, `.seg`), so a segment whose header does not read is
//! damaged, not torn. A full segment, and the last one at a clean shutdown, ends with a *seal*: a frame whose body reaches exactly to the end of
//! the file, so that it is found from there without reading the segment:
//!
//! ```text
//! seal body:  count u64 | first lsn u64 | last lsn u64 | zeros ... | offset of the seal u64 | "FBAYSEAL"
//! ```
//!
//! The seal's own `lsn` is the number that comes next; it takes none itself. Blocks that a later version puts between the last record and
//! the seal (postings) have kinds of their own from 130.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::sync::Mutex;
use bytes::BytesMut;

use super::frame::{self, Frame, HEADER, KIND_SEAL, u32_at, u64_at};
use super::plan::Head;
use super::window::{Lies, Window};
use crate::disk::{Disk, DiskFile, OpenHow};
use crate::ids::Lsn;

/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEADER: usize = 64;
/// Bytes of the smallest seal.
pub(crate) const SEAL_MIN: usize = HEADER + 24 + TRAILER;
/// Version written by this program.
pub(crate) const FORMAT: u32 = 1;

const TRAILER: usize = 16;
const MAGIC: &[u8; 8] = b"FOREBLOG";
const SEAL_MAGIC: &[u8; 8] = b"FBAYSEAL";
const FLAG_WEAK: u32 = 1;
const FLAG_REUSED: u32 = 2;
/// One entry of the sparse index for so many bytes.
const INDEX_STEP: u64 = 64 << 10;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub log_id: [u8; 16],
    pub first: Lsn,
    pub created_us: u64,
    /// Written in a weaker durability level: numbers given out may be missing after a crash.
    pub weak: bool,
    /// The file had a former life: bytes behind the last frame may be of that. Otherwise they are zeros.
    pub reused: bool,
    /// Length of the file in bytes when it became a segment. Only a seal ends it earlier.
    pub bytes: u64,
}

/// Why a header does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Newer(u32),
    Damaged(Head),
}

impl Header {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = BytesMut::with_capacity(SEGMENT_HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        let flags = if self.weak { FLAG_WEAK } else { 0 } | if self.reused { FLAG_REUSED } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.log_id);
        out.extend_from_slice(&self.first.0.to_le_bytes());
        out.extend_from_slice(&self.created_us.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.resize(SEGMENT_HEADER - 4, 0);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.first_chunk::<SEGMENT_HEADER>().copied().unwrap_or([0; SEGMENT_HEADER])
    }

    pub fn decode(bytes: &[u8]) -> Result<Header, HeaderFault> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER>() else {
            return Err(HeaderFault::Damaged(if bytes.is_empty() { Head::Empty } else { Head::Short }));
        };
        if !bytes.starts_with(MAGIC) {
            return Err(HeaderFault::Damaged(Head::NotASegment));
        }
        let (version, crc) = (u32_at(bytes, 8).unwrap_or(0), u32_at(bytes, SEGMENT_HEADER - 4));
        let mut covered = *bytes;
        if let Some(place) = covered.get_mut(8..12) {
            place.copy_from_slice(&FORMAT.to_le_bytes());
        }
        let of_this_format = crc == covered.get(..SEGMENT_HEADER - 4).map(crc32fast::hash);
        // The version comes before the checksum: a newer format may have put that elsewhere. But where all else is as this format has it,
        // the version is what is damaged.
        if version > FORMAT && !of_this_format {
            return Err(HeaderFault::Newer(version));
        }
        if version != FORMAT || !of_this_format {
            return Err(HeaderFault::Damaged(Head::Checksum));
        }
        let header = Header {
            log_id: bytes.get(16..).and_then(|b| b.first_chunk::<16>()).copied().unwrap_or_default(),
            first: Lsn(u64_at(bytes, 32).unwrap_or(0)),
            created_us: u64_at(bytes, 40).unwrap_or(0),
            weak: u32_at(bytes, 12).unwrap_or(0) & FLAG_WEAK != 0,
            reused: u32_at(bytes, 12).unwrap_or(0) & FLAG_REUSED != 0,
            bytes: u64_at(bytes, 48).unwrap_or(0),
        };
        // No record has the number 0.
        if header.first == Lsn::NONE || header.first.0 > frame::NUMBER_MAX || header.created_us > frame::NUMBER_MAX {
            return Err(HeaderFault::Damaged(Head::Impossible));
        }
        Ok(header)
    }

    /// Where the checksum of this segment's frames starts from.
    pub fn seed(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.log_id);
        hasher.update(&self.first.0.to_le_bytes());
        hasher.finalize()
    }
}

/// The end of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Offset of the seal's frame.
    pub at: u64,
    /// Records in the segment.
    pub count: u64,
    pub last: Lsn,
    /// The number that comes next.
    pub next: Lsn,
    pub time_us: u64,
}

impl Seal {
    /// Appends the seal, so that it ends at `file_end`.
    pub fn encode(&self, out: &mut BytesMut, header: &Header, file_end: u64) {
        let body_len = (file_end.saturating_sub(self.at) as usize).max(SEAL_MIN) - HEADER;
        let mut body = Vec::with_capacity(body_len);
        body.extend_from_slice(&self.count.to_le_bytes());
        body.extend_from_slice(&header.first.0.to_le_bytes());
        body.extend_from_slice(&self.last.0.to_le_bytes());
        body.resize(body_len - TRAILER, 0);
        body.extend_from_slice(&self.at.to_le_bytes());
        body.extend_from_slice(SEAL_MAGIC);
        let frame = Frame {
            lsn: self.next,
            time_us: self.time_us,
            group: self.next,
            kind: KIND_SEAL,
            weak: false,
            len: body_len,
        };
        frame::encode(out, header.seed(), &frame, &body);
    }

    /// Reads the seal whose frame lies at `at`, wherever the file ends.
    pub fn at(window: &mut Window<'_>, header: &Header, at: u64) -> io::Result<Option<Seal>> {
        let Lies::Frame(frame, _) = window.frame(at, header.seed())? else { return Ok(None) };
        if frame.kind != KIND_SEAL || frame.size() < SEAL_MIN {
            return Ok(None);
        }
        let body = window.bytes(at + HEADER as u64, 24)?;
        let (count, last) = (u64_at(body, 0).unwrap_or(0), u64_at(body, 16).unwrap_or(0));
        Ok(Some(Seal { at, count, last: Lsn(last), next: frame.lsn, time_us: frame.time_us }))
    }

    /// Looks for the seal from the end of the file.
    pub fn find(window: &mut Window<'_>, header: &Header) -> io::Result<Option<Seal>> {
        let len = window.len();
        if len < (SEGMENT_HEADER + SEAL_MIN) as u64 {
            return Ok(None);
        }
        let trailer = window.bytes(len - TRAILER as u64, TRAILER)?;
        let at = u64_at(trailer, 0).unwrap_or(0);
        let fits = at >= SEGMENT_HEADER as u64 && at <= len - SEAL_MIN as u64;
        if !trailer.get(..TRAILER).is_some_and(|trailer| trailer.ends_with(SEAL_MAGIC)) || !fits {
            return Ok(None);
        }
        let Some(length) = u32_at(window.bytes(at, HEADER)?, 4) else { return Ok(None) };
        // It reaches exactly to the end.
        if at + HEADER as u64 + u64::from(length) != len { Ok(None) } else { Seal::at(window, header, at) }
    }
}

/// The file name of a segment.
pub(crate) fn file_name(first: Lsn) -> String {
    format!("{:020}.seg", first.0)
}

/// The first LSN that a file name promises; `None` when it is not a segment's name.
pub(crate) fn parse_name(path: &Path) -> Option<Lsn> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".seg")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok().map(Lsn)).flatten()
}

/// The name of a log for people: its identity in hexadecimal.
pub(crate) fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

/// A segment as the running log knows it. Whoever holds the `Arc` keeps its file from being recycled.
#[derive(Debug)]
pub(crate) struct Segment {
    pub path: PathBuf,
    pub header: Header,
    pub seed: u32,
    /// Length of the file.
    pub file_len: AtomicU64,
    /// Some of its bytes are damaged: it is set aside when it is trimmed.
    pub damaged: AtomicBool,
    file: OnceLock<Arc<dyn DiskFile>>,
    /// Offset behind the last readable frame.
    end: AtomicU64,
    /// The LSN behind the last readable frame.
    next: AtomicU64,
    index: Mutex<Index>,
}

/// Offsets of some frames, about one in 64 KiB, in order.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub places: Vec<(Lsn, u64)>,
    /// All of the segment is covered.
    pub complete: bool,
}

impl Segment {
    pub fn new(path: PathBuf, header: Header, file_len: u64, end: u64, next: Lsn) -> Segment {
        Segment {
            path,
            seed: header.seed(),
            header,
            file_len: AtomicU64::new(file_len),
            damaged: AtomicBool::new(false),
            file: OnceLock::new(),
            end: AtomicU64::new(end),
            next: AtomicU64::new(next.0),
            index: Mutex::new(Index::default()),
        }
    }

    pub fn first(&self) -> Lsn {
        self.header.first
    }

    pub fn next(&self) -> Lsn {
        Lsn(self.next.load(Ordering::Acquire))
    }

    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Moves the readable end. Only the writer calls it.
    pub fn extend(&self, end: u64, next: Lsn) {
        self.end.store(end, Ordering::Release);
        self.next.store(next.0, Ordering::Release);
    }

    pub fn keep_open(&self, file: Arc<dyn DiskFile>) {
        let _ = self.file.set(file);
    }

    /// The file, opened for reading on first use.
    pub fn file(&self, disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.file.get() {
            return Ok(file.clone());
        }
        let file: Arc<dyn DiskFile> = Arc::from(disk.open(&self.path, OpenHow::Read)?);
        Ok(self.file.get_or_init(|| file).clone())
    }

    /// Notes where a frame begins; most calls do nothing.
    pub fn note(&self, lsn: Lsn, at: u64) {
        let mut index = self.index.lock();
        if index.places.last().is_none_or(|(_, last)| at >= last + INDEX_STEP) {
            index.places.push((lsn, at));
        }
    }

    /// Notes where a frame behind damage begins.
    pub fn note_always(&self, lsn: Lsn, at: u64) {
        self.index.lock().places.push((lsn, at));
    }

    pub fn index_is_complete(&self) -> bool {
        self.index.lock().complete
    }

    pub fn set_index_complete(&self) {
        self.index.lock().complete = true;
    }

    /// A frame at or before `lsn`: where to begin to look for it, and the last place the index knows.
    pub fn place_before(&self, lsn: Lsn) -> (Lsn, u64) {
        let index = self.index.lock();
        let n = index.places.partition_point(|(first, _)| *first <= lsn);
        n.checked_sub(1).and_then(|n| index.places.get(n)).copied().unwrap_or((self.first(), SEGMENT_HEADER as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_no_flipped_byte_passes() {
        let header =
            Header { log_id: [7; 16], first: Lsn(123), created_us: 99, weak: true, reused: true, bytes: 1 << 16 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 0x10;
            assert!(Header::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_a_damaged_version() {
        let header = Header { log_id: [7; 16], first: Lsn(1), created_us: 0, weak: false, reused: false, bytes: 0 };
        let mut bytes = header.encode();
        bytes[8] = 2;
        assert_eq!(Header::decode(&bytes), Err(HeaderFault::Damaged(Head::Checksum)));
        let crc = crc32fast::hash(&bytes[..SEGMENT_HEADER - 4]);
        bytes[SEGMENT_HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(HeaderFault::Newer(2)));
        bytes[20] ^= 1;
        assert_eq!(Header::decode(&bytes), Err(HeaderFault::Newer(2)), "its checksum may lie elsewhere");
    }

    #[test]
    fn names_sort_as_their_numbers_and_strangers_are_not_taken() {
        assert_eq!(parse_name(Path::new("/x").join(file_name(Lsn(42))).as_path()), Some(Lsn(42)));
        assert!(file_name(Lsn(9)) < file_name(Lsn(10)));
        for name in ["42.seg", "0000000000000000004x.seg", "00000000000000000042.spare"] {
            assert_eq!(parse_name(Path::new(name)), None, "{name}");
        }
    }
}
