//! Looking at a log that is not open: `forebay log verify`. Nothing here writes.

use std::io;
use std::path::{Path, PathBuf};

use super::anatomy::{Anatomy, Hole, dissect};
use super::error::OpenError;
use super::options::OnDamage;
use super::plan::{Decision, Head, Joint, Place, Reason, Tail, plan};
use super::segment::hex;
use super::survey::{Sighting, survey};
use super::trim::{Floor, INTENT};
use crate::disk::Disk;
use crate::ids::Lsn;

/// One segment, as a walk through all of it found it.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// File.
    pub file: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Bytes used by header and records, up to the first place that does not read.
    pub used: u64,
    /// First record.
    pub first: Lsn,
    /// The number after the last record.
    pub next: Lsn,
    /// Records that read, gaps among them.
    pub records: u64,
    /// Time of creation, us since 1970.
    pub created_us: u64,
    /// It ends with a seal.
    pub sealed: bool,
    /// How its frames end.
    pub tail: Tail,
}

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file; for a missing segment the one behind the hole.
    pub file: PathBuf,
    /// First byte that does not read.
    pub at: u64,
    /// The byte behind the last one that does not read.
    pub end: u64,
    /// First record that is lost.
    pub first: Lsn,
    /// The number behind the last record that is lost; the same as `first` when none is.
    pub next: Lsn,
    /// `next` is the highest it can have been: how many records there were can't be told.
    pub at_most: bool,
    /// What kind of damage it is.
    pub reason: Reason,
    /// What is wrong, in words.
    pub what: String,
}

impl Damage {
    /// Numbers lost.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.next.0.saturating_sub(self.first.0)
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: bytes {}..{}: {}", self.file.display(), self.at, self.end, self.what)?;
        match self.records() {
            0 => f.write_str("; no record is lost"),
            n if self.at_most => write!(f, "; records from {} on may be lost (at most {n})", self.first),
            1 => write!(f, "; record {} is lost", self.first),
            n => write!(f, "; records {} to {} are lost ({n})", self.first, self.next.0.saturating_sub(1)),
        }?;
        write!(f, "; {}", self.reason.remedy())
    }
}

/// What a walk through a whole log found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Identity of the log, in hexadecimal.
    pub log_id: String,
    /// The segments in order, as far as they read.
    pub segments: Vec<SegmentReport>,
    /// Everything that is wrong. A torn tail of the last segment is not: opening cuts it.
    pub damage: Vec<Damage>,
    /// What opening would do about the last segment.
    pub decision: Option<Decision>,
    /// The torn tail that opening cuts off: its file, and the bytes from and to. It was never acknowledged.
    pub torn: Option<(PathBuf, u64, u64)>,
    /// Segments that an interrupted trim has left; opening removes them.
    pub trimmed: usize,
    /// The note of where the log begins does not read; the next trim writes it anew.
    pub floor_unreadable: bool,
}

impl VerifyReport {
    /// True when every record reads.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

/// How far a walk has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file that comes next.
    pub file: &'a Path,
    /// Bytes looked at.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Walks every record of the log in `dir` and checks every checksum.
///
/// # Errors
/// Only when the folder can't be listed; what is wrong with a segment is in the report.
pub fn verify(disk: &dyn Disk, dir: &Path) -> Result<VerifyReport, OpenError> {
    verify_with(disk, dir, &mut |_| {})
}

/// As [`verify`], and tells how far it has come before each segment.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(
    disk: &dyn Disk,
    dir: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<VerifyReport, OpenError> {
    let seen = survey(disk, dir).map_err(OpenError::io("looking at", dir))?;
    let mut report = VerifyReport {
        log_id: seen.log_id.map(|id| hex(&id)).unwrap_or_default(),
        trimmed: seen.trimmed.len(),
        floor_unreadable: seen.floor == Floor::Unreadable,
        ..VerifyReport::default()
    };
    for file in &seen.unfinished {
        let what = Reason::RepairUnfinished.what().to_owned();
        let (at, end, first, next) = (0, 0, Lsn::NONE, Lsn::NONE);
        let (file, reason, at_most) = (file.clone(), Reason::RepairUnfinished, false);
        report.damage.push(Damage { file, at, end, first, next, at_most, reason, what });
    }
    if let Some(floor) = seen.floor_beyond {
        let (file, reason, what) = (dir.join(INTENT), Reason::FloorBeyond, Reason::FloorBeyond.what().to_owned());
        report.damage.push(Damage { file, at: 8, end: 16, first: floor, next: floor, at_most: false, reason, what });
    }
    let total = seen.segments.iter().map(|segment| segment.len).sum();
    let mut done = 0;
    for (n, segment) in seen.segments.iter().enumerate() {
        progress(Progress { file: &segment.path, done, total });
        done += segment.len;
        let after = seen.segments.get(n + 1).map(|after| after.name);
        let place = if after.is_some() { Place::Older } else { Place::Last };
        // Where one with a wrong name should end is not told by the name of the next.
        let until = after.filter(|_| segment.head != Head::Misnamed);
        let taken_apart = dissect(disk, segment, seen.log_id, place, until);
        check(segment, place, after, taken_apart, &mut report);
    }
    Ok(report)
}

fn check(
    seen: &Sighting,
    place: Place,
    after: Option<Lsn>,
    taken_apart: io::Result<Option<Anatomy>>,
    report: &mut VerifyReport,
) {
    let file = &seen.path;
    let mut say = |at, end, first: Lsn, next: Lsn, reason: Reason, what: String| {
        let (file, next, at_most) = (file.clone(), next.max(first), false);
        report.damage.push(Damage { file, at, end, first, next, at_most, reason, what });
    };
    match seen.joint {
        Joint::Hole => {
            let what = format!("the segment that begins with record {} is missing before this one", seen.expected);
            say(0, 0, seen.expected, seen.name, Reason::MissingBefore, what);
        }
        Joint::Overlap => {
            let what = format!("{} (it should begin with {})", Reason::Overlapping.what(), seen.expected);
            say(0, 0, seen.name, seen.name, Reason::Overlapping, what);
        }
        Joint::Fits | Joint::Unknown => {}
    }
    let anatomy = match taken_apart {
        Ok(anatomy) => anatomy,
        Err(error) => {
            let reason = Reason::Header(Head::Unreadable);
            say(0, seen.len, seen.name, after.unwrap_or(seen.name), reason, format!("it can't be read: {error}"));
            return;
        }
    };
    if seen.head != Head::Sound {
        let reason = Reason::Header(seen.head);
        let mut what = reason.what().to_owned();
        match (seen.head, seen.header, &seen.error) {
            (Head::Misnamed, Some(header), _) => what = format!("{what}: it begins with record {}", header.first),
            (Head::Foreign, Some(header), _) => what = format!("{what}: {}", hex(&header.log_id)),
            (Head::Newer, ..) => what = format!("{what}: format {}", seen.version),
            (Head::Unreadable, _, Some(error)) => what = format!("{what}: {error}"),
            _ => {}
        }
        // What of its records reads is said below; without any, all of them are lost.
        let reads = anatomy.as_ref().is_some_and(|anatomy| anatomy.readable() > 0 || after.is_some());
        let (mut next, at_most) = (seen.name, !reads && after.is_none());
        if !reads {
            next = after.unwrap_or(next.plus(seen.len / super::frame::HEADER as u64 + 1));
        }
        let (file, end) = (file.clone(), (super::segment::SEGMENT_HEADER as u64).min(seen.len));
        report.damage.push(Damage { file, at: 0, end, first: seen.name, next, at_most, reason, what });
    }
    let Some(anatomy) = anatomy else { return };
    for hole in &anatomy.holes {
        let reason = match (place, hole.first == hole.next) {
            (Place::Older, true) => Reason::NoSeal,
            (Place::Last, _) if seen.is_short() => Reason::CutShort,
            _ => Reason::Damaged,
        };
        let Hole { at, end, first, next, at_most, what } = *hole;
        report.damage.push(Damage { file: file.clone(), at, end, first, next, at_most, reason, what: what.to_owned() });
    }
    let look = &anatomy.scan;
    if place == Place::Last {
        let facts = seen.facts(place, OnDamage::Refuse, Some(look));
        let (decision, reason) = plan(&facts);
        report.decision = Some(decision);
        if decision == Decision::Refuse
            && anatomy.holes.is_empty()
            && seen.head == Head::Sound
            && reason == Reason::Damaged
        {
            let end = look.own_end.max(look.end);
            let (next, what) = (look.beyond.max(look.next), look.what.to_owned());
            let (file, at, first) = (file.clone(), look.end, look.next);
            report.damage.push(Damage { file, at, end, first, next, at_most: false, reason, what });
        }
        report.torn = anatomy.torn.map(|(from, to)| (file.clone(), from, to));
    }
    report.segments.push(SegmentReport {
        file: file.clone(),
        bytes: seen.len,
        used: look.end,
        first: anatomy.header.first,
        next: anatomy.next(),
        records: anatomy.readable(),
        created_us: anatomy.header.created_us,
        sealed: anatomy.seal.is_some(),
        tail: look.tail,
    });
}
