//! Postings over a log: whatever there is of them, an inbox finds its records and no others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::catalog::{Cover, Sidecar, file_name};
use super::*;
use crate::clock::SteppedClock;
use crate::disk::{Disk, Fault, FaultKind, ForgettingDisk, Operation};
use crate::event::codec::published_topic;
use crate::event::{Event, Message, Published};
use crate::log::{Log, LogOptions};
use crate::topic;

struct Bench {
    disk: ForgettingDisk,
    clock: Arc<SteppedClock>,
    log: Log,
    postings: Arc<Postings>,
    indexer: Indexer,
    /// Where the applier stands.
    applied: Lsn,
    /// Topic of every record.
    records: Vec<(String, Lsn)>,
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, log_id: Some([7; 16]), tail_cache_bytes: 8 << 10, ..LogOptions::new("/log") }
}

impl Bench {
    fn new() -> Bench {
        Bench::open(ForgettingDisk::new(), Vec::new())
    }

    fn open(disk: ForgettingDisk, records: Vec<(String, Lsn)>) -> Bench {
        let clock = Arc::new(SteppedClock::new(1_000_000));
        let log = Log::open_manual(Arc::new(disk.clone()), clock.clone(), options()).unwrap().0;
        let applied = log.durable_end();
        let postings = Postings::new(log.clone(), Arc::new(disk.clone()), clock.clone(), applied).unwrap();
        let postings = Arc::new(postings);
        let indexer = Indexer::new(postings.clone());
        Bench { disk, clock, log, postings, indexer, applied, records }
    }

    /// As after `close` and `open`, or after the plug was pulled.
    fn reopen(self, clean: bool) -> Bench {
        let Bench { disk, log, records, .. } = self;
        if clean {
            log.close();
        }
        drop(log);
        if clean {
            disk.kill()
        } else {
            disk.crash(7)
        }
        Bench::open(disk, records)
    }

    /// Appends publishes of about 180 bytes, and lets the applier see them.
    fn publish(&mut self, topics: impl IntoIterator<Item = String>) {
        for topic in topics {
            let message =
                Message { topic: topic.as_str().into(), payload: vec![b'x'; 130].into(), ..Message::default() };
            let event = Event::Published(Published { message, packet_id: None, epoch: 0 });
            let lsn = crate::engine::append(&self.log, &[event]).unwrap().first;
            self.records.push((topic, lsn));
            if lsn.0.is_multiple_of(50) {
                self.log.write_queued();
            }
        }
        while self.log.write_queued() {}
        self.feed();
    }

    fn feed(&mut self) {
        let mut reader = self.log.reader(self.applied).unwrap();
        loop {
            let (mut records, from) = (Vec::new(), reader.position());
            if reader.read_placed(100, 1 << 20, &mut records).unwrap() == 0 {
                break;
            }
            self.postings.feed(from, &records, reader.position());
        }
        self.applied = reader.position();
    }

    fn index(&mut self) {
        while self.indexer.step() {}
    }

    fn sidecars(&self) -> BTreeSet<PathBuf> {
        let all = self.disk.list(Path::new("/log")).unwrap();
        all.into_iter().filter(|p| p.to_string_lossy().contains(".idx")).collect()
    }

    fn segments(&self) -> Vec<Lsn> {
        self.log.extents().iter().map(|e| e.first).collect()
    }

    fn naive(&self, filters: &[(&str, Lsn)], from: Lsn) -> Vec<Lsn> {
        let first = self.log.first().max(from);
        let wanted = |t: &str, l: Lsn| filters.iter().any(|(f, from)| l >= *from && topic::matches(f, t));
        self.records.iter().filter(|(t, l)| *l >= first && wanted(t, *l)).map(|(_, l)| *l).collect()
    }

    /// Goes through the log from `at` as an inbox does; also the records that were read for nothing.
    fn walk(&self, filters: &[(&str, Lsn)], mut at: Lsn) -> (Vec<Lsn>, usize) {
        let (mut found, mut vain, mut course) = (Vec::new(), 0, None);
        let wanted = || filters.iter().map(|(f, from)| Wanted { filter: (*f).into(), from: *from }).collect::<Vec<_>>();
        let matches = |topic: &str, lsn: Lsn| filters.iter().any(|(f, from)| lsn >= *from && topic::matches(f, topic));
        for _ in 0..100_000 {
            if at >= self.applied {
                return (found, vain);
            }
            let plan = course.take().map_or_else(|| self.postings.plan(&wanted(), at), |s| self.postings.go_on(s));
            let mut records = Vec::new();
            match plan {
                Plan::Searching(searching) => course = Some(searching),
                Plan::Read { positions, until } => {
                    while records.len() < positions.len() {
                        if !self.log.read_at(&positions[records.len()..], &mut records).unwrap() {
                            self.postings.misled(positions[records.len()].lsn);
                            break;
                        }
                    }
                    at = if records.len() == positions.len() {
                        until
                    } else {
                        records.last().map_or(at, |r| r.lsn.next())
                    };
                }
                Plan::Scan(until) => {
                    let mut reader = self.log.reader(at).unwrap();
                    while reader.position() < until.min(self.applied) {
                        reader.read_batch(1, 1, &mut records).unwrap();
                    }
                    at = reader.position();
                }
            }
            for record in records {
                match published_topic(&record.body) {
                    Some(topic) if matches(topic, record.lsn) => found.push(record.lsn),
                    _ => vain += 1,
                }
            }
        }
        panic!("no end of {filters:?}");
    }

    fn check(&self, filters: &[(&str, Lsn)], at: Lsn) {
        assert_eq!(self.walk(filters, at).0, self.naive(filters, at), "{filters:?} from {at}");
    }
}

/// A log in which every topic `t/n` is rare and `busy` is not.
fn topics(n: usize) -> impl Iterator<Item = String> {
    (0..n).map(|i| if i % 3 == 0 { "busy".to_owned() } else { format!("t/{}", i % 400) })
}

const FILTERS: [&str; 7] = ["t/7", "busy", "t/+", "#", "none", "t/399", "none/#"];

fn check_all(bench: &Bench) {
    let ends = [Lsn::FIRST, Lsn(bench.applied.0 / 2), Lsn(bench.applied.0 - 3)];
    for at in ends.map(|at| at.max(bench.log.first())) {
        for filter in FILTERS {
            bench.check(&[(filter, Lsn::NONE)], at);
        }
        bench.check(&FILTERS.map(|f| (f, Lsn::NONE)), at);
        bench.check(&[("t/7", Lsn::NONE), ("t/8", Lsn(bench.applied.0 / 3)), ("t/9", Lsn(u64::MAX))], at);
    }
}

#[test]
fn sealed_segments_get_sidecars_and_every_state_of_them_gives_the_same_records() {
    let mut bench = Bench::new();
    bench.publish(topics(3000));
    assert!(bench.segments().len() > 5, "{:?}", bench.segments());
    assert!(matches!(bench.postings.cover(Lsn(1)), Cover::Part(_)));
    assert!(matches!(bench.postings.cover(Lsn(bench.applied.0 - 1)), Cover::Open));
    check_all(&bench);
    bench.index();
    assert_eq!(bench.sidecars().len(), bench.segments().len() - 1);
    assert!(matches!(bench.postings.cover(Lsn(1)), Cover::Index(_)));
    check_all(&bench);
    let (found, vain) = bench.walk(&[("t/7", Lsn::NONE)], Lsn::FIRST);
    assert!(found.len() > 3 && vain == 0, "{vain} records were read for nothing");

    let mut bench = bench.reopen(true);
    assert_eq!(bench.sidecars().len(), bench.segments().len() - 2, "the last segment was sealed by closing");
    check_all(&bench);
    bench.publish(topics(500));
    check_all(&bench);
    bench.index();
    assert!(matches!(bench.postings.cover(Lsn(bench.applied.0 - 1)), Cover::Open));
    assert_eq!(bench.sidecars().len(), bench.segments().len() - 1);
    check_all(&bench);
}

#[test]
fn sidecars_that_are_missing_are_built_from_a_scan_also_of_the_segment_that_is_written_on() {
    let mut bench = Bench::new();
    bench.publish(topics(3000));
    for path in bench.sidecars() {
        bench.disk.remove(&path).unwrap();
    }
    let mut bench = bench.reopen(false);
    assert!(matches!(bench.postings.cover(Lsn(1)), Cover::Nothing(_)));
    check_all(&bench);
    let before_end = Lsn(bench.applied.0 - 1);
    assert!(matches!(bench.postings.cover(before_end), Cover::Nothing(_)));
    bench.index();
    assert!(matches!(bench.postings.cover(before_end), Cover::Part(_)), "{:?}", bench.postings.cover(before_end));
    assert_eq!(bench.sidecars().len(), bench.segments().len() - 1);
    check_all(&bench);
    bench.publish(topics(3000));
    bench.index();
    assert_eq!(bench.sidecars().len(), bench.segments().len() - 1);
    check_all(&bench);
}

#[test]
fn a_damaged_or_foreign_sidecar_is_noticed_and_built_anew() {
    let mut bench = Bench::new();
    bench.publish(topics(1500));
    bench.index();
    let paths: Vec<PathBuf> = bench.sidecars().into_iter().collect();
    let good: Vec<Vec<u8>> = paths.iter().map(|p| bench.disk.bytes(p).unwrap()).collect();
    let mut damages: Vec<Vec<u8>> = vec![Vec::new(), good[1].clone(), good[0][..good[0].len() - 1].to_vec()];
    for at in (0..good[0].len()).step_by(29) {
        let mut bad = good[0].clone();
        bad[at] ^= 0x40;
        damages.push(bad);
    }
    for damage in damages {
        bench = bench.reopen(true);
        bench.disk.overwrite(&paths[0], &damage);
        for filter in ["t/7", "busy", "t/+", "t/399"] {
            bench.check(&[(filter, Lsn::NONE)], Lsn::FIRST);
        }
        bench.index();
        // A block that no search came to may still be damaged; what was noticed is whole again.
        bench.check(&[("#", Lsn::NONE)], Lsn::FIRST);
        bench.index();
        check_all(&bench);
    }
    bench.index();
    assert!(matches!(bench.postings.cover(Lsn(1)), Cover::Index(_)));
    bench.disk.overwrite(&paths[0], &good[0]);
    bench = bench.reopen(true);
    check_all(&bench);
}

#[test]
fn an_index_that_tells_wrong_places_is_found_out_by_the_records() {
    let mut bench = Bench::new();
    bench.publish(topics(1500));
    bench.index();
    let extent = bench.log.extents()[0];
    let lsn = bench.records.iter().find(|(t, _)| t == "t/7").unwrap().1;
    // Where no record begins, and where another one lies, sound and of another number.
    let (mut records, mut reader) = (Vec::new(), bench.log.reader(Lsn::FIRST).unwrap());
    reader.read_placed(1000, 1 << 20, &mut records).unwrap();
    let (_, other) = records.iter().find(|(record, _)| record.lsn > lsn).unwrap();
    assert_eq!(other.segment, extent.first);
    drop(reader);
    for position in [Position { lsn, at: 64, len: 100 }, Position { lsn, at: other.at, len: other.len }] {
        let mut builder = IndexBuilder::default();
        builder.add("t/7", position);
        let lie = builder.encode(&bench.postings.identity(&extent));
        bench.disk.overwrite(&Path::new("/log").join(file_name(extent.first)), &lie);
        bench = bench.reopen(true);
        bench.check(&[("t/7", Lsn::NONE)], Lsn::FIRST);
        bench.index();
        check_all(&bench);
    }
}

#[test]
fn without_room_a_sidecar_waits_and_the_topics_stay_in_memory() {
    let mut bench = Bench::new();
    bench.publish(topics(1200));
    for (nth, kind) in [(1, FaultKind::NoSpace), (2, FaultKind::Short)] {
        bench.disk.inject(Fault { operation: Operation::Write, nth, kind });
    }
    bench.index();
    assert!(bench.log.stopped_reason().is_none(), "the log does not care");
    let postponed = |bench: &Bench| {
        let catalog = bench.postings.catalog.lock();
        catalog.segments.values().filter(|k| matches!(k.sidecar, Sidecar::Postponed(_))).count()
    };
    assert!(postponed(&bench) > 0);
    assert!(bench.sidecars().iter().all(|p| p.extension().unwrap() == "idx"), "{:?}", bench.sidecars());
    check_all(&bench);
    bench.clock.advance_us(60_000_000);
    bench.index();
    assert_eq!((postponed(&bench), bench.sidecars().len()), (0, bench.segments().len() - 1));
    check_all(&bench);
}

#[test]
fn a_crash_at_any_change_of_the_disk_leaves_what_is_right_or_nothing() {
    for changes in 0..30 {
        let mut bench = Bench::new();
        bench.publish(topics(1200));
        bench.disk.power_off_after(changes);
        bench.index();
        let mut bench = bench.reopen(false);
        assert!(bench.sidecars().iter().all(|p| p.extension().unwrap() == "idx"), "{:?}", bench.sidecars());
        check_all(&bench);
        bench.index();
        assert_eq!(bench.sidecars().len(), bench.segments().len() - 1);
        check_all(&bench);
    }
}

#[test]
fn trimming_takes_the_sidecars_along_and_opening_removes_orphans() {
    let mut bench = Bench::new();
    bench.publish(topics(3000));
    bench.index();
    let segments = bench.segments();
    bench.log.trim_to(segments[3]).unwrap();
    bench.index();
    assert_eq!(bench.sidecars().len(), bench.segments().len() - 1);
    let orphan = Path::new("/log").join(file_name(segments[0]));
    let half = Path::new("/log").join("00000000000000000099.idx-making");
    for path in [&orphan, &half] {
        bench.disk.open(path, crate::disk::OpenHow::Create).unwrap().write_all_at(b"x", 0).unwrap();
    }
    let bench = bench.reopen(true);
    assert!(!bench.sidecars().contains(&orphan) && !bench.sidecars().contains(&half));
    check_all(&bench);
}

#[test]
fn the_newest_are_counted_backwards_through_whatever_there_is() {
    let mut bench = Bench::new();
    bench.publish(topics(3000));
    for round in 0..3 {
        for filter in FILTERS {
            for (from, to, want) in [(1, u64::MAX, 5), (1, u64::MAX, 100_000), (700, 2500, 40), (1, 2000, 0), (1, 9, 2)]
            {
                let (from, to) = (Lsn(from), Lsn(to).min(bench.applied));
                let mut all = bench.naive(&[(filter, Lsn::NONE)], from);
                all.retain(|lsn| *lsn < to);
                let mut newest = Newest::new(filter.into(), from, to, want);
                let counted = (0..10_000).find_map(|_| newest.turn(&bench.postings, &bench.log).unwrap()).unwrap();
                let given = all.iter().filter(|lsn| **lsn >= counted.begin).count() as u64;
                assert_eq!(given, want.min(all.len() as u64), "{filter} {from}..{to}, round {round}");
                if round < 2 {
                    assert_eq!(counted.skipped, all.len() as u64 - given, "{filter} {from}..{to}");
                }
            }
        }
        if round == 0 {
            bench.index();
        } else {
            bench.sidecars().iter().for_each(|path| bench.disk.remove(path).unwrap());
            bench = bench.reopen(false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_logs_filters_and_places(
        picks in proptest::collection::vec((0usize..60, 1usize..40), 1..120), steps in 0usize..12, lost in proptest::collection::vec(any::<bool>(), 30),
        filters in proptest::collection::vec(("(a|b|\\+)(/(a|b|1|2|\\+)){0,2}(/#)?", 0u64..2500), 1..6), at in 1u64..2500,
    ) {
        let mut bench = Bench::new();
        let name = |n: usize| ["a", "b", "a/b", "a/1", "b/2/1", "c", "c/d", "$SYS/a"].get(n).map_or_else(|| format!("a/{n}"), |n| (*n).to_owned());
        bench.publish(picks.iter().flat_map(|(n, count)| (0..*count).map(move |i| name(n + i % 3))));
        for _ in 0..steps {
            bench.indexer.step();
        }
        let mut bench = bench.reopen(steps % 2 == 0);
        for (path, lost) in bench.sidecars().into_iter().zip(lost) {
            if lost {
                bench.disk.remove(&path).unwrap();
            }
        }
        let filters: Vec<(&str, Lsn)> = filters.iter().map(|(f, from)| (f.as_str(), Lsn(*from))).collect();
        bench.check(&filters, Lsn(at));
        bench.index();
        bench.check(&filters, Lsn(at));
    }
}
