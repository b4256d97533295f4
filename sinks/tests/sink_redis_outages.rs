//! Redis in trouble: killed, silent, out of memory, without rights, failing over; TLS and clusters.
#![cfg(all(feature = "conformance", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod redis_support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_engine::{Lsn, QoS};
use forebay_services::redis::{MASTER, PASSWORD, Redis, Sentinel, USER, USER_PASSWORD};
use forebay_services::toxiproxy::Link;
use forebay_services::{Private, Process, private};
use forebay_sinks::conformance::{self, Bench, Fault, Faulty, Subject, caught_up, rule, until};
use forebay_sinks::redis::{Deployment, RedisConfig, RedisSink, Secret};
use forebay_sinks::rule::{Action, Database as Kind, Hook, Param, Part, Statement};
use forebay_sinks::runtime::{SinkHandle, SinkState};
use forebay_sinks::sink::{Severity, Sink};
use redis_support::{Database, View, config, tls};

/// The rules of the suite, and a command that adds up when it is repeated.
fn counting() -> Bench {
    let mut bench = Bench::new(Kind::Redis);
    let statement = Statement {
        source: "RPUSH counted ${payload}".into(),
        parts: vec![Part::Text("RPUSH counted ".into()), Part::Param(Param::Payload)],
    };
    bench.rules.rules.push(rule(
        Kind::Redis,
        Hook::MessagePublish,
        2,
        Some("t/#"),
        Action::Statements(vec![statement]),
    ));
    bench
}

fn publish(bench: &Bench, count: usize) -> Lsn {
    let mut last = Lsn::NONE;
    let first = bench.log.events().len() + 1;
    for next in first..first + count {
        last = bench.log.publish(&format!("t/{}", next % 50), format!("m{next}").as_bytes(), QoS::AtLeastOnce);
    }
    last
}

fn published(bench: &Bench) -> Vec<String> {
    let events = bench.log.events();
    let mut all: Vec<String> = events
        .iter()
        .filter_map(|e| match e {
            forebay_engine::Event::Published(p) => Some(String::from_utf8_lossy(&p.message.payload).into_owned()),
            _ => None,
        })
        .collect();
    all.sort();
    all
}

/// Every message is stored, and the command has run once for each.
async fn stored_once(bench: &Bench, view: &View) {
    let mut counted: Vec<String> = view.ask("LRANGE counted 0 -1").await;
    counted.sort();
    let published = published(bench);
    assert_eq!(counted.len(), published.len(), "commands run");
    assert_eq!(counted, published);
    let stored = view.stored("t/*").await;
    assert_eq!(stored.len(), published.len());
    assert!(stored.values().all(|n| *n == 1));
}

fn server(durable: bool) -> Private {
    private(&Redis { tls: false, durable }).unwrap()
}

fn pool(port: u16, connections: usize) -> RedisConfig {
    config(&[("127.0.0.1", port)], Deployment::Single, connections)
}

async fn waits_for(sink: &SinkHandle, text: &str) {
    until(&format!("the sink says: {text}"), || match sink.status().state {
        SinkState::Waiting { why, .. } => why.contains(text),
        _ => false,
    })
    .await;
    assert!(sink.dead_letters().is_empty(), "the operator's fault, no record's");
}

const FOLDER: &str = "FOREBAY_TEST_REDIS_KILL";
const MESSAGES: usize = 6_000;

async fn replicate(place: &str, more: usize) {
    let (port, number) = place.split_once('/').unwrap();
    let bench = counting();
    let last = publish(&bench, MESSAGES);
    // Each process begins with the same messages and adds its own reports: one that came to the end may have stored a position
    // beyond what the next one's log has without these, which no rule concerns.
    for _ in 0..more {
        bench.log.publish("other", b"", QoS::AtLeastOnce);
    }
    let config = RedisConfig { database: number.parse().unwrap(), ..pool(port.parse().unwrap(), 3) };
    let sink = bench.start_sink(Arc::new(RedisSink::new(config)), Kind::Redis);
    caught_up(&bench, &sink, last).await;
    sink.shutdown(Duration::from_secs(20)).await;
}

/// Not a test: what the killed process runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn child() {
    if let Some(place) = std::env::var_os(FOLDER) {
        replicate(&place.into_string().unwrap(), 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_once_though_forebay_is_killed_again_and_again() {
    let database = Database::take();
    let view = database.view().await;
    let place = format!("{}/{}", database.port, database.number);
    let exe: PathBuf = std::env::current_exe().unwrap();
    let mut in_the_middle = 0;
    for round in 0..10 {
        let mut child = Command::new(&exe)
            .args(["--ignored", "--exact", "child"])
            .env(FOLDER, &place)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let before: usize = view.ask("LLEN counted").await;
        while child.try_wait().unwrap().is_none()
            && view.ask::<usize>("LLEN counted").await == before
            && before < MESSAGES
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let stored: usize = view.ask("LLEN counted").await;
        in_the_middle += u64::from(stored > 0 && stored < MESSAGES);
    }
    assert!(in_the_middle > 0, "no kill hit the work");
    replicate(&place, 1_000).await;
    let bench = counting();
    publish(&bench, MESSAGES);
    stored_once(&bench, &view).await;
}

/// As an operator does after a crash. Of a transaction that was torn while it was written, Redis itself takes away only the last command
/// at its start, and runs those before it at the start after that.
fn mend(folder: &str) {
    let manifest = format!("{folder}/appendonlydir/appendonly.aof.manifest");
    let output = Command::new("sh").args(["-c", "echo y | redis-check-aof --fix \"$0\"", &manifest]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_once_though_the_server_is_killed_again_and_again() {
    let mut server = server(true);
    let port = server.process().port();
    let folder: Vec<String> = View::of("127.0.0.1", port, 0).await.ask("CONFIG GET dir").await;
    let bench = counting();
    let sink = bench.start_sink(Arc::new(RedisSink::new(pool(port, 3))), Kind::Redis);
    let mut last = Lsn::NONE;
    for round in 0..10u64 {
        last = publish(&bench, 300);
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        server.process().kill();
        publish(&bench, 50);
        mend(&folder[1]);
        server.process().restart().unwrap();
    }
    caught_up(&bench, &sink, last).await;
    let last = publish(&bench, 1);
    caught_up(&bench, &sink, last).await;
    stored_once(&bench, &View::of("127.0.0.1", port, 0).await).await;
    sink.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_empty_is_filled_again() {
    let mut server = server(false);
    let port = server.process().port();
    let bench = counting();
    let sink = bench.start_sink(Arc::new(RedisSink::new(pool(port, 2))), Kind::Redis);
    let last = publish(&bench, 200);
    caught_up(&bench, &sink, last).await;
    server.process().kill();
    server.process().restart().unwrap();
    let last = publish(&bench, 1);
    caught_up(&bench, &sink, last).await;
    let view = View::of("127.0.0.1", port, 0).await;
    until("all is stored again", || sink.status().stored >= 800).await;
    caught_up(&bench, &sink, last).await;
    stored_once(&bench, &view).await;
    // Emptied under the link: noticed with the next batch.
    let _ok: String = view.ask("FLUSHALL").await;
    let last = publish(&bench, 1);
    until("all is stored once more", || sink.status().stored >= 1_200).await;
    caught_up(&bench, &sink, last).await;
    stored_once(&bench, &view).await;
    sink.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_falls_silent_or_loses_answers_stores_everything_once() {
    let database = Database::take();
    let link = Link::to(&format!("127.0.0.1:{}", database.port)).unwrap();
    let config = RedisConfig { database: database.number, ..pool(link.port(), 2) };
    let bench = counting();
    let sink = bench.start_sink(Arc::new(RedisSink::new(config)), Kind::Redis);
    let mut last = Lsn::NONE;
    for round in 0..24u64 {
        link.heal().unwrap();
        match round % 6 {
            0 => link.close_after_bytes("upstream", 2_000 + round * 1_500).unwrap(),
            1 => link.close_after_bytes("downstream", 100 + round * 7).unwrap(),
            2 => link.reset_after(round).unwrap(),
            3 => link.silence().unwrap(),
            4 => link.cut().unwrap(),
            _ => link.delay(20).unwrap(),
        }
        last = publish(&bench, 150);
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    link.heal().unwrap();
    caught_up(&bench, &sink, last).await;
    stored_once(&bench, &database.view().await).await;
    assert!(sink.status().last_error.is_some(), "nothing was broken");
    sink.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_accepts_and_never_answers_is_given_up() {
    let server = server(false);
    let port = server.members[0].port();
    let bench = counting();
    let sink = bench.start_sink(Arc::new(RedisSink::new(pool(port, 2))), Kind::Redis);
    let last = publish(&bench, 100);
    caught_up(&bench, &sink, last).await;
    server.members[0].suspend();
    let last = publish(&bench, 100);
    waits_for(&sink, "no answer").await;
    server.members[0].resume();
    caught_up(&bench, &sink, last).await;
    stored_once(&bench, &View::of("127.0.0.1", port, 0).await).await;
    sink.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_operator_can_mend_holds_the_sink_with_the_remedy() {
    let server = server(false);
    let port = server.members[0].port();
    let view = View::of("127.0.0.1", port, 0).await;
    let bench = counting();
    let config = RedisConfig {
        username: Some(USER.to_owned()),
        password: Some(Secret(USER_PASSWORD.to_owned())),
        ..pool(port, 2)
    };
    let sink = bench.start_sink(Arc::new(RedisSink::new(config)), Kind::Redis);
    let last = publish(&bench, 10);
    caught_up(&bench, &sink, last).await;
    for (breaks, mends, says) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "maxmemory: raise it"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "this server is a replica"),
        ("ACL SETUSER forebay -rpush", "ACL SETUSER forebay +rpush", "ACL SETUSER"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "more replicas"),
    ] {
        let _ok: String = view.ask(breaks).await;
        let last = publish(&bench, 50);
        waits_for(&sink, says).await;
        let _ok: String = view.ask(mends).await;
        caught_up(&bench, &sink, last).await;
    }
    // The server forgets all scripts.
    let _ok: String = view.ask("SCRIPT FLUSH").await;
    let last = publish(&bench, 50);
    caught_up(&bench, &sink, last).await;
    // The password is changed, and the links are closed.
    let _ok: String = view.ask("ACL SETUSER forebay <pw >new").await;
    let _killed: i64 = view.ask("CLIENT KILL USER forebay").await;
    let last = publish(&bench, 50);
    waits_for(&sink, "`username` and `password`").await;
    let _ok: String = view.ask("ACL SETUSER forebay >pw").await;
    caught_up(&bench, &sink, last).await;
    // No room for connections: those that are there stay, the next ones are refused.
    let _ok: String = view.ask("CONFIG SET maxclients 1").await;
    let _killed: i64 = view.ask("CLIENT KILL USER forebay").await;
    let last = publish(&bench, 50);
    waits_for(&sink, "raise maxclients").await;
    let _ok: String = view.ask("CONFIG SET maxclients 100").await;
    caught_up(&bench, &sink, last).await;
    stored_once(&bench, &view).await;
    sink.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_messages_take_few_round_trips() {
    let server = server(false);
    let port = server.members[0].port();
    let bench = Bench::new(Kind::Redis);
    let last = publish(&bench, 20_000);
    let sink = bench.start_sink(Arc::new(RedisSink::new(pool(port, 2))), Kind::Redis);
    caught_up(&bench, &sink, last).await;
    let view = View::of("127.0.0.1", port, 0).await;
    let stats: String = view.ask("INFO commandstats").await;
    let calls = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.map_or(0, |rest| rest.split(',').next().unwrap().parse::<u64>().unwrap())
    };
    // Each message has its hash, and enters its topic's set with others of its batch.
    assert_eq!(calls("hset") / 20_000, 1);
    assert!(calls("zadd") < 20_000 / 10, "{}", calls("zadd"));
    // One script a batch; connecting and upkeep ask a few times more.
    let asked: u64 = ["evalsha", "script|load", "hsetnx", "zrangebyscore"].iter().map(|name| calls(name)).sum();
    println!("{asked} requests for 20,000 messages");
    assert!(calls("evalsha") > 0 && asked <= 100, "{asked} requests for 20,000 messages:\n{stats}");
    sink.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_the_server_says_what_is_missing_and_changes_nothing() {
    let server = server(false);
    let port = server.members[0].port();
    let view = View::of("127.0.0.1", port, 0).await;
    let user = |password: &str| RedisConfig {
        username: Some(USER.to_owned()),
        password: Some(Secret(password.to_owned())),
        ..pool(port, 2)
    };
    let look = async |config: RedisConfig| {
        let found = RedisSink::new(config).inspect().await;
        (found[0].severity, found.into_iter().map(|f| f.text).collect::<Vec<_>>().join("; "))
    };
    let (severity, text) = look(user(USER_PASSWORD)).await;
    assert!(severity == Severity::Fine && text.contains("one server, 0 replicas, as forebay"), "{text}");
    let (severity, text) = look(user("wrong")).await;
    assert!(severity == Severity::Fault && text.contains("`username` and `password`"), "{text}");
    for (breaks, mends, says) in [
        ("ACL SETUSER forebay -zadd", "ACL SETUSER forebay +zadd", "zadd"),
        ("ACL SETUSER forebay resetkeys ~mqtt:*", "ACL SETUSER forebay ~*", "forebay:x"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "is a replica"),
    ] {
        let _ok: String = view.ask(breaks).await;
        let (severity, text) = look(user(USER_PASSWORD)).await;
        assert!(severity == Severity::Fault && text.contains(says), "{breaks}: {text}");
        let _ok: String = view.ask(mends).await;
    }
    let (severity, text) = look(RedisConfig { wait_replicas: 1, ..user(USER_PASSWORD) }).await;
    assert!(severity == Severity::Fault && text.contains("wait_replicas"), "{text}");
    assert!(view.keys().await.is_empty() && view.ask::<Vec<String>>("KEYS forebay*").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_the_server_does_not_have_holds_the_sink_and_is_no_record_s_fault() {
    let database = Database::take();
    let mut bench = Bench::new(Kind::Redis);
    let statement = Statement { source: "FROB x".into(), parts: vec![Part::Text("FROB x".into())] };
    bench.rules.rules.push(rule(
        Kind::Redis,
        Hook::MessagePublish,
        2,
        Some("t/#"),
        Action::Statements(vec![statement]),
    ));
    let sink = bench.start_sink(Arc::new(RedisSink::new(database.config(1))), Kind::Redis);
    publish(&bench, 5);
    waits_for(&sink, "correct the rule or load the module").await;
    sink.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_counts_as_stored_when_as_many_replicas_as_asked_have_it() {
    let group = private(&Sentinel).unwrap();
    let port = group.members[0].port();
    let bench = counting();
    let config = RedisConfig { wait_replicas: 1, ..pool(port, 2) };
    let sink = bench.start_sink(Arc::new(RedisSink::new(config)), Kind::Redis);
    let last = publish(&bench, 100);
    caught_up(&bench, &sink, last).await;
    stored_once(&bench, &View::of("127.0.0.1", group.members[1].port(), 0).await).await;
    sink.shutdown(Duration::from_secs(20)).await;
}

/// What a server answers to `INFO replication`; nothing where it is away.
fn replication(port: u16) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string(), "-a", PASSWORD, "--no-auth-warning", "info", "replication"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The index of the member that is the master, with a replica that follows it where that is asked.
async fn master(members: &[Process], followed: bool) -> usize {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let found = members.iter().position(|member| {
            let text = replication(member.port());
            text.contains("role:master") && (!followed || text.contains("state=online"))
        });
        if let Some(index) = found {
            return index;
        }
        assert!(Instant::now() < end, "nobody is the master");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the sentinels say the master is.
fn known_master(port: u16) -> u16 {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string(), "sentinel", "get-master-addr-by-name", MASTER])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).lines().nth(1).unwrap_or_default().parse().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_the_sentinels_in_mid_stream_stores_everything_once() {
    let mut group = private(&Sentinel).unwrap();
    let ports: Vec<u16> = group.members[2..].iter().map(Process::port).collect();
    let sentinels: Vec<(&str, u16)> = ports.iter().map(|port| ("127.0.0.1", *port)).collect();
    let bench = counting();
    let pool = config(&sentinels, Deployment::Sentinel(MASTER.to_owned()), 3);
    let sink = bench.start_sink(Arc::new(RedisSink::new(pool)), Kind::Redis);
    let mut last = publish(&bench, 500);
    caught_up(&bench, &sink, last).await;
    let dies = master(&group.members[..2], true).await;
    for n in 0..200 {
        last = publish(&bench, 20);
        if n == 40 {
            // The master dies with writes under way, some of which its replica has not seen.
            group.members[dies].kill();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    caught_up(&bench, &sink, last).await;
    let promoted = group.members[1 - dies].port();
    until("the sentinels agree", || ports.iter().all(|port| known_master(*port) == promoted)).await;
    stored_once(&bench, &View::of("127.0.0.1", promoted, 0).await).await;
    sink.shutdown(Duration::from_secs(20)).await;
}

/// A server that speaks TLS only.
struct Encrypted(Faulty<RedisSink>, redis::Client);

impl Encrypted {
    fn new(with_client: bool) -> Encrypted {
        let url = forebay_services::address("redis-tls").unwrap();
        let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
        let files = tls(with_client);
        let root_cert = Some(std::fs::read(files.ca.as_ref().unwrap()).unwrap());
        let certificates = redis::TlsCertificates { client_tls: None, root_cert };
        let client =
            redis::Client::build_with_tls(format!("rediss://:{PASSWORD}@127.0.0.1:{port}"), certificates).unwrap();
        let sink = RedisSink::new(RedisConfig { tls: Some(files), ..pool(port, 2) });
        Encrypted(Faulty::new(sink), client)
    }
}

impl Subject for Encrypted {
    type Sink = Faulty<RedisSink>;
    fn sink(&self) -> Arc<Faulty<RedisSink>> {
        Arc::new(self.0.clone())
    }
    fn database(&self) -> Kind {
        Kind::Redis
    }
    fn fault(&self, fault: Fault) {
        self.0.set(fault);
    }
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        let mut conn = self.1.get_connection().unwrap();
        let mut stored = BTreeMap::new();
        for key in redis::cmd("KEYS").arg("mqtt:msg:t/*").query::<Vec<String>>(&mut conn).unwrap() {
            for id in redis::cmd("ZRANGE").arg(key).arg(0).arg(-1).query::<Vec<String>>(&mut conn).unwrap() {
                let payload = redis::cmd("HGET").arg(format!("mqtt:msg:{id}")).arg("payload").query(&mut conn).unwrap();
                *stored.entry(payload).or_default() += 1;
            }
        }
        stored
    }
    async fn order(&self, _topic: &str) -> Vec<Vec<u8>> {
        Vec::new()
    }
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        None
    }
    async fn acknowledged(&self, _client: &str) -> usize {
        0
    }
    fn stores_once(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_the_suite_holds_too() {
    for with_client in [false, true] {
        let subject = Encrypted::new(with_client);
        let flush = || redis::cmd("FLUSHALL").exec(&mut subject.1.get_connection().unwrap()).unwrap();
        flush();
        conformance::reconnects(&subject).await;
        flush();
        conformance::survives_dying_in_mid_batch(&subject).await;
        flush();
        conformance::positions_survive(&subject).await;
        flush();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_certificate_of_another_authority_is_not_talked_to() {
    let url = forebay_services::address("redis-tls").unwrap();
    let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
    let files = forebay_sinks::redis::Tls::default();
    let bench = counting();
    let config = RedisConfig { tls: Some(files), ..pool(port, 1) };
    let sink = bench.start_sink(Arc::new(RedisSink::new(config)), Kind::Redis);
    until("the certificate is refused", || sink.status().last_error.is_some_and(|e| e.contains("ertificate"))).await;
    sink.shutdown(Duration::from_secs(2)).await;
    let missing = forebay_sinks::redis::Tls { ca: Some("/nowhere/ca.pem".into()), client: None };
    let config = RedisConfig { tls: Some(missing), ..pool(port, 1) };
    let sink = bench.start_sink(Arc::new(RedisSink::new(config)), Kind::Redis);
    until("the file is named", || sink.status().last_error.is_some_and(|e| e.contains("cacertfile /nowhere/ca.pem")))
        .await;
    sink.shutdown(Duration::from_secs(2)).await;
}
