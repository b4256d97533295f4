//! What somebody is still owed of segments that retention gave up is carried forward, exact and in order, over restarts and crashes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
    let end = Instant::now() + Duration::from_secs(30);
    let filler = "x".repeat(1000);
    while !done() {
        assert!(Instant::now() < end, "it did not happen: log from {} to {}", engine.log().first(), engine.log().end());
        let batch: Vec<Event> = (0..50).map(|_| published(message("filler", &filler, 1))).collect();
        apply(engine, &batch);
    }
}

/// Until the record is in no segment any more.
fn trim_beyond(engine: &Engine, lsn: Lsn) {
    churn_until(engine, || engine.log().first() > lsn);
}

fn residue_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "residue"))
        .collect();
    files.sort();
    files
}

fn gaps(engine: &Engine) -> BTreeMap<DropOwner, forebay_engine::state::Gap> {
    engine.gaps().into_iter().collect()
}

fn cursor(client: &str, filter: &str) -> DropOwner {
    DropOwner::Cursor { client: client.into(), filter: filter.into() }
}

#[test]
fn an_idle_queue_with_one_old_message_does_not_hold_the_log_and_still_has_it_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_tight(dir.path());
    let old = publish(&engine, "queue/q", "old", 1);
    trim_beyond(&engine, old);
    assert_eq!(engine.message(old).unwrap().unwrap().message.payload, "old");
    engine.close();
    drop(engine);
    std::fs::remove_file(dir.path().join("state/index.redb")).unwrap();
    let engine = open_tight(dir.path());
    assert!(engine.log().first() > old);
    let mut worker = Client::connect(&engine, "worker", false, 0);
    worker.subscribe("queue/#", 1);
    worker.expect(&["old"]);
    // Nobody is owed anything of the file any more: it goes with a later look.
    churn_until(&engine, || residue_files(dir.path()).is_empty());
    worker.expect_nothing_but("queue/marker");
}

#[test]
fn the_backlog_of_a_sleeping_session_comes_exact_and_in_order_residue_first() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_tight(dir.path());
    let mut sleeper = Client::connect(&engine, "sleeper", false, 3600);
    sleeper.subscribe("a/+", 1);
    sleeper.subscribe("b", 2);
    publish(&engine, "a/1", "read", 1);
    sleeper.expect(&["read"]);
    sleeper.disconnect();
    let mut wanted = Vec::new();
    let filler = "x".repeat(400);
    let mut last = Lsn::NONE;
    for i in 0..300 {
        let text = format!("{i}");
        let topic = ["a/1", "b", "a/2"][i % 3];
        let batch = [
            published(message(topic, &text, 1 + (i % 2) as u8)),
            published(message("other", &filler, 1)),
            published(message("a/1", &filler, 0)),
        ];
        last = apply(&engine, &batch);
        wanted.push(text);
    }
    // The first two thirds or so are in residue files, what follows is in the log.
    churn_until(&engine, || engine.log().first() > Lsn(last.0 / 2));
    assert!(!residue_files(dir.path()).is_empty());
    for restart in [false, true] {
        let engine = if restart {
            engine.close();
            open_tight(dir.path())
        } else {
            engine.clone()
        };
        let mut sleeper = Client::connect_with(&engine, "sleeper", true, 3600, 1000, vec![], None);
        let got = sleeper.take(wanted.len());
        let texts: Vec<String> = got.iter().map(|d| String::from_utf8_lossy(&d.message.payload).into_owned()).collect();
        assert_eq!(texts, wanted);
        assert!(got.is_sorted_by(|a, b| a.lsn < b.lsn));
        if restart {
            sleeper.settle(&got);
            sleeper.expect_nothing_but("b");
        } else {
            sleeper.disconnect();
        }
    }
    assert!(gaps(&engine).is_empty());
}

#[test]
fn what_is_in_flight_and_the_newest_of_a_keep_latest_topic_are_carried() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_tight(dir.path());
    let mut client = Client::connect(&engine, "c", false, 3600);
    client.subscribe("a", 2);
    client.subscribe("latest/#", 1);
    let sent = publish(&engine, "a", "in flight", 2);
    let held = client.take(1);
    apply(&engine, &[Event::Sent(Sent { client: "c".into(), packet_id: 1, lsn: sent })]);
    client.disconnect();
    for i in 0..20 {
        publish(&engine, "latest/x", &format!("x{i}"), 1);
        publish(&engine, "latest/y", &format!("y{i}"), 1);
    }
    let last = publish(&engine, "other", "", 1);
    trim_beyond(&engine, last);
    assert_eq!(engine.message(held[0].lsn).unwrap().unwrap().message.payload, "in flight");
    let mut client = Client::connect_with(&engine, "c", true, 3600, 20, vec![sent], None);
    client.expect(&["x19", "y19"]);
    let pubrec = [(sent, Some(1), AckOutcome::Acknowledged)];
    client.mailbox.as_mut().unwrap().settle(&pubrec);
    client.disconnect();
    // A new subscriber of a keep-latest topic finds the newest as well.
    let mut other = Client::connect(&engine, "other", false, 0);
    other.subscribe("latest/x", 1);
    other.expect(&["x19"]);
    assert!(gaps(&engine).is_empty(), "{:?}", engine.gaps());
}

#[test]
fn a_read_position_of_a_rule_holds_nothing_and_its_gap_is_named_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_tight(dir.path());
    let mut reader = Client::connect(&engine, "reader", false, 0);
    reader.subscribe("pubsub/x", 1);
    publish(&engine, "pubsub/x", "read", 1);
    reader.expect(&["read"]);
    reader.disconnect();
    let unhurt = Client::connect(&engine, "unhurt", false, 0);
    unhurt.subscribe("pubsub/y", 1);
    unhurt.disconnect();
    for i in 0..7 {
        publish(&engine, "pubsub/x", &format!("{i}"), 1);
    }
    let last = publish(&engine, "other", "", 1);
    trim_beyond(&engine, last);
    assert!(residue_files(dir.path()).is_empty(), "nothing of it is carried");
    let gap = gaps(&engine)[&cursor("reader", "pubsub/x")];
    assert_eq!((gap.total, gap.reason), (7, DropReason::Retention));
    assert!(gap.to > last);
    assert_eq!(engine.gaps().len(), 1);
    let before = engine.state_rows();
    engine.close();
    drop(engine);
    let engine = open_tight(dir.path());
    assert_eq!(engine.state_rows(), before);
    let mut reader = Client::connect(&engine, "reader", false, 0);
    reader.subscribe("pubsub/x", 1);
    reader.expect_nothing_but("pubsub/x");
}

#[test]
fn a_queue_beyond_its_bounds_lets_its_oldest_go_and_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut with = options(dir.path());
    with.bounds.queue_messages_max = 10;
    with.bounds.queue_bytes_max = 1000;
    let engine = Engine::open(with.clone()).unwrap().0;
    for i in 0..25 {
        publish(&engine, "queue/q", &format!("{i}"), 1);
    }
    for i in 0..3 {
        publish(&engine, "queue/large", &format!("{i}").repeat(600), 1);
        publish(&engine, "queue/huge", &format!("{i}").repeat(6000), 1);
    }
    let end = Instant::now() + Duration::from_secs(20);
    while engine.queued() > 10 + 1 + 1 {
        assert!(Instant::now() < end, "{} are queued", engine.queued());
        std::thread::yield_now();
    }
    let queue = |topic: &str| gaps(&engine)[&DropOwner::Queue(topic.into())];
    assert_eq!((queue("queue/q").total, queue("queue/q").reason), (15, DropReason::QueueMessages));
    assert_eq!((queue("queue/large").total, queue("queue/large").reason), (2, DropReason::QueueBytes));
    assert_eq!(queue("queue/huge").total, 2);
    engine.close();
    let rows = engine.state_rows();
    drop(engine);
    let engine = Engine::open(with).unwrap().0;
    assert_eq!(engine.state_rows(), rows);
    let mut worker = Client::connect(&engine, "worker", false, 0);
    worker.subscribe("queue/q", 1);
    let left: Vec<String> = (15..25).map(|i| i.to_string()).collect();
    worker.expect(&left.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_sleeping_sessions_backlog_beyond_its_bounds_loses_its_oldest_and_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut with = tight(dir.path());
    with.bounds.session_messages_max = 20;
    let engine = Engine::open(with).unwrap().0;
    for (id, filter) in [("one", "a/#"), ("two", "a/1")] {
        let client = Client::connect(&engine, id, false, 3600);
        client.subscribe(filter, 1);
        client.disconnect();
    }
    let (mut i, filler) = (0, "x".repeat(3000));
    let mut last = Lsn::NONE;
    // Rounds, so that residue of earlier trims is counted against the bounds of later ones.
    for round in 0..4 {
        for _ in 0..15 {
            let lsn = apply(&engine, &[published(message(&format!("a/{}", i % 2), &format!("{i}"), 1))]);
            apply(&engine, &[published(message("other", &filler, 1))]);
            (i, last) = (i + 1, lsn);
        }
        trim_beyond(&engine, last);
        let total = gaps(&engine).get(&cursor("one", "a/#")).map_or(0, |gap| gap.total);
        assert_eq!(total, (15 * (round + 1) as u64).saturating_sub(20), "round {round}");
    }
    assert_eq!(gaps(&engine)[&cursor("one", "a/#")].reason, DropReason::SessionMessages);
    assert_eq!(gaps(&engine)[&cursor("two", "a/1")].total, 10);
    for (id, wanted) in [
        ("one", (40..60).map(|i| i.to_string()).collect::<Vec<_>>()),
        ("two", (20..60).filter(|i| i % 2 == 1).map(|i| i.to_string()).collect()),
    ] {
        let mut client = Client::connect_with(&engine, id, true, 3600, 100, vec![], None);
        client.expect(&wanted.iter().map(String::as_str).collect::<Vec<_>>());
        client.disconnect();
    }
}

#[test]
fn idle_read_positions_beyond_the_cap_are_removed_furthest_behind_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut with = tight(dir.path());
    with.bounds.idle_cursors_max = 2;
    let engine = Engine::open(with).unwrap().0;
    for id in ["a", "b", "c", "d"] {
        let mut client = Client::connect(&engine, id, false, 0);
        client.subscribe("pubsub/x", 1);
        publish(&engine, "pubsub/x", id, 1);
        let n = (id.as_bytes()[0] - b'a') as usize + 1;
        let got = client.take(n);
        client.settle(&got);
        client.disconnect();
    }
    let last = publish(&engine, "other", "", 1);
    trim_beyond(&engine, last);
    let mut left: Vec<String> = engine.cursors().into_iter().map(|(client, ..)| client.to_string()).collect();
    left.sort();
    assert_eq!(left, ["c", "d"]);
}

#[test]
fn many_small_residue_files_become_few() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_tight(dir.path());
    let mut lsns = Vec::new();
    for i in 0..30 {
        let lsn = publish(&engine, "queue/q", &format!("{i}"), 1);
        trim_beyond(&engine, lsn);
        lsns.push(lsn);
    }
    churn_until(&engine, || residue_files(dir.path()).len() <= 9);
    for (i, lsn) in lsns.iter().enumerate() {
        assert_eq!(engine.message(*lsn).unwrap().unwrap().message.payload, format!("{i}"));
    }
    let mut worker = Client::connect_with(&engine, "worker", false, 0, 100, vec![], None);
    worker.subscribe("queue/q", 1);
    let all: Vec<String> = (0..30).map(|i| i.to_string()).collect();
    worker.expect(&all.iter().map(String::as_str).collect::<Vec<_>>());
    churn_until(&engine, || residue_files(dir.path()).is_empty());
}

#[test]
fn damage_in_a_segment_that_goes_is_named_and_set_aside_and_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut with = tight(dir.path());
    with.retention.bytes = 1 << 40;
    let engine = Engine::open(with).unwrap().0;
    let safe = publish(&engine, "queue/safe", "safe", 1);
    let marker = "y".repeat(500);
    let hurt = publish(&engine, "queue/hurt", &marker, 1);
    churn_until(&engine, || engine.log().segments().len() > 3);
    engine.close();
    drop(engine);
    let file = dir.path().join(format!("log/{:020}.seg", 1));
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(100).position(|w| w == "y".repeat(100).as_bytes()).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let engine = open_tight(dir.path());
    trim_beyond(&engine, hurt);
    assert_eq!(engine.message(safe).unwrap().unwrap().message.payload, "safe");
    let gap = gaps(&engine)[&DropOwner::Queue("queue/hurt".into())];
    assert_eq!((gap.count, gap.reason), (1, DropReason::Damaged));
    assert_eq!(engine.gaps().len(), 1);
    assert_eq!(engine.queued(), 1);
    // The log begins behind the segment before its file is set aside.
    let aside = file.with_extension("seg.damaged");
    churn_until(&engine, || aside.exists());
    assert_eq!(std::fs::read(aside).unwrap(), bytes);
}
