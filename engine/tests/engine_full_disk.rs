//! An engine without room: what goes on, how it comes back, and what a sink that lags is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::*;
use forebay_engine::engine::WhenFull;
use forebay_engine::event::*;
use forebay_engine::log::AppendError;
use forebay_engine::{Engine, EngineOptions, Lsn};

const SEGMENT: u64 = 256 * 1024;

fn small(dir: &std::path::Path, when_full: WhenFull) -> EngineOptions {
    let mut options = options(dir);
    options.log.segment_bytes = SEGMENT;
    // Some segments beside what state takes.
    options.log.disk_budget = Some(8 * SEGMENT + 4 * 1024 * 1024);
    options.when_full = when_full;
    options
}

fn message_of(n: u64) -> Event {
    published(message("t", &format!("{n:>8000}"), 1))
}

/// Publishes until there is no room; how many there are then.
fn fill(engine: &Engine, mut n: u64) -> u64 {
    loop {
        match engine.append(&[message_of(n)]) {
            Ok(appended) => block_on(engine.durable(appended.last)).unwrap(),
            Err(AppendError::NoSpace { .. }) => return n,
            Err(error) => panic!("{error}"),
        }
        n += 1;
    }
}

/// Reads and acknowledges, within the client's window.
fn drain(client: &mut Client, mut n: usize) {
    while n > 0 {
        let got = client.take(n.min(10));
        client.settle(&got);
        n -= got.len();
    }
}

#[test]
fn with_block_essential_events_go_on_and_it_resumes_by_itself_when_the_sink_has_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = Engine::open(small(dir.path(), WhenFull::Block)).unwrap();
    engine.hold_for_sinks(&["s".to_owned()]);
    let mut client = Client::connect(&engine, "c", false, NEVER_EXPIRES);
    client.subscribe("t", 1);
    let n = fill(&engine, 0);
    assert!(n > 50, "{n}");
    // A subscriber reads and acknowledges, also after a start on the full disk.
    drain(&mut client, 20);
    client.disconnect();
    engine.close();
    drop(engine);
    let (engine, _) = Engine::open(small(dir.path(), WhenFull::Block)).unwrap();
    engine.hold_for_sinks(&["s".to_owned()]);
    // The index may take less than before; then there is room for a little more.
    let n = fill(&engine, n);
    let end = engine.durable_end();
    let mut client = Client::connect(&engine, "c", true, NEVER_EXPIRES);
    drain(&mut client, n as usize - 20);
    client.disconnect();
    assert!(
        matches!(engine.append(&[message_of(n)]), Err(AppendError::NoSpace { .. })),
        "the sink still holds the log"
    );
    // Now the sink has stored everything: a checkpoint is taken, the log trimmed, and whoever waits goes on.
    apply(&engine, &[Event::SinkPosition(SinkPosition { sink: "s".into(), next: end })]);
    let appended = block_on(engine.append_wait(&[message_of(n)])).unwrap();
    block_on(engine.durable(appended.last)).unwrap();
    assert!(engine.log().first() > Lsn::FIRST && engine.log().no_space().is_none());
    assert!(engine.gaps().is_empty());
    engine.close();
    let (engine, _) = Engine::open(small(dir.path(), WhenFull::Block)).unwrap();
    assert!(engine.durable_end() > appended.last);
}

#[test]
fn with_drop_oldest_publishing_goes_on_and_what_the_sink_lost_is_counted_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = Engine::open(small(dir.path(), WhenFull::DropOldest)).unwrap();
    engine.hold_for_sinks(&["s".to_owned()]);
    let mut lsns = Vec::new();
    for n in 0..2000 {
        let appended = block_on(engine.append_wait(&[message_of(n)])).unwrap();
        block_on(engine.durable(appended.last)).unwrap();
        lsns.push(appended.last);
    }
    let first = engine.log().first();
    let gaps = engine.gaps();
    let [(owner, gap)] = gaps.as_slice() else { panic!("{gaps:?}") };
    assert_eq!((owner, gap.reason), (&DropOwner::Sink("s".into()), DropReason::DiskBudget));
    assert_eq!(gap.total, lsns.iter().filter(|lsn| **lsn < gap.to).count() as u64);
    assert!(first > Lsn::FIRST && first <= gap.to, "nothing goes that was not recorded: {first} {}", gap.to);
    assert_eq!(engine.sink_position("s"), Some(gap.to));
    engine.close();
    let (again, _) = Engine::open(small(dir.path(), WhenFull::DropOldest)).unwrap();
    assert_eq!(again.gaps(), gaps, "it is in the log");
}
