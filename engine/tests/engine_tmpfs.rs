//! A real file system that is full: publishers, a subscriber and a lagging sink on a small tmpfs.
//!
//! It needs the right to mount one (root). Without it the test fails and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use forebay_engine::engine::{StateSource, WhenFull};
use forebay_engine::event::*;
use forebay_engine::log::AppendError;
use forebay_engine::{Engine, Lsn};

const SIZE: &str = "40m";
const BALLAST: usize = 8 << 20;
const PUBLISHERS: u64 = 4;
const SEGMENT: u64 = 4 << 20;

/// A small tmpfs, unmounted when dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount() -> Tmpfs {
        let dir = tempfile::tempdir().unwrap();
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"])
            .arg(dir.path())
            .output();
        let out = out.expect("this test needs the program `mount`");
        assert!(
            out.status.success(),
            "this test needs the right to mount a tmpfs: run it as root, or with `unshare -rm cargo test …`: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Tmpfs(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn open_on(tmpfs: &Tmpfs, when_full: WhenFull) -> Engine {
    open_with(tmpfs, when_full, 1 << 20)
}

fn open_with(tmpfs: &Tmpfs, when_full: WhenFull, segment_bytes: u64) -> Engine {
    let mut options = options(tmpfs.path());
    options.log.segment_bytes = segment_bytes;
    options.when_full = when_full;
    let engine = Engine::open(options).expect("it opens").0;
    engine.hold_for_sinks(&["s".to_owned()]);
    engine
}

fn until(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(40), "waited 40 s for: {what}");
        thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}

/// Publishers that wait for room and for the disk; each message that was acknowledged counts.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<Vec<Lsn>>>,
}

impl Load {
    fn start(engine: &Engine) -> Load {
        let (stop, acknowledged, refused) = (Arc::default(), Arc::default(), Arc::default());
        let threads = (0..PUBLISHERS)
            .map(|n| {
                let (engine, stop, acknowledged, refused) =
                    (engine.clone(), Arc::clone(&stop), Arc::clone(&acknowledged), Arc::clone(&refused));
                thread::spawn(move || Load::publish(&engine, n, &stop, &acknowledged, &refused))
            })
            .collect();
        Load { stop, acknowledged, refused, threads }
    }

    fn publish(engine: &Engine, n: u64, stop: &AtomicBool, acknowledged: &AtomicU64, refused: &AtomicU64) -> Vec<Lsn> {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let event = published(message(&format!("t/{n}"), &format!("{:>4000}", done.len()), 1));
            match engine.append(&[event]) {
                Ok(appended) => {
                    block_on(engine.durable(appended.last)).expect("durable");
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    done.push(appended.last);
                }
                Err(AppendError::NoSpace { .. } | AppendError::Full { .. }) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
        done
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn end(self) -> Vec<Lsn> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// The messages in the log.
fn logged(engine: &Engine) -> Vec<Lsn> {
    let (mut reader, mut records) = (engine.log().reader(engine.log().first()).unwrap(), Vec::new());
    while reader.read_batch(4096, 4 << 20, &mut records).unwrap() > 0 {}
    records.iter().filter(|r| r.kind == forebay_engine::event::codec::KIND_PUBLISHED).map(|r| r.lsn).collect()
}

#[test]
fn on_a_full_tmpfs_nothing_acknowledged_is_lost_acknowledgements_go_on_and_publishing_resumes_by_itself() {
    let tmpfs = Tmpfs::mount();
    let ballast = tmpfs.path().join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST]).unwrap();
    let engine = open_on(&tmpfs, WhenFull::Block);
    let mut client = Client::connect(&engine, "c", false, NEVER_EXPIRES);
    client.subscribe("t/#", 1);
    let load = Load::start(&engine);
    until("the disk to be full", || engine.log().no_space().is_some() && load.refused.load(Ordering::Relaxed) > 100);
    let (at_full, end) = (load.acknowledged(), engine.durable_end());
    // A subscriber reads what is stored and acknowledges it; each acknowledgement is a record.
    for _ in 0..50 {
        let got = client.take(10);
        client.settle(&got);
    }
    until("the acknowledgements to be in the log", || engine.durable_end().0 >= end.0 + 500);
    // Somebody else makes room.
    std::fs::remove_file(&ballast).unwrap();
    let by_ballast = until("publishing to go on", || load.acknowledged() > at_full + 50);
    until("the disk to be full again", || engine.log().no_space().is_some());
    // The sink stores everything; the subscriber has gone and acknowledged. A checkpoint and a trim follow by themselves.
    client.disconnect();
    let (first, before) = (engine.log().first(), load.acknowledged());
    let next = engine.durable_end();
    let gone = SessionClosed { client: "c".into(), epoch: engine.session("c").unwrap().epoch };
    apply(&engine, &[Event::SinkPosition(SinkPosition { sink: "s".into(), next }), Event::SessionClosed(gone)]);
    let by_sink =
        until("publishing to go on again", || load.acknowledged() > before + 50 && engine.log().first() > first);
    let acknowledged = load.end();
    let kept = engine.log().first();
    assert!(kept <= next, "what the sink has not stored is not trimmed");
    engine.close();
    drop(engine);
    let engine = open_on(&tmpfs, WhenFull::Block);
    let logged: std::collections::BTreeSet<Lsn> = logged(&engine).into_iter().collect();
    let lost =
        acknowledged.iter().filter(|lsn| **lsn >= engine.log().first().max(kept) && !logged.contains(lsn)).count();
    println!(
        "block: {} acknowledged, {lost} lost, {at_full} when the disk was full, resumed {} ms after a file was removed, {} ms after the sink had stored",
        acknowledged.len(),
        by_ballast.as_millis(),
        by_sink.as_millis()
    );
    assert_eq!(lost, 0);
    assert!(engine.gaps().is_empty());
}

#[test]
fn with_drop_oldest_publishing_never_ends_and_stored_and_dropped_make_up_what_was_logged() {
    let tmpfs = Tmpfs::mount();
    let engine = open_on(&tmpfs, WhenFull::DropOldest);
    let load = Load::start(&engine);
    until("segments to be dropped", || load.acknowledged() > 20_000 && !engine.gaps().is_empty());
    let acknowledged = load.end();
    let gaps = engine.gaps();
    let [(DropOwner::Sink(sink), gap)] = gaps.as_slice() else { panic!("{gaps:?}") };
    let pending = logged(&engine).iter().filter(|lsn| **lsn >= gap.to).count() as u64;
    println!(
        "drop_oldest: {} acknowledged, {} dropped for sink {sink} ({}), {pending} still to be stored",
        acknowledged.len(),
        gap.total,
        gap.reason.as_str()
    );
    assert_eq!(acknowledged.len() as u64, gap.total + pending);
}

#[test]
fn an_index_that_found_no_room_is_written_again_by_itself_when_there_is_some() {
    let tmpfs = Tmpfs::mount();
    let ballast = tmpfs.path().join("ballast");
    // Room for the segments that the log makes first, and for the index.
    std::fs::write(&ballast, vec![1; 5 * SEGMENT as usize]).unwrap();
    // The reserve is a segment: it takes more than what is free inside the index's file.
    let engine = open_with(&tmpfs, WhenFull::Block, SEGMENT);
    let load = Load::start(&engine);
    until("the disk to be full", || engine.log().no_space().is_some());
    load.end();
    // To the last byte; then state grows by what is taken on a full disk too.
    let last = std::fs::File::create(tmpfs.path().join("last")).unwrap();
    let mut chunk = 1 << 20;
    while chunk > 0 {
        if std::io::Write::write_all(&mut &last, &vec![1; chunk]).is_err() {
            chunk /= 2;
        }
    }
    let names = (0..SEGMENT / 2_000).map(|n| format!("{n:>01000}"));
    for sink in names.take_while(|_| !engine.state_index_is_off()) {
        let next = engine.durable_end();
        apply(&engine, &[Event::SinkPosition(SinkPosition { sink: sink.into(), next })]);
    }
    until("the index to be given up", || engine.state_index_is_off());
    std::fs::remove_file(&ballast).unwrap();
    std::fs::remove_file(tmpfs.path().join("last")).unwrap();
    until("the index to be written again", || !engine.state_index_is_off());
    let rows = engine.state_rows();
    engine.close();
    drop(engine);
    let mut options = options(tmpfs.path());
    options.log.segment_bytes = SEGMENT;
    let (engine, report) = Engine::open(options).unwrap();
    assert_eq!((report.state, report.replayed), (StateSource::Index, 0));
    assert!(rows == engine.state_rows(), "another state came back");
}
