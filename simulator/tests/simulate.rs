//! The simulator finds nothing in the engine, and finds the faults that are put into it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use forebay_simulator::fault::Fault;
use forebay_simulator::plan::Plan;
use forebay_simulator::runner::{run_many, run_one, shrink};

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

#[test]
fn schedules_break_no_promise() {
    let schedules = std::env::var("FOREBAY_TEST_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    if let Some(found) = run_many(1, schedules, cores(), None).failure {
        panic!("seed {}: {}", found.seed, found.what);
    }
}

#[test]
fn schedules_come_to_what_is_rare() {
    let rare =
        ["no room", "room again", "disk_budget", "retention", "queue_messages", "queue_bytes", "session_messages"];
    let others = ["session_bytes", "expired", "will", "session over", "indexed", "older redb"];
    let of_groups = [
        "given to another member",
        "revoked by a group",
        "carried for a group",
        "taken from a group",
        "session_ended_qos2",
        "groups served",
    ];
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    // Most of them take a few hundred schedules.
    for first in (1..20_000).step_by(500) {
        seen.extend(run_many(first, 500, cores(), None).seen.keys());
        if rare.iter().chain(&others).chain(&of_groups).all(|what| seen.contains(what)) {
            return;
        }
    }
    panic!("only {seen:?} happened in 20,000 schedules");
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    for seed in 1..5 {
        let run = || run_one(seed, None, Some(Fault::DirNotSynced), true);
        assert_eq!(run(), run(), "seed {seed}");
        assert_eq!(format!("{:?}", Plan::of(seed)), format!("{:?}", Plan::of(seed)));
    }
}

/// Each of these is a mistake that a careless change could make. They must be found within 10,000 schedules.
fn is_found(fault: Fault) -> u64 {
    let outcome = run_many(1, 10_000, cores(), Some(fault));
    let found = outcome.failure.unwrap_or_else(|| panic!("{fault:?} was not found in {} schedules", outcome.done));
    println!("{fault:?} found after {} schedules, by seed {}: {}", outcome.done, found.seed, found.what);
    found.seed
}

#[test]
fn segments_that_are_not_synced_are_found_and_the_schedule_shrinks() {
    let seed = is_found(Fault::SyncSkipped);
    let (all, short) = (Plan::of(seed).ops.len(), shrink(seed, Some(Fault::SyncSkipped)));
    assert!(short.len() < all, "{} of {all} operations are left", short.len());
    assert!(run_one(seed, Some(&short), Some(Fault::SyncSkipped), false).is_err());
    assert!(run_one(seed, Some(&short), None, false).is_ok());
}

#[test]
fn folders_that_are_not_synced_are_found() {
    is_found(Fault::DirNotSynced);
}

#[test]
fn a_trim_before_its_checkpoint_is_found() {
    is_found(Fault::CheckpointAfterTrim);
}
