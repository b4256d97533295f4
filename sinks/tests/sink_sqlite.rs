//! SQLite passes the conformance suite on real files.
#![cfg(all(feature = "conformance", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_sinks::conformance::{self, Fault, Faulty, Subject};
use forebay_sinks::rule::{Database, Param, Part, Statement};
use forebay_sinks::sqlite::{SqliteConfig, SqliteSink};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row};

struct File {
    folder: tempfile::TempDir,
    sink: Faulty<SqliteSink>,
}

fn file(connections: usize) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("suite.db");
    let config = SqliteConfig { path, connections, retention: None, node_name: "node@test".into() };
    File { sink: Faulty::new(SqliteSink::new(config)), folder }
}

impl File {
    async fn open(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.folder.path().join("suite.db"));
        SqliteConnection::connect_with(&options.create_if_missing(true)).await.unwrap()
    }
}

impl Subject for File {
    type Sink = Faulty<SqliteSink>;
    fn sink(&self) -> Arc<Faulty<SqliteSink>> {
        Arc::new(self.sink.clone())
    }
    fn database(&self) -> Database {
        Database::Sqlite
    }
    fn fault(&self, fault: Fault) {
        self.sink.set(fault);
    }
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        let mut conn = self.open().await;
        let sql = "select cast(payload as blob) as p, count(*) as n from mqtt_msg group by 1";
        let rows = sqlx::query(sql).fetch_all(&mut conn).await.unwrap_or_default();
        rows.iter().map(|r| (r.get::<Vec<u8>, _>("p"), r.get::<i64, _>("n") as u64)).collect()
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        let mut conn = self.open().await;
        let sql = "select cast(payload as blob) as p from mqtt_msg where topic = ? order by id";
        let rows = sqlx::query(sql).bind(topic.to_owned()).fetch_all(&mut conn).await.unwrap();
        rows.iter().map(|r| r.get("p")).collect()
    }
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        let head = "insert into mqtt_sub (clientid, topic, qos) select ";
        let tail = " from (select 1) where 'x' = 'poison'";
        // A NOT NULL violation, but only for the payload "poison".
        let check = "insert into mqtt_msg (topic, arrived) select null, 1 where 'poison' = ";
        Some(vec![
            Statement {
                source: format!("{head}${{clientid}}, ${{topic}}, ${{qos}}{tail}"),
                parts: vec![
                    Part::Text(head.into()),
                    Part::Param(Param::ClientId),
                    Part::Text(", ".into()),
                    Part::Param(Param::Topic),
                    Part::Text(", ".into()),
                    Part::Param(Param::Qos),
                    Part::Text(tail.into()),
                ],
            },
            Statement {
                source: format!("{check}${{payload}}"),
                parts: vec![Part::Text(check.into()), Part::Param(Param::Payload)],
            },
        ])
    }
    async fn acknowledged(&self, client: &str) -> usize {
        let mut conn = self.open().await;
        let sql = "select count(*) as n from mqtt_acked where clientid = ?";
        let row = sqlx::query(sql).bind(client.to_owned()).fetch_one(&mut conn).await.unwrap();
        row.get::<i64, _>("n") as usize
    }
    fn stores_once(&self) -> bool {
        true
    }
}

macro_rules! suite {
    ($($clause:ident),* $(,)?) => {
        $(mod $clause {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_one_connection() {
                conformance::$clause(&file(1)).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_three_connections() {
                conformance::$clause(&file(3)).await;
            }
        })*
    };
}

suite!(
    reconnects,
    survives_dying_in_mid_batch,
    survives_being_killed,
    replaying_the_log_gives_the_same_rows,
    keeps_the_order_of_each_key,
    buries_poison_and_stores_the_rest,
    gives_up_on_silence,
    sends_less_at_once_where_more_is_not_answered,
    waits_for_slow_and_busy,
    shuts_down_in_mid_batch,
    positions_survive,
    a_position_beyond_the_log_is_shown_and_reset,
    pauses_and_resumes,
    a_wildcard_unsubscribe_is_a_barrier,
    catches_up_after_an_outage_under_load,
    goes_on_behind_a_recorded_gap,
    lets_go_when_asked,
);
