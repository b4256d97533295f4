//! Crashes at every step, on a disk that forgets what was not synced.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;

use forebay_engine::Lsn;
use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::{Disk, Fault, FaultKind, ForgettingDisk, Operation};
use forebay_engine::log::{DurableError, Log, LogOptions, NewRecord, OpenError, Record, RecoveryReport};

fn open(disk: &ForgettingDisk) -> Result<(Log, RecoveryReport), OpenError> {
    let options = LogOptions {
        segment_bytes: 64 << 10,
        tail_cache_bytes: 8 << 10,
        prepare_ahead: false,
        log_id: Some([5; 16]),
        ..LogOptions::new("/log")
    };
    Log::open_on(Arc::new(disk.clone()), Arc::new(SteppedClock::new(1_000_000)), options)
}

fn body(lsn: u64, seed: u64) -> Vec<u8> {
    let len = 20 + (lsn * 37 + seed * 11) % 3000;
    (0..len).map(|b| (b * 3 + lsn * 5) as u8).chain(lsn.to_le_bytes()).collect()
}

fn read_all(log: &Log) -> Vec<Record> {
    let mut out = Vec::new();
    let mut reader = log.reader(log.first()).unwrap();
    while reader.read_batch(64, 1 << 20, &mut out).unwrap() > 0 {}
    out
}

/// Appends batches until the disk fails or `batches` are through. Gives the last number that was told durable.
fn append_some(log: &Log, batches: u64, seed: u64) -> Lsn {
    let mut durable = Lsn(log.end().0 - 1);
    for n in 0..batches {
        let first = log.end().0;
        let count = 1 + (n + seed) % 5;
        let records: Vec<_> = (first..first + count).map(|lsn| NewRecord { kind: 1, body: body(lsn, lsn) }).collect();
        match log.append_durable(records) {
            Ok(appended) => durable = appended.last,
            Err(_) => break,
        }
    }
    durable
}

fn check(log: &Log, durable: Lsn, context: &str) {
    let records = read_all(log);
    let first = log.first().0;
    for (n, record) in records.iter().enumerate() {
        assert_eq!(record.lsn.0, first + n as u64, "{context}");
        assert_eq!(record.body, body(record.lsn.0, record.lsn.0), "{context}: record {} was invented", record.lsn);
    }
    let last = first + records.len() as u64 - 1;
    assert!(last >= durable.0, "{context}: {last} of {durable} durable records are there");
    assert_eq!(log.durable_end(), Lsn(last + 1), "{context}");
}

#[test]
fn every_record_told_durable_survives_crashes_at_random_places_in_order_and_none_is_invented() {
    for seed in 0..150u64 {
        let disk = ForgettingDisk::new();
        let mut durable = Lsn(0);
        for round in 0..4 {
            let context = format!("seed {seed} round {round}");
            disk.power_off_after(20 + (seed * 7 + round * 31) % 150);
            if let Ok((log, _)) = open(&disk) {
                check(&log, durable, &context);
                durable = append_some(&log, 60, seed + round).max(durable);
                disk.crash(seed * 10 + round);
                drop(log);
            } else {
                disk.crash(seed * 10 + round);
            }
        }
        let (log, _) = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        check(&log, durable, &format!("seed {seed} at last"));
    }
}

#[test]
fn a_failed_sync_stops_the_log_with_the_first_reason_and_nothing_is_synced_a_second_time() {
    for seed in 0..40 {
        let disk = ForgettingDisk::new();
        let (log, _) = open(&disk).unwrap();
        let durable = append_some(&log, 5, seed);
        disk.inject(Fault { operation: Operation::Sync, nth: 1, kind: FaultKind::Io });
        let lost = log.end().0;
        let failed = log.append_durable(vec![NewRecord { kind: 1, body: body(lost, lost) }]);
        let reason = log.stopped_reason().expect("stopped");
        match failed {
            Err(DurableError::NotDurable(e)) => assert_eq!(e.0, reason),
            other => panic!("{other:?}"),
        }
        assert!(reason.contains("syncing /log/00000000000000000001.seg"), "{reason}");
        let changes = disk.changes();
        assert!(matches!(log.append_durable(vec![NewRecord { kind: 1, body: vec![1] }]), Err(DurableError::Append(_))));
        log.close();
        assert_eq!(disk.changes(), changes, "something was written after the latch");
        assert_eq!(log.stopped_reason().unwrap(), reason);
        assert_eq!(read_all(&log).last().unwrap().lsn, durable, "reading goes on, without the lost record");
        drop(log);
        // Without a power failure the bytes read back. They must be durable before anybody is told of them.
        disk.kill();
        let (log, report) = open(&disk).unwrap();
        assert!(report.rewritten_bytes > 0);
        let told = Lsn(log.durable_end().0 - 1);
        assert_eq!(told, Lsn(lost));
        disk.crash(seed);
        let (log, _) = open(&disk).unwrap();
        check(&log, told, &format!("seed {seed}"));
    }
}

#[test]
fn a_full_disk_and_a_short_write_stop_the_log_with_a_clear_reason_and_opening_recovers() {
    for kind in [FaultKind::NoSpace, FaultKind::Short] {
        for seed in 0..20 {
            let disk = ForgettingDisk::new();
            let (log, _) = open(&disk).unwrap();
            let durable = append_some(&log, 5, seed);
            disk.inject(Fault { operation: Operation::Write, nth: 1, kind });
            let lsn = log.end().0;
            assert!(
                log.append_durable((lsn..lsn + 3).map(|n| NewRecord { kind: 1, body: body(n, n) }).collect::<Vec<_>>())
                    .is_err()
            );
            let reason = log.stopped_reason().expect("stopped");
            assert!(reason.contains("writing") && reason.contains("no storage space"), "{reason}");
            disk.crash(seed);
            let (log, _) = open(&disk).unwrap();
            check(&log, durable, &format!("{kind:?} seed {seed}"));
        }
    }
}

#[test]
fn a_crash_at_any_step_of_a_trim_leaves_a_log_that_opens_with_everything_above_the_floor() {
    for step in 0..12 {
        for seed in 0..30 {
            let disk = ForgettingDisk::new();
            let (log, _) = open(&disk).unwrap();
            let durable = append_some(&log, 200, seed);
            let floor = Lsn(durable.0 * 3 / 4);
            assert!(log.stats().segments > 3);
            disk.power_off_after(step);
            let done = log.trim_to(floor);
            disk.crash(seed);
            drop(log);
            let (log, _) = open(&disk).unwrap_or_else(|e| panic!("step {step} seed {seed}: {e}"));
            assert!(log.first() <= floor, "step {step} seed {seed}: records above the floor are gone");
            if let Ok(trimmed) = done {
                assert_eq!(log.first(), trimmed.first, "step {step} seed {seed}: a finished trim was undone");
            }
            check(&log, durable, &format!("step {step} seed {seed}"));
            // The note of where the log begins stays, so that a first segment that is lost is told from one that was trimmed.
            let first = log.first();
            drop(log);
            disk.kill();
            let mut files = disk.list(Path::new("/log")).unwrap();
            files.retain(|file| file.extension().is_some_and(|e| e == "seg"));
            files.sort();
            disk.remove(&files[0]).unwrap();
            match open(&disk) {
                Err(OpenError::MissingFirst { expected, file, .. }) => {
                    assert_eq!((expected, file), (first, files[1].clone()), "step {step} seed {seed}");
                }
                other => panic!("step {step} seed {seed}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_crash_while_opening_and_cutting_can_be_repeated() {
    for seed in 0..100u64 {
        let disk = ForgettingDisk::new();
        let (log, _) = open(&disk).unwrap();
        let durable = append_some(&log, 10, seed);
        disk.power_off_after(1);
        let lsn = log.end().0;
        assert!(
            log.append_durable((lsn..lsn + 4).map(|n| NewRecord { kind: 1, body: body(n, n) }).collect::<Vec<_>>())
                .is_err()
        );
        drop(log);
        disk.crash(seed);
        for step in 0..6 {
            disk.power_off_after(step);
            drop(open(&disk));
            disk.crash(seed * 31 + step);
        }
        let (log, _) = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        check(&log, durable, &format!("seed {seed}"));
    }
}

#[test]
fn a_seal_that_was_never_synced_is_made_durable_before_the_next_segment_relies_on_it() {
    // The process is killed at each step of a close, or its sync fails; then the machine loses power with the next segment begun.
    for (changes, failing) in (0..6).map(|n| (n, false)).chain([(9, true)]) {
        for seed in 0..20 {
            let disk = ForgettingDisk::new();
            let (log, _) = open(&disk).unwrap();
            let durable = append_some(&log, 5, seed);
            if failing {
                disk.inject(Fault { operation: Operation::Sync, nth: 1, kind: FaultKind::Io });
            } else {
                disk.power_off_after(changes);
            }
            log.close();
            drop(log);
            disk.kill();
            let (log, _) = open(&disk).unwrap();
            let durable = append_some(&log, 5, seed + 5).max(durable);
            disk.crash(seed);
            drop(log);
            let context = format!("killed after {changes} changes of closing, sync failed {failing}, seed {seed}");
            let (log, _) = open(&disk).unwrap_or_else(|e| panic!("{context}: {e}"));
            check(&log, durable, &context);
        }
    }
}

#[test]
fn a_segment_whose_name_was_never_synced_keeps_what_is_appended_to_it_after_a_restart() {
    for changes in 0..80 {
        for seed in 0..6 {
            let disk = ForgettingDisk::new();
            let (log, _) = open(&disk).unwrap();
            disk.power_off_after(changes);
            let durable = append_some(&log, 40, seed);
            drop(log);
            // The process dies, the machine does not: whatever was written or renamed is still there to be read.
            disk.kill();
            let (log, _) = open(&disk).unwrap();
            let durable = append_some(&log, 3, seed).max(durable);
            disk.crash(seed);
            drop(log);
            let context = format!("killed after {changes} changes, seed {seed}");
            let (log, _) = open(&disk).unwrap_or_else(|e| panic!("{context}: {e}"));
            check(&log, durable, &context);
        }
    }
}
