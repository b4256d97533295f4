//! Measurements, run by hand in an optimised build: how fast the default rules' tables fill, beside a bare loop that inserts the
//! same rows through the same library. They alternate, so that what else the machine does hits both.
//!
//!     cargo test --profile fast -p forebay-sinks --features conformance --test sink_sqlite_rate -- --ignored --nocapture
#![cfg(all(feature = "conformance", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_engine::QoS;
use forebay_sinks::conformance::{MemoryLog, until};
use forebay_sinks::dead_letter::{LetterStore, MemoryLetters};
use forebay_sinks::rule::RuleSet;
use forebay_sinks::runtime::RuntimeOptions;
use forebay_sinks::sink::Sink;
use forebay_sinks::sqlite::{SqliteConfig, SqliteSink};
use forebay_sinks::{DatabaseOptions, Sinks, SinksOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, Executor};

const MESSAGES: usize = 200_000;
const ROWS: usize = 8_192;
const PER_STATEMENT: usize = 128;
const PAYLOAD: [u8; 128] = [b'x'; 128];

fn topic(n: usize) -> String {
    format!("device/{}/state", n % 1_000)
}

async fn through_the_sink(log: &MemoryLog, folder: &Path) -> f64 {
    let options = SinksOptions {
        databases: DatabaseOptions { data_dir: folder.to_owned(), node_name: "forebay@here".into() },
        lookup_deadline: SinksOptions::LOOKUP_DEADLINE,
        runtime: RuntimeOptions::default(),
        open_letters: Arc::new(|_| Ok(Arc::new(MemoryLetters::default()) as Arc<dyn LetterStore>)),
    };
    let rules = RuleSet::default_sqlite(Path::new("t.db"));
    let began = Instant::now();
    let sinks = Sinks::start(Arc::new(log.clone()), &rules, &options).unwrap();
    until("everything is stored", || sinks.status()[0].stored >= MESSAGES as u64).await;
    let took = began.elapsed();
    sinks.shutdown(Duration::from_secs(5)).await;
    MESSAGES as f64 / took.as_secs_f64()
}

async fn bare_loop(folder: &Path) -> f64 {
    let path = folder.join("bare.db");
    let config = SqliteConfig { path: path.clone(), connections: 1, retention: None, node_name: "n".into() };
    drop(SqliteSink::new(config).connect().await.unwrap());
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-32768")
        .pragma("wal_autocheckpoint", "8192");
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    let places = vec!["(?,?,?,?,?,?,?,?)"; PER_STATEMENT].join(",");
    let sql = format!(
        "insert or fail into mqtt_msg (msgid, topic, sender, node, qos, retain, payload, arrived) values {places}"
    );
    let payload = String::from_utf8(PAYLOAD.to_vec()).unwrap();
    let began = Instant::now();
    let mut n = 0;
    while n < MESSAGES {
        conn.execute("begin immediate").await.unwrap();
        for _ in 0..ROWS / PER_STATEMENT {
            let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
            for _ in 0..PER_STATEMENT {
                query = query.bind(format!("{n:020}")).bind(topic(n)).bind("publisher").bind("forebay@here");
                query = query.bind(1i64).bind(0i64).bind(payload.clone()).bind("2024-01-01 00:00:00");
                n += 1;
            }
            query.execute(&mut conn).await.unwrap();
        }
        conn.execute("commit").await.unwrap();
    }
    n as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn default_tables_beside_a_bare_loop() {
    let log = MemoryLog::default();
    for n in 0..MESSAGES {
        log.publish(&topic(n), &PAYLOAD, QoS::AtLeastOnce);
    }
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let bare = bare_loop(folder.path()).await;
        let sink = through_the_sink(&log, folder.path()).await;
        println!("bare loop {bare:.0} rows/s, sink {sink:.0} rows/s, ratio {:.2}", sink / bare);
    }
}
