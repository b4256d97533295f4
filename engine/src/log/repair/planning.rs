//! From what a look at the folder finds to the steps that make a sound log of it. Changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::rewrite::Rewrite;
use super::{Action, Numbers, RepairStep};
use crate::disk::{Disk, OpenHow};
use crate::ids::Lsn;
use crate::log::anatomy::{Anatomy, dissect};
use crate::log::error::OpenError;
use crate::log::frame::HEADER;
use crate::log::inspect::{Damage, Progress};
use crate::log::plan::{Head, Place, Reason, Tail};
use crate::log::segment::{Header, SEGMENT_HEADER, file_name};
use crate::log::survey::{Sighting, moving, survey};
use crate::log::trim::{Floor, INTENT};
use crate::log::window::{Lies, Window};

/// What there is to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub log_id: Option<[u8; 16]>,
    pub work: Vec<Work>,
    /// A repair was interrupted: its mark has to go even where nothing else is left to do.
    pub unfinished: bool,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.work.is_empty() && !self.unfinished
    }
}

/// A step, and how it is done.
#[derive(Debug)]
pub(super) struct Work {
    pub step: RepairStep,
    pub how: How,
}

#[derive(Debug)]
pub(super) enum How {
    Rename { to: Lsn },
    SetAside,
    Write(Box<Rewrite>),
    Floor(Lsn),
}

struct Planner<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    log_id: [u8; 16],
    work: Vec<Work>,
    /// The number that comes next, and the time of the record before it.
    expected: Lsn,
    time_us: u64,
}

pub(super) fn plan(disk: &dyn Disk, dir: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Plan, OpenError> {
    let seen = survey(disk, dir).map_err(OpenError::io("looking at", dir))?;
    let unfinished = !seen.unfinished.is_empty();
    let mut segments = seen.segments;
    segments.extend(seen.unfinished.into_iter().filter_map(|path| moving(disk, path, seen.log_id)));
    for segment in &mut segments {
        if matches!(segment.head, Head::Newer | Head::Unreadable) {
            return Err(segment.error(Reason::Header(segment.head), None, seen.log_id));
        }
    }
    let Some(first) = segments.first() else { return Ok(Plan { log_id: None, work: Vec::new(), unfinished }) };
    let guessed = || segments.iter().find_map(|segment| guess_id(disk, segment));
    let Some(log_id) = seen.log_id.or_else(guessed) else {
        let (file, lsn) = (first.path.clone(), first.name);
        let what = "no segment's header reads, so nothing tells which log this is".to_owned();
        return Err(OpenError::Damaged { file, at: 0, lsn, what });
    };
    let mut planner = Planner { disk, dir, log_id, work: Vec::new(), expected: Lsn::NONE, time_us: 0 };
    let total = segments.iter().map(|segment| segment.len).sum();
    let lost_end = segments.iter().max_by_key(|segment| segment.name).map(|last| (last.head, last.name, last.len));
    let segments = planner.sort_out(segments);
    planner.expected = match seen.floor {
        Floor::At(floor) => floor,
        Floor::None | Floor::Unreadable => {
            let first = segments.first().map_or(Lsn::FIRST, |(first, _)| *first);
            if seen.floor == Floor::Unreadable {
                planner.floor(first);
            }
            first
        }
    };
    let mut done = 0;
    for (n, (first, segment)) in segments.iter().enumerate() {
        progress(Progress { file: &segment.path, done, total });
        done += segment.len;
        planner.segment(*first, segment, segments.get(n + 1).map(|(after, _)| *after))?;
    }
    if let Some((Head::Foreign, name, len)) = lost_end {
        // What was in the file of this name had numbers; none of them may be given out again.
        planner.fill(name.max(planner.expected).plus(room(len)));
    }
    Ok(Plan { log_id: Some(log_id), work: planner.work, unfinished })
}

fn step(action: Action, file: PathBuf, why: String) -> RepairStep {
    RepairStep { action, file, to: None, why, records: 0, lost: Vec::new(), kept: None }
}

/// As many records as a file of this length can have held.
fn room(len: u64) -> u64 {
    len / HEADER as u64 + 1
}

/// The identity in a header whose checksum does not match, if the first record reads under it.
fn guess_id(disk: &dyn Disk, seen: &Sighting) -> Option<[u8; 16]> {
    let file = disk.open(&seen.path, OpenHow::Read).ok()?;
    let mut window = Window::new(&*file).ok()?;
    let log_id = *window.bytes(16, 16).ok()?.first_chunk::<16>()?;
    let header = Header { log_id, first: seen.name, created_us: 0, weak: false, reused: true, bytes: 0 };
    let lies = window.frame(SEGMENT_HEADER as u64, header.seed()).ok()?;
    matches!(lies, Lies::Frame(..)).then_some(log_id)
}

impl Planner<'_> {
    fn path_of(&self, first: Lsn) -> PathBuf {
        self.dir.join(file_name(first))
    }

    fn add(&mut self, step: RepairStep, how: How) {
        self.work.push(Work { step, how });
    }

    fn floor(&mut self, first: Lsn) {
        let file = self.dir.join(INTENT);
        let why = format!("it does not read; the log begins with record {first}");
        self.add(step(Action::Floor, file, why), How::Floor(first));
    }

    /// The segments of this log by their first record, each once. Others are set aside, and those with a wrong name renamed.
    fn sort_out(&mut self, segments: Vec<Sighting>) -> Vec<(Lsn, Sighting)> {
        let mut chosen: BTreeMap<Lsn, Sighting> = BTreeMap::new();
        let mut spare = Vec::new();
        for segment in segments {
            if segment.head == Head::Foreign {
                spare.push((segment, Reason::Header(Head::Foreign)));
                continue;
            }
            let first = segment.header.map_or(segment.name, |header| header.first);
            let target = self.path_of(first);
            let rank = |seen: &Sighting| (seen.header.is_some(), seen.path == target);
            match chosen.remove(&first) {
                Some(other) if rank(&other) >= rank(&segment) => {
                    chosen.insert(first, other);
                    spare.push((segment, Reason::Overlapping));
                }
                other => {
                    chosen.insert(first, segment);
                    spare.extend(other.map(|other| (other, Reason::Overlapping)));
                }
            }
        }
        for (segment, reason) in spare {
            self.add(step(Action::SetAside, segment.path, reason.what().to_owned()), How::SetAside);
        }
        for (first, segment) in &chosen {
            let target = self.path_of(*first);
            if segment.path != target {
                let why = format!("it begins with record {first}");
                let to = Some(target);
                let step = RepairStep { to, ..step(Action::Rename, segment.path.clone(), why) };
                self.add(step, How::Rename { to: *first });
            }
        }
        chosen.into_iter().collect()
    }

    fn segment(&mut self, first: Lsn, seen: &Sighting, after: Option<Lsn>) -> Result<(), OpenError> {
        let place = if after.is_some() { Place::Older } else { Place::Last };
        let anatomy = dissect(self.disk, seen, Some(self.log_id), place, after);
        let anatomy = anatomy.map_err(OpenError::io("reading", &seen.path))?;
        // Foreign and newer ones do not come this far.
        let Some(anatomy) = anatomy else { return Ok(()) };
        if first > self.expected {
            self.fill(first);
        }
        let (overlaps, last_us) = (first < self.expected, anatomy.scan.runs.iter().map(|run| run.last_time_us).max());
        let next = self.end_of(&anatomy, seen, after);
        if overlaps && next <= self.expected {
            let why = Reason::Overlapping.what().to_owned();
            self.add(step(Action::SetAside, seen.path.clone(), why), How::SetAside);
            return Ok(());
        }
        let unsealed = place == Place::Older && anatomy.seal.is_none();
        let astray = anatomy.scan.tail == Tail::Damaged || (anatomy.seal.is_some() && anatomy.scan.tail != Tail::End);
        if anatomy.assumed || overlaps || unsealed || astray || !anatomy.holes.is_empty() {
            self.rewrite(first, seen, &anatomy, next);
        }
        self.expected = next;
        self.time_us = self.time_us.max(last_us.unwrap_or(0));
        Ok(())
    }

    /// The number behind a segment's last record. Numbers that may have been given out are never given out again.
    fn end_of(&self, anatomy: &Anatomy, seen: &Sighting, after: Option<Lsn>) -> Lsn {
        let known = anatomy.next().max(anatomy.scan.beyond);
        match (anatomy.seal, after) {
            (Some(seal), _) => seal.next,
            (None, Some(after)) => known.max(after),
            (None, None) if anatomy.torn.is_some() && !anatomy.assumed => anatomy.scan.next,
            (None, None) if anatomy.header.weak || anatomy.readable() == 0 => known.plus(room(seen.len)),
            (None, None) => known,
        }
    }

    fn rewrite(&mut self, first: Lsn, seen: &Sighting, anatomy: &Anatomy, next: Lsn) {
        let begin = first.max(self.expected);
        let header = Header { first: begin, reused: false, bytes: 0, ..anatomy.header };
        let source = self.path_of(first);
        let runs: Vec<_> = anatomy.scan.runs.iter().filter(|run| run.count > 0 && run.next > begin).copied().collect();
        let mut lost = Vec::new();
        let mut why = Vec::new();
        let mut say = |at: u64, end: u64, numbers: Numbers, reason: Reason, what: &str| {
            let (first, next) = numbers;
            why.push(what.to_owned());
            let (file, what, at_most) = (source.clone(), what.to_owned(), reason == Reason::CutShort);
            lost.push(Damage { file, at, end, first, next, at_most, reason, what });
        };
        if anatomy.assumed {
            let reason = Reason::Header(seen.head);
            say(0, (SEGMENT_HEADER as u64).min(seen.len), (begin, begin), reason, reason.what());
        }
        if begin > first {
            say(0, 0, (begin, begin), Reason::Overlapping, Reason::Overlapping.what());
        }
        // The gaps between what is kept, and the bytes that they stand for.
        let (mut at, mut from) = (begin, SEGMENT_HEADER as u64);
        let what = if anatomy.scan.what.is_empty() { Reason::Damaged.what() } else { anatomy.scan.what };
        for run in &runs {
            if run.first > at {
                say(from, run.at, (at, run.first), Reason::Damaged, what);
            }
            (at, from) = (run.next, run.end);
        }
        if next > at {
            let reason = if seen.is_short() { Reason::CutShort } else { Reason::Damaged };
            say(from, anatomy.seal.map_or(seen.len, |seal| seal.at), (at, next), reason, what);
        } else if anatomy.seal.is_none() {
            say(from, seen.len, (at, at), Reason::NoSeal, Reason::NoSeal.what());
        }
        let records = runs.iter().map(|run| run.count).sum();
        let source_seed = anatomy.header.seed();
        let how = Rewrite { source: Some((source.clone(), source_seed)), header, runs, next, after_us: self.time_us };
        why.dedup();
        let (why, to) = (why.join("; "), self.path_of(begin));
        let to = (to != source).then_some(to);
        let step = RepairStep { to, records, lost, ..step(Action::Rewrite, source, why) };
        self.add(step, How::Write(Box::new(how)));
    }

    /// A segment with one gap, from the number that comes next to `next`.
    fn fill(&mut self, next: Lsn) {
        let first = std::mem::replace(&mut self.expected, next);
        let file = self.path_of(first);
        let header =
            Header { log_id: self.log_id, first, created_us: self.time_us, weak: false, reused: false, bytes: 0 };
        let how = Rewrite { source: None, header, runs: Vec::new(), next, after_us: self.time_us };
        let what = Reason::MissingBefore.what().to_owned();
        let lost = Damage {
            file: file.clone(),
            at: 0,
            end: 0,
            first,
            next,
            at_most: false,
            reason: Reason::MissingBefore,
            what,
        };
        let why = format!("records {first} to {} are missing", next.0.saturating_sub(1));
        let step = RepairStep { lost: vec![lost], ..step(Action::Fill, file, why) };
        self.add(step, How::Write(Box::new(how)));
    }
}
