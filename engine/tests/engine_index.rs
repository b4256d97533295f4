//! The index in its file, under crashes: how far it lags is bounded by the log's volume, and what it gives back is right.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{message, published, rules};
use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::ForgettingDisk;
use forebay_engine::simulation::{Manual, RedbStore};
use forebay_engine::{Engine, EngineOptions, OpenReport, StateSource};

const SEGMENT: u64 = 64 << 10;
const BODY: usize = 1000;

fn open(disk: &ForgettingDisk, checkpoint_bytes: u64) -> (Engine, Manual, OpenReport) {
    let mut options = EngineOptions::new("/data");
    options.rules = rules();
    options.log.segment_bytes = SEGMENT;
    options.checkpoint_bytes = checkpoint_bytes;
    options.clock = Arc::new(SteppedClock::new(1_000_000));
    let disk = Arc::new(disk.clone());
    let store = Box::new(RedbStore::new(disk.clone(), Path::new("/data/state/index.redb")));
    Engine::open_manual(options, disk, store).unwrap()
}

/// Publishes to a queue, and does all that follows from it.
fn publish(engine: &Engine, manual: &mut Manual, n: usize) {
    engine.append(&[published(message(&format!("queue/{}", n % 7), &"x".repeat(BODY), 1))]).unwrap();
    while manual.write() | manual.apply(16).unwrap() | manual.keep() | manual.deliver() {}
}

#[test]
fn the_index_lags_behind_by_less_than_a_segment_though_no_time_passes() {
    let disk = ForgettingDisk::new();
    let (engine, mut manual, _) = open(&disk, u64::MAX);
    for n in 0..500 {
        publish(&engine, &mut manual, n);
    }
    let before = engine.state_rows();
    disk.power_off_after(0);
    drop((engine, manual));
    disk.crash(1);
    let (engine, _manual, report) = open(&disk, u64::MAX);
    assert_eq!(report.state, StateSource::Index);
    assert!(report.replayed > 0 && report.replayed < SEGMENT / BODY as u64, "{}", report.replayed);
    assert_eq!(engine.state_rows(), before);
}

#[test]
fn after_any_crash_state_is_what_the_log_says() {
    let mut sources = Vec::new();
    for seed in 0..40 {
        let disk = ForgettingDisk::new();
        let (engine, mut manual, _) = open(&disk, 20_000);
        // The crash comes at any of the changes that this makes to the disk, also inside a commit of the index.
        disk.power_off_after(10 + seed * 7);
        for n in 0..80 {
            if engine.append(&[published(message("queue/a", &"x".repeat(BODY), 1))]).is_err() {
                break;
            }
            while manual.write() | manual.apply(4).unwrap_or(false) | manual.keep() | manual.deliver() {}
            if n % 9 == 0 {
                manual.prepare();
            }
        }
        drop((engine, manual));
        disk.crash(seed);
        let (engine, manual, report) = open(&disk, 20_000);
        let rows = engine.state_rows();
        drop((engine, manual));
        disk.kill();
        // The same without the index.
        disk.overwrite(Path::new("/data/state/index.redb"), b"");
        let (engine, _manual, _) = open(&disk, 20_000);
        assert_eq!(engine.state_rows(), rows, "seed {seed}");
        sources.push(report.state);
    }
    assert!(sources.contains(&StateSource::Index) && sources.contains(&StateSource::Log), "{sources:?}");
}
