//! Appending, waiting and reading, on the real file system.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use forebay_engine::Lsn;
use forebay_engine::log::{AppendError, Durability, Log, LogOptions, NewRecord, OpenError, ReadError, Record};

fn options(dir: &std::path::Path) -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::new(dir.join("log")) }
}

fn record(n: u64, len: usize) -> NewRecord {
    let mut body = n.to_le_bytes().to_vec();
    body.resize(len.max(8), n as u8);
    NewRecord { kind: 1, body }
}

fn number(record: &Record) -> u64 {
    u64::from_le_bytes(record.body[..8].try_into().unwrap())
}

fn read_all(log: &Log, from: Lsn) -> Vec<Record> {
    let mut reader = log.reader(from).unwrap();
    let mut out = Vec::new();
    while reader.read_batch(100, 1 << 20, &mut out).unwrap() > 0 {}
    assert_eq!(reader.position(), log.durable_end());
    out
}

#[test]
fn records_of_sixteen_threads_are_all_there_in_order_across_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(options(dir.path())).unwrap();
    let threads: Vec<_> = (0..16u64)
        .map(|t| {
            let log = log.clone();
            std::thread::spawn(move || {
                (0..200u64)
                    .map(|n| (log.append_durable(vec![record(t << 32 | n, 100)]).unwrap().first, t << 32 | n))
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut expected: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    expected.sort();
    let found = read_all(&log, Lsn(1));
    assert_eq!(found.iter().map(|r| (r.lsn, number(r))).collect::<Vec<_>>(), expected);
    assert!(found.windows(2).all(|w| w[0].time_us < w[1].time_us && w[0].lsn.next() == w[1].lsn));
    assert!(log.stats().segments > 3, "{:?}", log.stats());
    log.close();
    let (log, report) = Log::open(options(dir.path())).unwrap();
    assert!(report.clean);
    assert_eq!(read_all(&log, Lsn(1)), found, "after reopening, from the disk");
}

#[test]
fn memory_and_disk_give_the_same_records_from_every_position() {
    let dir = tempfile::tempdir().unwrap();
    let cached = options(dir.path());
    let uncached = LogOptions { tail_cache_bytes: 0, ..options(dir.path()) };
    let (log, _) = Log::open(cached).unwrap();
    for n in 0..60 {
        log.append_durable((0..7).map(|m| record(n * 7 + m, 300)).collect::<Vec<_>>()).unwrap();
    }
    let memory: Vec<_> = (1..=420).map(|n| log.read(Lsn(n)).unwrap().unwrap()).collect();
    log.close();
    drop(log);
    let (log, _) = Log::open(uncached).unwrap();
    for (n, expected) in memory.iter().enumerate() {
        assert_eq!(log.read(Lsn(n as u64 + 1)).unwrap().as_ref(), Some(expected));
        assert_eq!(read_all(&log, expected.lsn), memory[n..]);
    }
    assert_eq!(log.read(Lsn(421)).unwrap(), None);
}

#[test]
fn a_batch_larger_than_a_segment_is_split_and_stays_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(options(dir.path())).unwrap();
    let appended = log.append_durable((0..100).map(|n| record(n, 5000)).collect::<Vec<_>>()).unwrap();
    assert_eq!((appended.first, appended.last), (Lsn(1), Lsn(100)));
    assert_eq!(read_all(&log, Lsn(1)).iter().map(number).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    assert!(log.stats().segments >= 8);
}

#[test]
fn what_the_log_does_not_take_is_refused_before_it_has_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(options(dir.path())).unwrap();
    assert!(matches!(log.append_batch(vec![record(1, 70_000)]), Err(AppendError::TooLarge { .. })));
    assert!(matches!(log.append_batch(Vec::<NewRecord>::new()), Err(AppendError::Empty)));
    assert!(matches!(
        log.append_batch(vec![NewRecord { kind: 128, body: vec![] }]),
        Err(AppendError::ReservedKind(128))
    ));
    assert_eq!(log.append_durable(vec![record(1, 8)]).unwrap().first, Lsn(1));
    log.close();
    assert!(matches!(log.append_batch(vec![record(1, 8)]), Err(AppendError::Stopped(_))));
    assert_eq!(log.read(Lsn(1)).unwrap().map(|r| number(&r)), Some(1), "a closed log still reads");
}

struct Flag(std::sync::atomic::AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(out) => return out,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn tasks_are_woken_when_the_watermark_reaches_them_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(options(dir.path())).unwrap();
    let far = Arc::new(Flag(false.into()));
    let waker = Waker::from(far.clone());
    let mut later = std::pin::pin!(log.wait_durable(Lsn(5)));
    assert!(later.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let first = log.append_batch(vec![record(1, 10), record(2, 10)]).unwrap();
    block_on(log.wait_durable(first.last)).unwrap();
    assert!(!far.0.load(std::sync::atomic::Ordering::SeqCst), "woken for a record that is not there");
    let more = log.append_batch((0..3).map(|n| record(n, 10)).collect::<Vec<_>>()).unwrap();
    block_on(log.wait_durable(more.last)).unwrap();
    log.close();
    assert!(far.0.load(std::sync::atomic::Ordering::SeqCst));
    assert!(block_on(log.wait_durable(Lsn(5))).is_ok(), "durable before the stop counts");
    assert!(block_on(log.wait_durable(Lsn(6))).is_err());
}

#[test]
fn a_full_queue_refuses_and_room_is_announced() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(LogOptions { queue_bytes_max: 10_000, ..options(dir.path()) }).unwrap();
    let mut refused = 0;
    for n in 0..2000 {
        loop {
            match log.append_batch(vec![record(n, 2000)]) {
                Ok(_) => break,
                Err(AppendError::Full { .. }) => {
                    refused += 1;
                    block_on(log.wait_room());
                }
                Err(e) => panic!("{e}"),
            }
        }
    }
    log.wait_durable_blocking(Lsn(2000)).unwrap();
    assert!(refused > 0);
    assert_eq!(read_all(&log, Lsn(1)).len(), 2000);
}

#[test]
fn a_reader_waits_for_the_next_record_and_learns_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(options(dir.path())).unwrap();
    let mut reader = log.reader(Lsn(1)).unwrap();
    assert!(!reader.wait(Duration::from_millis(1)).unwrap());
    let writer = log.clone();
    let thread = std::thread::spawn(move || writer.append_durable(vec![record(1, 10)]).unwrap());
    assert!(reader.wait(Duration::from_secs(60)).unwrap());
    let mut out = Vec::new();
    assert_eq!(reader.read_batch(10, 1000, &mut out).unwrap(), 1);
    thread.join().unwrap();
    log.close();
    assert!(reader.wait(Duration::from_secs(60)).is_err());
}

#[test]
fn numbers_jump_ahead_by_a_gap_and_readers_step_over_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(options(dir.path())).unwrap();
    log.append_durable(vec![record(1, 10)]).unwrap();
    assert_eq!(log.advance_to(Lsn(1000)).unwrap().unwrap().first, Lsn(2));
    assert!(log.advance_to(Lsn(1000)).unwrap().is_none());
    assert_eq!(log.append_durable(vec![record(2, 10)]).unwrap().first, Lsn(1000));
    let lsns = |log: &Log, from| read_all(log, Lsn(from)).iter().map(|r| r.lsn.0).collect::<Vec<_>>();
    for again in 0..2 {
        let log = if again == 0 {
            log.clone()
        } else {
            log.close();
            Log::open(options(dir.path())).unwrap().0
        };
        assert_eq!(lsns(&log, 1), [1, 1000]);
        assert_eq!(lsns(&log, 2), [1000]);
        assert_eq!(lsns(&log, 500), [1000]);
        assert_eq!(log.read(Lsn(500)).unwrap(), None);
        assert_eq!(log.read(Lsn(2)).unwrap(), None);
    }
}

#[test]
fn trimming_removes_whole_segments_but_none_that_a_reader_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(LogOptions { tail_cache_bytes: 0, ..options(dir.path()) }).unwrap();
    log.append_durable((0..200).map(|n| record(n, 2000)).collect::<Vec<_>>()).unwrap();
    let mut reader = log.reader(Lsn(1)).unwrap();
    let mut out = Vec::new();
    reader.read_batch(1, 1, &mut out).unwrap();
    assert_eq!(log.trim_to(Lsn(150)).unwrap().segments, 0, "a reader holds the first segment");
    while reader.position() < Lsn(120) {
        reader.read_batch(10, 1 << 20, &mut out).unwrap();
    }
    let trimmed = log.trim_to(Lsn(150)).unwrap();
    assert!(trimmed.segments > 0 && trimmed.first <= reader.position(), "{trimmed:?}");
    reader.read_batch(1000, 1 << 20, &mut out).unwrap();
    assert_eq!(out.iter().map(number).collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
    drop(reader);
    let trimmed = log.trim_to(Lsn(150)).unwrap();
    assert!(trimmed.first <= Lsn(150));
    assert!(matches!(log.reader(Lsn(1)), Err(ReadError::Trimmed { first }) if first == trimmed.first));
    let rest = read_all(&log, trimmed.first);
    log.append_durable((0..100).map(|n| record(n, 2000)).collect::<Vec<_>>()).unwrap();
    log.close();
    let (log, _) = Log::open(options(dir.path())).unwrap();
    assert_eq!(log.first(), trimmed.first);
    assert_eq!(read_all(&log, trimmed.first)[..rest.len()], rest);
}

#[test]
fn weaker_levels_say_so_and_jump_ahead_after_an_unclean_stop() {
    for durability in [Durability::Buffered, Durability::Every(Duration::from_millis(5))] {
        let dir = tempfile::tempdir().unwrap();
        let weak = LogOptions { durability, ..options(dir.path()) };
        let (log, _) = Log::open(weak.clone()).unwrap();
        let last = log.append_durable((0..300).map(|n| record(n, 500)).collect::<Vec<_>>()).unwrap().last;
        assert_ne!(log.stats().durability, "synced");
        drop(log);
        let (log, report) = Log::open(weak.clone()).unwrap();
        let (from, to) = report.gap.expect("a gap");
        assert!(from > last && to > from);
        let next = log.append_durable(vec![record(1, 10)]).unwrap().first;
        assert_eq!(next, to);
        log.close();
        let (log, report) = Log::open(weak).unwrap();
        assert!(report.gap.is_none(), "closed cleanly, nothing can be lost");
        assert_eq!(read_all(&log, Lsn(1)).len(), 301);
    }
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogOptions { segment_bytes: 1000, ..options(dir.path()) };
    assert!(matches!(Log::open(small), Err(OpenError::Setting { setting: "segment_bytes", .. })));
}

#[test]
fn a_log_is_open_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(options(dir.path())).unwrap();
    let clone = log.clone();
    let problem = Log::open(options(dir.path())).unwrap_err();
    assert!(matches!(&problem, OpenError::Locked(folder) if *folder == dir.path().join("log")), "{problem}");
    drop(log);
    assert!(Log::open(options(dir.path())).is_err());
    // Reading goes on after closing, and holds nothing.
    clone.append_durable(vec![NewRecord { kind: 1, body: b"one".to_vec() }]).unwrap();
    clone.close();
    let (log, _) = Log::open(options(dir.path())).unwrap();
    assert_eq!(log.read(Lsn::FIRST).unwrap(), clone.read(Lsn::FIRST).unwrap());
    drop(log);
    Log::open(options(dir.path())).unwrap();
}
