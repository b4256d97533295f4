//! Giving up old segments, cut off at every change of the disk and struck by every fault: what is owed is there afterwards, each
//! message once, and a gap is recorded or its records are still there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;

use common::{message, published, rules};
use forebay_engine::clock::SteppedClock;
use forebay_engine::delivery::{AttachOptions, Mailbox};
use forebay_engine::disk::{Fault, FaultKind, ForgettingDisk, Operation};
use forebay_engine::event::*;
use forebay_engine::simulation::{ForgettingStore, Manual};
use forebay_engine::{Engine, EngineOptions, Lsn};

/// Messages owed to the queue, to the sleeping session, and to the read position of a rule.
const OWED: usize = 6;

fn open(disk: &ForgettingDisk, keep_bytes: u64) -> (Engine, Manual) {
    let mut options = EngineOptions::new("/data");
    options.rules = rules();
    options.log.segment_bytes = 64 << 10;
    options.log.log_id = Some([7; 16]);
    options.log.prepare_ahead = false;
    options.checkpoint_bytes = 40_000;
    options.retention.bytes = keep_bytes;
    options.clock = Arc::new(SteppedClock::new(1_000_000));
    let store = Box::new(ForgettingStore::new());
    let (engine, manual, _) = Engine::open_manual(options, Arc::new(disk.clone()), store).expect("it opens");
    (engine, manual)
}

/// Everything that is to be done is done, but for trimming.
fn settle(manual: &mut Manual) {
    let mut busy = true;
    for _ in 0..10_000 {
        if !busy {
            return;
        }
        busy = manual.write();
        busy |= manual.apply(1000).unwrap_or(false);
        busy |= manual.keep();
        busy |= manual.deliver();
    }
    panic!("it does not come to rest");
}

/// As often as trimming may have something to do.
fn trim(manual: &mut Manual) {
    for _ in 0..12 {
        manual.trim();
        settle(manual);
    }
}

fn opened(client: &str, epoch: Epoch, resumed: bool) -> Event {
    Event::SessionOpened(SessionOpened {
        client: client.into(),
        epoch,
        resumed,
        expiry_s: 1_000_000,
        will: None,
        username: "".into(),
        peer: "".into(),
    })
}

fn gone(client: &str, epoch: Epoch) -> Event {
    Event::ClientDisconnected(ClientDisconnected {
        client: client.into(),
        epoch,
        reason: DisconnectReason::ConnectionLost,
        superseded: false,
        cancel_will: true,
        expiry_s: None,
        positions: vec![],
    })
}

/// A log of several segments with what is owed in the first ones, and a connected client on a quiet filter.
struct Story {
    disk: ForgettingDisk,
    engine: Engine,
    manual: Manual,
    queued: Vec<Lsn>,
    _quiet: Mailbox,
}

fn story() -> Story {
    let disk = ForgettingDisk::new();
    // Nothing is given up while the story is told.
    let (engine, mut manual) = open(&disk, 1 << 40);
    let subscribed = |client: &str, epoch: Epoch, filter: &str| {
        Event::Subscribed(Subscribed {
            client: client.into(),
            epoch,
            filter: filter.into(),
            options: SubscriptionOptions::of_qos(QoS::AtLeastOnce),
            by_proxy: false,
        })
    };
    engine
        .append(&[
            opened("sleeper", 1, false),
            subscribed("sleeper", 1, "a/#"),
            gone("sleeper", 1),
            opened("reader", 2, false),
            subscribed("reader", 2, "pubsub/x"),
            gone("reader", 2),
            opened("quiet", 3, false),
            subscribed("quiet", 3, "silence"),
            gone("quiet", 3),
        ])
        .unwrap();
    settle(&mut manual);
    let mut queued = Vec::new();
    for i in 0..OWED {
        let text = i.to_string();
        let done = engine.append(&[
            published(message("queue/q", &text, 1)),
            published(message("a/b", &text, 1)),
            published(message("pubsub/x", &text, 1)),
        ]);
        queued.push(done.unwrap().first);
        for _ in 0..4 {
            engine.append(&[published(message("filler", &"x".repeat(6000), 1))]).unwrap();
        }
        settle(&mut manual);
    }
    for _ in 0..20 {
        engine.append(&[published(message("filler", &"x".repeat(6000), 1))]).unwrap();
    }
    settle(&mut manual);
    disk.kill();
    drop((engine, manual));
    let (engine, mut manual) = open(&disk, 64 << 10);
    engine.append(&[opened("quiet", 4, true)]).unwrap();
    settle(&mut manual);
    let quiet = engine.attach(&AttachOptions { client: "quiet".into(), epoch: 4, window: 10, in_flight: vec![] });
    settle(&mut manual);
    Story { disk, engine, manual, queued, _quiet: quiet }
}

/// What is owed is there, once.
fn check(engine: &Engine, manual: &mut Manual, queued: &[Lsn], what: &str) {
    assert_eq!(engine.queued(), OWED, "{what}");
    for (i, lsn) in queued.iter().enumerate() {
        let stored = engine.message(*lsn).unwrap_or_else(|e| panic!("{what}: {e}")).expect("a message");
        assert_eq!(stored.message.payload, i.to_string(), "{what}");
    }
    let lost = DropOwner::Cursor { client: "reader".into(), filter: "pubsub/x".into() };
    let lost = engine.gaps().iter().find(|(owner, _)| *owner == lost).map_or(0, |(_, gap)| gap.total) as usize;
    for (client, wanted) in [("sleeper", 0..OWED), ("reader", lost..OWED)] {
        let epoch = engine.next_epoch();
        engine.append(&[opened(client, epoch, true)]).unwrap();
        settle(manual);
        let options = AttachOptions { client: client.into(), epoch, window: 100, in_flight: vec![] };
        let mut mailbox = engine.attach(&options);
        settle(manual);
        let mut got = Vec::new();
        mailbox.take(100, &mut got);
        let got: Vec<String> = got.iter().map(|d| String::from_utf8_lossy(&d.message.payload).into_owned()).collect();
        let wanted: Vec<String> = wanted.map(|i| i.to_string()).collect();
        assert_eq!(got, wanted, "{what}: {client}, {lost} recorded as lost");
        drop(mailbox);
        engine.append(&[gone(client, epoch)]).unwrap();
        settle(manual);
    }
}

#[test]
fn trimming_that_is_not_disturbed_carries_all_of_it() {
    let mut story = story();
    assert!(story.engine.log().first() == Lsn::FIRST, "nothing was trimmed yet, or the test says nothing");
    trim(&mut story.manual);
    assert!(story.engine.log().first() > story.queued[OWED - 1], "{}", story.engine.log().first());
    let quiet = story.engine.cursors().into_iter().find(|(client, ..)| client == "quiet").unwrap();
    assert!(quiet.2.next > Lsn(100).min(story.queued[1]), "{quiet:?}");
    check(&story.engine, &mut story.manual, &story.queued, "undisturbed");
}

#[test]
fn a_crash_at_any_change_of_the_disk_loses_nothing_and_gives_nothing_twice() {
    let mut whole = story();
    let before = whole.disk.changes();
    trim(&mut whole.manual);
    let steps = whole.disk.changes() - before;
    assert!(steps > 10, "{steps}");
    for step in 0..=steps {
        let seed = step * 7 + 1;
        let Story { disk, engine, mut manual, queued, _quiet } = story();
        disk.power_off_after(step);
        trim_until_the_power_goes(&mut manual);
        disk.crash(seed);
        drop((engine, manual, _quiet));
        let (engine, mut manual) = open(&disk, 64 << 10);
        settle(&mut manual);
        let what = format!("step {step} of {steps}");
        check(&engine, &mut manual, &queued, &what);
        trim(&mut manual);
        assert!(engine.log().first() > queued[OWED - 1], "{what}: trimming goes on");
        check(&engine, &mut manual, &queued, &format!("{what}, trimmed"));
    }
}

fn trim_until_the_power_goes(manual: &mut Manual) {
    for _ in 0..12 {
        manual.trim();
        for _ in 0..200 {
            let busy = manual.write() | manual.apply(1000).unwrap_or(false) | manual.keep() | manual.deliver();
            if !busy {
                break;
            }
        }
    }
}

#[test]
fn a_fault_while_trimming_is_overcome_or_stops_the_log_and_loses_nothing() {
    let (mut overcome, mut stopped) = (0, 0);
    for kind in [FaultKind::Io, FaultKind::NoSpace, FaultKind::Short] {
        for operation in [Operation::Write, Operation::Sync, Operation::SyncDir] {
            for nth in 1..12 {
                let Story { disk, engine, mut manual, queued, _quiet } = story();
                disk.inject(Fault { operation, nth, kind });
                trim_until_the_power_goes(&mut manual);
                let what = format!("{operation:?} {nth} {kind:?}");
                trim_until_the_power_goes(&mut manual);
                if engine.log().stopped_reason().is_none() {
                    overcome += 1;
                    assert!(engine.log().first() > queued[OWED - 1], "{what}: trimming goes on");
                    for (i, lsn) in queued.iter().enumerate() {
                        let stored = engine.message(*lsn).unwrap_or_else(|e| panic!("{what}: {e}")).expect("a message");
                        assert_eq!(stored.message.payload, i.to_string(), "{what}");
                    }
                } else {
                    stopped += 1;
                }
                disk.crash(nth);
                drop((engine, manual, _quiet));
                let (engine, mut manual) = open(&disk, 64 << 10);
                settle(&mut manual);
                check(&engine, &mut manual, &queued, &format!("{what}, opened again"));
                trim(&mut manual);
                assert!(engine.log().first() > queued[OWED - 1], "{what}: trimming goes on");
                check(&engine, &mut manual, &queued, &format!("{what}, opened again and trimmed"));
            }
        }
    }
    assert!(overcome > 30, "{overcome} faults were overcome, {stopped} stopped the log");
}
