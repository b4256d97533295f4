//! Trimming: whole segments below the floor go away.
//!
//! The steps, each safe to crash after: the floor is written to `trim.intent` and synced; segments are unlinked or become spares; the folder is
//! synced; the intent is removed. Opening finishes a trim whose intent is there, so a folder change that came through while an earlier one
//! did not can never look like a missing segment. On a disk without room for the intent each removal is synced before the next, from the
//! oldest on.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::error::TrimError;
use super::frame::u64_at;
use super::scan::read_all;
use super::segment::parse_name;
use crate::disk::{Disk, OpenHow, is_no_space};
use crate::ids::Lsn;
use crate::metrics;

const INTENT: &str = "trim.intent";
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
            // No room even for that. Then each removal is made durable before the next: what is left never has a hole either.
            Err(e) if is_no_space(&e) => false,
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
        disk.sync_dir(dir)?;
        match disk.remove(&dir.join(INTENT)) {
            Err(e) if with_intent || e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    };
    let result = act();
    core.trimmed_some();
    ::metrics::counter!(metrics::LOG_TRIMMED_SEGMENTS_TOTAL).increment(done.segments as u64);
    result.map(|()| done).map_err(error)
}

fn write_intent(disk: &dyn Disk, dir: &Path, floor: Lsn) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&floor.0.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    let file = disk.open(&dir.join(INTENT), OpenHow::Create)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_data()?;
    disk.sync_dir(dir)
}

fn parse_intent(bytes: &[u8]) -> Option<Lsn> {
    let (covered, crc) = bytes.split_last_chunk::<4>()?;
    let valid =
        covered.len() == 16 && covered.starts_with(MAGIC) && crc32fast::hash(covered) == u32::from_le_bytes(*crc);
    valid.then(|| u64_at(covered, 8).map(Lsn)).flatten()
}

/// Finishes a trim that a crash interrupted. An intent that does not read was not synced: nothing had been removed for it. One whose
/// floor lies behind the beginning of the last segment is refused: no trim writes it.
pub(crate) fn finish(disk: &dyn Disk, dir: &Path) -> io::Result<usize> {
    let path = dir.join(INTENT);
    let intent = match disk.open(&path, OpenHow::Read) {
        Ok(file) => parse_intent(&read_all(&*file)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let mut removed = 0;
    if let Some(floor) = intent {
        let files = disk.list(dir)?;
        let last = files.iter().filter_map(|file| parse_name(file)).max();
        if last.is_some_and(|last| last < floor) {
            // A trim never takes the segment that is written to. Going on would empty the folder and begin the numbers anew.
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} removes everything below record {floor}, and no segment begins there: it is of another log or segments \
                     are missing. Nothing was changed. Put the segments back, or move the file out of the folder",
                    path.display()
                ),
            ));
        }
        for file in files {
            if parse_name(&file).is_some_and(|first| first < floor) {
                disk.remove(&file)?;
                removed += 1;
            }
        }
        disk.sync_dir(dir)?;
    }
    disk.remove(&path)?;
    Ok(removed)
}
