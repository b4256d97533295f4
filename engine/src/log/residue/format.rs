//! The bytes of a residue file: header, marks, end.

use std::path::{Path, PathBuf};

use crate::ids::Lsn;
use crate::log::frame::{u32_at, u64_at};

/// Bytes of the header.
pub(super) const HEADER: usize = 64;
/// Bytes of the end.
pub(super) const END: usize = 64;
/// Bytes of a mark.
pub(super) const MARK: usize = 16;
/// One mark for so many bytes of frames.
pub(super) const MARK_STEP: u64 = 64 << 10;
/// The version written by this program, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"FBAYRESI";
const END_MAGIC: &[u8; 8] = b"FBAYRESE";
/// The name of a file that is not complete.
pub(super) const MAKING: &str = "residue-making";

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub log_id: [u8; 16],
    /// First record number covered.
    pub from: Lsn,
    pub created_us: u64,
}

/// What the end says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// The number behind the last one covered.
    pub to: Lsn,
    pub records: u64,
    /// Offset behind the last frame: the marks begin.
    pub frames_end: u64,
    /// Offset behind the last mark: the index begins, and reaches to the end.
    pub index_at: u64,
}

/// Why bytes are no residue file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Newer(u32),
    Damaged(&'static str),
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.log_id);
        out.extend_from_slice(&self.from.0.to_le_bytes());
        out.extend_from_slice(&self.created_us.to_le_bytes());
        out.resize(HEADER - 4, 0);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Header, Fault> {
        let bytes = bytes.first_chunk::<HEADER>().ok_or(Fault::Damaged("shorter than its header"))?;
        if !bytes.starts_with(MAGIC) {
            return Err(Fault::Damaged("not a residue file (magic)"));
        }
        // The version comes before the checksum: a newer format may have put that elsewhere.
        match u32_at(bytes, 8).unwrap_or(0) {
            FORMAT => {}
            version if version > FORMAT => return Err(Fault::Newer(version)),
            _ => return Err(Fault::Damaged("version")),
        }
        let covered = bytes.get(..HEADER - 4).unwrap_or_default();
        if u32_at(bytes, HEADER - 4) != Some(crc32fast::hash(covered)) {
            return Err(Fault::Damaged("header checksum does not match"));
        }
        Ok(Header {
            log_id: bytes.get(16..).and_then(|b| b.first_chunk::<16>()).copied().unwrap_or_default(),
            from: Lsn(u64_at(bytes, 32).unwrap_or(0)),
            created_us: u64_at(bytes, 40).unwrap_or(0),
        })
    }

    /// Where the checksums of this file's frames and of its end start from. It differs from every segment's, so that a frame never
    /// reads as one of the other kind of file.
    pub fn seed(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(MAGIC);
        hasher.update(&self.log_id);
        hasher.update(&self.from.0.to_le_bytes());
        hasher.finalize()
    }
}

impl End {
    /// The marks and what the end says of them, as they follow the frames; the index goes between the two.
    pub fn encode(&self, seed: u32, marks: &[(Lsn, u64)]) -> (Vec<u8>, [u8; END]) {
        let mut table = Vec::with_capacity(marks.len() * MARK);
        for (lsn, at) in marks {
            table.extend_from_slice(&lsn.0.to_le_bytes());
            table.extend_from_slice(&at.to_le_bytes());
        }
        let mut end = [0; END];
        let numbers = [self.to.0, self.records, self.frames_end, self.index_at];
        for (place, number) in end.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let crc = checksum(seed, &table, end.get(..48).unwrap_or_default());
        for (place, byte) in end.iter_mut().skip(48).zip(crc.to_le_bytes()) {
            *place = byte;
        }
        for (place, byte) in end.iter_mut().skip(56).zip(END_MAGIC) {
            *place = *byte;
        }
        (table, end)
    }

    /// Reads the end of a file of `len` bytes, without its checksum: that covers the marks too.
    pub fn decode(bytes: &[u8], len: u64) -> Result<End, Fault> {
        let bytes = bytes.first_chunk::<END>().ok_or(Fault::Damaged("shorter than its end"))?;
        if !bytes.ends_with(END_MAGIC) {
            return Err(Fault::Damaged("its end is not there"));
        }
        let number = |at| u64_at(bytes, at).unwrap_or(0);
        let end = End { to: Lsn(number(0)), records: number(8), frames_end: number(16), index_at: number(24) };
        let marks = end.index_at.checked_sub(end.frames_end);
        let fits = end.frames_end >= HEADER as u64
            && marks.is_some_and(|bytes| bytes % MARK as u64 == 0)
            && end.index_at.checked_add(END as u64).is_some_and(|least| least <= len);
        if fits { Ok(end) } else { Err(Fault::Damaged("its end holds impossible places")) }
    }

    /// The marks, where the checksum of the end fits.
    pub fn marks(seed: u32, table: &[u8], end: &[u8]) -> Result<Vec<(Lsn, u64)>, Fault> {
        if u32_at(end, 48) != Some(checksum(seed, table, end.get(..48).unwrap_or_default())) {
            return Err(Fault::Damaged("the checksum of its end does not match"));
        }
        let mark = |bytes: &[u8]| Some((Lsn(u64_at(bytes, 0)?), u64_at(bytes, 8)?));
        Ok(table.chunks_exact(MARK).filter_map(mark).collect())
    }
}

fn checksum(seed: u32, table: &[u8], end: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(table);
    hasher.update(end);
    hasher.finalize()
}

pub(super) fn file_name(dir: &Path, from: Lsn) -> PathBuf {
    dir.join(format!("{:020}.residue", from.0))
}

/// The first record number that a file name promises; `None` when it is not a residue file's name.
pub(crate) fn parse_name(path: &Path) -> Option<Lsn> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".residue")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok().map(Lsn)).flatten()
}
