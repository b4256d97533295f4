//! A disk without room: what is refused, what goes on, how it ends, and that a crash in between loses nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use forebay_engine::Lsn;
use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::{Disk, ForgettingDisk};
use forebay_engine::log::{AppendError, DurableError, Log, LogOptions, NewRecord, Priority, Record, RecoveryReport};

const SEGMENT: u64 = 64 << 10;
/// Segments that fit on the disk.
const SEGMENTS: u64 = 8;

fn options(ahead: bool) -> LogOptions {
    LogOptions {
        segment_bytes: SEGMENT,
        tail_cache_bytes: 8 << 10,
        prepare_ahead: ahead,
        log_id: Some([5; 16]),
        ..LogOptions::new("/log")
    }
}

fn open(disk: &ForgettingDisk) -> (Log, RecoveryReport) {
    open_with(disk, options(false))
}

fn open_with(disk: &ForgettingDisk, options: LogOptions) -> (Log, RecoveryReport) {
    Log::open_on(Arc::new(disk.clone()), Arc::new(SteppedClock::new(1_000_000)), options).expect("the log opens")
}

fn small_disk() -> ForgettingDisk {
    let disk = ForgettingDisk::new();
    // A little more than whole segments, as on any disk.
    disk.set_capacity(Some(SEGMENTS * SEGMENT + SEGMENT / 2));
    disk
}

fn body(lsn: u64) -> Vec<u8> {
    (0..1000 + lsn % 500).map(|b| (b * 3 + lsn * 5) as u8).collect()
}

fn next(log: &Log) -> Vec<NewRecord> {
    vec![NewRecord { kind: 1, body: body(log.end().0) }]
}

/// Appends until there is no room; the number of the last durable record.
fn fill(log: &Log) -> Lsn {
    let mut last = Lsn::NONE;
    loop {
        match log.append_durable(next(log)) {
            Ok(appended) => last = appended.last,
            Err(DurableError::Append(AppendError::NoSpace { why })) => {
                assert!(why.contains("/log") || why.contains("budget"), "{why}");
                return last;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn acknowledge(log: &Log) -> Result<Lsn, AppendError> {
    let appended = log.append_with(next(log), Priority::Essential)?;
    log.wait_durable_blocking(appended.last).unwrap();
    Ok(appended.last)
}

fn check(log: &Log, durable: Lsn, context: &str) {
    let mut records: Vec<Record> = Vec::new();
    let mut reader = log.reader(log.first()).unwrap();
    while reader.read_batch(64, 1 << 20, &mut records).unwrap() > 0 {}
    for (n, record) in records.iter().enumerate() {
        assert_eq!(record.lsn.0, log.first().0 + n as u64, "{context}");
        assert_eq!(record.body, body(record.lsn.0), "{context}: record {} was invented", record.lsn);
    }
    let last = log.first().0 + records.len() as u64 - 1;
    assert!(last >= durable.0, "{context}: {last} of {durable} durable records are there");
}

#[test]
fn ordinary_records_are_refused_essential_ones_take_the_reserve_and_trimming_ends_it() {
    let disk = small_disk();
    let (log, _) = open(&disk);
    let durable = fill(&log);
    let stats = log.stats();
    assert_eq!(stats.segments as u64, SEGMENTS - 1, "one segment is held in reserve");
    assert!(stats.no_space.is_some() && stats.refused > 0 && log.stopped_reason().is_none());
    // A segment's worth of essential records goes on, readers too; ordinary ones stay out, however small.
    let mut acknowledged = 0u64;
    let refused = loop {
        match acknowledge(&log) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        let tiny = vec![NewRecord { kind: 1, body: vec![] }];
        if acknowledged > 1 {
            assert!(matches!(log.append_batch(tiny), Err(AppendError::NoSpace { .. })), "after {acknowledged}");
        }
    };
    assert!(matches!(refused, AppendError::NoSpace { .. }));
    assert!(acknowledged * 1600 > SEGMENT, "{acknowledged}");
    assert_eq!(log.stats().segments as u64, SEGMENTS);
    assert!(log.stopped_reason().is_none());
    let last = Lsn(durable.0 + acknowledged);
    check(&log, last, "full");
    // Two old segments: the first becomes the reserve again, the second takes ordinary records.
    let second = log.segments()[1].next;
    assert_eq!(log.trim_to(second).unwrap().segments, 2);
    assert!(log.no_space().is_none());
    let more = fill(&log);
    assert!(more > Lsn(last.0 + 30), "{more}");
    check(&log, more, "after the trim");
    // Room that somebody else makes is found too.
    disk.set_capacity(None);
    log.append_durable(next(&log)).unwrap();
}

#[test]
fn it_opens_reads_takes_essential_records_and_trims_with_no_byte_free_and_no_name_to_be_had() {
    for clean in [false, true] {
        for seed in 0..10 {
            let context = format!("clean {clean} seed {seed}");
            let disk = small_disk();
            let (log, _) = open(&disk);
            let mut durable = fill(&log);
            for round in 0..5 {
                disk.set_capacity(Some(disk.used_bytes()));
                if clean {
                    log.close();
                    disk.kill();
                } else {
                    disk.crash(seed + round);
                }
                disk.set_capacity(Some(disk.used_bytes()));
                assert_eq!(disk.free_bytes(Path::new("/log")).unwrap(), Some(0));
                let (log, _) = open(&disk);
                assert!(log.no_space().is_some() || log.stats().segments as u64 == SEGMENTS - 1, "{context}");
                check(&log, durable, &context);
                for _ in 0..5 {
                    durable = acknowledge(&log).unwrap_or_else(|e| panic!("{context} round {round}: {e}"));
                }
                drop(log);
                disk.crash(seed * 3 + round);
            }
            disk.set_capacity(Some(disk.used_bytes()));
            let (log, _) = open(&disk);
            check(&log, durable, &context);
            assert!(log.trim_to(log.segments()[2].next).unwrap().segments > 0, "{context}");
            durable = log.append_durable(next(&log)).unwrap_or_else(|e| panic!("{context}: {e}")).last;
            drop(log);
            disk.crash(seed);
            check(&open(&disk).0, durable, &context);
        }
    }
}

#[test]
fn a_crash_at_any_step_from_full_to_room_again_loses_nothing() {
    for step in 0..40 {
        for seed in 0..3 {
            let context = format!("step {step} seed {seed}");
            let disk = small_disk();
            let (log, _) = open(&disk);
            let mut durable = fill(&log);
            durable = acknowledge(&log).unwrap().max(durable);
            disk.set_capacity(Some(disk.used_bytes()));
            disk.power_off_after(step);
            for _ in 0..4 {
                durable = acknowledge_or(&log, durable);
            }
            let trimmed = log.trim_to(log.segments()[1].next);
            for _ in 0..60 {
                match log.append_durable(next(&log)) {
                    Ok(appended) => durable = appended.last,
                    Err(_) => break,
                }
            }
            drop(log);
            disk.crash(seed);
            disk.set_capacity(Some(disk.used_bytes()));
            let (log, _) = open(&disk);
            check(&log, durable, &context);
            if let Ok(trimmed) = trimmed {
                assert_eq!(log.first(), trimmed.first, "{context}: a finished trim was undone");
            }
            log.trim_to(log.segments()[1].next).unwrap();
            disk.set_capacity(None);
            durable = log.append_durable(next(&log)).unwrap().last;
            check(&log, durable, &context);
        }
    }
}

fn acknowledge_or(log: &Log, durable: Lsn) -> Lsn {
    let Ok(appended) = log.append_with(next(log), Priority::Essential) else { return durable };
    log.wait_durable_blocking(appended.last).map_or(durable, |()| appended.last)
}

struct Unpark(std::thread::Thread);
impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on(future: impl Future) {
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let end = Instant::now() + Duration::from_secs(20);
    while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing happened for 20 s");
        std::thread::park_timeout(left);
    }
}

#[test]
fn those_who_wait_are_woken_when_there_is_room_again_and_not_by_essential_records() {
    let disk = small_disk();
    let (log, _) = open_with(&disk, options(true));
    let durable = fill(&log);
    let waiting = std::thread::spawn({
        let log = log.clone();
        move || loop {
            match log.append_batch(vec![NewRecord { kind: 1, body: vec![7; 20_000] }]) {
                Ok(appended) => return appended.last,
                Err(AppendError::NoSpace { .. } | AppendError::Full { .. }) => block_on(log.wait_room()),
                Err(error) => panic!("{error}"),
            }
        }
    });
    for _ in 0..5 {
        acknowledge(&log).unwrap();
        block_on(log.wait_room_for(Priority::Essential));
    }
    assert!(!waiting.is_finished());
    disk.set_capacity(None);
    let lsn = waiting.join().unwrap();
    log.wait_durable_blocking(lsn).unwrap();
    assert!(lsn > Lsn(durable.0 + 5) && log.no_space().is_none());
}

#[test]
fn a_disk_budget_is_a_smaller_disk_and_counts_what_lies_beside_the_log() {
    for beside in [0, 2 * SEGMENT] {
        let disk = ForgettingDisk::new();
        let options = LogOptions { disk_budget: Some(SEGMENTS * SEGMENT), ..options(false) };
        let (log, _) = open_with(&disk, options);
        log.set_other_bytes(beside);
        let durable = fill(&log);
        assert!(log.stats().used_bytes <= SEGMENTS * SEGMENT, "{:?}", log.stats());
        assert_eq!(log.stats().segments as u64, SEGMENTS - 1 - beside / SEGMENT);
        assert!(log.no_space().unwrap().contains("budget"));
        acknowledge(&log).unwrap();
        log.trim_to(log.segments()[0].next).unwrap();
        assert!(log.append_durable(next(&log)).unwrap().last > durable);
    }
}
