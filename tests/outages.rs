//! The whole program in front of each database's real servers: publishers notice nothing when a database is killed, silent or gone, and
//! at the end it holds exactly the log's messages, each once.
//!
//! Two stories for each database:
//!
//! - *kills*: `FOREBAY_TEST_OUTAGE_ROUNDS` rounds under load (default 10; 5 for servers that take seconds to start). At a random
//!   moment the server that takes writes, or Forebay, or both are killed by SIGKILL, or the server is suspended (it accepts connections
//!   and answers nothing). It comes back after a moment or, under sentinels and in a cluster, perhaps only after another one was promoted.
//! - *down*: all servers of the database are down for `FOREBAY_TEST_OUTAGE_SECONDS` (default 10) and until `FOREBAY_TEST_OUTAGE_RATE`
//!   messages have been acknowledged for each of these seconds (default 5,000; less for databases that store less).
//!
//! `FOREBAY_TEST_OUTAGES` names the blows of the first story; all where it is not set. `cargo xtask soak` runs both for longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

#[path = "support/documents.rs"]
mod documents;
#[path = "support/dynamo.rs"]
mod dynamo;
#[path = "support/points.rs"]
mod points;
mod support;

use documents::{OnCassandra, OnMongo};
use dynamo::OnDynamo;
use forebay_services::Private;
use points::{OnInfluxDb, OnOpenTsdb};
use support::databases::{OnCluster, OnMariaDb, OnMySql, OnPostgres, OnRedis, OnSentinels, Subject};
use support::load::{Load, Moments, Publishers, worded};
use support::{PATIENCE, Server, wait_within};

const PUBLISHERS: u64 = 4;
/// How long a sink may take to connect, to make its tables and to store: seconds on an idle machine.
const STORES_WITHIN: Duration = Duration::from_secs(240);
/// About 800 messages a second, or what a database can bear: enough that every moment is in the middle of a batch.
const LOAD: Load = Load { topic: "outage", in_flight: 8, pause: Duration::from_millis(5), rate: 200, payload: worded };
const HEAVY: Load = Load { in_flight: 256, pause: Duration::ZERO, ..LOAD };

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

impl Blow {
    fn kills_database(self) -> bool {
        matches!(self, Blow::KillDatabase | Blow::KillBoth)
    }
}

const BLOWS: [(&str, Blow); 4] = [
    ("kill-forebay", Blow::KillForebay),
    ("kill-database", Blow::KillDatabase),
    ("suspend-database", Blow::SuspendDatabase),
    ("kill-both", Blow::KillBoth),
];

/// Those that are asked for.
fn blows() -> Vec<Blow> {
    let Ok(asked) = std::env::var("FOREBAY_TEST_OUTAGES") else { return BLOWS.map(|(_, blow)| blow).to_vec() };
    let one = |name: &str| BLOWS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}?")).1;
    asked.split(',').map(one).collect()
}

/// How often each msgid is there.
fn counted(rows: &[(String, String)]) -> HashMap<&str, usize> {
    rows.iter().fold(HashMap::new(), |mut counts, (msgid, _)| {
        *counts.entry(msgid.as_str()).or_default() += 1;
        counts
    })
}

/// The program and the database, and what is to be said about them at the end.
struct Stage<'a> {
    subject: &'a dyn Subject,
    name: &'a str,
    servers: Private,
    forebay: Server,
}

impl<'a> Stage<'a> {
    fn set(name: &'a str, subject: &'a dyn Subject) -> Stage<'a> {
        let servers = subject.start();
        let backend = subject.name();
        let mut rules = subject.pool(&servers);
        for (hook, topic, function) in [
            ("client.connected", "", "on_client_connected"),
            ("client.disconnected", "", "on_client_disconnected"),
            ("message.publish", "\"topic\": \"outage/#\", ", "on_message_publish"),
        ] {
            if !hook.starts_with("message") && !subject.knows_clients() {
                continue;
            }
            let action = format!("{topic}\"action\": {{\"function\": \"{function}\"}}, \"pool\": \"pool1\"");
            writeln!(rules, "backend.{backend}.hook.{hook}.1 = {{{action}}}").unwrap();
        }
        let mut forebay = Server::stopped();
        std::fs::write(forebay.dir.path().join("rules.conf"), rules).unwrap();
        if let Some((name, text)) = subject.file() {
            let file = forebay.data().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        forebay.configure(&format!(
            "backends = [\"rules.conf\"]\n[log]\nsegment_bytes = 4194304\n[sinks]\nrequest_deadline_ms = {}\n",
            subject.deadline_ms()
        ));
        forebay.restart();
        let stage = Stage { subject, name, servers, forebay };
        // Tables are made by then, so that what piles up is the outage's.
        wait_within(STORES_WITHIN, "the sink to connect", || (stage.sink()["state"] == "running").then_some(()));
        stage
    }

    fn sink(&self) -> serde_json::Value {
        self.forebay.sinks().remove(0)
    }

    fn position(&self) -> u64 {
        self.sink()["position"].as_u64().unwrap()
    }

    fn strike(&mut self, blow: Blow, outage: Duration, dice: u64) {
        let victim = self.subject.victim(&self.servers, dice);
        if blow.kills_database() {
            self.servers.members[victim].kill();
        }
        if blow == Blow::SuspendDatabase {
            self.servers.members[victim].suspend();
        }
        if matches!(blow, Blow::KillForebay | Blow::KillBoth) {
            self.forebay.kill();
            self.forebay.restart();
        }
        match blow {
            Blow::KillForebay => {}
            Blow::SuspendDatabase => {
                std::thread::sleep(outage);
                self.servers.members[victim].resume();
            }
            Blow::KillDatabase | Blow::KillBoth => {
                std::thread::sleep(outage);
                self.servers.members[victim].restart().unwrap();
            }
        }
    }

    /// Waits until the lag is 0, for as long as it becomes less.
    fn catch_up(&self) -> Duration {
        let begun = Instant::now();
        let (mut least, mut since) = (u64::MAX, Instant::now());
        loop {
            let sink = self.sink();
            let lag = sink["lag_records"].as_u64().unwrap();
            if lag == 0 {
                return begun.elapsed();
            }
            if lag < least {
                (least, since) = (lag, Instant::now());
            }
            assert!(since.elapsed() < STORES_WITHIN, "the sink does not catch up: {sink}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Everything acknowledged is in the log, and everything in the log is in the database, once.
    fn hold_up(mut self, what: &str, load: Publishers) {
        let published = load.end();
        let caught_up = self.catch_up();
        let letters = self.sink()["dead_letters"].clone();
        assert!(self.forebay.stop().success(), "{}", self.forebay.messages());
        let logged = self.forebay.logged_pairs();
        let mut stored = self.subject.stored(&self.servers);
        let in_log: HashSet<&str> = logged.iter().map(|(_, payload)| payload.as_str()).collect();
        let lost = published.acknowledged.iter().filter(|payload| !in_log.contains(payload.as_str())).count();
        let logged: Vec<_> = logged.into_iter().map(|(msgid, payload)| self.subject.told(msgid, payload)).collect();
        // A message that its publisher has sent again is in the log twice, and points know no names: counted by what they say.
        stored.sort_unstable();
        let (due, found) = (counted(&logged), counted(&stored));
        let times = |rows: &HashMap<&str, usize>, id: &str| rows.get(id).copied().unwrap_or(0);
        let twice: usize = found.iter().map(|(id, n)| n.saturating_sub(times(&due, id).max(1))).sum();
        let missing = logged.iter().filter(|row| stored.binary_search(row).is_err()).count();
        let missing = missing.max(due.iter().map(|(id, n)| n.saturating_sub(times(&found, id))).sum());
        println!(
            "{}: {what}: {} sent, {} acknowledged, {} in the log, {} stored, {missing} missing, {twice} twice, {letters} dead letters, \
             caught up in {:.1} s",
            self.name,
            published.sent,
            published.acknowledged.len(),
            logged.len(),
            stored.len(),
            caught_up.as_secs_f32()
        );
        assert_eq!(lost, 0, "acknowledged and not in the log");
        assert_eq!(twice, 0, "msgids stored more than once");
        assert_eq!(missing, 0, "in the log and not stored");
        assert_eq!(stored.len(), logged.len(), "stored and not in the log");
        assert_eq!(letters, 0, "dead letters");
    }
}

/// Kills of either side and silence, at random moments.
fn kills(name: &str, subject: &dyn Subject) {
    let (rounds, kinds) = (number("FOREBAY_TEST_OUTAGE_ROUNDS", subject.rounds()), blows());
    let mut stage = Stage::set(name, subject);
    let rate = LOAD.rate.min(subject.rate() / PUBLISHERS);
    let load = Load { rate, payload: subject.payload(), ..LOAD }.start(PUBLISHERS, stage.forebay.mqtt);
    let mut moments = Moments::salted(name);
    let mut struck = BTreeMap::new();
    let mut last = 0;
    for round in 0..rounds {
        // The last blow is over when the sink stores again; publishers have not waited for that.
        last =
            wait_within(STORES_WITHIN, "the sink to store again", || Some(stage.position()).filter(|now| *now > last));
        std::thread::sleep(moments.within(20..600));
        // Each kind comes in turn at first, then as it happens.
        let kind = if round < kinds.len() as u64 { round } else { moments.below(kinds.len() as u64) };
        let mut blow = kinds[kind as usize];
        if round >= kinds.len() as u64 && blow.kills_database() && subject.starts_slowly() {
            blow = kinds[moments.below(kinds.len() as u64) as usize];
        }
        *struck.entry(blow).or_insert(0) += 1;
        let outage = moments.within(30..stage.subject.outage_ms());
        let dice = moments.below(1 << 16);
        stage.strike(blow, outage, dice);
        stage.subject.mend(&mut stage.servers);
        if (round + 1) % 20 == 0 {
            println!("{name}: {} of {rounds} rounds, {} acknowledged", round + 1, load.acknowledged());
        }
    }
    assert!(load.acknowledged() > rounds * 10, "the load did not run");
    stage.hold_up(&format!("{rounds} rounds {struck:?}"), load);
}

/// Down for some seconds under heavy load.
fn down(name: &str, subject: &dyn Subject) {
    let seconds = number("FOREBAY_TEST_OUTAGE_SECONDS", 10);
    let rate = number("FOREBAY_TEST_OUTAGE_RATE", subject.rate());
    let mut stage = Stage::set(name, subject);
    let heavy = Load { rate: rate / PUBLISHERS, payload: subject.payload(), ..HEAVY };
    let load = heavy.start(PUBLISHERS, stage.forebay.mqtt);
    wait_within(STORES_WITHIN, "the sink to store", || (stage.position() > 1_000).then_some(()));
    for member in &mut stage.servers.members {
        member.kill();
    }
    let (begun, before) = (Instant::now(), load.acknowledged());
    let (mut most, mut since) = (before, Instant::now());
    while begun.elapsed() < Duration::from_secs(seconds) || most < before + rate * seconds {
        std::thread::sleep(Duration::from_millis(50));
        let now = load.acknowledged();
        if now > most {
            (most, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "publishers stand still while the database is down");
    }
    let (down_for, taken) = (begun.elapsed().as_secs_f32(), load.acknowledged() - before);
    // It comes back under load, though while it starts no more piles up than it can store.
    load.set_rate(LOAD.rate.min(rate / PUBLISHERS));
    subject.raise(&mut stage.servers);
    stage.subject.mend(&mut stage.servers);
    let what = format!("down for {down_for:.1} s, in which {taken} messages were acknowledged");
    stage.hold_up(&what, load);
}

macro_rules! on_each {
    ($($name:ident: $subject:expr),* $(,)?) => {
        $(mod $name {
            use super::*;
            #[test]
            fn holds_exactly_the_logs_messages_after_kills_of_either_side() {
                kills(stringify!($name), &$subject);
            }
            #[test]
            fn holds_exactly_the_logs_messages_after_it_was_down_under_heavy_load() {
                down(stringify!($name), &$subject);
            }
        })*
    };
}

on_each! {
    mariadb: OnMariaDb,
    mysql: OnMySql,
    postgresql: OnPostgres,
    redis: OnRedis,
    redis_sentinel: OnSentinels,
    redis_cluster: OnCluster,
    mongodb: OnMongo,
    cassandra: OnCassandra,
    influxdb: OnInfluxDb,
    opentsdb: OnOpenTsdb,
    dynamodb: OnDynamo::new(),
}
