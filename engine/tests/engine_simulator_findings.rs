//! What the simulator found in the engine, each as the steps that showed it. Those of delivery are in `src/delivery/tests.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{message, published, rules};
use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::ForgettingDisk;
use forebay_engine::event::{
    ClientDisconnected, DisconnectReason, Event, Message, QoS, SessionOpened, Subscribed, SubscriptionOptions,
};
use forebay_engine::log::ReadError;
use forebay_engine::simulation::{ForgettingStore, Manual};
use forebay_engine::{Engine, EngineOptions};

fn open(disk: &ForgettingDisk, change: impl FnOnce(&mut EngineOptions)) -> (Engine, Manual) {
    let mut options = EngineOptions::new("/data");
    options.rules = rules();
    options.log.segment_bytes = 64 << 10;
    options.checkpoint_bytes = 20_000;
    options.clock = Arc::new(SteppedClock::new(1_000_000_000));
    change(&mut options);
    let (engine, manual, _) =
        Engine::open_manual(options, Arc::new(disk.clone()), Box::new(ForgettingStore::new())).unwrap();
    (engine, manual)
}

/// Writes and applies until nothing is left to do.
fn settle(manual: &mut Manual) {
    while manual.write() | manual.apply(usize::MAX).unwrap() {}
}

#[test]
fn a_queue_that_a_crash_left_beyond_its_bound_is_within_it_without_another_record() {
    let disk = ForgettingDisk::new();
    let bounded = |options: &mut EngineOptions| options.bounds.queue_messages_max = 1;
    let (engine, mut manual) = open(&disk, bounded);
    for _ in 0..3 {
        engine.append(&[published(message("queue/a", "x", 1))]).unwrap();
    }
    // Durable, and not applied: nobody has seen yet that the queue is beyond its bound.
    manual.write();
    drop((engine, manual));
    disk.kill();
    let (engine, mut manual) = open(&disk, bounded);
    assert_eq!(engine.queued(), 3);
    settle(&mut manual);
    assert_eq!(engine.queued(), 1);
    assert_eq!(engine.gaps().iter().map(|(_, gap)| gap.total).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_retained_message_is_found_by_its_number_when_its_record_has_left_the_log() {
    let disk = ForgettingDisk::new();
    let (engine, mut manual) = open(&disk, |options| {
        options.retention.age = Duration::ZERO;
        options.retention.bytes = 0;
    });
    let retained = |payload: &str| published(Message { retain: true, ..message("plain", payload, 2) });
    let lsn = engine.append(&[retained("kept")]).unwrap().first;
    for _ in 0..60 {
        engine.append(&[published(message("other", &"x".repeat(4000), 1))]).unwrap();
        manual.prepare();
        settle(&mut manual);
    }
    for _ in 0..20 {
        while manual.keep() {}
        manual.trim();
        settle(&mut manual);
    }
    assert!(engine.log().first() > lsn, "nothing was trimmed");
    assert_eq!(engine.message(lsn).unwrap().unwrap().message.payload, "kept");
    engine.append(&[retained("newer")]).unwrap();
    settle(&mut manual);
    assert!(matches!(engine.message(lsn), Err(ReadError::Trimmed { .. })));
}

/// Seals segments until what the log holds now is trimmed.
fn trim_all(engine: &Engine, manual: &mut Manual) {
    let end = engine.log().end();
    for _ in 0..60 {
        engine.append(&[published(message("other", &"x".repeat(4000), 0))]).unwrap();
        manual.prepare();
        settle(manual);
    }
    for _ in 0..20 {
        while manual.keep() {}
        manual.trim();
        settle(manual);
    }
    assert!(engine.log().first() >= end, "nothing was trimmed");
}

#[test]
fn what_queues_were_sent_with_qos_0_does_not_count_against_the_bounds_of_sessions() {
    let disk = ForgettingDisk::new();
    let (engine, mut manual) = open(&disk, |options| {
        options.retention.age = Duration::ZERO;
        options.retention.bytes = 0;
        options.bounds.session_messages_max = 2;
    });
    let (client, epoch) = (bytestring::ByteString::from("c"), engine.next_epoch());
    let opened = SessionOpened {
        client: client.clone(),
        epoch,
        resumed: false,
        expiry_s: 3600,
        will: None,
        username: "".into(),
        peer: "".into(),
    };
    let options = SubscriptionOptions::of_qos(QoS::ExactlyOnce);
    let subscribed = Subscribed { client: client.clone(), epoch, filter: "#".into(), options, by_proxy: false };
    let gone = ClientDisconnected {
        client,
        epoch,
        reason: DisconnectReason::Normal,
        superseded: false,
        cancel_will: true,
        expiry_s: None,
        positions: vec![],
    };
    engine
        .append(&[Event::SessionOpened(opened), Event::Subscribed(subscribed), Event::ClientDisconnected(gone)])
        .unwrap();
    for n in 0..3 {
        engine.append(&[published(message("queue/a", &n.to_string(), 0))]).unwrap();
    }
    engine.append(&[published(message("plain", "owed", 1))]).unwrap();
    settle(&mut manual);
    // The queue's messages are carried, and the session's; both are still there at the next trim.
    trim_all(&engine, &mut manual);
    engine.append(&[published(message("plain", "owed too", 1))]).unwrap();
    trim_all(&engine, &mut manual);
    assert_eq!((engine.queued(), engine.gaps()), (3, vec![]));
    engine.append(&[published(message("plain", "one too many", 1))]).unwrap();
    trim_all(&engine, &mut manual);
    assert_eq!(engine.gaps().iter().map(|(_, gap)| (gap.count, gap.total)).collect::<Vec<_>>(), [(1, 1)]);
}
