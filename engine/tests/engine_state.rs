//! State is a function of the log: whatever happens to its index, the same state comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use forebay_engine::event::*;
use forebay_engine::{Engine, Lsn, StateSource};

/// All of state, as text.
fn dump(engine: &Engine) -> String {
    let mut sessions = engine.sessions();
    sessions.sort_by(|a, b| a.client.cmp(&b.client));
    let mut cursors = engine.cursors();
    cursors.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let retained = engine.retained_matching("#");
    format!(
        "{sessions:#?}\n{cursors:#?}\n{retained:#?}\n{} queued\n{:?}",
        engine.queued(),
        engine.sink_position("sqlite/pool1")
    )
}

/// A bit of everything.
fn story(engine: &Engine) {
    let will = Will { message: message("will", "gone", 1), delay_s: 60 };
    let mut lasting = Client::connect_with(engine, "lasting", false, 3600, 20, vec![], Some(will));
    lasting.subscribe("a/#", 2);
    lasting.subscribe("pubsub/x", 1);
    for i in 0..50 {
        publish(engine, "a/b", &i.to_string(), 1);
        publish(engine, "pubsub/x", &i.to_string(), 1);
        publish(engine, "queue/q", &i.to_string(), 1);
        apply(engine, &[published(Message { retain: true, ..message(&format!("kept/{i}"), "r", 1) })]);
    }
    let held = lasting.take(10);
    lasting.settle(&held[3..7]);
    apply(engine, &[Event::Sent(Sent { client: "lasting".into(), packet_id: 9, lsn: held[0].lsn })]);
    let inbound = Published { message: message("in", "2", 2), packet_id: Some(77), epoch: lasting.epoch };
    apply(
        engine,
        &[Event::Published(Published {
            message: Message { publisher: "lasting".into(), ..inbound.message },
            ..inbound
        })],
    );
    let mut worker = Client::connect(engine, "worker", false, 0);
    worker.subscribe("queue/#", 1);
    let some = worker.take(5);
    worker.settle(&some);
    worker.disconnect();
    apply(engine, &[Event::SinkPosition(SinkPosition { sink: "sqlite/pool1".into(), next: Lsn(7) })]);
    lasting.disconnect();
}

fn reopen(dir: &Path) -> (Engine, StateSource) {
    let (engine, report) = Engine::open(options(dir)).expect("the engine opens");
    (engine, report.state)
}

#[test]
fn a_closed_engine_opens_from_its_index_with_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    story(&engine);
    engine.close();
    let before = dump(&engine);
    drop(engine);
    let (engine, source) = reopen(dir.path());
    assert_eq!(source, StateSource::Index);
    assert_eq!(dump(&engine), before);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

#[test]
fn an_engine_that_is_killed_opens_from_its_index_too() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    story(&engine);
    let patience = Instant::now() + Duration::from_secs(20);
    // What a killed process leaves is what its files hold while it runs.
    loop {
        let left = tempfile::tempdir().unwrap();
        copy(dir.path(), left.path());
        let (survivor, source) = reopen(left.path());
        assert_eq!(dump(&survivor), dump(&engine));
        if source == StateSource::Index {
            break;
        }
        assert!(Instant::now() < patience, "the index was never made durable while the engine ran");
    }
}

#[test]
fn deleting_the_index_costs_time_and_not_state() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    story(&engine);
    engine.close();
    let before = dump(&engine);
    drop(engine);
    fs::remove_file(dir.path().join("state/index.redb")).unwrap();
    let (engine, source) = reopen(dir.path());
    assert_eq!(source, StateSource::Log);
    assert_eq!(dump(&engine), before);
    engine.close();
    drop(engine);
    let (engine, source) = reopen(dir.path());
    assert_eq!(source, StateSource::Index, "the index was written anew");
    assert_eq!(dump(&engine), before);
}

#[test]
fn a_damaged_index_is_noticed_and_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    story(&engine);
    engine.close();
    let before = dump(&engine);
    drop(engine);
    let file = dir.path().join("state/index.redb");
    // Cut at several lengths, and flipped bytes: all over it, and page by page.
    let cuts = [0, 1, 100, 4095, 4096, 5000, 50_000];
    let flips = (2..7).map(|step| (step, 0)).chain((0..24).map(|page| (4096, page * 4096 + 37 * page)));
    let damages = cuts.iter().map(|cut| (None, *cut)).chain(flips.map(|(step, from)| (Some(step), from)));
    let mut rebuilt = 0;
    for (flip, at) in damages {
        let mut bytes = fs::read(&file).unwrap();
        match flip {
            Some(step) => bytes.iter_mut().skip(at).step_by(step).for_each(|byte| *byte ^= 0x5a),
            None => bytes.truncate(at),
        }
        fs::write(&file, bytes).unwrap();
        let (engine, source) = reopen(dir.path());
        rebuilt += usize::from(source == StateSource::Log);
        assert_eq!(dump(&engine), before, "flip {flip:?} at {at}");
        engine.close();
    }
    assert!(rebuilt > cuts.len(), "{rebuilt}");
}

#[test]
fn the_index_of_an_earlier_version_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close();
    let old = dir.path().join("state/index");
    fs::create_dir_all(old.join("heap")).unwrap();
    fs::write(old.join("heap/00"), "rows").unwrap();
    let (_engine, source) = reopen(dir.path());
    assert!(!old.exists());
    assert_eq!(source, StateSource::Index);
}

#[test]
fn records_that_change_no_row_are_not_replayed_after_a_clean_close() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for _ in 0..10 {
        publish(&engine, "plain", "x", 1);
    }
    engine.close();
    drop(engine);
    let (_engine, report) = Engine::open(options(dir.path())).unwrap();
    assert_eq!((report.state, report.replayed), (StateSource::Index, 0));
}

#[test]
fn the_largest_epoch_outlives_the_session_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let opened = SessionOpened {
        client: "c".into(),
        epoch: u64::MAX / 2,
        resumed: false,
        expiry_s: 0,
        will: None,
        username: "".into(),
        peer: "".into(),
    };
    apply(&engine, &[Event::SessionOpened(opened)]);
    apply(&engine, &[Event::SessionClosed(SessionClosed { client: "c".into(), epoch: u64::MAX / 2 })]);
    engine.close();
    drop(engine);
    let (engine, source) = reopen(dir.path());
    assert_eq!(source, StateSource::Index);
    assert!(engine.next_epoch() > u64::MAX / 2);
}

#[test]
fn positions_of_a_connection_that_was_replaced_move_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    publish(&engine, "pubsub/a", "1", 1);
    let old = Client::connect(&engine, "c", false, 100);
    let old_epoch = old.epoch;
    let new = Client::connect(&engine, "c", false, 100);
    new.subscribe("pubsub/a", 1);
    let gone = ClientDisconnected {
        client: "c".into(),
        epoch: old_epoch,
        reason: DisconnectReason::TakenOver,
        superseded: true,
        cancel_will: true,
        expiry_s: None,
        positions: vec![CursorAt { filter: "pubsub/a".into(), low: engine.log().end() }],
    };
    apply(&engine, &[Event::ClientDisconnected(gone)]);
    let (_, _, cursor) = engine.cursors().into_iter().find(|(_, filter, _)| *filter == "pubsub/a").unwrap();
    assert_eq!(cursor.next, Lsn::FIRST);
}

#[test]
fn a_mailbox_that_outlives_its_engine_appends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut client = Client::connect(&engine, "c", false, 100);
    client.subscribe("a", 1);
    publish(&engine, "a", "1", 1);
    let held = client.take(1);
    let mut mailbox = client.mailbox.take().unwrap();
    drop(client);
    drop(engine);
    let engine = open(dir.path());
    let end = engine.log().end();
    mailbox.settle(&[(held[0].lsn, None, AckOutcome::Acknowledged)]);
    drop(mailbox);
    publish(&engine, "a", "2", 1);
    assert_eq!(engine.log().end(), end.next());
    engine.close();
    drop(engine);
    open(dir.path());
}

#[test]
fn an_index_of_another_log_is_not_used() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, topic) in [(&dir, "kept/here"), (&other, "kept/there")] {
        let engine = open(dir.path());
        apply(&engine, &[published(Message { retain: true, ..message(topic, "r", 1) })]);
        engine.close();
    }
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    fs::rename(other.path().join("state"), dir.path().join("state")).unwrap();
    let (engine, source) = reopen(dir.path());
    assert_eq!(source, StateSource::Log);
    assert!(engine.retained("kept/here").is_some() && engine.retained("kept/there").is_none());
}

#[test]
fn checkpoint_and_log_rebuild_state_after_the_log_was_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let mut with = options(dir.path());
    with.checkpoint_bytes = 64 * 1024;
    with.retention.bytes = 64 * 1024;
    with.log.segment_bytes = 64 * 1024;
    let (engine, _) = Engine::open(with.clone()).unwrap();
    let lasting = Client::connect(&engine, "lasting", false, 3600);
    apply(&engine, &[published(Message { retain: true, ..message("kept", "first", 1) })]);
    lasting.disconnect();
    let filler = "x".repeat(1000);
    while engine.log().first() == Lsn::FIRST {
        let events: Vec<_> = (0..50).map(|_| published(message("filler", &filler, 1))).collect();
        apply(&engine, &events);
    }
    engine.close();
    let before = dump(&engine);
    drop(engine);
    fs::remove_file(dir.path().join("state/index.redb")).unwrap();
    let (engine, report) = Engine::open(with).unwrap();
    assert_eq!(report.state, StateSource::Checkpoint);
    assert_eq!(dump(&engine), before);
    assert_eq!(engine.retained("kept").unwrap().message.payload, "first");
}

#[test]
fn what_a_sink_has_not_stored_is_not_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let mut with = options(dir.path());
    with.checkpoint_bytes = 64 * 1024;
    with.retention.bytes = 0;
    with.log.segment_bytes = 64 * 1024;
    let (engine, _) = Engine::open(with).unwrap();
    engine.hold_for_sinks(&["sqlite/pool1".into()]);
    let filler = "x".repeat(1000);
    let mut last = Lsn::NONE;
    for _ in 0..30 {
        let events: Vec<_> = (0..50).map(|_| published(message("filler", &filler, 1))).collect();
        last = apply(&engine, &events);
    }
    assert_eq!(engine.log().first(), Lsn::FIRST);
    apply(&engine, &[Event::SinkPosition(SinkPosition { sink: "sqlite/pool1".into(), next: last })]);
    while engine.log().first() == Lsn::FIRST {
        let events: Vec<_> = (0..50).map(|_| published(message("filler", &filler, 1))).collect();
        apply(&engine, &events);
    }
    assert!(engine.log().first() <= last);
}

#[test]
fn a_second_process_or_engine_on_the_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let error = Engine::open(options(dir.path())).unwrap_err();
    assert!(matches!(error, forebay_engine::OpenError::Locked(_)), "{error}");
    drop(engine);
    open(dir.path());
}

#[test]
fn a_closed_engine_gives_the_folder_back_though_clones_of_it_live_on() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    story(&engine);
    let clone = engine.clone();
    engine.close();
    let again = open(dir.path());
    assert_eq!(dump(&again), dump(&clone));
}

#[test]
fn a_will_that_was_owed_when_the_server_died_is_still_owed() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let will = Will { message: message("will", "gone", 1), delay_s: 0 };
    let client = Client::connect_with(&engine, "c", false, 0, 20, vec![], Some(will));
    let gone = ClientDisconnected {
        client: "c".into(),
        epoch: client.epoch,
        reason: DisconnectReason::ConnectionLost,
        superseded: false,
        cancel_will: false,
        expiry_s: None,
        positions: vec![],
    };
    apply(&engine, &[Event::ClientDisconnected(gone)]);
    let epoch = client.epoch;
    drop(client);
    drop(engine);
    let engine = open(dir.path());
    let due = engine.due(engine.now_us());
    assert_eq!(due.len(), 1);
    let message =
        Message { origin: Origin::Will, publisher: "c".into(), ..due[0].will.clone().unwrap().message.clone() };
    apply(&engine, &[Event::Published(Published { message, packet_id: None, epoch })]);
    assert!(engine.due(u64::MAX).is_empty());
    assert!(engine.session("c").is_none());
}
