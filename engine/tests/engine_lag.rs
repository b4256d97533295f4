//! How far state may fall behind the log: appends wait for it, what it needs itself does not, and an opening replays no more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use common::{message, published, rules};
use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::ForgettingDisk;
use forebay_engine::event::{AckOutcome, Acked, Event};
use forebay_engine::log::AppendError;
use forebay_engine::simulation::{ForgettingStore, Manual};
use forebay_engine::{Engine, EngineOptions, OpenReport};

/// Bytes of a message, and how many of them state may lag behind.
const MESSAGE: usize = 10_000;
const LAG: usize = 1 << 20;

fn open(disk: &ForgettingDisk, store: &ForgettingStore) -> (Engine, Manual, OpenReport) {
    let mut options = EngineOptions::new("/data");
    options.rules = rules();
    options.log.segment_bytes = 256 << 10;
    options.apply_lag_bytes = LAG as u64;
    options.clock = Arc::new(SteppedClock::new(1_000_000));
    Engine::open_manual(options, Arc::new(disk.clone()), Box::new(store.clone())).unwrap()
}

fn publish(engine: &Engine) -> Result<(), AppendError> {
    engine.append(&[published(message("plain", &"x".repeat(MESSAGE), 1))]).map(drop)
}

/// Publishes until that has to wait, with everything written; returns how many went through.
fn publish_until_held(engine: &Engine, manual: &mut Manual) -> usize {
    for n in 0..10 * LAG / MESSAGE {
        match publish(engine) {
            Ok(()) => {}
            Err(AppendError::Full { queued }) => {
                assert!(queued > LAG, "{queued}");
                return n;
            }
            Err(error) => panic!("{error}"),
        }
        manual.prepare();
        while manual.write() {}
    }
    panic!("nothing holds appends up");
}

fn has_room(engine: &Engine, event: Event) -> bool {
    pin!(engine.wait_room(&[event])).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn acknowledgement() -> Event {
    Event::Acked(Acked {
        client: "c".into(),
        lsn: forebay_engine::Lsn(1),
        time_us: 1,
        topic: "plain".into(),
        packet_id: None,
        outcome: AckOutcome::Acknowledged,
        queue: false,
        cursors: Vec::new(),
    })
}

#[test]
fn appends_wait_for_state_that_lags_and_acknowledgements_do_not() {
    let (disk, store) = (ForgettingDisk::new(), ForgettingStore::new());
    let (engine, mut manual, _) = open(&disk, &store);
    let before = publish_until_held(&engine, &mut manual);
    assert!((LAG / MESSAGE..LAG / MESSAGE + 2).contains(&before), "{before}");
    assert!(!has_room(&engine, published(message("plain", "", 1))));
    engine.append(&[acknowledgement()]).unwrap();
    assert!(has_room(&engine, acknowledgement()));
    while manual.write() {}
    // One record of state makes room for one message.
    assert!(manual.apply(1).unwrap());
    assert!(has_room(&engine, published(message("plain", "", 1))));
    publish(&engine).unwrap();
    assert!(matches!(publish(&engine), Err(AppendError::Full { .. })));
    while manual.write() | manual.apply(100).unwrap() | manual.keep() {}
    assert!(publish_until_held(&engine, &mut manual) >= before, "all of it is free again");
}

#[test]
fn what_an_opening_replays_is_bounded() {
    let (disk, store) = (ForgettingDisk::new(), ForgettingStore::new());
    let (engine, mut manual, _) = open(&disk, &store);
    for _ in 0..3 {
        publish_until_held(&engine, &mut manual);
        // State comes near, and its rows are kept.
        while manual.apply(100).unwrap() | manual.keep() {}
    }
    let before = publish_until_held(&engine, &mut manual);
    drop((engine, manual));
    disk.kill();
    let (_engine, _manual, report) = open(&disk, &store);
    let most = before + (128 << 10) / MESSAGE + 1;
    assert!((1..=most as u64).contains(&report.replayed), "{} of at most {most}", report.replayed);
}

#[test]
fn threads_that_publish_more_than_may_lag_all_come_through() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = EngineOptions::new(dir.path());
    options.rules = rules();
    options.log.segment_bytes = 256 << 10;
    options.apply_lag_bytes = LAG as u64;
    let engine = Engine::open(options).unwrap().0;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let event = [published(message("plain", &"x".repeat(MESSAGE), 1))];
                    let appended = engine.append_within(&event, Duration::from_secs(60)).unwrap();
                    assert!(engine.durable_within(appended.last, Duration::from_secs(60)).unwrap());
                }
            });
        }
    });
    assert_eq!(engine.log().end().0, 601);
}
