//! Opening: look at what is there, decide by the table in [`mod@super::plan`], then act.
//!
//! Sealed segments are known by their header and their seal alone; only the last segment is read. Frames behind the last proven group may live in
//! the page cache only (the process was killed before its sync, or a sync failed): they are written again and synced before anybody
//! may read them or is told that they are durable. Bytes of a torn group behind the cut are zeroed, so that they can never join a later group.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::OpenError;
use super::options::LogOptions;
use super::plan::{Decision, Place, Reason, plan};
use super::scan::{Scan, scan};
use super::segment::{Header, Segment};
use super::survey::{Sighting, Survey, survey};
use super::trim::Floor;
use super::window::Window;
use super::{aside, spare, trim};
use crate::disk::{Disk, DiskFile, OpenHow};
use crate::ids::Lsn;

/// What opening found and did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Identity of the log, in hexadecimal.
    pub log_id: String,
    /// The folder had no log; one was created.
    pub created: bool,
    /// Segments there are.
    pub segments: usize,
    /// First record there is.
    pub first: Lsn,
    /// The next number.
    pub next: Lsn,
    /// The log had been closed cleanly.
    pub clean: bool,
    /// Records in the last segment.
    pub tail_records: u64,
    /// Bytes of a torn group that were cut off (never acknowledged).
    pub cut_bytes: u64,
    /// Where they began.
    pub cut_at: Option<(PathBuf, u64)>,
    /// Bytes behind the last proven group that were written again and synced.
    pub rewritten_bytes: u64,
    /// The copy of a damaged segment, when the policy is to quarantine.
    pub quarantined: Option<PathBuf>,
    /// The numbers jumped ahead from the first to the second: those between may have been given out and lost.
    pub gap: Option<(Lsn, Lsn)>,
    /// Segments of an interrupted trim that were removed.
    pub trimmed: usize,
    /// Why there is no room for new records, if so.
    pub no_space: Option<Arc<str>>,
    /// Time taken.
    pub took: Duration,
}

/// The log as found, ready to go on.
pub(crate) struct Recovered {
    pub log_id: Option<[u8; 16]>,
    pub segments: Vec<Segment>,
    pub spares: Vec<PathBuf>,
    pub tail: Option<TailState>,
    /// The number to jump to, when numbers may have been lost.
    pub jump: Option<Lsn>,
}

/// Where the last segment goes on.
pub(crate) struct TailState {
    pub file: Arc<dyn DiskFile>,
    pub at: u64,
    pub next: Lsn,
    pub count: u64,
    pub last: Lsn,
    pub last_time_us: u64,
    pub sealed: bool,
}

/// Looks at the folder, decides, acts.
pub(crate) fn recover(
    disk: &dyn Disk,
    options: &LogOptions,
    report: &mut RecoveryReport,
) -> Result<Recovered, OpenError> {
    let dir = &options.dir;
    disk.create_dir(dir).map_err(OpenError::io("creating", dir))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk.sync_dir(parent).map_err(OpenError::io("syncing", parent))?;
    }
    let Survey { log_id, floor, floor_beyond, mut segments, trimmed, unfinished } =
        survey(disk, dir).map_err(OpenError::io("looking at", dir))?;
    if let Some(file) = unfinished.into_iter().next() {
        return Err(OpenError::RepairUnfinished { file });
    }
    if let Some(floor) = floor_beyond {
        return Err(OpenError::FloorBeyond { file: dir.join(trim::INTENT), floor });
    }
    let mut found =
        Recovered { log_id: options.log_id, segments: Vec::new(), spares: Vec::new(), tail: None, jump: None };
    if floor == Floor::Unreadable {
        tracing::warn!(dir = %dir.display(), "trim.intent does not read; whether the log's first segments are missing can't be told until it is trimmed again");
    }
    let mut last = segments.pop();
    for at in 0..segments.len() {
        refuse(&mut segments, at, Place::Older, log_id)?;
    }
    let before = segments.last().map(|segment| segment.path.clone());
    if let Some(segment) = &mut last {
        if let Some(reason) = segment.refused(Place::Last) {
            return Err(segment.error(reason, before.as_deref(), log_id));
        }
        found.log_id = log_id;
    }
    // Nothing was changed up to here. Segments below the floor and what a crash left half made go only from a folder that opens.
    let looked = last.as_ref().map(|last| look_at_last(disk, options, last)).transpose()?;
    trim::finish(disk, dir, &trimmed).map_err(OpenError::io("finishing an interrupted trim in", dir))?;
    report.trimmed = trimmed.len();
    found.spares = sort_out(disk, options)?;
    // A process that was killed, or whose sync failed, may have left a segment whose name is in memory only: what is appended to it now
    // is told durable, and would be gone with the name.
    disk.sync_dir(dir).map_err(OpenError::io("syncing", dir))?;
    found.segments.extend(segments.into_iter().filter_map(older));
    match (last, looked) {
        (Some(last), Some(looked)) => recover_last(disk, options, &last, looked, &mut found, report)?,
        _ => {
            report.created = true;
            if floor == Floor::None {
                trim::write_intent(disk, dir, Lsn::FIRST)
                    .map_err(OpenError::io("noting where the log begins in", dir))?;
            }
        }
    }
    Ok(found)
}

/// An error where the table refuses an older segment.
fn refuse(segments: &mut [Sighting], at: usize, place: Place, log_id: Option<[u8; 16]>) -> Result<(), OpenError> {
    let before = at.checked_sub(1).and_then(|before| segments.get(before)).map(|before| before.path.clone());
    let Some(segment) = segments.get_mut(at) else { return Ok(()) };
    match segment.refused(place) {
        Some(reason) => Err(segment.error(reason, before.as_deref(), log_id)),
        None => Ok(()),
    }
}

/// A segment that the table keeps: it has its header and its seal.
fn older(seen: Sighting) -> Option<Segment> {
    let (header, seal) = (seen.header?, seen.seal?);
    Some(Segment::new(seen.path, header, seen.len, seal.at, seal.next))
}

/// Usable spare files. Files that a crash left half made are removed; files of others are left alone.
fn sort_out(disk: &dyn Disk, options: &LogOptions) -> Result<Vec<PathBuf>, OpenError> {
    let dir = &options.dir;
    let mut spares = Vec::new();
    for path in disk.list(dir).map_err(OpenError::io("listing", dir))? {
        let remove = match path.extension().and_then(|e| e.to_str()) {
            Some("spare") => {
                let fits = disk
                    .open(&path, OpenHow::Read)
                    .and_then(|file| file.len())
                    .is_ok_and(|len| len == options.segment_bytes);
                if fits && spares.len() < spare::SPARES_MAX {
                    spares.push(path.clone());
                    false
                } else {
                    true
                }
            }
            Some("making") => true,
            _ => false,
        };
        if remove {
            disk.remove(&path).map_err(OpenError::io("removing", &path))?;
        }
    }
    Ok(spares)
}

/// The last segment, looked at and decided about.
struct Looked {
    file: Arc<dyn DiskFile>,
    header: Header,
    look: Scan,
    decision: Decision,
}

fn look_at_last(disk: &dyn Disk, options: &LogOptions, seen: &Sighting) -> Result<Looked, OpenError> {
    let path = &seen.path;
    let file = seen.open(disk, OpenHow::Write)?;
    let reading = || OpenError::io("reading", path);
    // The table has refused a segment without a header before.
    let header = seen.header.ok_or_else(|| reading()(std::io::ErrorKind::InvalidData.into()))?;
    let mut window = Window::new(&*file).map_err(reading())?;
    let look = scan(&mut window, &header, seen.seal).map_err(reading())?;
    let facts = seen.facts(Place::Last, options.on_damage, Some(&look));
    let (decision, reason) = plan(&facts);
    tracing::debug!(?facts, ?decision, ?reason, file = %path.display(), "recovering the log's last segment");
    if decision == Decision::Refuse {
        let (file, at, lsn) = (path.clone(), look.end, look.next);
        let what = if reason == Reason::CutShort { reason.what() } else { look.what };
        return Err(OpenError::Damaged { file, at, lsn, what: what.to_owned() });
    }
    Ok(Looked { file, header, look, decision })
}

fn recover_last(
    disk: &dyn Disk,
    options: &LogOptions,
    seen: &Sighting,
    looked: Looked,
    found: &mut Recovered,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    let (path, Looked { file, header, look, decision }) = (&seen.path, looked);
    match decision {
        Decision::Quarantine => {
            let copy = aside::copy(disk, path, &*file);
            report.quarantined = Some(copy.map_err(OpenError::io("copying the damaged segment", path))?.path);
            found.jump = Some(look.beyond.max(seen.seal.map_or(Lsn::NONE, |seal| seal.next)).max(look.next));
        }
        Decision::Cut => {
            report.cut_bytes = look.own_end.saturating_sub(look.end);
            report.cut_at = Some((path.clone(), look.end));
        }
        Decision::Keep | Decision::Refuse | Decision::Remove => {}
    }
    let sealed = look.sealed && decision == Decision::Keep;
    report.clean = sealed;
    let mut len = seen.len;
    if !sealed {
        len = len.max(options.segment_bytes);
        report.rewritten_bytes =
            settle(&*file, &look, seen.len, len).map_err(OpenError::io("rewriting the tail of", path))?;
        if look.weak || seen.is_short() {
            // Numbers of records that never reached the disk may have been given out: as many as this file had room for.
            let lost = (len.max(header.bytes).saturating_sub(look.end)) / super::frame::HEADER as u64 + 1;
            found.jump = found.jump.max(Some(look.next.plus(lost)));
        }
    }
    if sealed {
        // Its process may have been killed between the seal's write and its sync, and the next segment says that it is there.
        reseal(&*file, &look, seen.len).map_err(OpenError::io("syncing the seal of", path))?;
    }
    report.tail_records = look.count;
    let segment = Segment::new(path.clone(), header, len, look.end, look.next);
    segment.keep_open(file.clone());
    for (lsn, at) in &look.marks {
        segment.note(*lsn, *at);
    }
    segment.set_index_complete();
    found.segments.push(segment);
    found.tail = Some(TailState {
        file,
        at: look.end,
        next: look.next,
        count: look.count,
        last: look.last,
        last_time_us: look.last_time_us,
        sealed,
    });
    Ok(())
}

/// Makes the tail trustworthy: frames not proven to be synced are written again, what is cut is zeroed, and all of it is synced.
fn settle(file: &dyn DiskFile, look: &Scan, was: u64, len: u64) -> std::io::Result<u64> {
    let mut window = Window::new(file)?;
    window.pieces(look.proven, look.end, &mut |at, bytes| file.write_all_at(bytes, at))?;
    spare::fill(file, look.end, look.own_end)?;
    spare::fill(file, was, len)?;
    file.sync_data()?;
    Ok(look.end.saturating_sub(look.proven))
}

/// Makes a seal that was found durable. Pages of a failed sync count as clean: they are written again.
fn reseal(file: &dyn DiskFile, look: &Scan, len: u64) -> std::io::Result<()> {
    let mut window = Window::new(file)?;
    window.pieces(look.proven, len, &mut |at, bytes| file.write_all_at(bytes, at))?;
    file.set_len(len)?;
    file.sync_data()
}
