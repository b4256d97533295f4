//! What SQLite's tables hold after each function of the guide, and what lookups read from them.
#![cfg(all(feature = "conformance", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::event::{Message, Origin};
use forebay_engine::{Event, Lsn, QoS};
use forebay_sinks::conformance::{MemoryLog, nowhere, rule, until};
use forebay_sinks::dead_letter::{LetterStore, MemoryLetters};
use forebay_sinks::rule::{Action, Database, Function, Hook, Pool, RuleSet, Setting};
use forebay_sinks::runtime::RuntimeOptions;
use forebay_sinks::source::Source;
use forebay_sinks::{DatabaseOptions, Sinks, SinksOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Row};

fn set(rules: &[(Hook, Option<&str>, Function)]) -> RuleSet {
    let setting = Setting { value: "t.db".into(), secret: false, at: nowhere() };
    let settings = BTreeMap::from([("file".to_owned(), setting)]);
    let pool = Pool { database: Database::Sqlite, name: "pool1".into(), settings, at: nowhere() };
    let rules = rules.iter().enumerate().map(|(n, (hook, topic, function))| {
        rule(Database::Sqlite, *hook, n as u32 + 1, *topic, Action::Function(*function))
    });
    RuleSet { pools: vec![pool], rules: rules.collect() }
}

fn options(folder: &Path) -> SinksOptions {
    SinksOptions {
        databases: DatabaseOptions { data_dir: folder.to_owned(), node_name: "forebay@here".into() },
        lookup_deadline: Duration::from_secs(20),
        runtime: RuntimeOptions::default(),
        open_letters: Arc::new(|_| Ok(Arc::new(MemoryLetters::default()) as Arc<dyn LetterStore>)),
    }
}

fn start(log: &MemoryLog, rules: &RuleSet, folder: &Path) -> Sinks {
    Sinks::start(Arc::new(log.clone()), rules, &options(folder)).unwrap()
}

async fn done(log: &MemoryLog, sinks: &Sinks, last: Lsn) {
    until("the sink has caught up", || sinks.status()[0].position > last).await;
    assert!(log.durable_end() > last);
}

async fn open(folder: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.join("t.db"))).await.unwrap()
}

/// Rows as text, columns joined by `|`; NULL as `-`.
async fn rows(folder: &Path, columns: &str, table: &str) -> Vec<String> {
    let joined: Vec<String> = columns.split(',').map(|c| format!("coalesce({c},'-')")).collect();
    let sql = format!("select {} as row from {table} order by id", joined.join("||'|'||"));
    let mut conn = open(folder).await;
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap();
    rows.iter().map(|r| r.get("row")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_status_follows_connections_and_ignores_a_superseded_disconnect() {
    let folder = tempfile::tempdir().unwrap();
    let log = MemoryLog::default();
    let rules = set(&[
        (Hook::ClientConnected, None, Function::ClientConnected),
        (Hook::ClientDisconnected, None, Function::ClientDisconnected),
    ]);
    log.connect("a", 1);
    log.connect("a", 2);
    log.disconnect("a", 1, true);
    log.connect("b", 3);
    let last = log.disconnect("b", 3, false);
    let sinks = start(&log, &rules, folder.path());
    done(&log, &sinks, last).await;
    let at = "2024-01-01 00:00:00";
    assert_eq!(
        rows_of_clients(folder.path()).await,
        [format!("a|1|forebay@here|{at}|-"), format!("b|0|forebay@here|{at}|{at}")]
    );
    sinks.shutdown(Duration::from_secs(5)).await;
}

async fn rows_of_clients(folder: &Path) -> Vec<String> {
    rows(folder, "clientid,state,node,online_at,offline_at", "mqtt_client").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_stored_once_as_text_or_bytes_and_removed_or_remembered_on_acknowledgement() {
    let folder = tempfile::tempdir().unwrap();
    let log = MemoryLog::default();
    let rules = set(&[
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("#"), Function::MessageStore),
        (Hook::MessageAcked, Some("queue/#"), Function::MessageAckedForQueue),
        (Hook::MessageAcked, Some("pubsub/#"), Function::MessageAckedForPubsub),
    ]);
    let queued = log.publish("queue/a", b"gone", QoS::AtLeastOnce);
    let first = log.publish("pubsub/a", b"one", QoS::ExactlyOnce);
    let second = log.publish("pubsub/a", b"\xff\xfe", QoS::AtLeastOnce);
    log.publish("pubsub/a", b"zero", QoS::AtMostOnce);
    log.ack("c", "queue/a", queued);
    log.ack("c", "pubsub/a", second);
    let last = log.ack("c", "pubsub/a", first);
    let sinks = start(&log, &rules, folder.path());
    done(&log, &sinks, last).await;
    assert_eq!(
        rows(folder.path(), "topic,sender,qos,retain,typeof(payload),arrived", "mqtt_msg").await,
        [
            "pubsub/a|publisher|2|0|text|2024-01-01 00:00:00",
            "pubsub/a|publisher|1|0|blob|2024-01-01 00:00:00",
            "pubsub/a|publisher|0|0|text|2024-01-01 00:00:00"
        ]
    );
    // The later message's id: an acknowledgement never goes backwards.
    assert_eq!(rows(folder.path(), "clientid,topic,mid", "mqtt_acked").await, ["c|pubsub/a|3"]);
    sinks.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_are_replaced_and_deleted_by_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let log = MemoryLog::default();
    let rules = set(&[
        (Hook::MessagePublish, Some("#"), Function::MessageRetain),
        (Hook::MessagePublish, Some("#"), Function::RetainDelete),
        (Hook::MessagePublish, Some("last/#"), Function::MessageStoreKeepLatest),
    ]);
    let retained = |topic: &str, payload: &str| {
        log.message(Message {
            topic: topic.into(),
            payload: payload.to_owned().into(),
            retain: true,
            ..Message::default()
        })
    };
    retained("a", "old");
    retained("a", "new");
    retained("b", "x");
    retained("b", "");
    log.publish("last/a", b"1", QoS::AtMostOnce);
    let last = log.publish("last/a", b"2", QoS::AtMostOnce);
    let sinks = start(&log, &rules, folder.path());
    done(&log, &sinks, last).await;
    assert_eq!(rows(folder.path(), "topic,payload", "mqtt_retain").await, ["a|new"]);
    assert_eq!(rows(folder.path(), "topic,payload", "mqtt_msg").await, ["last/a|2"]);
    sinks.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_other_programs_are_imported_once_and_acknowledged_by_their_own_id() {
    let folder = tempfile::tempdir().unwrap();
    let log = MemoryLog::default();
    let rules = set(&[
        (Hook::ClientConnected, None, Function::SubscribeLookup),
        (Hook::SessionSubscribed, Some("#"), Function::MessageFetch),
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessageAcked, Some("#"), Function::MessageAcked),
    ]);
    let own = log.publish("cmd/c", b"own", QoS::AtLeastOnce);
    let sinks = start(&log, &rules, folder.path());
    done(&log, &sinks, own).await;
    let mut conn = open(folder.path()).await;
    for sql in [
        "insert into mqtt_msg (topic, qos, payload, arrived) values ('cmd/c', 1, 'reboot', '2023-12-31 00:00:00')",
        "insert into mqtt_sub (clientid, topic, qos) values ('c', 'cmd/c', 2), ('c', 'not/#/valid', 1)",
    ] {
        sqlx::query(sql).execute(&mut conn).await.unwrap();
    }
    let lookups = sinks.lookups();
    assert_eq!(lookups.proxy_subscriptions("c").await, [("cmd/c".into(), QoS::ExactlyOnce)]);
    lookups.before_subscribe("c", "cmd/c").await;
    lookups.before_subscribe("c", "cmd/c").await;
    let imported: Vec<(usize, Event)> = log.events().into_iter().enumerate().collect();
    let imported: Vec<u64> = imported
        .iter()
        .filter(|(_, e)| matches!(e, Event::Published(p) if matches!(p.message.origin, Origin::Import { .. })))
        .map(|(n, _)| *n as u64 + 1)
        .collect();
    assert_eq!(imported.len(), 1, "imported once, the own row not at all");
    let last = log.ack("c", "cmd/c", Lsn(imported[0]));
    done(&log, &sinks, last).await;
    assert_eq!(rows(folder.path(), "id,payload", "mqtt_msg").await, ["1|own", "2|reboot"], "not written back");
    assert_eq!(rows(folder.path(), "clientid,topic,mid", "mqtt_acked").await, ["c|cmd/c|2"]);
    // Another process, another memory: the database knows.
    sinks.shutdown(Duration::from_secs(5)).await;
    let sinks = start(&log, &rules, folder.path());
    done(&log, &sinks, last).await;
    sinks.lookups().before_subscribe("d", "cmd/c").await;
    let again = log.events().iter().filter(|e| matches!(e, Event::Published(_))).count();
    assert_eq!(again, 2);
    sinks.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_deleted_under_the_sink_is_filled_again_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = MemoryLog::default();
    let rules = set(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    let sinks = start(&log, &rules, folder.path());
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    for name in ["t.db", "t.db-wal", "t.db-shm"] {
        let _may_be_missing = std::fs::remove_file(folder.path().join(name));
    }
    let last = log.publish("a", b"2", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    assert_eq!(rows(folder.path(), "payload", "mqtt_msg").await, ["1", "2"]);
    sinks.shutdown(Duration::from_secs(5)).await;
}

/// In the build of `cargo xtask test --only reduced`, which leaves out all databases but SQLite.
#[cfg(not(feature = "redis"))]
#[tokio::test]
async fn a_database_without_a_driver_is_refused_with_the_rule_s_place() {
    let folder = tempfile::tempdir().unwrap();
    let left_out: Vec<Database> =
        Database::ALL.into_iter().filter(|database| !forebay_sinks::AVAILABLE.contains(database)).collect();
    assert!(left_out.contains(&Database::Redis));
    for database in left_out {
        let mut rules = set(&[(Hook::MessagePublish, None, Function::MessagePublish)]);
        rules.rules[0].database = database;
        rules.pools[0].database = database;
        let error = Sinks::start(Arc::new(MemoryLog::default()), &rules, &options(folder.path())).unwrap_err();
        assert!(matches!(error, forebay_sinks::StartError::NoDriver { .. }), "{database}");
        assert!(error.to_string().starts_with("<conformance>:1:1"), "{error}");
    }
}

/// Run by hand, in an optimised build: `cargo test --profile fast … -- --ignored --nocapture drains`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn drains_three_hundred_thousand_messages() {
    let folder = tempfile::tempdir().unwrap();
    let log = MemoryLog::default();
    let rules = set(&[
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("#"), Function::MessageRetain),
        (Hook::MessagePublish, Some("#"), Function::RetainDelete),
    ]);
    let mut last = Lsn::NONE;
    for n in 0..300_000 {
        last = log.publish(&format!("device/{}/state", n % 1000), &[b'x'; 128], QoS::AtLeastOnce);
    }
    let began = std::time::Instant::now();
    let sinks = start(&log, &rules, folder.path());
    done(&log, &sinks, last).await;
    println!("{:.0} rows/s", 300_000.0 / began.elapsed().as_secs_f64());
    sinks.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_rows_and_rows_beyond_the_retention_are_removed() {
    use forebay_sinks::conformance::BEGIN_US;
    use forebay_sinks::sink::Sink;
    use forebay_sinks::sqlite::{SqliteConfig, SqliteSink};
    let folder = tempfile::tempdir().unwrap();
    let log = MemoryLog::default();
    let mut rules = set(&[
        (Hook::MessagePublish, Some("short/#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("long/#"), Function::MessagePublish),
    ]);
    rules.rules[0].expired_time = Some(Duration::from_secs(60));
    log.publish("short/a", b"s", QoS::AtLeastOnce);
    let last = log.publish("long/a", b"l", QoS::AtLeastOnce);
    let sinks = start(&log, &rules, folder.path());
    done(&log, &sinks, last).await;
    sinks.shutdown(Duration::from_secs(5)).await;
    let day = Duration::from_secs(86_400);
    let path = folder.path().join("t.db");
    let config = SqliteConfig { path, connections: 1, retention: Some(day), node_name: "n".into() };
    let sink = SqliteSink::new(config);
    let mut conn = sink.connect().await.unwrap();
    sink.maintain(&mut conn, BEGIN_US + 30_000_000).await.unwrap();
    assert_eq!(rows(folder.path(), "payload", "mqtt_msg").await, ["s", "l"]);
    sink.maintain(&mut conn, BEGIN_US + 61_000_000).await.unwrap();
    assert_eq!(rows(folder.path(), "payload", "mqtt_msg").await, ["l"]);
    sink.maintain(&mut conn, BEGIN_US + 2 * 86_400_000_000).await.unwrap();
    assert!(rows(folder.path(), "payload", "mqtt_msg").await.is_empty());
    assert_eq!(sink.maintain(&mut conn, BEGIN_US + 3 * 86_400_000_000).await.unwrap(), 0);
}
