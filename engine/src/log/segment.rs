//! One segment file: its header, its seal, and what is known of it in memory.
//!
//! ```text
//!  0         8     12    16            32          40           48       60   64
//! +---------+-----+-----+-------------+-----------+------------+--------+----+--------+--------+- -
//! | FOREBLOG| ver |flags|   log id    | first lsn | created_us |  zeros | crc| frame  | frame  |
//! +---------+-----+-----+-------------+-----------+------------+--------+----+--------+--------+- -
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

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use parking_lot::Mutex;

use super::frame::{self, Decoded, Frame, HEADER, KIND_SEAL, u32_at, u64_at};
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
}

/// Why a header does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Newer(u32),
    Damaged(&'static str),
}

impl Header {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = BytesMut::with_capacity(SEGMENT_HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&(if self.weak { FLAG_WEAK } else { 0 }).to_le_bytes());
        out.extend_from_slice(&self.log_id);
        out.extend_from_slice(&self.first.0.to_le_bytes());
        out.extend_from_slice(&self.created_us.to_le_bytes());
        out.resize(SEGMENT_HEADER - 4, 0);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.first_chunk::<SEGMENT_HEADER>().copied().unwrap_or([0; SEGMENT_HEADER])
    }

    pub fn decode(bytes: &[u8]) -> Result<Header, HeaderFault> {
        let bytes = bytes.first_chunk::<SEGMENT_HEADER>().ok_or(HeaderFault::Damaged("shorter than its header"))?;
        if !bytes.starts_with(MAGIC) {
            return Err(HeaderFault::Damaged("not a segment (magic)"));
        }
        let version = u32_at(bytes, 8).unwrap_or(0);
        // The version comes before the checksum: a newer format may have put that elsewhere.
        if version > FORMAT {
            return Err(HeaderFault::Newer(version));
        }
        let covered = bytes.get(..SEGMENT_HEADER - 4).unwrap_or_default();
        if version != FORMAT || u32_at(bytes, SEGMENT_HEADER - 4) != Some(crc32fast::hash(covered)) {
            return Err(HeaderFault::Damaged("header checksum does not match"));
        }
        let header = Header {
            log_id: bytes.get(16..).and_then(|b| b.first_chunk::<16>()).copied().unwrap_or_default(),
            first: Lsn(u64_at(bytes, 32).unwrap_or(0)),
            created_us: u64_at(bytes, 40).unwrap_or(0),
            weak: u32_at(bytes, 12).unwrap_or(0) & FLAG_WEAK != 0,
        };
        if header.first.0 > frame::NUMBER_MAX || header.created_us > frame::NUMBER_MAX {
            return Err(HeaderFault::Damaged("a number or a time that no log reaches"));
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

    /// Reads a seal's frame that lies at `at`.
    pub fn decode(frame: &Frame, body: &[u8], at: u64) -> Option<Seal> {
        if frame.kind != KIND_SEAL || !body.ends_with(SEAL_MAGIC) || body.len() < SEAL_MIN - HEADER {
            return None;
        }
        Some(Seal {
            at,
            count: u64_at(body, 0)?,
            last: Lsn(u64_at(body, 16)?),
            next: frame.lsn,
            time_us: frame.time_us,
        })
    }

    /// Looks for the seal from the end of the file.
    pub fn find(file: &dyn DiskFile, header: &Header) -> io::Result<Option<Seal>> {
        let len = file.len()?;
        let mut trailer = [0; TRAILER];
        if len < (SEGMENT_HEADER + SEAL_MIN) as u64 || file.read_at(&mut trailer, len - TRAILER as u64)? < TRAILER {
            return Ok(None);
        }
        let Some(at) = u64_at(&trailer, 0) else { return Ok(None) };
        let fits = at >= SEGMENT_HEADER as u64 && at <= len - SEAL_MIN as u64;
        if !trailer.ends_with(SEAL_MAGIC) || !fits {
            return Ok(None);
        }
        let mut bytes = vec![0; (len - at) as usize];
        if file.read_at(&mut bytes, at)? < bytes.len() {
            return Ok(None);
        }
        Ok(match frame::decode(&bytes, header.seed()) {
            Decoded::Frame(frame) => Seal::decode(&frame, frame::body_of(&bytes, &frame), at),
            _ => None,
        })
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
        let header = Header { log_id: [7; 16], first: Lsn(123), created_us: 99, weak: true };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 0x10;
            assert!(Header::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = Header { log_id: [7; 16], first: Lsn(1), created_us: 0, weak: false }.encode();
        bytes[8] = 2;
        assert_eq!(Header::decode(&bytes), Err(HeaderFault::Newer(2)));
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
