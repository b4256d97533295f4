//! Opening: look at what is there, decide by the table in [`mod@super::plan`], then act.
//!
//! Sealed segments are known by their header and their seal alone; only the last segment is read. Frames behind the last proven group may live in
//! the page cache only (the process was killed before its sync, or a sync failed): they are written again and synced before anybody
//! may read them or is told that they are durable. Bytes of a torn group behind the cut are zeroed, so that they can never join a later group.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::OpenError;
use super::options::LogOptions;
use super::plan::{Decision, Facts, Tail, plan};
use super::scan::{Scan, read_all, scan};
use super::segment::{FORMAT, Header, HeaderFault, SEGMENT_HEADER, Seal, Segment, hex, parse_name};
use super::{spare, trim};
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
    report.trimmed = trim::finish(disk, dir).map_err(OpenError::io("finishing an interrupted trim in", dir))?;
    let (names, spares) = sort_out(disk, options)?;
    // A process that was killed, or whose sync failed, may have left a segment whose name is in memory only: what is appended to it now
    // is told durable, and would be gone with the name.
    disk.sync_dir(dir).map_err(OpenError::io("syncing", dir))?;
    let mut found = Recovered { log_id: options.log_id, segments: Vec::new(), spares, tail: None, jump: None };
    let Some((last, older)) = names.split_last() else {
        report.created = true;
        return Ok(found);
    };
    found.log_id = None;
    for path in older {
        let (file, header) = open_segment(disk, path, OpenHow::Read, &mut found.log_id)?;
        check_follows(&found.segments, path, &header)?;
        found.segments.push(sealed_segment(path, &*file, header)?);
    }
    let (file, header) = open_segment(disk, last, OpenHow::Write, &mut found.log_id)?;
    check_follows(&found.segments, last, &header)?;
    recover_last(disk, options, (last, file, header), &mut found, report)?;
    Ok(found)
}

/// The segments in order, and usable spare files. Files that a crash left half made are removed; files of others are left alone.
fn sort_out(disk: &dyn Disk, options: &LogOptions) -> Result<(Vec<PathBuf>, Vec<PathBuf>), OpenError> {
    let dir = &options.dir;
    let (mut names, mut spares) = (Vec::new(), Vec::new());
    for path in disk.list(dir).map_err(OpenError::io("listing", dir))? {
        let remove = match path.extension().and_then(|e| e.to_str()) {
            Some("seg") if parse_name(&path).is_some() => {
                names.push(path.clone());
                false
            }
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
    names.sort();
    Ok((names, spares))
}

/// Opens a segment and checks that it is one of this log. The first one tells the log's identity.
pub(crate) fn open_segment(
    disk: &dyn Disk,
    path: &Path,
    how: OpenHow,
    log_id: &mut Option<[u8; 16]>,
) -> Result<(Arc<dyn DiskFile>, Header), OpenError> {
    let file: Arc<dyn DiskFile> = Arc::from(disk.open(path, how).map_err(OpenError::io("opening", path))?);
    let mut bytes = [0; SEGMENT_HEADER];
    let n = file.read_at(&mut bytes, 0).map_err(OpenError::io("reading", path))?;
    let damaged = |what: &str| OpenError::Damaged {
        file: path.to_owned(),
        at: 0,
        lsn: parse_name(path).unwrap_or_default(),
        what: what.to_owned(),
    };
    let header = match Header::decode(bytes.get(..n).unwrap_or_default()) {
        Ok(header) => header,
        Err(HeaderFault::Newer(version)) => {
            return Err(OpenError::NewerFormat { file: path.to_owned(), version, known: FORMAT });
        }
        Err(HeaderFault::Damaged(what)) => return Err(damaged(what)),
    };
    let expected = log_id.get_or_insert(header.log_id);
    if *expected != header.log_id {
        let (found, expected) = (hex(&header.log_id), hex(expected));
        return Err(OpenError::ForeignSegment { file: path.to_owned(), found, expected });
    }
    if parse_name(path) != Some(header.first) {
        return Err(damaged("the file's name is not that of its first record"));
    }
    Ok((file, header))
}

/// A segment must begin where the one before it ends.
fn check_follows(segments: &[Segment], path: &Path, header: &Header) -> Result<(), OpenError> {
    match segments.last() {
        Some(before) if before.next() < header.first => {
            Err(OpenError::MissingSegment { after: before.path.clone(), expected: before.next() })
        }
        Some(before) if before.next() > header.first => Err(OpenError::Damaged {
            file: path.to_owned(),
            at: 0,
            lsn: before.next(),
            what: format!("begins with record {} that the segment before it holds already", header.first),
        }),
        _ => Ok(()),
    }
}

/// A segment before the last one must have its seal: it was synced before the next one was begun.
fn sealed_segment(path: &Path, file: &dyn DiskFile, header: Header) -> Result<Segment, OpenError> {
    let len = file.len().map_err(OpenError::io("reading", path))?;
    match Seal::find(file, &header).map_err(OpenError::io("reading", path))? {
        Some(seal) => Ok(Segment::new(path.to_owned(), header, len, seal.at, seal.next)),
        None => Err(OpenError::Damaged {
            file: path.to_owned(),
            at: len,
            lsn: header.first,
            what: "the seal at its end does not read".to_owned(),
        }),
    }
}

fn recover_last(
    disk: &dyn Disk,
    options: &LogOptions,
    (path, file, header): (&PathBuf, Arc<dyn DiskFile>, Header),
    found: &mut Recovered,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    let seal = Seal::find(&*file, &header).map_err(OpenError::io("reading", path))?;
    let bytes = read_all(&*file).map_err(OpenError::io("reading", path))?;
    let look = scan(&bytes, &header, seal);
    let facts = Facts { sealed: look.sealed, tail: look.tail, policy: options.on_damage };
    let decision = plan(&facts);
    tracing::debug!(?facts, ?decision, file = %path.display(), "recovering the log's last segment");
    match decision {
        Decision::Refuse => {
            return Err(OpenError::Damaged {
                file: path.clone(),
                at: look.end,
                lsn: look.next,
                what: look.what.to_owned(),
            });
        }
        Decision::Quarantine => {
            report.quarantined = Some(set_aside(disk, options, path, &bytes)?);
            found.jump = Some(look.beyond.max(seal.map_or(Lsn::NONE, |seal| seal.next)).max(look.next));
        }
        Decision::Cut => {
            report.cut_bytes = look.own_end.saturating_sub(look.end);
            report.cut_at = Some((path.clone(), look.end));
        }
        Decision::Keep => {}
    }
    let sealed = look.sealed && decision == Decision::Keep;
    report.clean = sealed;
    let mut len = bytes.len() as u64;
    if !sealed {
        len = len.max(options.segment_bytes);
        report.rewritten_bytes =
            settle(&*file, &bytes, &look, decision, len).map_err(OpenError::io("rewriting the tail of", path))?;
        if look.weak {
            // Numbers of records that never reached the disk may have been given out: as many as this file had room for.
            let lost = (len.saturating_sub(look.end)) / super::frame::HEADER as u64 + 1;
            found.jump = found.jump.max(Some(look.next.plus(lost)));
        }
    }
    if sealed {
        // Its process may have been killed between the seal's write and its sync, and the next segment says that it is there.
        reseal(&*file, &bytes, &look).map_err(OpenError::io("syncing the seal of", path))?;
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
fn settle(file: &dyn DiskFile, bytes: &[u8], look: &Scan, decision: Decision, len: u64) -> std::io::Result<u64> {
    let unproven = bytes.get(look.proven as usize..look.end as usize).unwrap_or_default();
    if !unproven.is_empty() {
        file.write_all_at(unproven, look.proven)?;
    }
    if decision != Decision::Keep || look.tail != Tail::End {
        spare::fill(file, look.end, look.own_end.max(look.end))?;
    }
    let short = (bytes.len() as u64) < len;
    if short {
        spare::fill(file, bytes.len() as u64, len)?;
    }
    file.sync_data()?;
    Ok(unproven.len() as u64)
}

/// Makes a seal that was found durable. Pages of a failed sync count as clean: they are written again.
fn reseal(file: &dyn DiskFile, bytes: &[u8], look: &Scan) -> std::io::Result<()> {
    file.write_all_at(bytes.get(look.proven as usize..).unwrap_or_default(), look.proven)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_data()
}

/// Copies a damaged segment to a name of its own, durably.
fn set_aside(disk: &dyn Disk, options: &LogOptions, path: &Path, bytes: &[u8]) -> Result<PathBuf, OpenError> {
    let mut copy = path.with_extension("damaged");
    for n in 1.. {
        if disk.open(&copy, OpenHow::Read).is_err() {
            break;
        }
        copy = path.with_extension(format!("{n}.damaged"));
    }
    let write = || {
        let file = disk.open(&copy, OpenHow::Create)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        disk.sync_dir(&options.dir)
    };
    write().map_err(OpenError::io("copying the damaged segment to", &copy))?;
    Ok(copy)
}
