//! TimescaleDB's sink (see `timescale/mod.rs`) in trouble: lost answers, killed servers, tables that are missing or altered, logins and rights.
#![cfg(all(feature = "conformance", feature = "pgsql", feature = "mysql"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod sql;
mod timescale;

use std::time::Duration;

use forebay_engine::{Lsn, QoS};
use forebay_services::postgres::Postgres;
use forebay_services::toxiproxy::Link;
use forebay_sinks::conformance::{MemoryLog, until};
use sql::{done, error, options, parts, shows, stop};
use timescale::{Base, SINK};

/// A row a message, which nothing but the sink keeps from being there twice, and a counter.
const COUNTED: &str = r##"{"t/#": [
    {"name": "row", "sql": "insert into stored (msgid, topic, payload) values ($1, $2, $3)", "param_keys": ["$id", "$topic", "$payload"]},
    {"name": "count", "sql": "update counted set n = n + 1 where topic = $1", "param_keys": ["$topic"]}]}"##;

const TOPICS: u64 = 5;

async fn counted(url: Option<&str>) -> Base {
    let base = match url {
        Some(url) => Base::at(url, COUNTED).await,
        None => Base::new(COUNTED).await,
    };
    base.run("create table stored (id bigserial, msgid text, topic text, payload text)").await;
    base.run("create table counted (topic text, n integer)").await;
    base.run("insert into counted select 't/' || n, 0 from generate_series(0, 4) n").await;
    base
}

/// Publishes to each topic in turn.
struct Publisher<'a> {
    log: &'a MemoryLog,
    count: u64,
}

impl Publisher<'_> {
    fn publish(&mut self, n: u64) -> Lsn {
        let mut last = Lsn::NONE;
        for _ in 0..n {
            let topic = format!("t/{}", self.count % TOPICS);
            self.count += 1;
            last = self.log.publish(&topic, self.count.to_string().as_bytes(), QoS::AtLeastOnce);
        }
        last
    }
}

/// Each message is there once, in order, and counted once.
async fn each_once(base: &Base, count: u64) {
    assert_eq!(
        base.rows("count(*),count(distinct msgid)", "from stored").await,
        [format!("{count}|{count}")],
        "rows and messages"
    );
    assert_eq!(base.rows("sum(n)", "from counted").await, [count.to_string()], "a counter is moved once a message");
    for topic in 0..TOPICS {
        let rest = format!("from stored where topic = 't/{topic}' order by id");
        let order: Vec<u64> = base.rows("payload", &rest).await.iter().map(|n| n.parse().unwrap()).collect();
        assert!(order.is_sorted(), "topic {topic}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_falls_silent_or_is_reset_stores_everything_once() {
    let base = counted(None).await;
    let (host, port, ..) = parts(&base.scratch.url);
    let link = Link::to(&format!("{host}:{port}")).unwrap();
    let place = format!("127.0.0.1:{}", link.port());
    let log = MemoryLog::default();
    let mut options = options();
    options.runtime.request_deadline = Duration::from_millis(500);
    let sinks = base.start_with(&log, &[("server", &place), ("pool_size", "2")], &options);
    let mut publisher = Publisher { log: &log, count: 0 };
    let last = publisher.publish(50);
    done(&log, &sinks, last).await;
    for round in 0..9u64 {
        let last = publisher.publish(200);
        tokio::time::sleep(Duration::from_millis(3 + round * 7 % 23)).await;
        match round % 3 {
            0 => link.cut().unwrap(),
            1 => link.silence().unwrap(),
            _ => link.reset_after(0).unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        publisher.publish(50);
        link.heal().unwrap();
        done(&log, &sinks, last).await;
    }
    let last = publisher.publish(1);
    done(&log, &sinks, last).await;
    each_once(&base, publisher.count).await;
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_holds_every_message_once() {
    let mut server = forebay_services::private(&Postgres).unwrap();
    let base = counted(Some(&server.address)).await;
    let log = MemoryLog::default();
    let mut options = options();
    options.runtime.request_deadline = Duration::from_secs(2);
    let sinks = base.start_with(&log, &[("pool_size", "2")], &options);
    let mut publisher = Publisher { log: &log, count: 0 };
    for round in 0..3u64 {
        publisher.publish(1_000);
        tokio::time::sleep(Duration::from_millis(15 * round)).await;
        server.process().kill();
        let last = publisher.publish(1_000);
        until("the loss is noticed", || sinks.status()[0].last_error.is_some()).await;
        // Processes of the one that was killed may hold its memory for a moment.
        let patience = std::time::Instant::now() + Duration::from_secs(60);
        while let Err(error) = server.process().restart() {
            assert!(std::time::Instant::now() < patience, "{error:#}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        done(&log, &sinks, last).await;
    }
    each_once(&base, publisher.count).await;
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    until("the lag is 0", || sinks.status()[0].lag_records == 0).await;
    stop(sinks).await;
    drop(base);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_tables_passwords_and_rights_hold_the_sink_with_the_remedy() {
    let base =
        Base::new(r##"{"#": {"name": "n", "sql": "insert into later (p) values ($1)", "param_keys": ["$payload"]}}"##)
            .await;
    let user = format!("u_{}", base.scratch.name);
    base.run(&format!("create role {user} login password 'one'")).await;
    base.run(&format!("grant create on schema public to {user}")).await;
    let log = MemoryLog::default();
    let sinks = base.start(&log, &[("username", &user), ("password", "one"), ("pool_size", "1")]);
    let mut last = log.publish("a", b"1", QoS::AtLeastOnce);
    shows(&sinks, "create the table or column").await;
    base.run("create table later (p integer)").await;
    shows(&sinks, "grant the user the right").await;
    base.run(&format!("grant insert on later to {user}")).await;
    done(&log, &sinks, last).await;
    // The column becomes one of text while a statement for numbers is prepared.
    base.run("alter table later alter p type text").await;
    last = log.publish("a", b"a text", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    base.run("alter table later alter p type bytea using convert_to(p, 'UTF8')").await;
    last = log.publish("a", b"\xff", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    assert_eq!(base.rows("encode(p, 'hex')", "from later").await, ["31", "612074657874", "ff"]);
    base.run(&format!("alter role {user} password 'two'")).await;
    base.run(&format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{user}'")).await;
    last = log.publish("a", b"2", QoS::AtLeastOnce);
    shows(&sinks, "check the pool's username and password").await;
    base.run(&format!("alter role {user} password 'one'")).await;
    done(&log, &sinks, last).await;
    assert_eq!(base.rows("count(*)", "from later").await, ["4"]);
    assert!(sinks.dead_letters(SINK).unwrap().is_empty(), "{}", error(&sinks));
    stop(sinks).await;
    base.run(&format!("drop owned by {user}")).await;
    base.run(&format!("drop role {user}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_message_among_ten_thousand() {
    let base = counted(None).await;
    // A rule that only the server knows.
    base.run("alter table stored add check (payload <> '6543')").await;
    let log = MemoryLog::default();
    let mut publisher = Publisher { log: &log, count: 0 };
    let last = publisher.publish(10_000);
    let sinks = base.start(&log, &[("pool_size", "2")]);
    done(&log, &sinks, last).await;
    let letters = sinks.dead_letters(SINK).unwrap().ls(0, 10).unwrap();
    assert_eq!(letters.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [6_543]);
    assert!(letters[0].reason.contains("check constraint"), "{}", letters[0].reason);
    assert!(letters[0].statement.ends_with("'t/2', '6543')"), "{}", letters[0].statement);
    assert_eq!(base.rows("count(*),count(distinct msgid)", "from stored").await, ["9999|9999"]);
    assert_eq!(base.rows("sum(n)", "from counted").await, ["10000"], "the message's other statement is run");
    base.run("alter table stored drop constraint stored_payload_check").await;
    sinks.replay(SINK, letters[0].id).await.unwrap();
    assert_eq!(base.rows("count(*)", "from stored").await, ["10000"]);
    stop(sinks).await;
}
