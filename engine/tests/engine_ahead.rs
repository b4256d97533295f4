//! State that knows more than the log: an older copy of `log/` was put back. Numbers are not given twice, and state is what the log says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;

use common::*;
use forebay_engine::event::*;
use forebay_engine::log::SkipReason;
use forebay_engine::{Engine, EngineOptions, Log, LogOptions, Lsn, OpenReport, StateSource};

fn with(dir: &Path, checkpoint_bytes: u64) -> EngineOptions {
    EngineOptions { checkpoint_bytes, ..options(dir) }
}

fn reopen(dir: &Path, checkpoint_bytes: u64) -> (Engine, OpenReport) {
    Engine::open(with(dir, checkpoint_bytes)).unwrap()
}

fn publish(engine: &Engine, topic: &str, count: usize) -> Lsn {
    let mut last = Lsn::NONE;
    for n in 0..count {
        last = apply(engine, &[published(Message { retain: n % 3 == 0, ..message(topic, &n.to_string(), 1) })]);
    }
    last
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A log and a state that knows more than it; rows of the state that the log alone makes, and the position that was known.
fn ahead(dir: &Path, checkpoint_bytes: u64) -> (std::collections::BTreeMap<Vec<u8>, Vec<u8>>, Lsn) {
    let (engine, _) = reopen(dir, checkpoint_bytes);
    publish(&engine, "queue/a", 50);
    let rows = engine.state_rows();
    engine.close();
    drop(engine);
    copy(&dir.join("log"), &dir.join("older"));
    let (engine, _) = reopen(dir, checkpoint_bytes);
    publish(&engine, "queue/b", 500);
    let known = engine.applied_end();
    engine.close();
    drop(engine);
    std::fs::remove_dir_all(dir.join("log")).unwrap();
    std::fs::rename(dir.join("older"), dir.join("log")).unwrap();
    (rows, known)
}

/// Opens twice: the log has jumped, state is the older one, and what is published then has numbers of its own.
fn check(dir: &Path, rows: &std::collections::BTreeMap<Vec<u8>, Vec<u8>>, known: Lsn, tells: bool) {
    let (engine, report) = reopen(dir, 1 << 30);
    assert_eq!(report.ahead.map(|(_, known)| known), tells.then_some(known));
    assert!(engine.state_rows() == *rows, "state is not what the log says");
    let lsn = publish(&engine, "queue/c", 1);
    assert!(lsn > known, "number {lsn} was given twice: {known} was known");
    let skip = engine.log().skip_at(known).unwrap().unwrap();
    assert_eq!((skip.to, skip.why), (known.next(), SkipReason::Lost));
    let rows = engine.state_rows();
    engine.close();
    drop(engine);
    let (engine, report) = reopen(dir, 1 << 30);
    assert_eq!((report.ahead, report.state), (None, StateSource::Index));
    assert!(engine.state_rows() == rows);
}

#[test]
fn an_index_ahead_of_the_log_makes_numbers_go_on_behind_it_and_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, known) = ahead(dir.path(), 1 << 30);
    check(dir.path(), &rows, known, true);
}

#[test]
fn so_does_a_checkpoint_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, _) = ahead(dir.path(), 1);
    std::fs::remove_file(dir.path().join("state/index.redb")).unwrap();
    let files = std::fs::read_dir(dir.path().join("state")).unwrap().map(|entry| entry.unwrap().file_name());
    let numbers =
        files.filter_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.strip_suffix(".fbc")?.parse::<u64>().ok());
    let known = Lsn(numbers.max().unwrap());
    assert!(known > Lsn(60), "the checkpoint is not ahead: {known}");
    check(dir.path(), &rows, known, true);
}

#[test]
fn a_crash_behind_the_jump_leaves_an_index_that_is_known_by_the_gap_it_lies_in() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, known) = ahead(dir.path(), 1);
    let (log, _) =
        Log::open(LogOptions { segment_bytes: 256 * 1024, ..LogOptions::new(dir.path().join("log")) }).unwrap();
    let gap = log.advance_to(known.next()).unwrap().unwrap();
    log.wait_durable_blocking(gap.last).unwrap();
    log.close();
    drop(log);
    check(dir.path(), &rows, known, false);
}

#[test]
fn a_position_in_a_gap_is_told_with_its_reason_and_those_at_its_ends_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    publish(&engine, "t", 5);
    let end = engine.log().end();
    let gap = engine.log().skip_past(Lsn(100)).unwrap().unwrap();
    block_on(engine.durable(gap.last)).unwrap();
    assert_eq!(gap.first, end);
    let last = publish(&engine, "t", 1);
    assert_eq!(last, Lsn(101));
    let skip_at = |lsn: u64| engine.log().skip_at(Lsn(lsn)).unwrap().map(|skip| (skip.from, skip.to, skip.why));
    for lsn in [1, end.0 - 1, end.0, 101, 102, 200] {
        assert_eq!(skip_at(lsn), None, "{lsn}");
    }
    for lsn in [end.0 + 1, 50, 100] {
        assert_eq!(skip_at(lsn), Some((end, Lsn(101), SkipReason::Beyond)), "{lsn}");
    }
    assert!(engine.log().skip_past(Lsn(100)).unwrap().is_none(), "it is there already");
    engine.close();
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.log().skip_at(Lsn(50)).unwrap().map(|skip| skip.why), Some(SkipReason::Beyond), "also from disk");
}
