//! Nothing idle holds the log, and what a policy lets go of is named, counted, and the same after a replay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use forebay_engine::event::*;
use forebay_engine::{Engine, EngineOptions, Lsn};

/// Small segments, a checkpoint every few of them, and retention that keeps almost nothing.
fn tight(dir: &Path) -> EngineOptions {
    let mut options = options(dir);
    options.log.segment_bytes = 64 * 1024;
    options.checkpoint_bytes = 64 * 1024;
    options.retention.bytes = 128 * 1024;
    options
}

fn open_tight(dir: &Path) -> Engine {
    Engine::open(tight(dir)).expect("the engine opens").0
}

/// Publishes what nobody wants but the log, until `done` holds.
fn churn_until(engine: &Engine, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    let filler = "x".repeat(1000);
    while !done() {
        assert!(Instant::now() < end, "it did not happen: log from {} to {}", engine.log().first(), engine.log().end());
        let batch: Vec<Event> = (0..50).map(|_| published(message("filler", &filler, 1))).collect();
        apply(engine, &batch);
    }
}

fn dropped(owner: DropOwner, from: u64, to: u64, count: u64, reason: DropReason) -> Event {
    Event::Dropped(Dropped { reason, drops: vec![DroppedRange { owner, from: Lsn(from), to: Lsn(to), count }] })
}

#[test]
fn a_connected_session_on_a_quiet_filter_does_not_hold_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_tight(dir.path());
    let mut quiet = Client::connect(&engine, "quiet", false, 3600);
    quiet.subscribe("a", 1);
    let begun = engine.cursors()[0].2.next;
    let at = engine.log().end();
    // A trim before which the session was just catching up leaves its position where it was; one that follows takes it along. In this
    // order: the log may be trimmed further in between.
    churn_until(&engine, || {
        let first = engine.log().first();
        let moved = engine.cursors()[0].2.next;
        first > at && moved > begun && moved >= first
    });
    publish(&engine, "a", "still here", 1);
    quiet.expect(&["still here"]);
    quiet.disconnect();
    let before = engine.state_rows();
    engine.close();
    drop(engine);
    std::fs::remove_file(dir.path().join("state/index.redb")).unwrap();
    assert_eq!(open_tight(dir.path()).state_rows(), before, "positions are a function of the log");
}

#[test]
fn positions_do_not_pass_what_is_not_acknowledged_and_not_a_later_subscription() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let client = Client::connect(&engine, "c", false, 3600);
    client.subscribe("pubsub/x", 1);
    let low = publish(&engine, "other", "1", 1);
    let positions = |epoch: Epoch, seen: Lsn| {
        let cursors = vec![CursorAt { filter: "pubsub/x".into(), low }];
        Event::Positions(Positions { seen, sessions: vec![SessionPositions { client: "c".into(), epoch, cursors }] })
    };
    let at = |engine: &Engine| engine.cursors()[0].2.next;
    apply(&engine, &[positions(client.epoch - 1, low)]);
    assert_eq!(at(&engine), Lsn::FIRST, "of an earlier connection");
    apply(&engine, &[positions(client.epoch, Lsn(2))]);
    assert_eq!(at(&engine), Lsn::FIRST, "taken before the subscription");
    apply(&engine, &[positions(client.epoch, low)]);
    assert_eq!(at(&engine), low);
}

#[test]
fn what_was_dropped_is_taken_from_its_owner_and_remembered_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let client = Client::connect(&engine, "c", false, 3600);
    client.subscribe("a/#", 1);
    client.subscribe("pubsub/x", 1);
    client.disconnect();
    let first = publish(&engine, "queue/q", "1", 1);
    publish(&engine, "queue/q", "2", 1);
    let other = publish(&engine, "queue/other", "3", 1);
    let kept = publish(&engine, "queue/q", "4", 1);
    let queue = DropOwner::Queue("queue/q".into());
    let cursor = |filter: &str| DropOwner::Cursor { client: "c".into(), filter: filter.into() };
    let sink = DropOwner::Sink("sqlite/pool1".into());
    let nobody = DropOwner::Cursor { client: "nobody".into(), filter: "a".into() };
    apply(
        &engine,
        &[
            dropped(queue.clone(), first.0, kept.0, 9, DropReason::QueueMessages),
            dropped(cursor("a/#"), first.0, kept.0, 5, DropReason::SessionBytes),
            dropped(cursor("a/#"), kept.0, kept.0 + 1, 2, DropReason::Retention),
            dropped(cursor("pubsub/x"), 1, 2, 0, DropReason::IdleCursors),
            dropped(sink.clone(), 1, kept.0, kept.0 - 1, DropReason::DiskBudget),
            dropped(nobody.clone(), 1, 2, 1, DropReason::Retention),
        ],
    );
    let check = |engine: &Engine| {
        assert_eq!(engine.queued(), 2, "{other} of another topic and {kept} behind the range stay");
        let gaps: std::collections::BTreeMap<_, _> = engine.gaps().into_iter().collect();
        let gap = gaps[&queue];
        assert_eq!((gap.from, gap.to, gap.count, gap.reason), (first, kept, 2, DropReason::QueueMessages));
        let gap = gaps[&cursor("a/#")];
        assert_eq!((gap.from, gap.count, gap.total, gap.reason), (kept, 2, 7, DropReason::Retention));
        assert_eq!(gaps[&sink].count, kept.0 - 1);
        assert!(!gaps.contains_key(&nobody));
        assert_eq!(engine.sink_position("sqlite/pool1"), Some(kept));
        let cursors = engine.cursors();
        assert_eq!(cursors.len(), 1, "{cursors:?}");
        assert_eq!(cursors[0].2.next, kept.next());
    };
    check(&engine);
    let before = engine.state_rows();
    engine.close();
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.state_rows(), before);
    check(&engine);
    engine.close();
    drop(engine);
    std::fs::remove_file(dir.path().join("state/index.redb")).unwrap();
    let engine = open(dir.path());
    assert_eq!(engine.state_rows(), before);
    let mut worker = Client::connect(&engine, "worker", false, 0);
    worker.subscribe("queue/#", 1);
    let mut got: Vec<String> =
        worker.take(2).iter().map(|d| String::from_utf8_lossy(&d.message.payload).into_owned()).collect();
    got.sort();
    assert_eq!(got, ["3", "4"]);
    // A gap goes with its cursor.
    let client = Client::connect(&engine, "c", true, 3600);
    client.unsubscribe("a/#");
    assert!(!engine.gaps().iter().any(|(owner, _)| *owner == cursor("a/#")));
}
