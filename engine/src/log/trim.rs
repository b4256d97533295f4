//! Trimming: whole segments below the floor go away.
//!
//! The steps, each safe to crash after: the floor is written to `trim.intent` (under another name first, so that it is there whole or not at
//! all) and synced; segments are unlinked or become spares; the folder is synced. Opening finishes a trim, so a folder change
//! that came through while an earlier one did not can never look like a missing segment. The file stays: it tells where the log begins, so that
//! a first segment that is missing is told from one that was trimmed. On a disk without
//! room for the note it is removed, and each removal of a segment is synced before the next, from the oldest on.

use crate::sync::atomic::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::core::Core;
use super::error::TrimError;
use super::frame::u64_at;
use super::scan::read_all;
use crate::disk::{Disk, OpenHow, is_no_space};
use crate::ids::Lsn;
use crate::metrics;

pub(crate) const INTENT: &str = "trim.intent";
const MAGIC: &[u8; 8] = b"FBAYTRIM";

/// What a trim did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Segments removed.
    pub segments: usize,
    /// Bytes they took.
    pub bytes: u64,
    /// First record there is now.
    pub first: Lsn,
}

/// Removes the segments whose records are all below `floor`, from the oldest on, up to the first that a reader holds. The active segment stays.
///
/// A failure stops nothing: the segments are out of the log, no record of it depends on their files, and those that could not be removed
/// are kept in mind for the next trim.
pub(crate) fn trim_to(core: &Core, floor: Lsn) -> Result<Trimmed, TrimError> {
    let mut leaving = core.trimming.lock();
    let error = |source| TrimError { floor, source };
    if let Some(reason) = core.disk.latch().reason() {
        return Err(error(io::Error::other(format!("refused after an earlier failure: {reason}"))));
    }
    {
        let mut segments = core.segments.write();
        while segments.len() > 1 {
            // Readers take their hold under this lock, so that a count of one means that nobody has it or can get it.
            let free = segments
                .first_key_value()
                .is_some_and(|(_, segment)| segment.next() <= floor && Arc::strong_count(segment) == 1);
            let Some((_, segment)) = free.then(|| segments.pop_first()).flatten() else { break };
            leaving.push(segment);
        }
    }
    let first = core.first();
    let mut done = Trimmed { segments: 0, bytes: 0, first };
    if leaving.is_empty() {
        return Ok(done);
    }
    let disk = core.disk.unlatched();
    let mut act = || -> io::Result<()> {
        let dir = &core.options.dir;
        let with_intent = match write_intent(&**disk, dir, first) {
            Ok(()) => true,
            // No room even for that. Then no note is better than an old one, and each removal is made durable before the next: what is left
            // never has a hole either.
            Err(e) if is_no_space(&e) => {
                forget_intent(&**disk, dir)?;
                false
            }
            Err(e) => return Err(e),
        };
        while let Some(segment) = leaving.first() {
            let len = segment.file_len.load(Ordering::Relaxed);
            let gone = if segment.damaged.load(Ordering::Relaxed) {
                disk.rename(&segment.path, &segment.path.with_extension("seg.damaged"))
            } else {
                core.spares.recycle(&**disk, &segment.path, len)
            };
            // One that is not there is gone: an earlier attempt may have failed behind it.
            gone.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            if !with_intent {
                disk.sync_dir(dir)?;
            }
            leaving.remove(0);
            done.segments += 1;
            done.bytes += len;
        }
        disk.sync_dir(dir)
    };
    let result = act();
    core.trimmed_some();
    ::metrics::counter!(metrics::LOG_TRIMMED_SEGMENTS_TOTAL).increment(done.segments as u64);
    result.map(|()| done).map_err(error)
}

/// Writes the floor. Durable when it returns.
pub(crate) fn write_intent(disk: &dyn Disk, dir: &Path, floor: Lsn) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&floor.0.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    let making = dir.join("trim.making");
    let file = disk.open(&making, OpenHow::Create)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_data()?;
    drop(file);
    disk.rename(&making, &dir.join(INTENT))?;
    disk.sync_dir(dir)
}

fn forget_intent(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for name in ["trim.making", INTENT] {
        match disk.remove(&dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    disk.sync_dir(dir)
}

fn parse_intent(bytes: &[u8]) -> Option<Lsn> {
    let (covered, crc) = bytes.split_last_chunk::<4>()?;
    let valid =
        covered.len() == 16 && covered.starts_with(MAGIC) && crc32fast::hash(covered) == u32::from_le_bytes(*crc);
    valid.then(|| u64_at(covered, 8).map(Lsn)).flatten()
}

/// Where the log begins, as its last trim noted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floor {
    /// There is no note: the disk was full at the last trim.
    None,
    At(Lsn),
    /// There is a note and it does not read. The next trim writes it anew.
    Unreadable,
}

impl Floor {
    /// The segment of this name was to be trimmed.
    pub fn is_above(self, first: Option<Lsn>) -> bool {
        matches!((self, first), (Floor::At(floor), Some(first)) if first < floor)
    }
}

/// Reads the floor.
pub(crate) fn read_floor(disk: &dyn Disk, dir: &Path) -> io::Result<Floor> {
    match disk.open(&dir.join(INTENT), OpenHow::Read) {
        Ok(file) => Ok(parse_intent(&read_all(&*file)?).map_or(Floor::Unreadable, Floor::At)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Floor::None),
        Err(e) => Err(e),
    }
}

/// Finishes a trim that a crash interrupted: removes what was on its list.
pub(crate) fn finish(disk: &dyn Disk, dir: &Path, listed: &[PathBuf]) -> io::Result<()> {
    for file in listed {
        disk.remove(file)?;
    }
    if listed.is_empty() { Ok(()) } else { disk.sync_dir(dir) }
}
