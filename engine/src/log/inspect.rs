//! Looking at a log that is not open: for `forebay log ls|dump|verify`. Nothing here writes.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::Record;
use super::error::{OpenError, ReadError};
use super::frame::{self, Decoded, KIND_GAP, KIND_SEAL};
use super::options::OnDamage;
use super::plan::{Decision, Facts, Tail, plan};
use super::reader::record_of;
use super::recovery::open_segment;
use super::scan::{read_all, scan};
use super::segment::{Header, SEGMENT_HEADER, Seal, hex, parse_name};
use crate::disk::{Disk, DiskFile, OpenHow};
use crate::ids::Lsn;

/// One segment, as a walk through all of it found it.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// File.
    pub file: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Bytes used by header and records.
    pub used: u64,
    /// First record.
    pub first: Lsn,
    /// The number after the last record.
    pub next: Lsn,
    /// Records.
    pub records: u64,
    /// Time of creation, us since 1970.
    pub created_us: u64,
    /// It ends with a seal.
    pub sealed: bool,
    /// How its frames end.
    pub tail: Tail,
}

/// What a walk through a whole log found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Identity of the log, in hexadecimal.
    pub log_id: String,
    /// The segments in order.
    pub segments: Vec<SegmentReport>,
    /// Everything that is wrong. A torn tail of the last segment is not: opening cuts it.
    pub problems: Vec<OpenError>,
    /// What opening would do about the last segment.
    pub decision: Option<Decision>,
}

impl VerifyReport {
    /// True when every record reads.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

struct Loaded {
    path: PathBuf,
    header: Header,
    bytes: Vec<u8>,
    seal: Option<Seal>,
}

fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let mut names = disk.list(dir).map_err(OpenError::io("listing", dir))?;
    names.retain(|path| parse_name(path).is_some());
    names.sort();
    Ok(names)
}

fn load(disk: &dyn Disk, path: &Path, log_id: &mut Option<[u8; 16]>) -> Result<Loaded, OpenError> {
    let (file, header): (Arc<dyn DiskFile>, _) = open_segment(disk, path, OpenHow::Read, log_id)?;
    let seal = Seal::find(&*file, &header).map_err(OpenError::io("reading", path))?;
    let bytes = read_all(&*file).map_err(OpenError::io("reading", path))?;
    Ok(Loaded { path: path.to_owned(), header, bytes, seal })
}

/// Walks every record of the log in `dir` and checks every checksum.
///
/// # Errors
/// Only when the folder can't be listed; what is wrong with a segment is in the report.
pub fn verify(disk: &dyn Disk, dir: &Path) -> Result<VerifyReport, OpenError> {
    let mut report = VerifyReport::default();
    let mut log_id = None;
    let names = names(disk, dir)?;
    for (n, path) in names.iter().enumerate() {
        let is_last = n + 1 == names.len();
        match load(disk, path, &mut log_id) {
            Ok(loaded) => check(&loaded, is_last, &mut report),
            Err(problem) => report.problems.push(problem),
        }
    }
    report.log_id = log_id.map(|id| hex(&id)).unwrap_or_default();
    Ok(report)
}

fn check(loaded: &Loaded, is_last: bool, report: &mut VerifyReport) {
    let look = scan(&loaded.bytes, &loaded.header, loaded.seal);
    let facts = Facts { sealed: look.sealed || !is_last, tail: look.tail, policy: OnDamage::Refuse };
    let decision = plan(&facts);
    let damaged = |what: String| OpenError::Damaged { file: loaded.path.clone(), at: look.end, lsn: look.next, what };
    if decision == Decision::Refuse {
        report.problems.push(damaged(look.what.to_owned()));
    } else if !is_last && !look.sealed {
        report.problems.push(damaged("the seal at its end does not read".to_owned()));
    }
    if is_last {
        report.decision = Some(decision);
    }
    if let Some(before) = report.segments.last().filter(|before| before.next < loaded.header.first) {
        let missing = OpenError::MissingSegment { after: before.file.clone(), expected: before.next };
        report.problems.push(missing);
    }
    report.segments.push(SegmentReport {
        file: loaded.path.clone(),
        bytes: loaded.bytes.len() as u64,
        used: look.end,
        first: loaded.header.first,
        next: loaded.seal.map_or(look.next, |seal| seal.next),
        records: look.count,
        created_us: loaded.header.created_us,
        sealed: look.sealed,
        tail: look.tail,
    });
}

/// Shows every readable record from `from` on, with its file and offset, until `visit` breaks off.
///
/// # Errors
/// `Corrupt` at the first place that does not read and is not the end of the log; `Io`.
pub fn dump(
    disk: &dyn Disk,
    dir: &Path,
    from: Lsn,
    visit: &mut dyn FnMut(&Path, u64, Record) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let io = |source| ReadError::Io { file: dir.to_owned(), source };
    let names = names(disk, dir).map_err(|e| io(std::io::Error::other(e.to_string())))?;
    let mut log_id = None;
    for (n, path) in names.iter().enumerate() {
        let ends_before = names.get(n + 1).and_then(|next| parse_name(next)).is_some_and(|next| next <= from);
        if ends_before {
            continue;
        }
        let first = parse_name(path).unwrap_or_default();
        let corrupt = |at, lsn, what: String| ReadError::Corrupt { file: path.clone(), at, lsn, what };
        let loaded = load(disk, path, &mut log_id).map_err(|e| corrupt(0, first, e.to_string()))?;
        let bytes = Bytes::from(loaded.bytes);
        let mut at = SEGMENT_HEADER;
        loop {
            let rest = bytes.slice(at.min(bytes.len())..);
            let Decoded::Frame(frame) = frame::decode(&rest, loaded.header.seed()) else { break };
            if frame.kind == KIND_SEAL {
                break;
            }
            if frame.kind < KIND_GAP
                && frame.lsn >= from
                && visit(path, at as u64, record_of(&frame, rest.slice(..frame.size()))).is_break()
            {
                return Ok(());
            }
            at += frame.size();
        }
        let look = scan(&bytes, &loaded.header, loaded.seal);
        if look.tail == Tail::Damaged || (n + 1 < names.len() && !look.sealed) {
            return Err(corrupt(look.end, look.next, look.what.to_owned()));
        }
    }
    Ok(())
}
