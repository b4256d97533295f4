//! `drop_oldest` with a real database: publishing goes on, what is not stored is counted, and the sink goes on behind what is gone.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use forebay_engine::EngineOptions;
use forebay_engine::Lsn;
use forebay_engine::engine::WhenFull;
use support::*;

const ALL: &str = r##"
backend.sqlite.pool1.file = t.db
backend.sqlite.hook.message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
"##;

/// Eight segments of 256 KiB.
fn small(options: &mut EngineOptions) {
    options.log.disk_budget = Some(2 << 20);
    options.when_full = WhenFull::DropOldest;
}

/// Publishes messages of 1 KiB; the last one is durable.
async fn fill(world: &World, numbers: std::ops::Range<u64>) -> Lsn {
    let mut last = Lsn::NONE;
    for n in numbers {
        let published = [published(message(&format!("t/{}", n % 5), &format!("{n:01024}"), 1))];
        last = world.engine.append_wait(&published).await.unwrap().last;
    }
    world.engine.durable(last).await.unwrap();
    last
}

/// Stored and let go of make up what was published, and none is both.
async fn adds_up(world: &World, count: u64) {
    let rows: u64 = world.rows("count(*)", "mqtt_msg").await[0].parse().unwrap();
    let distinct: u64 = world.rows("count(distinct payload)", "mqtt_msg").await[0].parse().unwrap();
    let gap = world.engine.sink_gap(SINK).unwrap();
    println!("{count} published, {rows} stored, {} let go of ({})", gap.total, gap.reason.as_str());
    assert_eq!(rows, distinct, "stored twice");
    assert_eq!(count, rows + gap.total);
    assert_eq!(world.status().gap, Some(gap));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_sink_is_passed_and_what_it_lost_is_counted_exactly() {
    let mut world = World::with(ALL, small).await;
    fill(&world, 0..500).await;
    world.caught_up().await;
    world.sinks().pause(SINK);
    fill(&world, 500..9_000).await;
    let gap = world.engine.sink_gap(SINK).expect("the sink was passed");
    assert!(gap.total > 5_000 && world.engine.log().first() > Lsn(5_000), "{gap:?}");
    // The database still stands where it was when the sink was paused: a restart finds it in the gap.
    world = world.restart_engine().await;
    fill(&world, 9_000..9_100).await;
    world.caught_up().await;
    adds_up(&world, 9_100).await;
    world.restart_sinks(true).await;
    world.caught_up().await;
    adds_up(&world, 9_100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_runs_is_passed_in_the_middle_of_its_work_and_counts_by_what_its_database_holds() {
    let world = World::with(ALL, small).await;
    world.caught_up().await;
    for round in 0..4 {
        fill(&world, round * 3_000..round * 3_000 + 1_500).await;
        // Another program holds the file for a while: batches are under way and end neither way.
        let lock = world.lock().await;
        fill(&world, round * 3_000 + 1_500..round * 3_000 + 3_000).await;
        drop(lock);
    }
    world.caught_up().await;
    adds_up(&world, 12_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_whose_database_is_away_is_passed_without_being_asked() {
    let mut world = World::with(&ALL.replace("t.db", "there/t.db"), small).await;
    fill(&world, 0..300).await;
    world.caught_up().await;
    world.stop_sinks().await;
    std::fs::rename(world.path("there"), world.path("away")).unwrap();
    std::fs::write(world.path("there"), "a file where the folder should be").unwrap();
    world.start_sinks();
    world.waiting().await;
    fill(&world, 300..6_000).await;
    let gap = world.engine.sink_gap(SINK).expect("the sink was passed");
    assert!(world.status().position >= gap.to, "{:?}", world.status());
    std::fs::remove_file(world.path("there")).unwrap();
    std::fs::rename(world.path("away"), world.path("there")).unwrap();
    world.caught_up().await;
    std::fs::copy(world.path("there/t.db"), world.path("t.db")).unwrap();
    std::fs::copy(world.path("there/t.db-wal"), world.path("t.db-wal")).ok();
    adds_up(&world, 6_000).await;
}
