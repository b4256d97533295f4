//! Damage of every kind at every place of a small log: nothing wrong is ever read, nothing proven is ever lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_engine::Lsn;
use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::ForgettingDisk;
use forebay_engine::log::{Log, LogOptions, NewRecord, OnDamage, OpenError, ReadError, Record, RecoveryReport, verify};

const HEADER: usize = 64;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, prepare_ahead: false, log_id: Some([9; 16]), ..LogOptions::new("/log") }
}

fn open_with(disk: &ForgettingDisk, options: LogOptions) -> Result<(Log, RecoveryReport), OpenError> {
    Log::open_on(Arc::new(disk.clone()), Arc::new(SteppedClock::new(1_000_000)), options)
}

fn open(disk: &ForgettingDisk) -> Result<(Log, RecoveryReport), OpenError> {
    open_with(disk, options())
}

fn body(n: u64) -> Vec<u8> {
    (0..10 + n % 23).map(|b| (b * 7 + n * 13) as u8).collect()
}

fn read_all(log: &Log) -> Result<Vec<Record>, ReadError> {
    let mut out = Vec::new();
    let mut reader = log.reader(log.first())?;
    while reader.read_batch(64, 1 << 20, &mut out)? > 0 {}
    Ok(out)
}

fn check(records: &[Record]) {
    for (n, record) in records.iter().enumerate() {
        assert_eq!(record.lsn, Lsn(n as u64 + 1));
        assert_eq!(record.body, body(record.lsn.0), "record {}", record.lsn);
    }
}

/// Groups of three records; the log was killed, not closed. Gives the end of each group in the file.
fn killed_log(groups: u64) -> (ForgettingDisk, PathBuf, Vec<usize>) {
    let disk = ForgettingDisk::new();
    let (log, _) = open(&disk).unwrap();
    let mut ends = vec![HEADER];
    for group in 0..groups {
        let first = group * 3 + 1;
        log.append_durable((first..first + 3).map(|n| NewRecord { kind: 1, body: body(n) }).collect::<Vec<_>>())
            .unwrap();
        let bytes: usize = (first..first + 3).map(|n| 32 + body(n).len()).sum();
        ends.push(ends.last().unwrap() + bytes);
    }
    disk.kill();
    drop(log);
    (disk, Path::new("/log").join("00000000000000000001.seg"), ends)
}

fn copy_of(path: &Path, bytes: &[u8]) -> ForgettingDisk {
    let disk = ForgettingDisk::new();
    disk.overwrite(path, bytes);
    disk
}

#[test]
fn zeros_from_any_point_of_the_last_segment_on_keep_all_groups_before_it() {
    let (disk, path, ends) = killed_log(8);
    let bytes = disk.bytes(&path).unwrap();
    for cut in HEADER..=*ends.last().unwrap() + 5 {
        // What did not reach the disk is zeros: the file has its full length from the beginning.
        let mut torn = bytes[..cut].to_vec();
        torn.resize(bytes.len(), 0);
        let disk = copy_of(&path, &torn);
        let (log, report) = open(&disk).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        let records = read_all(&log).unwrap();
        check(&records);
        let whole_groups = ends.iter().filter(|end| **end <= cut).count() - 1;
        assert!(records.len() >= whole_groups * 3, "cut at {cut}: {} of {}", records.len(), whole_groups * 3);
        // What comes next must not meet anything of the torn group.
        let n = records.len() as u64 + 1;
        assert_eq!(report.next, Lsn(n));
        log.append_durable(vec![NewRecord { kind: 1, body: body(n) }]).unwrap();
        disk.kill();
        let again = open(&disk).unwrap().0;
        let records = read_all(&again).unwrap();
        check(&records);
        assert_eq!(records.len() as u64, n, "cut at {cut}");
    }
}

#[test]
fn a_flipped_byte_anywhere_never_gives_a_wrong_record_and_never_loses_a_proven_group_silently() {
    let groups = 6;
    let (disk, path, ends) = killed_log(groups);
    let bytes = disk.bytes(&path).unwrap();
    let last_group = ends[groups as usize - 1];
    for at in 0..ends[groups as usize] {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = bytes.clone();
            bad[at] ^= flip;
            let disk = copy_of(&path, &bad);
            match open(&disk) {
                Ok((log, report)) => {
                    let records = read_all(&log).unwrap();
                    check(&records);
                    assert!(at >= last_group, "byte {at} of a proven group was damaged and nobody said so: {report:?}");
                    assert!(records.len() as u64 >= (groups - 1) * 3);
                }
                Err(OpenError::Damaged { .. } | OpenError::NewerFormat { .. }) => {
                    assert!(at < last_group, "byte {at}: the last group may be torn, not damaged");
                    assert_eq!(disk.bytes(&path).unwrap(), bad, "a refusal changes nothing");
                }
                Err(e) => panic!("byte {at}: {e}"),
            }
        }
    }
}

#[test]
fn damage_to_a_sealed_segment_is_refused_with_the_place() {
    let disk = ForgettingDisk::new();
    let (log, _) = open(&disk).unwrap();
    log.append_durable((1..=9).map(|n| NewRecord { kind: 1, body: body(n) }).collect::<Vec<_>>()).unwrap();
    log.close();
    let path = Path::new("/log/00000000000000000001.seg");
    let bytes = disk.bytes(path).unwrap();
    let records_end = HEADER + (1..=9).map(|n| 32 + body(n).len()).sum::<usize>();
    for at in HEADER..records_end {
        let mut bad = bytes.clone();
        bad[at] ^= 0x20;
        match open(&copy_of(path, &bad)) {
            Err(OpenError::Damaged { file, at: place, .. }) => {
                assert_eq!(file, path);
                assert!(place as usize <= at);
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn quarantine_keeps_a_copy_and_goes_on_behind_every_number_given_out() {
    let (disk, path, ends) = killed_log(5);
    let mut bad = disk.bytes(&path).unwrap();
    bad[ends[2] + 40] ^= 1;
    let disk = copy_of(&path, &bad);
    let (log, report) = open_with(&disk, LogOptions { on_damage: OnDamage::Quarantine, ..options() }).unwrap();
    assert_eq!(disk.bytes(&report.quarantined.unwrap()).unwrap(), bad);
    let records = read_all(&log).unwrap();
    check(&records);
    assert!(records.len() >= 6);
    assert!(
        log.append_durable(vec![NewRecord { kind: 1, body: vec![1] }]).unwrap().first > Lsn(15),
        "a number was given twice"
    );
}

#[test]
fn a_missing_a_foreign_and_a_newer_segment_are_refused_by_name() {
    let disk = ForgettingDisk::new();
    let (log, _) = open(&disk).unwrap();
    for _ in 0..6 {
        log.append_durable((0..50).map(|_| NewRecord { kind: 1, body: vec![7; 1000] }).collect::<Vec<_>>()).unwrap();
    }
    log.close();
    drop(log);
    let list = || {
        let mut files = forebay_engine::disk::Disk::list(&disk, Path::new("/log")).unwrap();
        files.retain(|file| file.extension().is_some_and(|e| e == "seg"));
        files.sort();
        files
    };
    let files = list();
    assert!(files.len() > 3);
    assert!(verify(&disk, Path::new("/log")).unwrap().is_sound());
    let all: Vec<_> = files.iter().map(|file| disk.bytes(file).unwrap()).collect();
    let rebuilt = |change: &dyn Fn(&ForgettingDisk)| {
        let fresh = ForgettingDisk::new();
        files.iter().zip(&all).for_each(|(file, bytes)| fresh.overwrite(file, bytes));
        change(&fresh);
        fresh
    };
    let missing = rebuilt(&|disk| forebay_engine::disk::Disk::remove(disk, &files[1]).unwrap());
    match open(&missing) {
        Err(OpenError::MissingSegment { after, .. }) => assert_eq!(after, files[0]),
        other => panic!("{other:?}"),
    }
    assert!(!verify(&missing, Path::new("/log")).unwrap().is_sound());
    let foreign = rebuilt(&|disk| {
        let other = ForgettingDisk::new();
        let stranger = LogOptions { log_id: Some([1; 16]), ..options() };
        drop(open_with(&other, stranger).unwrap());
        disk.overwrite(&files[2], &other.bytes(Path::new("/log/00000000000000000001.seg")).unwrap());
    });
    assert!(matches!(open(&foreign), Err(OpenError::ForeignSegment { file, .. }) if file == files[2]));
    let newer = rebuilt(&|disk| {
        let mut bytes = all[1].clone();
        bytes[8] = 9;
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        disk.overwrite(&files[1], &bytes);
    });
    assert!(matches!(open(&newer), Err(OpenError::NewerFormat { version: 9, .. })));
    let sealless = rebuilt(&|disk| {
        let bytes = &all[1];
        disk.overwrite(&files[1], &bytes[..bytes.len() - 3]);
    });
    assert!(matches!(open(&sealless), Err(OpenError::Damaged { file, .. }) if file == files[1]));
}

#[test]
fn damage_in_an_older_segment_is_an_error_at_the_read_that_meets_it() {
    let disk = ForgettingDisk::new();
    let (log, _) = open(&disk).unwrap();
    log.append_durable((0..200).map(|_| NewRecord { kind: 1, body: vec![7; 1000] }).collect::<Vec<_>>()).unwrap();
    log.close();
    let path = Path::new("/log/00000000000000000001.seg");
    let mut bytes = disk.bytes(path).unwrap();
    bytes[HEADER + 1032 * 3 + 500] ^= 1;
    disk.overwrite(path, &bytes);
    let (log, _) = open(&disk).unwrap();
    let mut reader = log.reader(Lsn(1)).unwrap();
    let mut out = Vec::new();
    let error = loop {
        match reader.read_batch(1, 1 << 20, &mut out) {
            Ok(n) => assert_eq!(n, 1),
            Err(e) => break e,
        }
    };
    assert!(matches!(error, ReadError::Corrupt { lsn: Lsn(4), .. }), "{error}");
    assert_eq!(out.len(), 3);
    assert!(log.read(Lsn(150)).unwrap().is_some(), "the rest of the log reads");
    assert!(!verify(&disk, Path::new("/log")).unwrap().is_sound());
}

#[test]
fn the_rest_of_a_torn_group_never_comes_back_behind_a_new_record_of_the_same_length() {
    let (disk, path, ends) = killed_log(3);
    let mut torn = disk.bytes(&path).unwrap();
    torn[ends[2] + 35] ^= 1;
    let disk = copy_of(&path, &torn);
    let (log, report) = open(&disk).unwrap();
    assert_eq!(report.next, Lsn(7));
    assert!(report.cut_bytes > 0);
    log.append_durable(vec![NewRecord { kind: 1, body: body(7) }]).unwrap();
    disk.kill();
    let (log, _) = open(&disk).unwrap();
    assert_eq!(read_all(&log).unwrap().len(), 7, "records 8 and 9 were cut and must stay away");
}
