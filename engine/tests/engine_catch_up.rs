//! Subscribers that were away get exactly their messages, in order, whatever there is of the indexes of the log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Client, apply, message, options, published};
use forebay_engine::event::*;
use forebay_engine::rules::{PubsubRule, StartAt};
use forebay_engine::{Engine, EngineOptions, Lsn};

/// Small segments, and nothing of the log in memory.
fn small(dir: &Path) -> EngineOptions {
    let mut options = options(dir);
    options.log.segment_bytes = 64 << 10;
    options.log.tail_cache_bytes = 0;
    options
}

fn open(dir: &Path) -> Engine {
    Engine::open(small(dir)).expect("the engine opens").0
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = all.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

/// Waits until every sealed segment has its index.
fn indexed(dir: &Path) {
    let end = Instant::now() + Duration::from_secs(20);
    while files(dir, "idx").len() + 1 < files(dir, "seg").len() {
        assert!(Instant::now() < end, "{:?}", files(dir, "idx"));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Publishes of others between those for `mine/…`; returns the payloads of the latter.
fn traffic(engine: &Engine, from: usize) -> Vec<String> {
    let mut mine = Vec::new();
    for i in from..from + 2000 {
        let (topic, payload) = match i % 50 {
            0 => ("mine/a".to_owned(), format!("a{i}")),
            7 => (format!("mine/b/{}", i % 9), format!("b{i}")),
            n => (format!("others/{n}/{}", i % 200), "x".repeat(100)),
        };
        if topic.starts_with("mine") {
            mine.push(payload.clone());
        }
        engine.append(&[published(message(&topic, &payload, 1))]).unwrap();
    }
    apply(engine, &[published(message("others/end", "", 1))]);
    mine
}

fn refs(payloads: &[String]) -> Vec<&str> {
    payloads.iter().map(String::as_str).collect()
}

fn sleeper(engine: &Engine, id: &str, filters: &[&str]) {
    let client = Client::connect(engine, id, false, 3600);
    for filter in filters {
        client.subscribe(filter, 1);
    }
    client.disconnect();
}

/// All that was published while it was away comes, and then what is published now.
fn comes_back(engine: &Engine, id: &str, expected: &mut Vec<String>) {
    let mut client = Client::connect(engine, id, true, 3600);
    for chunk in expected.chunks(10) {
        client.expect(&refs(chunk));
    }
    client.expect_nothing_but("mine/a");
    expected.push("marker".to_owned());
    client.disconnect();
}

#[test]
fn a_sleeping_subscriber_gets_its_messages_through_indexes_without_them_and_through_damaged_ones() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let many: Vec<String> = (0..30).map(|n| format!("none/{n}")).chain(["mine/#".to_owned()]).collect();
    for round in ["memory", "indexed", "missing", "damaged", "swapped"] {
        sleeper(&engine, &format!("{round}-all"), &["mine/#"]);
        sleeper(&engine, &format!("{round}-two"), &["mine/a", "mine/b/+"]);
        sleeper(&engine, &format!("{round}-many"), &refs(&many));
    }
    let mut expected = traffic(&engine, 0);
    let all = |engine: &Engine, round: &str, expected: &mut Vec<String>| {
        for who in ["all", "two", "many"] {
            comes_back(engine, &format!("{round}-{who}"), expected);
        }
    };
    assert!(files(dir.path(), "seg").len() > 5);
    all(&engine, "memory", &mut expected);
    indexed(dir.path());
    all(&engine, "indexed", &mut expected);

    engine.close();
    drop(engine);
    files(dir.path(), "idx").iter().step_by(2).for_each(|path| std::fs::remove_file(path).unwrap());
    let engine = open(dir.path());
    expected.extend(traffic(&engine, 2000));
    all(&engine, "missing", &mut expected);

    indexed(dir.path());
    engine.close();
    drop(engine);
    for (i, path) in files(dir.path(), "idx").iter().enumerate() {
        let mut bytes = std::fs::read(path).unwrap();
        let at = (i * 397) % bytes.len();
        bytes[at] ^= 0x55;
        std::fs::write(path, bytes).unwrap();
    }
    let engine = open(dir.path());
    all(&engine, "damaged", &mut expected);

    indexed(dir.path());
    engine.close();
    drop(engine);
    let paths = files(dir.path(), "idx");
    let first = std::fs::read(&paths[0]).unwrap();
    std::fs::copy(&paths[1], &paths[0]).unwrap();
    std::fs::write(&paths[1], first).unwrap();
    let engine = open(dir.path());
    all(&engine, "swapped", &mut expected);
}

#[test]
fn a_filter_that_is_added_while_the_inbox_is_behind_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    sleeper(&engine, "c", &["mine/a"]);
    let mut expected = Vec::new();
    for round in 0..40 {
        expected.extend(traffic(&engine, round * 2000).into_iter().filter(|payload| payload.starts_with('a')));
    }
    indexed(dir.path());
    assert!(expected.len() > 1100, "more than an inbox holds");
    // Nothing is taken yet: the inbox is full and behind when the second filter comes.
    let mut client = Client::connect(&engine, "c", true, 3600);
    let first = client.take(1);
    client.subscribe("mine/b/#", 1);
    expected.extend(traffic(&engine, 100_000));
    client.settle(&first);
    for chunk in expected[1..].chunks(20) {
        client.expect(&refs(chunk));
    }
    client.expect_nothing_but("mine/b/1");
}

#[test]
fn a_filter_with_a_history_that_is_added_while_a_plan_is_under_way_gets_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = small(dir.path());
    // One plan leads through all of it: a turn that comes to another plan before the inbox is full would end the first one.
    options.log.segment_bytes = 32 << 20;
    options.rules.pubsub =
        vec![PubsubRule { filter: "mine/b/#".into(), start: StartAt::Earliest, max_returned: None, time_range: None }];
    let engine = Engine::open(options).unwrap().0;
    sleeper(&engine, "c", &["mine/a"]);
    let mut expected: Vec<String> = (0..40).flat_map(|round| traffic(&engine, round * 2000)).collect();
    assert_eq!(files(dir.path(), "seg").len(), 1);
    let mut client = Client::connect(&engine, "c", true, 3600);
    let mut taken = client.take(1);
    client.subscribe("mine/b/#", 1);
    let mut got = Vec::new();
    loop {
        client.settle(&taken);
        got.extend(taken.iter().map(|d| String::from_utf8_lossy(&d.message.payload).into_owned()));
        if got.len() >= expected.len() {
            break;
        }
        taken = client.take(20.min(expected.len() - got.len()));
    }
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
}

#[test]
fn what_waits_in_an_inbox_is_still_owed_when_its_connection_ends() {
    for behind in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        let client = Client::connect(&engine, "c", false, 3600);
        client.subscribe("mine/a", 1);
        let stayed = if behind {
            client.disconnect();
            None
        } else {
            Some(client)
        };
        let mine = traffic(&engine, 0);
        let mine: Vec<String> = mine.into_iter().filter(|payload| payload.starts_with('a')).collect();
        let mut client = stayed.unwrap_or_else(|| Client::connect(&engine, "c", true, 3600));
        // Three are taken and acknowledged; the others were put in and never handed out.
        let taken = client.take(3);
        client.settle(&taken);
        client.disconnect();
        let mut client = Client::connect(&engine, "c", true, 3600);
        let left: Vec<&str> = mine.iter().skip(3).map(|p| &**p).collect();
        for chunk in left.chunks(10) {
            client.expect(chunk);
        }
        client.expect_nothing_but("mine/a");
    }
}

#[test]
fn the_newest_of_a_long_history_are_given_and_the_others_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = small(dir.path());
    options.rules.pubsub =
        vec![PubsubRule { filter: "mine/#".into(), start: StartAt::Earliest, max_returned: Some(7), time_range: None }];
    let engine = Engine::open(options.clone()).unwrap().0;
    let mine = traffic(&engine, 0);
    for (id, wait) in [("at once", false), ("indexed", true)] {
        if wait {
            indexed(dir.path());
        }
        let mut client = Client::connect(&engine, id, false, 0);
        client.subscribe("mine/#", 1);
        client.expect(&refs(&mine[mine.len() - 7..]));
        client.disconnect();
    }
    engine.close();
    drop(engine);
    files(dir.path(), "idx").iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let engine = Engine::open(options).unwrap().0;
    let mut client = Client::connect(&engine, "scanned", false, 0);
    client.subscribe("mine/#", 1);
    client.expect(&refs(&mine[mine.len() - 7..]));
}

#[test]
fn own_messages_and_those_of_before_are_left_out_when_places_are_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    traffic(&engine, 0);
    let client = Client::connect(&engine, "c", false, 3600);
    let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::of_qos(QoS::AtLeastOnce) };
    client.subscribe_with("mine/#", no_local);
    client.disconnect();
    let mut expected = traffic(&engine, 2000);
    apply(&engine, &[published(Message { publisher: "c".into(), ..message("mine/a", "own", 1) })]);
    expected.extend(traffic(&engine, 4000));
    indexed(dir.path());
    let mut client = Client::connect(&engine, "c", true, 3600);
    // Acknowledged out of order, and away again: what is done does not come twice.
    let held = client.take(6);
    let texts: Vec<_> = held.iter().map(|d| String::from_utf8_lossy(&d.message.payload).into_owned()).collect();
    assert_eq!(texts, expected[..6]);
    client.settle(&[held[1].clone(), held[4].clone()]);
    client.disconnect();
    let mut client = Client::connect(&engine, "c", true, 3600);
    let left: Vec<String> = [0, 2, 3, 5].iter().map(|i| expected[*i].clone()).chain(expected[6..].to_vec()).collect();
    for chunk in left.chunks(9) {
        client.expect(&refs(chunk));
    }
    client.expect_nothing_but("mine/a");
}

#[test]
fn indexes_go_with_their_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = small(dir.path());
    options.retention.age = Duration::ZERO;
    options.retention.bytes = 200_000;
    options.checkpoint_bytes = 100_000;
    let engine = Engine::open(options).unwrap().0;
    let end = Instant::now() + Duration::from_secs(20);
    let mut round = 0;
    while engine.log().first() == Lsn::FIRST || files(dir.path(), "idx").len() >= files(dir.path(), "seg").len() {
        assert!(Instant::now() < end, "{:?}", files(dir.path(), "idx"));
        traffic(&engine, round * 2000);
        round += 1;
    }
    // The indexer comes to them a moment after the trim.
    let trimmed = |first: Lsn| {
        let of = |path: &PathBuf| Lsn(path.file_stem().unwrap().to_str().unwrap().parse().unwrap());
        files(dir.path(), "idx").iter().any(|path| of(path) < first)
    };
    while trimmed(engine.log().first()) {
        assert!(Instant::now() < end, "{:?}", files(dir.path(), "idx"));
        std::thread::sleep(Duration::from_millis(5));
    }
}
