//! Databases in front of which the whole program is tested: servers of the test's own, how each is struck, and what each holds.

use std::process::Command;
use std::time::Duration;

use forebay_services::mariadb::MariaDb;
use forebay_services::mysql::{MySql, NATIVE_USER};
use forebay_services::postgres::Postgres;
use forebay_services::redis::{Cluster, MASTER, PASSWORD, Redis, Sentinel};
use forebay_services::{Private, Process, private};

use super::load::worded;
use super::{wait_for, wait_within};

/// How long servers may take to agree who leads them, where others take the processor.
const AGREED_WITHIN: Duration = Duration::from_secs(240);

/// A database as a test reads it.
pub trait Subject {
    /// Its name in rules.
    fn name(&self) -> &'static str;
    /// Servers of the test's own, whose acknowledged writes survive SIGKILL.
    fn start(&self) -> Private;
    /// Lines of the pool `pool1`.
    fn pool(&self, servers: &Private) -> String;
    /// The stored messages: msgid and payload.
    fn stored(&self, servers: &Private) -> Vec<(String, String)>;
    /// Which of the servers is struck: the one that takes writes. `dice` chooses where there are several.
    fn victim(&self, _servers: &Private, _dice: u64) -> usize {
        0
    }
    /// How long a blow lasts at most, ms: long enough for another server to be promoted where there is one.
    fn outage_ms(&self) -> u64 {
        800
    }
    /// Waits until another blow can be borne: whoever was struck follows a master again.
    fn mend(&self, _servers: &mut Private) {}
    /// Starts all servers after all were killed.
    fn raise(&self, servers: &mut Private) {
        for member in &mut servers.members {
            member.restart().unwrap();
        }
    }
    /// How long a request may take, ms: longer than any answer takes on a busy machine, and shorter than the longest blow.
    fn deadline_ms(&self) -> u64 {
        2_000
    }
    /// True where a start takes so long that kills are kept rare.
    fn starts_slowly(&self) -> bool {
        false
    }
    /// Rounds of blows where the run does not say: fewer where a start or a blow takes many seconds.
    fn rounds(&self) -> u64 {
        10
    }
    /// Messages a second while all its servers are down, where the run does not say, and at most while they are killed: so many that it
    /// catches up within some seconds.
    fn rate(&self) -> u64 {
        5_000
    }
    /// True where it has a place for the status of clients.
    fn knows_clients(&self) -> bool {
        true
    }
    /// What publishers send.
    fn payload(&self) -> fn(u64, u64) -> String {
        worded
    }
    /// What [`Subject::stored`] is to say of a message.
    fn told(&self, msgid: String, payload: String) -> (String, String) {
        (msgid, payload)
    }
    /// A file that its rules need, by its name in the data folder.
    fn file(&self) -> Option<(&'static str, String)> {
        None
    }
}

/// A database that speaks SQL.
pub trait SqlSubject: Subject {
    /// Runs a statement as another program would; what its client prints.
    fn sql(&self, servers: &Private, text: &str) -> String;
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

/// Runs statements with MariaDB's client.
pub fn mysql(user: &str, port: u16, sql: &str, database: &[&str]) -> String {
    let mut command = Command::new("mariadb");
    command.args(["--no-defaults", "-h127.0.0.1", "-P", &port.to_string(), "-u", user, "-ppw", "-N", "-B", "--quick"]);
    output(command.args(["-e", sql]).args(database))
}

fn mysql_pool(user: &str, port: u16) -> String {
    mysql(user, port, "create database mqtt character set utf8mb4", &[]);
    format!(
        "backend.mysql.pool1.server = 127.0.0.1:{port}\nbackend.mysql.pool1.user = forebay\n\
         backend.mysql.pool1.password = pw\nbackend.mysql.pool1.database = mqtt\nbackend.mysql.pool1.pool_size = 4\n"
    )
}

fn port(servers: &Private) -> u16 {
    servers.members[0].port()
}

pub struct OnMariaDb;

impl Subject for OnMariaDb {
    fn name(&self) -> &'static str {
        "mysql"
    }

    fn start(&self) -> Private {
        private(&MariaDb).unwrap()
    }

    fn pool(&self, servers: &Private) -> String {
        mysql_pool("forebay", port(servers))
    }

    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        pairs(&mysql("forebay", port(servers), "select msgid, payload from mqtt_msg", &["mqtt"]))
    }
}

impl SqlSubject for OnMariaDb {
    fn sql(&self, servers: &Private, text: &str) -> String {
        mysql("forebay", port(servers), text, &["mqtt"])
    }
}

pub struct OnMySql;

impl Subject for OnMySql {
    fn name(&self) -> &'static str {
        "mysql"
    }

    fn start(&self) -> Private {
        private(&MySql).unwrap()
    }

    fn pool(&self, servers: &Private) -> String {
        // The test's client does not know the way in which Forebay's user logs in.
        mysql_pool(NATIVE_USER, port(servers))
    }

    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        pairs(&mysql(NATIVE_USER, port(servers), "select msgid, payload from mqtt_msg", &["mqtt"]))
    }
}

impl SqlSubject for OnMySql {
    fn sql(&self, servers: &Private, text: &str) -> String {
        mysql(NATIVE_USER, port(servers), text, &["mqtt"])
    }
}

pub struct OnPostgres;

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

    fn pool(&self, servers: &Private) -> String {
        let port = port(servers);
        psql(port, "postgres", "create database mqtt");
        format!(
            "backend.pgsql.pool1.server = 127.0.0.1:{port}\nbackend.pgsql.pool1.username = forebay\n\
             backend.pgsql.pool1.password = pw\nbackend.pgsql.pool1.database = mqtt\nbackend.pgsql.pool1.pool_size = 4\n"
        )
    }

    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        pairs(&psql(port(servers), "mqtt", "select msgid, convert_from(payload, 'UTF8') from mqtt_msg"))
    }
}

impl SqlSubject for OnPostgres {
    fn sql(&self, servers: &Private, text: &str) -> String {
        psql(port(servers), "mqtt", text)
    }
}

/// A link to one server of Redis.
fn redis(port: u16) -> Option<redis::Connection> {
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{port}");
    redis::Client::open(url).unwrap().get_connection_with_timeout(Duration::from_secs(2)).ok()
}

fn ask<T: redis::FromRedisValue>(port: u16, words: &[&str]) -> Option<T> {
    let mut link = redis(port)?;
    link.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    redis::cmd(words[0]).arg(&words[1..]).query(&mut link).ok()
}

fn replication(member: &Process) -> String {
    ask(member.port(), &["INFO", "replication"]).unwrap_or_default()
}

fn is_master(member: &Process) -> bool {
    replication(member).contains("role:master")
}

/// Messages of all these servers: hashes, and members of topics, each of which must have the other.
fn messages(members: &[&Process]) -> Vec<(String, String)> {
    let (mut hashes, mut named) = (std::collections::HashMap::new(), Vec::new());
    for member in members {
        let mut link = redis(member.port()).unwrap();
        let keys: Vec<String> = redis::cmd("KEYS").arg("mqtt:msg:*").query(&mut link).unwrap();
        for chunk in keys.chunks(10_000) {
            let mut kinds = redis::pipe();
            for key in chunk {
                kinds.cmd("TYPE").arg(key);
            }
            let kinds: Vec<String> = kinds.query(&mut link).unwrap();
            let of = |kind: &'static str| chunk.iter().zip(&kinds).filter(move |(_, k)| *k == kind).map(|(key, _)| key);
            let mut payloads = redis::pipe();
            for key in of("hash") {
                payloads.cmd("HGET").arg(key).arg("payload");
            }
            let ids = of("hash").map(|key| key["mqtt:msg:".len()..].to_owned());
            hashes.extend(ids.zip(payloads.query::<Vec<String>>(&mut link).unwrap()));
            for key in of("zset") {
                named.extend(redis::cmd("ZRANGE").arg(key).arg(0).arg(-1).query::<Vec<String>>(&mut link).unwrap());
            }
        }
    }
    assert_eq!(hashes.len(), named.len(), "every message has its hash, and every hash is named by its topic");
    named.into_iter().map(|id| (id.clone(), hashes.remove(&id).expect("a member of a topic has its hash"))).collect()
}

/// Every write is on the disk before it is answered, over restarts too.
fn durable(members: &[Process]) {
    for member in members {
        for words in [
            &["CONFIG", "SET", "appendonly", "yes"][..],
            &["CONFIG", "SET", "appendfsync", "always"],
            &["CONFIG", "REWRITE"],
        ] {
            assert_eq!(ask::<String>(member.port(), words).as_deref(), Some("OK"));
        }
    }
}

fn redis_pool(kind: &str, servers: &str, more: &str) -> String {
    format!(
        "backend.redis.pool1.type = {kind}\nbackend.redis.pool1.server = {servers}\n\
         backend.redis.pool1.password = {PASSWORD}\nbackend.redis.pool1.pool_size = 4\n{more}"
    )
}

pub struct OnRedis;

impl Subject for OnRedis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn start(&self) -> Private {
        private(&Redis { tls: false, durable: true }).unwrap()
    }

    fn pool(&self, servers: &Private) -> String {
        redis_pool("single", &format!("127.0.0.1:{}", port(servers)), "")
    }

    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        messages(&[&servers.members[0]])
    }
}

/// A master and its replica under three sentinels.
pub struct OnSentinels;

/// The index of the data servers' master.
fn master(servers: &Private) -> usize {
    wait_for("a master", || servers.members[..2].iter().position(is_master))
}

/// What the first sentinel says the master is.
fn known_master(servers: &Private) -> Option<u16> {
    let url = format!("redis://127.0.0.1:{}", servers.members[2].port());
    let mut link = redis::Client::open(url).unwrap().get_connection_with_timeout(Duration::from_secs(2)).ok()?;
    let at: Vec<String> = redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg(MASTER).query(&mut link).ok()?;
    at.get(1)?.parse().ok()
}

impl Subject for OnSentinels {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn start(&self) -> Private {
        let servers = private(&Sentinel).unwrap();
        durable(&servers.members[..2]);
        for sentinel in &servers.members[2..] {
            // A master that only waits for the processor is no master that is gone.
            let url = format!("redis://127.0.0.1:{}", sentinel.port());
            let mut link = redis::Client::open(url).unwrap().get_connection().unwrap();
            let mut set = redis::cmd("SENTINEL");
            set.arg("SET").arg(MASTER).arg("down-after-milliseconds").arg(2_000).exec(&mut link).unwrap();
        }
        servers
    }

    fn pool(&self, servers: &Private) -> String {
        redis_pool("sentinel", &servers.address, &format!("backend.redis.pool1.sentinel = {MASTER}\n"))
    }

    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        agree(servers);
        messages(&[&servers.members[master(servers)]])
    }

    fn victim(&self, servers: &Private, _dice: u64) -> usize {
        master(servers)
    }

    fn outage_ms(&self) -> u64 {
        4_000
    }

    fn mend(&self, servers: &mut Private) {
        agree(servers);
    }
}

/// Waits until sentinels and servers agree on a master, and its replica follows it. Sentinels take ten seconds to tell a master that is
/// back that it is none any more; here somebody does it at once.
fn agree(servers: &Private) {
    wait_within(AGREED_WITHIN, "a master that sentinels and servers agree on, and a replica that follows it", || {
        let known = known_master(servers)?;
        let (is, other) = if servers.members[0].port() == known { (0, 1) } else { (1, 0) };
        let text = replication(&servers.members[is]);
        if !text.contains("role:master") {
            return None;
        }
        if text.contains("state=online") {
            return Some(());
        }
        if is_master(&servers.members[other]) {
            let _told: Option<String> =
                ask(servers.members[other].port(), &["REPLICAOF", "127.0.0.1", &known.to_string()]);
        }
        None
    });
}

/// Three masters and three replicas.
pub struct OnCluster;

impl Subject for OnCluster {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn start(&self) -> Private {
        let servers = private(&Cluster).unwrap();
        durable(&servers.members);
        servers
    }

    fn pool(&self, servers: &Private) -> String {
        redis_pool("cluster", &servers.address, "")
    }

    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        let masters: Vec<&Process> = servers.members.iter().filter(|member| is_master(member)).collect();
        assert_eq!(masters.len(), 3);
        messages(&masters)
    }

    fn victim(&self, servers: &Private, dice: u64) -> usize {
        let masters: Vec<usize> = (0..servers.members.len()).filter(|n| is_master(&servers.members[*n])).collect();
        masters[dice as usize % masters.len()]
    }

    fn outage_ms(&self) -> u64 {
        4_000
    }

    fn mend(&self, servers: &mut Private) {
        wait_within(AGREED_WITHIN, "three masters, each with a replica that follows it", || {
            let states: Vec<String> = servers.members.iter().map(replication).collect();
            let led =
                states.iter().filter(|text| text.contains("role:master") && text.contains("state=online")).count();
            let whole = |member: &Process| {
                let info: String = ask(member.port(), &["CLUSTER", "INFO"]).unwrap_or_default();
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            };
            (led == 3
                && states.iter().filter(|text| text.contains("role:master")).count() == 3
                && servers.members.iter().all(whole))
            .then_some(())
        });
    }
}
