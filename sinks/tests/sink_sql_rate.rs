//! How fast waiting messages are stored in PostgreSQL, MySQL and MariaDB, against each server's own bulk way on the same rows.
//!
//! Run by hand, in an optimised build:
//! `cargo test --profile fast -p forebay-sinks --features conformance --test sink_sql_rate -- --ignored --nocapture --test-threads 1`
#![cfg(all(feature = "conformance", feature = "pgsql", feature = "mysql"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod sql;

use std::time::{Duration, Instant};

use forebay_engine::QoS;
use forebay_sinks::conformance::MemoryLog;
use forebay_sinks::rule::{Function, Hook};
use sql::{Other, Scratch, Server, start};
use sqlx::AssertSqlSafe;

const ROWS: usize = 200_000;

fn topic(n: usize) -> String {
    format!("device/{}/state", n % 1000)
}

/// `insert` of 512 rows each, or COPY; 8,192 rows a transaction on one connection.
async fn bare(scratch: &Scratch) -> Duration {
    let mut other = scratch.open().await;
    let payload = "x".repeat(128);
    let began = Instant::now();
    for batch in (0..ROWS).collect::<Vec<usize>>().chunks(8_192) {
        match &mut other {
            Other::Pgsql(conn) => {
                let columns = "msgid, sender, topic, qos, retain, payload, arrived";
                let mut copy = conn.copy_in_raw(&format!("copy mqtt_msg ({columns}) from stdin")).await.unwrap();
                let line =
                    |n: &usize| format!("{n:020}\tpublisher\t{}\t1\t0\t{payload}\t2024-01-01 00:00:00\n", topic(*n));
                let text: String = batch.iter().map(line).collect();
                copy.send(text.into_bytes()).await.unwrap();
                copy.finish().await.unwrap();
            }
            Other::Mysql(_) => {
                other.run("start transaction").await;
                for rows in batch.chunks(512) {
                    let places = vec!["(?,?,?,?,?,?,?,?)"; rows.len()].join(",");
                    let head =
                        "insert into mqtt_msg (msgid, topic, sender, node, qos, retain, payload, arrived) values ";
                    let mut query = sqlx::query(AssertSqlSafe(format!("{head}{places}")));
                    for n in rows {
                        query =
                            query.bind(format!("{n:020}")).bind(topic(*n)).bind("publisher").bind("n").bind(1).bind(0);
                        query = query.bind(payload.clone().into_bytes()).bind("2024-01-01 00:00:00");
                    }
                    let Other::Mysql(conn) = &mut other else { unreachable!() };
                    query.execute(conn).await.unwrap();
                }
                other.run("commit").await;
            }
        }
    }
    began.elapsed()
}

async fn measure(server: Server) {
    let scratch = Scratch::new(server).await;
    let log = MemoryLog::default();
    let mut last = log.publish("first", b"x", QoS::AtLeastOnce);
    let mut rules = scratch.rules(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    let sinks = start(&log, &rules);
    sql::done(&log, &sinks, last).await;
    sql::stop(sinks).await;
    scratch.run("delete from mqtt_msg").await;
    let bare = bare(&scratch).await;
    let rate = |took: Duration| ROWS as f64 / took.as_secs_f64();
    println!("{server:?}: by hand {:.0} rows/s", rate(bare));
    for connections in ["1", "8"] {
        rules.pools = vec![scratch.pool(&[("pool_size", connections)])];
        for n in 0..ROWS {
            last = log.publish(&topic(n), &[b'x'; 128], QoS::AtLeastOnce);
        }
        let began = Instant::now();
        let sinks = start(&log, &rules);
        sql::done(&log, &sinks, last).await;
        let took = began.elapsed();
        println!(
            "{server:?}: {connections} connections {:.0} rows/s, {:.2} of by hand",
            rate(took),
            rate(took) / rate(bare)
        );
        sql::stop(sinks).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn drains_against_bulk_by_hand() {
    for server in [Server::Pgsql, Server::Mysql, Server::Mariadb] {
        measure(server).await;
    }
}
