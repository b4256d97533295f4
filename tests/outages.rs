//! The whole program in front of each database's real server: publishers notice nothing when the database is killed, silent or gone, and
//! at the end it holds exactly the log's messages, each once.
//!
//! `FOREBAY_TEST_OUTAGE_ROUNDS` (default 10) rounds per server: at a random moment the server or Forebay is killed by SIGKILL, or the server
//! is suspended (it accepts connections and answers nothing); an outage lasts up to `FOREBAY_TEST_OUTAGE_SECONDS` (default 10). Four
//! publishers send QoS 1 and 2 all the while. `cargo xtask soak` runs it for longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

mod support;

use forebay_services::mariadb::MariaDb;
use forebay_services::mysql::{MySql, NATIVE_USER};
use forebay_services::postgres::Postgres;
use forebay_services::redis::{PASSWORD, Redis};
use forebay_services::{Private, private};
use support::load::{Load, Moments};
use support::{Server, wait_for};

const PUBLISHERS: u64 = 4;
/// About 1,500 messages a second: enough that every moment is in the middle of a batch.
const LOAD: Load = Load { topic: "outage", in_flight: 8, pause: Duration::from_millis(5) };

/// A database as the test reads it.
trait Subject {
    /// Its name in rules.
    fn name(&self) -> &'static str;
    /// A server of the test's own, whose acknowledged writes survive SIGKILL.
    fn start(&self) -> Private;
    /// Lines of the pool `pool1`.
    fn pool(&self, port: u16) -> String;
    /// The stored messages: msgid and payload.
    fn stored(&self, port: u16) -> Vec<(String, String)>;
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Pairs of the fields of lines `msgid TAB payload`.
fn pairs(text: &str) -> Vec<(String, String)> {
    text.lines().map(|line| line.split_once('\t').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

fn mysql(user: &str, port: u16, sql: &str, database: &[&str]) -> String {
    let mut command = Command::new("mariadb");
    command.args(["--no-defaults", "-h127.0.0.1", "-P", &port.to_string(), "-u", user, "-ppw", "-N", "-B"]);
    output(command.args(["-e", sql]).args(database))
}

fn mysql_pool(user: &str, port: u16) -> String {
    mysql(user, port, "create database mqtt character set utf8mb4", &[]);
    format!(
        "backend.mysql.pool1.server = 127.0.0.1:{port}\nbackend.mysql.pool1.user = forebay\n\
         backend.mysql.pool1.password = pw\nbackend.mysql.pool1.database = mqtt\nbackend.mysql.pool1.pool_size = 4\n"
    )
}

struct OnMariaDb;

impl Subject for OnMariaDb {
    fn name(&self) -> &'static str {
        "mysql"
    }

    fn start(&self) -> Private {
        private(&MariaDb).unwrap()
    }

    fn pool(&self, port: u16) -> String {
        mysql_pool("forebay", port)
    }

    fn stored(&self, port: u16) -> Vec<(String, String)> {
        pairs(&mysql("forebay", port, "select msgid, payload from mqtt_msg", &["mqtt"]))
    }
}

struct OnMySql;

impl Subject for OnMySql {
    fn name(&self) -> &'static str {
        "mysql"
    }

    fn start(&self) -> Private {
        private(&MySql).unwrap()
    }

    fn pool(&self, port: u16) -> String {
        // The test's client does not know the way in which Forebay's user logs in.
        mysql_pool(NATIVE_USER, port)
    }

    fn stored(&self, port: u16) -> Vec<(String, String)> {
        pairs(&mysql(NATIVE_USER, port, "select msgid, payload from mqtt_msg", &["mqtt"]))
    }
}

struct OnPostgres;

fn psql(port: u16, database: &str, sql: &str) -> String {
    let line = format!("host=127.0.0.1 port={port} dbname={database} user=forebay password=pw");
    output(Command::new("psql").args([line.as_str(), "-At", "-F", "\t", "-c", sql]))
}

impl Subject for OnPostgres {
    fn name(&self) -> &'static str {
        "pgsql"
    }

    fn start(&self) -> Private {
        private(&Postgres).unwrap()
    }

    fn pool(&self, port: u16) -> String {
        psql(port, "postgres", "create database mqtt");
        format!(
            "backend.pgsql.pool1.server = 127.0.0.1:{port}\nbackend.pgsql.pool1.username = forebay\n\
             backend.pgsql.pool1.password = pw\nbackend.pgsql.pool1.database = mqtt\nbackend.pgsql.pool1.pool_size = 4\n"
        )
    }

    fn stored(&self, port: u16) -> Vec<(String, String)> {
        pairs(&psql(port, "mqtt", "select msgid, convert_from(payload, 'UTF8') from mqtt_msg"))
    }
}

struct OnRedis;

/// The hashes of messages, each of which must be in its topic's sorted set too.
const MESSAGES: &str = "local found = {} \
    for _, key in ipairs(redis.call('keys', 'mqtt:msg:*')) do \
      if redis.call('type', key).ok == 'hash' then \
        local id, topic = redis.call('hget', key, 'id'), redis.call('hget', key, 'topic') \
        if redis.call('zscore', 'mqtt:msg:' .. topic, id) then \
          found[#found + 1] = id .. '\\t' .. redis.call('hget', key, 'payload') \
        end \
      end \
    end \
    return found";

impl Subject for OnRedis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn start(&self) -> Private {
        private(&Redis { tls: false, durable: true }).unwrap()
    }

    fn pool(&self, port: u16) -> String {
        format!(
            "backend.redis.pool1.type = single\nbackend.redis.pool1.server = 127.0.0.1:{port}\n\
             backend.redis.pool1.password = {PASSWORD}\nbackend.redis.pool1.pool_size = 4\n"
        )
    }

    fn stored(&self, port: u16) -> Vec<(String, String)> {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port.to_string(), "-a", PASSWORD, "--no-auth-warning", "--raw", "eval", MESSAGES, "0"]);
        pairs(&output(&mut command))
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// What a round does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    KillForebay,
    KillDatabase,
    SuspendDatabase,
    KillBoth,
}

const BLOWS: [Blow; 4] = [Blow::KillForebay, Blow::KillDatabase, Blow::SuspendDatabase, Blow::KillBoth];

fn strike(blow: Blow, server: &mut Server, database: &mut Private, outage: Duration) {
    if matches!(blow, Blow::KillDatabase | Blow::KillBoth) {
        database.process().kill();
    }
    if blow == Blow::SuspendDatabase {
        database.process().suspend();
    }
    if matches!(blow, Blow::KillForebay | Blow::KillBoth) {
        server.kill();
        server.restart();
    }
    match blow {
        Blow::KillForebay => {}
        Blow::SuspendDatabase => {
            std::thread::sleep(outage);
            database.process().resume();
        }
        Blow::KillDatabase | Blow::KillBoth => {
            std::thread::sleep(outage);
            database.process().restart().unwrap();
        }
    }
}

fn play(subject: &dyn Subject) {
    let (rounds, seconds) = (number("FOREBAY_TEST_OUTAGE_ROUNDS", 10), number("FOREBAY_TEST_OUTAGE_SECONDS", 10));
    let mut database = subject.start();
    let port = database.process().port();
    let name = subject.name();
    let rules = subject.pool(port)
        + &format!(
            r##"backend.{name}.hook.client.connected.1 = {{"action": {{"function": "on_client_connected"}}, "pool": "pool1"}}
backend.{name}.hook.client.disconnected.1 = {{"action": {{"function": "on_client_disconnected"}}, "pool": "pool1"}}
backend.{name}.hook.message.publish.1 = {{"topic": "outage/#", "action": {{"function": "on_message_publish"}}, "pool": "pool1"}}
"##
        );
    let mut server = Server::stopped();
    std::fs::write(server.dir.path().join("rules.conf"), rules).unwrap();
    server.configure(
        "backends = [\"rules.conf\"]\n[log]\nsegment_bytes = 4194304\n[sinks]\nrequest_deadline_ms = 2000\n",
    );
    server.restart();
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..PUBLISHERS).map(|n| LOAD.publisher(n, server.mqtt, Arc::clone(&stop))).collect();
    let mut moments = Moments::new();
    let mut blows = BTreeMap::new();
    for round in 0..rounds {
        std::thread::sleep(moments.within(100..1500));
        // Each kind comes in turn at first, then as it happens.
        let blow = BLOWS[if round < 4 { round as usize } else { moments.below(4) as usize }];
        *blows.entry(blow).or_insert(0) += 1;
        // One round has the whole outage, the others a part.
        let longest = if round == 1 { seconds * 1000 } else { seconds * 100 };
        strike(blow, &mut server, &mut database, moments.within(longest / 2..longest + 1));
    }
    stop.store(true, Ordering::Relaxed);
    let (mut sent, mut acknowledged) = (0, Vec::new());
    for publisher in publishers {
        let published = publisher.join().unwrap();
        sent += published.sent;
        acknowledged.extend(published.acknowledged);
    }
    let since = Instant::now();
    wait_for("the sink to catch up", || {
        let sinks = server.sinks();
        (sinks.len() == 1 && sinks[0]["lag_records"] == 0).then_some(())
    });
    let caught_up = since.elapsed();
    let letters = server.sinks()[0]["dead_letters"].clone();
    assert!(server.stop().success(), "{}", server.messages());

    let text = |row: &serde_json::Value, field: &str| row[field].as_str().unwrap().to_owned();
    let mut logged: Vec<(String, String)> =
        server.logged().iter().map(|row| (text(row, "msgid"), text(row, "payload"))).collect();
    let mut stored = subject.stored(port);
    logged.sort();
    stored.sort();
    println!(
        "{}: {rounds} rounds {blows:?}: {sent} sent, {} acknowledged, {} in the log, {} stored, caught up in {caught_up:?}",
        database.process().port(),
        acknowledged.len(),
        logged.len(),
        stored.len()
    );
    assert!(acknowledged.len() as u64 > rounds * 10, "the load did not run");
    let in_log: std::collections::HashSet<&str> = logged.iter().map(|(_, payload)| payload.as_str()).collect();
    let lost = acknowledged.iter().filter(|payload| !in_log.contains(payload.as_str())).count();
    assert_eq!(lost, 0, "acknowledged and not in the log");
    let twice = stored.chunk_by(|a, b| a.0 == b.0).filter(|rows| rows.len() > 1).count();
    assert_eq!(twice, 0, "msgids stored more than once");
    let missing = logged.iter().filter(|row| stored.binary_search(row).is_err()).count();
    assert_eq!(missing, 0, "in the log and not stored");
    assert_eq!(stored.len(), logged.len(), "stored and not in the log");
    assert_eq!(letters, 0, "dead letters");
}

#[test]
fn mariadb_holds_exactly_the_logs_messages_after_kills_of_either_side() {
    play(&OnMariaDb);
}

#[test]
fn mysql_holds_exactly_the_logs_messages_after_kills_of_either_side() {
    play(&OnMySql);
}

#[test]
fn postgresql_holds_exactly_the_logs_messages_after_kills_of_either_side() {
    play(&OnPostgres);
}

#[test]
fn redis_holds_exactly_the_logs_messages_after_kills_of_either_side() {
    play(&OnRedis);
}
