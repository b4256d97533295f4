//! The engine without threads, on a disk that forgets: the same steps give the same bytes, and nothing moves but by a step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{message, published, rules};
use forebay_engine::clock::SteppedClock;
use forebay_engine::delivery::AttachOptions;
use forebay_engine::disk::{Disk, Fault, FaultKind, ForgettingDisk, Operation};
use forebay_engine::event::{Event, QoS, SessionOpened, Subscribed, SubscriptionOptions};
use forebay_engine::simulation::{ForgettingStore, Manual};
use forebay_engine::{Engine, EngineOptions, Lsn, OpenError, OpenReport, StateSource};

fn open(disk: &ForgettingDisk, store: &ForgettingStore) -> Result<(Engine, Manual, OpenReport), OpenError> {
    open_at(disk, store, Arc::new(SteppedClock::new(1_000_000)))
}

fn open_at(
    disk: &ForgettingDisk,
    store: &ForgettingStore,
    clock: Arc<SteppedClock>,
) -> Result<(Engine, Manual, OpenReport), OpenError> {
    let mut options = EngineOptions::new("/data");
    options.rules = rules();
    options.log.segment_bytes = 64 << 10;
    options.log.log_id = Some([7; 16]);
    options.checkpoint_bytes = 20_000;
    options.clock = clock;
    Engine::open_manual(options, Arc::new(disk.clone()), Box::new(store.clone()))
}

fn publish(engine: &Engine, n: usize) {
    let topic = ["queue/a", "latest/a", "plain"][n % 3];
    engine.append(&[published(message(topic, &"x".repeat(n * 97 % 5000), 1))]).unwrap();
}

/// Every file and its bytes.
fn image(disk: &ForgettingDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let folders = [Path::new("/data/log"), Path::new("/data/state")];
    let files = folders.iter().flat_map(|folder| disk.list(folder).unwrap());
    files.map(|file| (file.clone(), disk.bytes(&file).unwrap())).collect()
}

#[test]
fn the_same_steps_give_the_same_bytes() {
    let run = || {
        let (disk, store) = (ForgettingDisk::new(), ForgettingStore::new());
        let (engine, mut manual, _) = open(&disk, &store).unwrap();
        for n in 0..60 {
            publish(&engine, n);
            if n % 4 == 0 {
                manual.prepare();
                manual.write();
                manual.apply(3).unwrap();
                manual.keep();
                manual.deliver();
            }
        }
        assert!(manual.close(&engine, 1000, || {}));
        (image(&disk), engine.state_rows())
    };
    let first = run();
    assert!(first.0.iter().any(|(file, _)| file.extension().is_some_and(|e| e == "fbc")), "no checkpoint was written");
    assert!(first == run());
}

#[test]
fn nothing_is_durable_or_applied_but_by_a_step() {
    let (disk, store) = (ForgettingDisk::new(), ForgettingStore::new());
    let (engine, mut manual, _) = open(&disk, &store).unwrap();
    let end = engine.durable_end();
    publish(&engine, 0);
    assert_eq!((engine.durable_end(), engine.applied_end(), engine.queued()), (end, end, 0));
    assert!(manual.write() && !manual.write());
    assert_eq!((engine.durable_end(), engine.applied_end(), engine.queued()), (end.next(), end, 0));
    assert!(manual.apply(10).unwrap() && !manual.apply(10).unwrap());
    assert_eq!((engine.applied_end(), engine.queued()), (end.next(), 1));
    assert!(matches!(open(&disk, &store), Err(OpenError::Locked(_))));
}

#[test]
fn a_crash_brings_state_back_from_the_index_a_checkpoint_or_the_log() {
    let mut sources = Vec::new();
    for seed in 0..20u64 {
        let (disk, store) = (ForgettingDisk::new(), ForgettingStore::new());
        let clock = Arc::new(SteppedClock::new(1_000_000));
        let (engine, mut manual, _) = open_at(&disk, &store, Arc::clone(&clock)).unwrap();
        for n in 0..30 {
            clock.advance_us(400_000);
            publish(&engine, n);
            manual.write();
            manual.apply(10).unwrap();
            while n % 7 == 0 && manual.keep() {}
        }
        let before = engine.state_rows();
        disk.power_off_after(0);
        drop((engine, manual));
        disk.crash(seed);
        store.crash(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if seed % 3 == 0 {
            store.lose();
        }
        let (engine, _manual, report) = open(&disk, &store).unwrap();
        assert_eq!(engine.state_rows(), before, "seed {seed}");
        sources.push(report.state);
    }
    assert!(sources.contains(&StateSource::Index) && sources.contains(&StateSource::Checkpoint), "{sources:?}");
}

fn opened(epoch: u64, resumed: bool) -> Event {
    let (client, expiry_s) = ("c".into(), 3600);
    Event::SessionOpened(SessionOpened {
        client,
        epoch,
        resumed,
        expiry_s,
        will: None,
        username: "".into(),
        peer: "".into(),
    })
}

fn subscribed(epoch: u64, filter: &str) -> Event {
    let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
    Event::Subscribed(Subscribed { client: "c".into(), epoch, filter: filter.into(), options, by_proxy: false })
}

#[test]
fn a_read_error_that_passes_leaves_no_queue_and_no_inbox_waiting() {
    let (disk, store) = (ForgettingDisk::new(), ForgettingStore::new());
    let (engine, mut manual, _) = open(&disk, &store).unwrap();
    let epoch = engine.next_epoch();
    engine.append(&[opened(epoch, false), subscribed(epoch, "queue/a"), subscribed(epoch, "plain")]).unwrap();
    engine.append(&[published(message("queue/a", "one", 1)), published(message("plain", "two", 1))]).unwrap();
    manual.write();
    manual.apply(100).unwrap();
    assert!(manual.close(&engine, 1000, || {}));
    drop(engine);

    let clock = Arc::new(SteppedClock::new(5_000_000));
    let (engine, mut manual, _) = open_at(&disk, &store, Arc::clone(&clock)).unwrap();
    let epoch = engine.next_epoch();
    engine.append(&[opened(epoch, true)]).unwrap();
    manual.write();
    manual.apply(100).unwrap();
    for nth in 1..=8 {
        disk.inject(Fault { operation: Operation::Read, nth, kind: FaultKind::Io });
    }
    let mut mailbox = engine.attach(&AttachOptions { client: "c".into(), epoch, window: 10, in_flight: vec![] });
    let mut got = Vec::new();
    while manual.deliver() {}
    mailbox.take(10, &mut got);
    assert!(got.is_empty(), "nothing can be read yet: {got:?}");
    for _ in 0..20 {
        clock.advance_us(60_000_000);
        while manual.deliver() {}
    }
    mailbox.take(10, &mut got);
    let mut payloads: Vec<_> = got.iter().map(|d| d.message.payload.clone()).collect();
    payloads.sort();
    assert_eq!(payloads, ["one", "two"]);
}

/// A process that dies between the name of a checkpoint and the sync of its folder leaves one that is seen and may be lost: the next
/// process makes it durable before it trims for it.
#[test]
fn no_log_is_trimmed_for_a_checkpoint_whose_name_may_be_lost() {
    for seed in 0..16 {
        let (disk, store) = (ForgettingDisk::new(), ForgettingStore::new());
        let open = |seconds: u64| {
            let mut options = EngineOptions::new("/data");
            options.rules = rules();
            options.log.segment_bytes = 64 << 10;
            options.checkpoint_bytes = 20_000;
            options.retention.age = std::time::Duration::ZERO;
            options.clock = Arc::new(SteppedClock::new(seconds * 1_000_000));
            Engine::open_manual(options, Arc::new(disk.clone()), Box::new(store.clone()))
        };
        let (engine, mut manual, _) = open(1000).unwrap();
        for n in 0..60 {
            publish(&engine, 3 * n + 2);
            manual.prepare();
            manual.write();
        }
        assert!(engine.log().segments().len() > 1);
        while manual.apply(usize::MAX).unwrap() {}
        disk.inject(Fault { operation: Operation::SyncDir, nth: 1, kind: FaultKind::Io });
        while manual.keep() {}
        let checkpoints = || disk.list(Path::new("/data/state")).unwrap();
        assert!(checkpoints().iter().any(|file| file.extension().is_some_and(|e| e == "fbc")), "{:?}", checkpoints());
        drop((engine, manual));
        disk.kill();

        let (engine, mut manual, _) = open(2000).unwrap();
        for _ in 0..20 {
            manual.trim();
            manual.write();
            while manual.apply(usize::MAX).unwrap() {}
        }
        assert!(engine.log().first() > Lsn::FIRST, "nothing was trimmed");
        drop((engine, manual));
        disk.crash(seed);
        store.lose();
        open(3000).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}
