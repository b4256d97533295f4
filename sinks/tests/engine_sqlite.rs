//! The engine, the sinks and SQLite files together: what a client does, row by row, over restarts of either side and trouble with
//! the file.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use forebay_engine::event::*;
use forebay_engine::{Lsn, QoS};
use forebay_sinks::{ResetTo, SinkState};
use support::*;

const STORY: &str = r##"
backend.sqlite.pool1.file = t.db
backend.sqlite.hook.client.connected.1 = {"action": {"function": "on_client_connected"}, "pool": "pool1"}
backend.sqlite.hook.client.disconnected.1 = {"action": {"function": "on_client_disconnected"}, "pool": "pool1"}
backend.sqlite.hook.session.subscribed.1 = {"topic": "queue/#", "action": {"function": "on_message_fetch_for_queue"}, "pool": "pool1"}
backend.sqlite.hook.session.subscribed.2 = {"topic": "pubsub/#", "action": {"function": "on_message_fetch_for_pubsub"}, "pool": "pool1"}
backend.sqlite.hook.session.unsubscribed.1 = {"topic": "#", "action": {"function": "on_acked_delete"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.2 = {"topic": "pubsub/#", "action": {"function": "on_message_store"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.3 = {"topic": "#", "action": {"function": "on_message_retain"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.4 = {"topic": "#", "action": {"function": "on_retain_delete"}, "pool": "pool1"}
backend.sqlite.hook.message.acked.1 = {"topic": "queue/#", "action": {"function": "on_message_acked_for_queue"}, "pool": "pool1"}
backend.sqlite.hook.message.acked.2 = {"topic": "pubsub/#", "action": {"function": "on_message_acked_for_pubsub"}, "pool": "pool1"}
"##;

const STAGES: usize = 7;

/// One stage of the story. Each leaves nobody connected, so that a restart between any two changes nothing.
async fn stage(number: usize, world: &World) {
    let engine = &world.engine;
    match number {
        0 => {
            let first = Client::connect(engine, "sensor").await;
            let second = Client::connect(engine, "sensor").await;
            first.disconnect(true).await;
            second.disconnect(false).await;
            Client::connect(engine, "reader").await.disconnect(false).await;
        }
        1 => {
            for (topic, payload, qos) in [
                ("plain", "zero", 0),
                ("plain", "one", 1),
                ("plain", "two", 2),
                ("pubsub/a", "zero", 0),
                ("pubsub/a", "first", 1),
                ("pubsub/a", "second", 2),
                ("queue/a", "job", 1),
                ("queue/a", "left", 1),
            ] {
                publish(engine, message(topic, payload, qos)).await;
            }
        }
        2 => {
            for (topic, payload) in [("kept", "old"), ("kept", "new"), ("gone", "x"), ("gone", "")] {
                publish(engine, Message { retain: true, ..message(topic, payload, 1) }).await;
            }
        }
        3 => {
            let mut reader = Client::connect(engine, "reader").await;
            reader.subscribe("pubsub/a").await;
            assert_eq!(reader.receive(2).await, ["zero", "first"]);
            reader.disconnect(false).await;
        }
        4 => {
            let mut worker = Client::connect(engine, "worker").await;
            let mut onlooker = Client::connect(engine, "onlooker").await;
            onlooker.subscribe("#").await;
            publish(engine, message("queue/b", "seen", 1)).await;
            // A plain subscriber's acknowledgement takes nothing out of a queue.
            while onlooker.receive(1).await != ["seen"] {}
            worker.subscribe("queue/a").await;
            assert_eq!(worker.receive(1).await, ["job"]);
            worker.disconnect(false).await;
            onlooker.disconnect(false).await;
        }
        5 => {
            let mut reader = Client::connect(engine, "reader").await;
            reader.subscribe("pubsub/a").await;
            assert_eq!(reader.receive(1).await, ["second"]);
            reader.disconnect(false).await;
        }
        _ => {
            let mut reader = Client::connect(engine, "reader").await;
            reader.subscribe("pubsub/b").await;
            publish(engine, message("pubsub/b", "read", 1)).await;
            assert_eq!(reader.receive(1).await, ["read"]);
            reader.unsubscribe("pubsub/b").await;
            reader.disconnect(false).await;
        }
    }
}

/// What the guide's tables hold, times left out and ids as places in mqtt_msg.
async fn tables(world: &World) -> Vec<String> {
    let mut all = Vec::new();
    for (table, columns) in [
        ("mqtt_client", "clientid,state,node,online_at is not null,offline_at is not null"),
        ("mqtt_msg", "topic,cast(payload as text),qos,retain,sender,node,length(msgid)"),
        ("mqtt_retain", "topic,cast(payload as text),qos,sender,node,length(msgid)"),
        ("mqtt_acked", "clientid,topic,(select payload from mqtt_msg where id = mid)"),
    ] {
        all.extend(world.rows(columns, table).await.into_iter().map(|row| format!("{table}: {row}")));
    }
    all
}

const TOLD: [&str; 16] = [
    "mqtt_client: sensor|0|here|1|1",
    "mqtt_client: reader|0|here|1|1",
    "mqtt_client: worker|0|here|1|1",
    "mqtt_client: onlooker|0|here|1|1",
    "mqtt_msg: plain|one|1|0|publisher|here|20",
    "mqtt_msg: plain|two|2|0|publisher|here|20",
    "mqtt_msg: pubsub/a|zero|0|0|publisher|here|20",
    "mqtt_msg: pubsub/a|first|1|0|publisher|here|20",
    "mqtt_msg: pubsub/a|second|2|0|publisher|here|20",
    "mqtt_msg: queue/a|left|1|0|publisher|here|20",
    "mqtt_msg: kept|old|1|1|publisher|here|20",
    "mqtt_msg: kept|new|1|1|publisher|here|20",
    "mqtt_msg: gone|x|1|1|publisher|here|20",
    "mqtt_msg: gone||1|1|publisher|here|20",
    "mqtt_msg: queue/b|seen|1|0|publisher|here|20",
    "mqtt_msg: pubsub/b|read|1|0|publisher|here|20",
];
const TOLD_TOO: [&str; 2] = ["mqtt_retain: kept|new|1|publisher|here|20", "mqtt_acked: reader|pubsub/a|second"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_tell_what_the_clients_did() {
    let world = World::new(STORY).await;
    for number in 0..STAGES {
        stage(number, &world).await;
    }
    world.caught_up().await;
    assert_eq!(tables(&world).await, [&TOLD[..], &TOLD_TOO[..]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_the_sinks_at_every_stage_leave_the_same_rows() {
    let mut world = World::new(STORY).await;
    for number in 0..STAGES {
        stage(number, &world).await;
        world.restart_sinks(number % 2 == 0).await;
    }
    world.caught_up().await;
    assert_eq!(tables(&world).await, [&TOLD[..], &TOLD_TOO[..]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_the_engine_at_every_stage_leave_the_same_rows() {
    let mut world = World::new(STORY).await;
    for number in 0..STAGES {
        stage(number, &world).await;
        world = world.restart_engine().await;
    }
    world.caught_up().await;
    assert_eq!(tables(&world).await, [&TOLD[..], &TOLD_TOO[..]].concat());
}

const ITEMS: &str = r##"
backend.sqlite.pool1.file = t.db
backend.sqlite.hook.message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.2 = {"topic": "items", "action": {"sql": ["insert into Items (name) values (${payload})"]}, "pool": "pool1"}
"##;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_table_holds_the_sink_with_the_remedy_until_it_is_created() {
    let world = World::new(ITEMS).await;
    publish(&world.engine, message("items", "apple", 1)).await;
    let why = world.waiting().await;
    assert!(why.contains("Items") && why.contains("create the table"), "{why}");
    assert_eq!(world.status().dead_letters, 0, "the operator's fault, not the record's");
    world.sql("create table Items (id integer primary key, name text check (name <> 'rotten'))").await;
    world.caught_up().await;
    assert_eq!(world.rows("name", "Items").await, ["apple"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_outlives_the_process_and_is_stored_once_its_constraint_is_lifted() {
    let mut world = World::new(ITEMS).await;
    world.caught_up().await;
    world.sql("create table Items (id integer primary key, name text check (name <> 'rotten'))").await;
    for name in ["apple", "rotten", "pear"] {
        publish(&world.engine, message("items", name, 1)).await;
    }
    world.caught_up().await;
    assert_eq!(world.rows("name", "Items").await, ["apple", "pear"]);
    assert_eq!(world.rows("cast(payload as text)", "mqtt_msg").await, ["apple", "rotten", "pear"]);
    world = world.restart_engine().await;
    world.caught_up().await;
    let letters = world.sinks().dead_letters(SINK).unwrap().ls(0, 10).unwrap();
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.contains("CHECK"), "{}", letters[0].reason);
    assert!(world.sinks().replay(SINK, letters[0].id).await.is_err(), "the constraint is still there");
    world.sql("drop table Items").await;
    world.sql("create table Items (id integer primary key, name text)").await;
    world.sinks().replay(SINK, letters[0].id).await.unwrap();
    assert_eq!(world.rows("name", "Items").await, ["rotten"]);
    world = world.restart_engine().await;
    assert_eq!(world.status().dead_letters, 0, "settled for good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_program_s_lock_is_shown_and_waited_for_and_memory_stays_bounded() {
    let mut world = World::new(ITEMS).await;
    world.caught_up().await;
    let lock = world.lock().await;
    let before = world.read_bytes();
    let count = 3_000;
    for n in 0..count {
        let appended = world.engine.append_wait(&[published(message("t", &format!("{n:04096}"), 1))]).await.unwrap();
        if n + 1 == count {
            world.engine.applied(appended.last).await.unwrap();
        }
    }
    let why = world.waiting().await;
    assert!(why.contains("another program holds the file's lock"), "{why}");
    let read = world.read_bytes() - before;
    // What memory_bytes allows, and the pages of 1 MiB that were read when it was used up.
    assert!(read > 0 && read < MEMORY_BYTES + (2 << 20), "{read} bytes read while nothing can be stored");
    assert!(world.status().lag_records >= count - 1_000, "{:?}", world.status());
    drop(lock);
    world.caught_up().await;
    assert_eq!(world.rows("count(*)", "mqtt_msg").await, [count.to_string()]);
    world.restart_sinks(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_file_is_filled_again_and_a_fresh_one_begins_where_the_log_does() {
    let mut world = World::new(ITEMS).await;
    for n in 0..4_000 {
        world.engine.append_wait(&[published(message("t", &format!("{n:0512}"), 1))]).await.unwrap();
    }
    world.caught_up().await;
    assert_eq!(world.rows("count(*)", "mqtt_msg").await, ["4000"]);
    world.settled().await;
    world.engine.log().trim_to(Lsn(2_000)).unwrap();
    let first = world.engine.log().first();
    assert!(first > Lsn::FIRST, "nothing was trimmed");
    let trimmed = (1..first.0).filter(|n| *n <= 4_000).count();
    world.stop_sinks().await;
    world.delete_database();
    world.start_sinks();
    world.caught_up().await;
    let rows: usize = world.rows("count(*)", "mqtt_msg").await[0].parse().unwrap();
    // The sink's own reports are records too, so a few of those trimmed may not have been messages.
    assert!(rows >= 4_000 - trimmed && rows < 4_000, "{rows} rows, {trimmed} records trimmed");
    assert_eq!(
        world.rows("cast(payload as text)", "mqtt_msg where id = (select max(id) from mqtt_msg)").await,
        [format!("{:0512}", 3_999)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_behind_the_log_s_first_record_waits_for_a_reset_that_outlives_a_restart() {
    let mut world = World::new(ITEMS).await;
    for n in 0..100 {
        publish(&world.engine, message("t", &n.to_string(), 1)).await;
    }
    world.caught_up().await;
    world.stop_sinks().await;
    for n in 0..4_000 {
        world.engine.append_wait(&[published(message("t", &format!("{n:0512}"), 1))]).await.unwrap();
    }
    publish(&world.engine, message("t", "end", 1)).await;
    world.engine.log().trim_to(Lsn(2_000)).unwrap();
    world.start_sinks();
    let why = world.waiting().await;
    assert!(why.contains("forebay sink reset sqlite/pool1 --to"), "{why}");
    let sink = world.sinks().sink(SINK).unwrap().clone();
    let deadline = Duration::from_secs(20);
    assert!(sink.reset(ResetTo::At(Lsn(1)), deadline).await.is_err(), "no such record any more");
    let end = sink.reset(ResetTo::Latest, deadline).await.unwrap();
    drop(sink);
    world = world.restart_engine().await;
    publish(&world.engine, message("t", "after", 1)).await;
    world.caught_up().await;
    assert!(world.status().position > end);
    assert_eq!(world.rows("count(*)", "mqtt_msg").await, ["101"], "those left out stay out");
    let sink = world.sinks().sink(SINK).unwrap().clone();
    sink.reset(ResetTo::Earliest, deadline).await.unwrap();
    publish(&world.engine, message("t", "again", 1)).await;
    world.caught_up().await;
    let rows: usize = world.rows("count(*)", "mqtt_msg").await[0].parse().unwrap();
    assert!(rows > 2_000, "{rows} rows after storing the log again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_knows_more_than_the_log_waits_for_the_operator_and_no_number_is_given_twice() {
    let mut world = World::new(ITEMS).await;
    for n in 0..40 {
        publish(&world.engine, message("t", &n.to_string(), 1)).await;
    }
    world.caught_up().await;
    world = world.restart_engine_on("older", false).await;
    for n in 40..100 {
        publish(&world.engine, message("t", &n.to_string(), 1)).await;
    }
    world.caught_up().await;
    let known = world.status().position;
    world = world.restart_engine_on("older", true).await;
    let why = world.waiting().await;
    assert!(why.contains("later state of the log") && why.contains("forebay sink reset sqlite/pool1 --to"), "{why}");
    // What is published now has numbers of its own, and the database's position is never taken for one that these have reached.
    for n in 100..200 {
        publish(&world.engine, message("t", &n.to_string(), 1)).await;
    }
    assert!(world.settled().await > known, "numbers were given twice");
    world.restart_sinks(true).await;
    assert!(world.waiting().await.contains("forebay sink reset"), "it is told until somebody decides");
    assert_eq!(world.rows("count(*)", "mqtt_msg").await, ["100"]);
    let again: u64 = why.split("--to ").nth(1).unwrap().split('`').next().unwrap().parse().unwrap();
    let sink = world.sinks().sink(SINK).unwrap().clone();
    sink.reset(ResetTo::At(Lsn(again)), Duration::from_secs(20)).await.unwrap();
    drop(sink);
    world.caught_up().await;
    let new = "mqtt_msg where cast(cast(payload as text) as integer) >= 100";
    assert_eq!(world.rows("count(*)", new).await, ["100"], "all that was published since is stored, each once");
    world = world.restart_engine().await;
    world.caught_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_can_t_be_opened_is_shown_with_lag_and_a_reset_of_it_is_refused() {
    let mut world = World::new(&ITEMS.replace("t.db", "nowhere/t.db")).await;
    world.caught_up().await;
    world.stop_sinks().await;
    std::fs::remove_dir_all(world.path("nowhere")).unwrap();
    std::fs::write(world.path("nowhere"), "a file where the folder should be").unwrap();
    world.start_sinks();
    publish(&world.engine, message("t", "1", 1)).await;
    let why = world.waiting().await;
    assert!(why.contains("nowhere"), "{why}");
    assert!(world.status().lag_records > 0 && world.status().last_error.is_some());
    let sink = world.sinks().sink(SINK).unwrap().clone();
    let refused = sink.reset(ResetTo::Latest, Duration::from_millis(300)).await.unwrap_err().to_string();
    assert!(refused.contains("has not taken the position"), "{refused}");
    std::fs::remove_file(world.path("nowhere")).unwrap();
    world.caught_up().await;
    assert!(matches!(world.status().state, SinkState::Running));
}

const LOOKUPS: &str = r##"
backend.sqlite.pool1.file = t.db
backend.sqlite.hook.client.connected.1 = {"action": {"function": "on_subscribe_lookup"}, "pool": "pool1"}
backend.sqlite.hook.session.subscribed.1 = {"topic": "cmd/#", "action": {"function": "on_message_fetch"}, "pool": "pool1"}
backend.sqlite.hook.session.subscribed.2 = {"topic": "#", "action": {"function": "on_retain_lookup"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.2 = {"topic": "#", "action": {"function": "on_message_retain"}, "pool": "pool1"}
backend.sqlite.hook.message.acked.1 = {"topic": "#", "action": {"function": "on_message_acked"}, "pool": "pool1"}
"##;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_another_program_reach_a_subscriber_once_and_are_acknowledged_under_their_own_id() {
    let mut world = World::new(LOOKUPS).await;
    publish(&world.engine, message("cmd/c", "own", 1)).await;
    world.caught_up().await;
    world
        .sql(
            "with recursive n (n) as (select 0 union all select n + 1 from n where n < 299) \
             insert into mqtt_msg (topic, qos, payload, arrived) select 'cmd/c', 1, 'foreign ' || n, datetime('now') from n",
        )
        .await;
    world.sinks().lookups().before_subscribe("c", "cmd/c").await;
    let mut client = Client::connect(&world.engine, "c").await;
    client.subscribe("cmd/c").await;
    let got = client.receive(301).await;
    assert_eq!((got[0].as_str(), got[1].as_str(), got[300].as_str()), ("own", "foreign 0", "foreign 299"));
    client.disconnect(false).await;
    world.caught_up().await;
    assert_eq!(world.rows("count(*)", "mqtt_msg").await, ["301"], "not written back");
    assert_eq!(world.rows("clientid,topic,mid", "mqtt_acked").await, ["c|cmd/c|301"]);
    for restart in [false, true] {
        if restart {
            world = world.restart_engine().await;
            world.caught_up().await;
        }
        let end = world.settled().await;
        world.sinks().lookups().before_subscribe("c", "cmd/c").await;
        world.sinks().lookups().before_subscribe("d", "cmd/c").await;
        world.settled().await;
        assert!(world.published_since(end).is_empty(), "imported again, restart: {restart}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newer_of_the_two_retained_messages_wins() {
    let world = World::new(LOOKUPS).await;
    publish(&world.engine, Message { retain: true, ..message("r/local", "local", 1) }).await;
    world.caught_up().await;
    for (topic, arrived) in [("r/local", "2001-01-01 00:00:00"), ("r/theirs", "2001-01-01 00:00:00")] {
        let sql = format!(
            "insert into mqtt_retain (topic, qos, payload, arrived) values ('{topic}', 1, 'theirs', '{arrived}') \
             on conflict (topic) do update set payload = 'theirs', msgid = null, arrived = excluded.arrived"
        );
        world.sql(&sql).await;
    }
    let lookups = world.sinks().lookups();
    lookups.before_subscribe("c", "r/local").await;
    lookups.before_subscribe("c", "r/theirs").await;
    world.settled().await;
    let retained = |topic: &str| world.engine.retained(topic).map(|m| m.message.payload.clone()).unwrap();
    assert_eq!(retained("r/local"), "local", "an older row loses");
    assert_eq!(retained("r/theirs"), "theirs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_of_a_locked_database_answer_from_local_state_and_are_counted() {
    let recorder = Counters::install();
    let world = World::new(LOOKUPS).await;
    world.caught_up().await;
    world.sql("insert into mqtt_sub (clientid, topic, qos) values ('c', 'cmd/c', 2), ('c', 'not/#/valid', 1)").await;
    let lookups = world.sinks().lookups();
    let expected = [("cmd/c".into(), QoS::ExactlyOnce)];
    assert_eq!(lookups.proxy_subscriptions("c").await, expected);
    let lock = world.lock().await;
    world.sql_on(&lock, "update mqtt_sub set qos = 0").await;
    let stale = || recorder.total("forebay_sink_lookups_stale");
    let before = stale();
    // Readers are not kept out by a writer in WAL mode: the answer may be fresh or remembered, but it comes, and is not half done.
    let answer = tokio::time::timeout(Duration::from_secs(10), lookups.proxy_subscriptions("c")).await.unwrap();
    assert_eq!(answer, expected);
    drop(lock);
    // A database that is gone altogether.
    std::fs::rename(world.path("t.db"), world.path("t.away")).unwrap();
    std::fs::create_dir(world.path("t.db")).unwrap();
    let fresh = world.fresh_sinks();
    let lookups = fresh.lookups();
    assert!(tokio::time::timeout(Duration::from_secs(10), lookups.proxy_subscriptions("c")).await.unwrap().is_empty());
    tokio::time::timeout(Duration::from_secs(10), lookups.before_subscribe("c", "cmd/c")).await.unwrap();
    assert!(stale() >= before + 2, "{} before, {} after", before, stale());
    fresh.shutdown(Duration::from_secs(1)).await;
}
