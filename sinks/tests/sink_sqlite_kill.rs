//! A process that is killed with SIGKILL in mid-batch, again and again: users' own statements, which can't be repeated safely,
//! have run exactly once for each message all the same, because rows and positions are one transaction.
#![cfg(all(feature = "conformance", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::{Lsn, QoS};
use forebay_sinks::conformance::{Bench, caught_up, rule};
use forebay_sinks::rule::{Action, Database, Hook, Param, Part, Statement};
use forebay_sinks::sqlite::{SqliteConfig, SqliteSink};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row};

const FOLDER: &str = "FOREBAY_TEST_KILL_FOLDER";
const MESSAGES: u64 = 4_000;

/// The log is the same in every process: killed ones find it as it was.
fn bench() -> (Bench, Lsn) {
    let mut bench = Bench::new(Database::Sqlite);
    let text = "insert into counted (msgid) values (";
    let statement = Statement {
        source: format!("{text}${{msgid}})"),
        parts: vec![Part::Text(text.into()), Part::Param(Param::MsgId), Part::Text(")".into())],
    };
    let action = Action::Statements(vec![statement]);
    bench.rules.rules.push(rule(Database::Sqlite, Hook::MessagePublish, 2, Some("t/#"), action));
    let mut last = Lsn::NONE;
    for n in 0..MESSAGES {
        last = bench.log.publish(&format!("t/{}", n % 50), format!("m{n}").as_bytes(), QoS::AtLeastOnce);
    }
    (bench, last)
}

async fn replicate(folder: &Path) {
    let (bench, last) = bench();
    let path = folder.join("k.db");
    let config = SqliteConfig { path, connections: 2, retention: None, node_name: "n".into() };
    let sink = bench.start_sink(Arc::new(SqliteSink::new(config)), Database::Sqlite);
    caught_up(&bench, &sink, last).await;
    sink.shutdown(Duration::from_secs(20)).await;
}

async fn open(folder: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(folder.join("k.db")).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn count(conn: &mut SqliteConnection, sql: &'static str) -> u64 {
    sqlx::query(sql).fetch_one(conn).await.unwrap().get::<i64, _>(0) as u64
}

/// Not a test: what the killed process runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn child() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        replicate(&PathBuf::from(folder)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_run_once_though_the_process_is_killed_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut conn = open(folder.path()).await;
    sqlx::query("create table counted (msgid text)").execute(&mut conn).await.unwrap();
    let mut in_the_middle = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child"])
            .env(FOLDER, folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let before = count(&mut conn, "select count(*) from counted").await;
        // Killed a little after it has begun to store, each time at another moment.
        while child.try_wait().unwrap().is_none()
            && count(&mut conn, "select count(*) from counted").await == before
            && before < MESSAGES
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let stored = count(&mut conn, "select count(*) from counted").await;
        in_the_middle += u64::from(stored > 0 && stored < MESSAGES);
    }
    assert!(in_the_middle > 0, "no kill hit the work");
    replicate(folder.path()).await;
    assert_eq!(count(&mut conn, "select count(distinct msgid) from counted").await, MESSAGES);
    assert_eq!(count(&mut conn, "select count(*) from counted").await, MESSAGES);
    assert_eq!(count(&mut conn, "select count(*) from mqtt_msg").await, MESSAGES);
}
