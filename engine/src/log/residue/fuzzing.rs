//! What the fuzz target of residue files reaches. Not part of the public API.

use std::io;
use std::path::{Path, PathBuf};

use super::format::{END, HEADER, Header, file_name};
use super::{ResidueFile, ResidueWriter};
use crate::disk::{Disk, ForgettingDisk};
use crate::ids::Lsn;
use crate::log::Record;
use crate::log::frame::{u32_at, u64_at};
use crate::postings::{Found, fuzzing::repair_index};

fn dir() -> PathBuf {
    PathBuf::from("/log")
}

/// The bytes of a file that covers `from..to` and holds these records, in the order of their numbers.
///
/// # Errors
/// Of the disk in memory: none.
pub fn residue_of(log_id: [u8; 16], from: u64, to: u64, records: &[Record]) -> io::Result<Vec<u8>> {
    let (disk, dir) = (ForgettingDisk::new(), dir());
    disk.create_dir(&dir)?;
    let mut writer = ResidueWriter::begin(&disk, &dir, log_id, Lsn(from), 5)?;
    records.iter().try_for_each(|record| writer.push(record))?;
    let path = writer.finish(Lsn(to))?;
    disk.bytes(&path).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What reading a file gave.
#[derive(Debug)]
pub struct ReadResidue {
    /// Its records in order, up to the first that does not read.
    pub walked: Vec<Record>,
    /// Why it stopped there.
    pub stopped: Option<String>,
    /// The records that its index names, each as it was read at its place.
    pub indexed: Vec<Result<Record, String>>,
}

/// Reads a file that consists of these bytes, in every way there is.
///
/// # Errors
/// Why it was refused.
pub fn read_residue(bytes: &[u8], log_id: [u8; 16]) -> Result<ReadResidue, String> {
    let disk = ForgettingDisk::new();
    disk.create_dir(&dir()).map_err(|e| e.to_string())?;
    let path = file_name(&dir(), Lsn(u64_at(bytes, 32).unwrap_or(0)));
    disk.overwrite(&path, bytes);
    open(&disk, &path, log_id)
}

fn open(disk: &ForgettingDisk, path: &Path, log_id: [u8; 16]) -> Result<ReadResidue, String> {
    let file = ResidueFile::open(disk, path, log_id).map_err(|e| e.to_string())?;
    let mut read = ReadResidue { walked: Vec::new(), stopped: None, indexed: Vec::new() };
    let mut walk = file.walk(Lsn::NONE);
    loop {
        match walk.next_record() {
            Ok(Some(record)) => read.walked.push(record),
            Ok(None) => break,
            Err(e) => {
                read.stopped = Some(e.to_string());
                break;
            }
        }
    }
    for record in &read.walked {
        // A mark may lie: then the record is not found, or that is said; another one is never given.
        if let Ok(Some(found)) = file.read(record.lsn)
            && found.lsn != record.lsn
        {
            return Err(format!("asked for {}, given {}", record.lsn, found.lsn));
        }
    }
    let covers = file.covers();
    let mut found = Found::new(covers.end, 64);
    if file.find(&["#", "a/+"], &covers, &mut found).is_ok() {
        read.indexed = found.finish().0.iter().map(|place| file.at(place).map_err(|e| e.to_string())).collect();
    }
    Ok(read)
}

/// Puts the checksums of a file right, as far as its parts can be made out.
pub fn repair_residue(bytes: &mut [u8]) {
    fn put(bytes: &mut [u8], at: usize, crc: u32) {
        if let Some(place) = at.checked_add(4).and_then(|end| bytes.get_mut(at..end)) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
    }
    let hash = |seed, bytes: &[u8]| {
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(bytes);
        hasher.finalize()
    };
    if let Some(crc) = bytes.get(..HEADER - 4).map(crc32fast::hash) {
        put(bytes, HEADER - 4, crc);
    }
    let Ok(header) = Header::decode(bytes) else { return };
    let Some(end_at) = bytes.len().checked_sub(END) else { return };
    let place = |bytes: &[u8], at| u64_at(bytes, at).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let (frames_end, index_at) = (place(bytes, end_at + 16), place(bytes, end_at + 24));
    let mut at = HEADER;
    while let Some(len) = u32_at(bytes, at + 4).filter(|_| at < frames_end) {
        let Some(crc) = at.checked_add(32 + len as usize).and_then(|end| bytes.get(at + 4..end)) else { break };
        let crc = hash(header.seed(), crc);
        put(bytes, at, crc);
        at += 32 + len as usize;
    }
    if let Some(index) = bytes.get_mut(index_at..end_at) {
        repair_index(index);
    }
    if let (Some(marks), Some(numbers)) = (bytes.get(frames_end..index_at), bytes.get(end_at..end_at + 48)) {
        let mut hasher = crc32fast::Hasher::new_with_initial(header.seed());
        hasher.update(marks);
        hasher.update(numbers);
        let crc = hasher.finalize();
        put(bytes, end_at + 48, crc);
    }
}
