//! Every byte, every truncation point, every pair of swapped segments, every missing one: named with file and place, nothing skipped in silence, and
//! after a repair everything that was not damaged is there.
//!
//! With `FOREBAY_DAMAGE=all` every place is looked at; without it every eleventh, and those at the beginning. Of those looked at, one in 101 is opened
//! and repaired too, and all of the header.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use forebay_engine::Lsn;
use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::{Disk, DiskFile, FolderLock, OpenHow};
use forebay_engine::log::{
    Action, Log, LogOptions, NewRecord, OpenError, ReadError, Reason, RecoveryReport, VerifyReport, repair, verify,
};

const DIR: &str = "/log";

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Paths and what is in them.
type Files = Vec<(PathBuf, Vec<u8>)>;

/// Files in memory, nothing else: a hundred thousand logs are opened here.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<BTreeMap<PathBuf, Bytes>>>);

#[derive(Debug)]
struct MemoryFile(Bytes);

impl Memory {
    fn of(files: &[(PathBuf, Vec<u8>)]) -> Memory {
        let files = files.iter().map(|(path, bytes)| (path.clone(), Arc::new(Mutex::new(bytes.clone()))));
        Memory(Arc::new(Mutex::new(files.collect())))
    }

    fn files(&self) -> Files {
        self.0.lock().unwrap().iter().map(|(path, bytes)| (path.clone(), bytes.lock().unwrap().clone())).collect()
    }

    fn bytes(&self, path: &Path) -> Vec<u8> {
        self.0.lock().unwrap()[path].lock().unwrap().clone()
    }

    fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.0.lock().unwrap()[path].lock().unwrap());
    }
}

impl Disk for Memory {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Box<dyn DiskFile>> {
        let mut files = self.0.lock().unwrap();
        if how == OpenHow::Create {
            files.insert(path.to_owned(), Bytes::default());
        }
        let file = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile(file.clone())))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn list(&self, _dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
    fn lock(&self, _path: &Path) -> io::Result<FolderLock> {
        Ok(FolderLock::new(()))
    }
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = self.0.lock().unwrap();
        let from = bytes.get(at as usize..).unwrap_or_default();
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }
    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let end = at as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at as usize..end].copy_from_slice(buf);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

fn open(disk: &Memory) -> Result<(Log, RecoveryReport), OpenError> {
    let options =
        LogOptions { segment_bytes: 64 << 10, prepare_ahead: false, log_id: Some([9; 16]), ..LogOptions::new(DIR) };
    Log::open_on(Arc::new(disk.clone()), Arc::new(SteppedClock::new(1_000_000)), options)
}

fn body(n: u64) -> Vec<u8> {
    (0..200 + n % 150).map(|b| (b * 7 + n * 13) as u8).collect()
}

/// A frame, as this test reads it for itself.
#[derive(Clone, Copy, Debug)]
struct Place {
    lsn: u64,
    at: usize,
    end: usize,
}

/// One segment of the log under test.
#[derive(Clone, Debug)]
struct Segment {
    path: PathBuf,
    len: usize,
    places: Vec<Place>,
    /// Where the last frame ends; a seal begins there, or nothing.
    end: usize,
    sealed: bool,
}

fn segment(path: &Path, bytes: &[u8]) -> Segment {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (mut at, mut places) = (64, Vec::new());
    while bytes[at + 28] != 0 && bytes[at + 28] != 129 {
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        places.push(Place { lsn: number(at + 8), at, end: at + 32 + len });
        at += 32 + len;
    }
    Segment { path: path.to_owned(), len: bytes.len(), places, end: at, sealed: bytes[at + 28] == 129 }
}

const GROUP: u64 = 5;

/// Three segments: one that was full, one of a clean shutdown, and one that is being written.
fn log() -> (Files, Vec<Segment>, u64) {
    let disk = Memory::default();
    let append = |log: &Log, groups: u64| {
        for _ in 0..groups {
            let first = log.end().0;
            log.append_durable(
                (first..first + GROUP).map(|n| NewRecord { kind: 1, body: body(n) }).collect::<Vec<_>>(),
            )
            .unwrap();
        }
    };
    let (log, _) = open(&disk).unwrap();
    append(&log, 60);
    log.close();
    drop(log);
    let (log, _) = open(&disk).unwrap();
    append(&log, 12);
    let end = log.end().0;
    drop(log);
    let is = |path: &Path, extension: &str| path.extension().is_some_and(|e| e == extension);
    let files: Files = disk.files().into_iter().filter(|(path, _)| is(path, "seg") || is(path, "intent")).collect();
    let segments = files.iter().filter(|(path, _)| is(path, "seg"));
    let segments: Vec<Segment> = segments.map(|(path, bytes)| segment(path, bytes)).collect();
    let sealed: Vec<bool> = segments.iter().map(|segment| segment.sealed).collect();
    assert_eq!(sealed, [true, true, false]);
    assert!(segments[0].len == 64 << 10 && segments[1].len < 40 << 10 && segments[2].len == 64 << 10);
    (files, segments, end)
}

/// All records that read, and where reading stopped for damage.
fn read(log: &Log) -> (BTreeSet<u64>, Vec<u64>) {
    let (mut lsns, mut corrupt) = (BTreeSet::new(), Vec::new());
    let mut from = log.first();
    let mut records = Vec::new();
    while from < log.durable_end() {
        let mut reader = log.reader(from).unwrap();
        match reader.read_batch(1000, 1 << 20, &mut records) {
            Ok(0) => break,
            Ok(_) => from = reader.position(),
            Err(ReadError::Corrupt { lsn, .. }) => {
                assert!(!corrupt.contains(&lsn.0), "who begins behind damage comes to it: record {lsn}");
                corrupt.push(lsn.0);
                from = lsn.next();
            }
            Err(e) => panic!("{e}"),
        }
        for record in records.drain(..) {
            assert_eq!(&record.body[..], body(record.lsn.0), "record {}", record.lsn);
            lsns.insert(record.lsn.0);
        }
    }
    (lsns, corrupt)
}

/// Repairs, and checks that the log is sound, opens, and has these records at least and no others than there were.
fn repaired(disk: &Memory, lost: &BTreeSet<u64>, end: u64, context: &str) {
    let before = disk.files();
    let dir = Path::new(DIR);
    let planned = repair(disk, dir, false, &mut |_| {}).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(disk.files(), before, "{context}: a plan changes nothing");
    let done = repair(disk, dir, true, &mut |_| {}).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(done.steps.len(), planned.steps.len(), "{context}");
    for step in done.steps.iter().filter(|step| matches!(step.action, Action::Rewrite | Action::SetAside)) {
        let kept = step.kept.as_ref().unwrap();
        let was = &before.iter().find(|(path, _)| *path == step.file).unwrap().1;
        assert_eq!(&disk.bytes(&kept.file), was, "{context}: what was set aside is not what was there");
        assert_eq!(kept.crc, crc32fast::hash(was), "{context}");
    }
    let report = verify(disk, dir).unwrap();
    assert!(report.is_sound(), "{context}: after the repair {:?}", report.damage);
    assert!(
        repair(disk, dir, true, &mut |_| {}).unwrap().steps.is_empty(),
        "{context}: a second repair has work to do"
    );
    let (log, _) = open(disk).unwrap_or_else(|e| panic!("{context}: after the repair: {e}"));
    let (records, corrupt) = read(&log);
    let expected: BTreeSet<u64> = (1..end).filter(|lsn| !lost.contains(lsn)).collect();
    assert!(corrupt.is_empty() && records.is_superset(&expected), "{context}: {:?}", expected.difference(&records));
    assert!(records.iter().all(|lsn| *lsn < end), "{context}: invented");
    let lost_tail = lost.last().is_some_and(|last| *last + 1 == end);
    assert!(log.end().0 >= end || lost_tail, "{context}: numbers are given twice");
}

/// One in so many of the places is opened and repaired.
const DEEP: usize = 101;

/// Runs the places of a file, on two threads.
fn at_places(segment: &Segment, check: &(dyn Fn(usize) + Sync)) -> usize {
    let stride = if std::env::var_os("FOREBAY_DAMAGE").is_some_and(|which| which == "all") { 1 } else { 11 };
    let places: Vec<usize> = (0..segment.len).filter(|at| at.is_multiple_of(stride) || *at < 200).collect();
    std::thread::scope(|scope| {
        let places = &places;
        for part in 0..2 {
            scope.spawn(move || places.iter().skip(part).step_by(2).for_each(|at| check(*at)));
        }
    });
    places.len()
}

fn tell(what: &str, places: usize, started: Instant) {
    println!("{what}: {places} places in {:.1} s", started.elapsed().as_secs_f64());
}

/// What a flipped byte costs: the record it is in.
fn hit(segment: &Segment, at: usize) -> Option<Place> {
    segment.places.iter().find(|place| (place.at..place.end).contains(&at)).copied()
}

fn check_flip(base: &[(PathBuf, Vec<u8>)], segment: &Segment, at: usize, end: u64) {
    let flip = [0x01, 0x80, 0xff][at % 7 % 3];
    let disk = Memory::of(base);
    disk.change(&segment.path, |bytes| bytes[at] ^= flip);
    let context = format!("{} byte {at}", segment.path.display());
    let report = verify(&disk, Path::new(DIR)).unwrap();
    let group_end = end - GROUP;
    let place = hit(segment, at);
    let in_last_group = !segment.sealed && at >= 64 && place.is_none_or(|place| place.lsn >= group_end);
    let names = |report: &VerifyReport| {
        let [damage] = &report.damage[..] else { panic!("{context}: {:?}", report.damage) };
        assert_eq!(damage.file, segment.path, "{context}");
        assert!(damage.at <= at as u64 && (at as u64) < damage.end, "{context}: {damage}");
        (damage.reason, damage.first.0, damage.next.0)
    };
    let mut lost = BTreeSet::new();
    if in_last_group {
        let cut = place.map_or(segment.end, |place| place.at) as u64;
        let (file, from, to) = report.torn.clone().unwrap_or_else(|| panic!("{context}: skipped in silence"));
        assert!(report.is_sound() && file == segment.path && from == cut && to > at as u64, "{context}: {from} {to}");
        lost.extend(place.map_or(end, |place| place.lsn)..end);
    } else if let Some(place) = place {
        assert_eq!(names(&report), (Reason::Damaged, place.lsn, place.lsn + 1), "{context}");
        lost.insert(place.lsn);
    } else if at < 64 {
        let (reason, first, next) = names(&report);
        assert!(matches!(reason, Reason::Header(_)) && first == next, "{context}: {reason:?}");
    } else {
        let (reason, first, next) = names(&report);
        assert!(reason == Reason::NoSeal && first == next, "{context}: {reason:?}");
    }
    let deep = at.is_multiple_of(DEEP) || at < 64;
    if !deep {
        return;
    }
    match open(&Memory::of(&disk.files())) {
        Ok((log, opened)) => {
            assert!(segment.sealed && place.is_some() || in_last_group, "{context}: opened");
            let (records, corrupt) = read(&log);
            if in_last_group {
                assert!(opened.cut_bytes > 0 && opened.cut_at.unwrap().0 == segment.path, "{context}");
                assert_eq!(records, (1..end).filter(|lsn| !lost.contains(lsn)).collect(), "{context}");
            } else {
                assert_eq!(corrupt, lost.iter().copied().collect::<Vec<_>>(), "{context}");
                assert_eq!(records.len() as u64 + 1, end - 1, "{context}");
            }
        }
        Err(OpenError::Damaged { file, at: place_at, lsn, .. }) => {
            assert!(file == segment.path && !in_last_group, "{context}");
            if let Some(place) = place {
                assert_eq!((place_at, lsn.0), (place.at as u64, place.lsn), "{context}");
            }
        }
        Err(e) => panic!("{context}: {e}"),
    }
    repaired(&disk, &lost, end, &context);
}

#[test]
fn every_flipped_byte_is_named_and_costs_its_record_alone() {
    let (base, segments, end) = log();
    for segment in &segments {
        let started = Instant::now();
        let places = at_places(segment, &|at| check_flip(&base, segment, at, end));
        tell(&format!("flips of {}", segment.path.display()), places, started);
    }
}

fn check_cut(base: &[(PathBuf, Vec<u8>)], segments: &[Segment], n: usize, cut: usize, end: u64) {
    let segment = &segments[n];
    let disk = Memory::of(base);
    disk.change(&segment.path, |bytes| bytes.truncate(cut));
    let context = format!("{} cut at {cut}", segment.path.display());
    let report = verify(&disk, Path::new(DIR)).unwrap();
    assert!(!report.is_sound(), "{context}: skipped in silence");
    assert!(report.damage.iter().all(|damage| damage.file == segment.path), "{context}: {:?}", report.damage);
    let mut lost: BTreeSet<u64> =
        segment.places.iter().filter(|place| place.end > cut).map(|place| place.lsn).collect();
    for lsn in &lost {
        let named = report.damage.iter().any(|damage| (damage.first.0..damage.next.0).contains(lsn));
        assert!(named || cut < 64 && report.damage.iter().any(|damage| damage.at_most), "{context}: record {lsn}");
    }
    let sealed = segment.sealed;
    if lost.is_empty() {
        let said: u64 = report.damage.iter().filter(|damage| !damage.at_most).map(|damage| damage.records()).sum();
        assert_eq!(said, 0, "{context}: {:?}", report.damage);
    }
    if !cut.is_multiple_of(DEEP) && cut > 64 {
        return;
    }
    match open(&Memory::of(&disk.files())) {
        Err(OpenError::Damaged { file, .. }) => assert_eq!(file, segment.path, "{context}"),
        other => panic!("{context}: {other:?}"),
    }
    if !sealed {
        // How many there were can't be told; the highest number given out must not come again.
        lost.extend(lost.first().copied().unwrap_or(end)..end);
    }
    repaired(&disk, &lost, end, &context);
}

#[test]
fn every_truncation_point_is_named_and_costs_what_was_behind_it() {
    let (base, segments, end) = log();
    for (n, segment) in segments.iter().enumerate() {
        let started = Instant::now();
        let places = at_places(segment, &|cut| check_cut(&base, &segments, n, cut, end));
        tell(&format!("cuts of {}", segment.path.display()), places, started);
    }
}

#[test]
fn swapped_segments_are_named_and_put_right() {
    let (base, segments, end) = log();
    for pair in segments.windows(2) {
        let disk = Memory::of(&base);
        let (one, other) = (disk.bytes(&pair[0].path), disk.bytes(&pair[1].path));
        disk.change(&pair[0].path, |bytes| *bytes = other);
        disk.change(&pair[1].path, |bytes| *bytes = one);
        let report = verify(&disk, Path::new(DIR)).unwrap();
        let named: Vec<_> = report.damage.iter().map(|damage| (damage.file.clone(), damage.reason)).collect();
        let misnamed = |n: usize| (pair[n].path.clone(), Reason::Header(forebay_engine::log::Head::Misnamed));
        assert_eq!(named, [misnamed(0), misnamed(1)]);
        match open(&disk) {
            Err(OpenError::Damaged { file, .. }) => assert_eq!(file, pair[0].path),
            other => panic!("{other:?}"),
        }
        let done = repair(&Memory::of(&disk.files()), Path::new(DIR), true, &mut |_| {}).unwrap();
        assert!(done.steps.iter().all(|step| step.action == Action::Rename) && done.records_lost() == 0);
        repaired(&disk, &BTreeSet::new(), end, "swapped");
    }
}

#[test]
fn each_missing_segment_is_named_and_a_gap_takes_its_place() {
    let (base, segments, end) = log();
    for n in 0..2 {
        let disk = Memory::of(&base);
        disk.remove(&segments[n].path).unwrap();
        let report = verify(&disk, Path::new(DIR)).unwrap();
        let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
        let (first, next) = (segments[n].places[0].lsn, segments[n + 1].places[0].lsn);
        assert_eq!((damage.reason, damage.first.0, damage.next.0), (Reason::MissingBefore, first, next));
        match (n, open(&disk)) {
            (0, Err(OpenError::MissingFirst { expected, .. })) => assert_eq!(expected, Lsn(1)),
            (1, Err(OpenError::MissingSegment { expected, .. })) => assert_eq!(expected.0, first),
            (_, other) => panic!("{other:?}"),
        }
        repaired(&disk, &(first..next).collect(), end, "missing");
    }
}

#[test]
fn a_repair_can_be_interrupted_at_any_change_and_done_again() {
    use forebay_engine::disk::ForgettingDisk;
    let (base, segments, end) = log();
    // The first two swapped, the third damaged in a proven group, and all of it on a disk that forgets.
    let damaged = |disk: &ForgettingDisk| {
        disk.overwrite(&segments[0].path, &base[1].1);
        disk.overwrite(&segments[1].path, &base[0].1);
        let mut bytes = base[2].1.clone();
        bytes[segments[2].places[7].at + 40] ^= 1;
        disk.overwrite(&segments[2].path, &bytes);
    };
    let lost = segments[2].places[7].lsn;
    for step in 0.. {
        let disk = ForgettingDisk::new();
        damaged(&disk);
        disk.power_off_after(step);
        let done = repair(&disk, Path::new(DIR), true, &mut |_| {});
        disk.crash(step * 31);
        let again = Memory::default();
        for path in disk.list(Path::new(DIR)).unwrap() {
            again.0.lock().unwrap().insert(path.clone(), Arc::new(Mutex::new(disk.bytes(&path).unwrap())));
        }
        if let Ok((log, _)) = open(&Memory::of(&again.files())) {
            let (records, corrupt) = read(&log);
            assert!(corrupt.is_empty() && records.len() as u64 == end - 2, "step {step}: opened half repaired");
        }
        repaired(&again, &BTreeSet::from([lost]), end, &format!("step {step}"));
        if done.is_ok() {
            assert!(step > 10, "{step} changes");
            return;
        }
    }
}

#[test]
fn a_foreign_and_an_overlapping_segment_are_set_aside() {
    let (base, segments, end) = log();
    // A segment of another log in the place of the second.
    let other = Memory::default();
    let options =
        LogOptions { segment_bytes: 64 << 10, prepare_ahead: false, log_id: Some([1; 16]), ..LogOptions::new(DIR) };
    let clock = Arc::new(SteppedClock::new(5));
    drop(Log::open_on(Arc::new(other.clone()), clock, options).unwrap());
    let disk = Memory::of(&base);
    disk.change(&segments[1].path, |bytes| *bytes = other.files()[0].1.clone());
    let report = verify(&disk, Path::new(DIR)).unwrap();
    assert!(report.damage.iter().any(|d| d.file == segments[1].path && d.reason.what() == "belongs to another log"));
    let (first, next) = (segments[1].places[0].lsn, segments[2].places[0].lsn);
    repaired(&disk, &(first..next).collect(), end, "foreign");
    // A copy of the second under the name of a number in its middle.
    let disk = Memory::of(&base);
    let copy = Path::new(DIR).join(format!("{:020}.seg", first + 3));
    let bytes = disk.bytes(&segments[1].path);
    disk.write(&copy, bytes);
    let report = verify(&disk, Path::new(DIR)).unwrap();
    assert!(report.damage.iter().any(|damage| damage.file == copy), "{:?}", report.damage);
    assert!(open(&disk).is_err());
    repaired(&disk, &BTreeSet::new(), end, "copy");
}

impl Memory {
    fn write(&self, path: &Path, bytes: Vec<u8>) {
        self.0.lock().unwrap().insert(path.to_owned(), Arc::new(Mutex::new(bytes)));
    }
}
