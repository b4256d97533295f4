//! What fuzz targets found, each as the input that showed it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_engine::Lsn;
use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::{Disk, ForgettingDisk};
use forebay_engine::log::{Durability, Log, LogOptions, NewRecord, OnDamage, OpenError};

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, prepare_ahead: false, log_id: Some([9; 16]), ..LogOptions::new("/log") }
}

fn open(disk: &ForgettingDisk, options: LogOptions) -> Result<Log, OpenError> {
    Log::open_on(Arc::new(disk.clone()), Arc::new(SteppedClock::new(1_000_000)), options).map(|(log, _)| log)
}

/// A log of three segments with two records each.
fn log() -> ForgettingDisk {
    let disk = ForgettingDisk::new();
    for _ in 0..3 {
        let log = open(&disk, options()).unwrap();
        for body in [b"one".to_vec(), b"two".to_vec()] {
            log.append_durable(vec![NewRecord { kind: 1, body }]).unwrap();
        }
        log.close();
    }
    disk
}

fn files(disk: &ForgettingDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths = disk.list(Path::new("/log")).unwrap();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), disk.bytes(&path).unwrap())).collect()
}

#[test]
fn a_trim_intent_of_another_log_removes_nothing() {
    let disk = log();
    let mut intent = b"FBAYTRIM".to_vec();
    intent.extend(7u64.to_le_bytes());
    intent.extend(crc32fast::hash(&intent).to_le_bytes());
    disk.overwrite(Path::new("/log/trim.intent"), &intent);
    let before = files(&disk);
    for on_damage in [OnDamage::Refuse, OnDamage::Quarantine] {
        let problem = open(&disk, LogOptions { on_damage, ..options() }).unwrap_err();
        assert!(problem.to_string().contains("trim.intent"), "{problem}");
        assert_eq!(files(&disk), before);
    }
    // The floor of this log's own trim is the beginning of a segment.
    intent.truncate(8);
    intent.extend(5u64.to_le_bytes());
    intent.extend(crc32fast::hash(&intent).to_le_bytes());
    disk.overwrite(Path::new("/log/trim.intent"), &intent);
    assert_eq!(open(&disk, options()).unwrap().first().0, 5);
}

#[test]
fn a_seal_whose_offset_is_near_the_largest_number_is_no_seal() {
    for at in [u64::MAX, u64::MAX - 111, u64::MAX - 100, 1 << 63] {
        let disk = log();
        let first = Path::new("/log/00000000000000000001.seg");
        let mut bytes = disk.bytes(first).unwrap();
        let trailer = bytes.len() - 16;
        bytes[trailer..trailer + 8].copy_from_slice(&at.to_le_bytes());
        disk.overwrite(first, &bytes);
        let problem = open(&disk, options()).unwrap_err();
        assert!(matches!(problem, OpenError::Damaged { .. }), "{problem}");
    }
}

/// Puts the checksum of a segment's header right.
fn header_checked(bytes: &mut [u8]) {
    let sum = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn numbers_and_times_near_the_largest_are_damage_and_not_an_overflow() {
    for (at, first) in [(32, u64::MAX), (32, (1 << 62) + 1), (40, u64::MAX)] {
        let mut bytes = log().bytes(Path::new("/log/00000000000000000001.seg")).unwrap();
        bytes.truncate(64);
        bytes[at..at + 8].copy_from_slice(&first.to_le_bytes());
        header_checked(&mut bytes);
        let named = u64::from_le_bytes(*bytes[32..].first_chunk().unwrap());
        let disk = ForgettingDisk::new();
        disk.create_dir(Path::new("/log")).unwrap();
        disk.overwrite(&PathBuf::from(format!("/log/{named:020}.seg")), &bytes);
        let before = files(&disk);
        let problem = open(&disk, options()).unwrap_err();
        assert!(matches!(problem, OpenError::Damaged { .. }), "{problem}");
        assert_eq!(files(&disk), before);
    }
}

#[test]
fn a_log_whose_numbers_are_used_up_says_so() {
    let disk = log();
    let log = open(&disk, options()).unwrap();
    let problem = log.advance_to(Lsn(u64::MAX)).unwrap_err();
    assert!(problem.to_string().contains("used up"), "{problem}");
    log.advance_to(Lsn(1 << 62)).unwrap();
    let problem = log.append_durable(vec![NewRecord { kind: 1, body: b"no".to_vec() }]).unwrap_err();
    assert!(problem.to_string().contains("used up"), "{problem}");
    log.close();
    let log = open(&disk, options()).unwrap();
    assert_eq!(log.end().0, 1 << 62);
    assert_eq!(log.read(Lsn(6)).unwrap().unwrap().body, "two");
}

#[test]
fn a_log_in_a_weaker_level_opens_when_its_numbers_are_used_up() {
    let options = || LogOptions { durability: Durability::Buffered, ..options() };
    for left in 0..4 {
        let disk = ForgettingDisk::new();
        let log = open(&disk, options()).unwrap();
        log.advance_to(Lsn((1 << 62) - left)).unwrap();
        let last = NewRecord { kind: 1, body: b"last".to_vec() };
        let appended = log.append_durable(vec![last]);
        drop(log);
        disk.crash(left);
        // Opening would jump over the numbers that a crash may have taken, and mark the log with another: there are none left.
        for _ in 0..3 {
            let log = open(&disk, options()).unwrap();
            if let Ok(appended) = &appended {
                assert_eq!(log.read(appended.last).unwrap().unwrap().body, "last");
            }
            assert_eq!(log.end().0, 1 << 62);
            let problem = log.append_durable(vec![NewRecord { kind: 1, body: b"no".to_vec() }]).unwrap_err();
            assert!(problem.to_string().contains("used up"), "{problem}");
        }
    }
}

#[test]
fn a_segment_that_begins_with_the_number_0_is_refused() {
    let disk = log();
    let (path, mut bytes) =
        files(&disk).into_iter().find(|(path, _)| path.extension().is_some_and(|e| e == "seg")).unwrap();
    for (other, _) in files(&disk) {
        disk.remove(&other).unwrap();
    }
    bytes[32..40].fill(0);
    let sum = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    disk.overwrite(&path.with_file_name("00000000000000000000.seg"), &bytes);
    let refused = open(&disk, options()).err().map(|error| error.to_string());
    assert!(refused.is_some_and(|text| text.contains("00000000000000000000.seg")));
}
