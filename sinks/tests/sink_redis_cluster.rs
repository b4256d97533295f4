//! Redis clusters: the suite on three masters, and failovers in mid stream.
#![cfg(all(feature = "conformance", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod redis_support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::event::Message;
use forebay_engine::{Lsn, QoS};
use forebay_services::private;
use forebay_services::redis::{Cluster, PASSWORD};
use forebay_sinks::conformance::{self, Bench, Fault, Faulty, Subject, caught_up, rule, until};
use forebay_sinks::redis::{Deployment, RedisConfig, RedisSink, RetainLayout};
use forebay_sinks::rule::{Action, Database as Kind, Function, Hook, Param, Part, Statement};
use redis_support::config;
use tokio::sync::{Mutex, MutexGuard};

/// The shared cluster has one database: one test at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// All nodes of a cluster.
#[derive(Clone)]
struct Nodes(Vec<(String, u16)>);

impl Nodes {
    fn of(addresses: &str) -> Nodes {
        let one = |a: &str| a.rsplit_once(':').map(|(host, port)| (host.to_owned(), port.parse().unwrap())).unwrap();
        Nodes(addresses.split(',').map(one).collect())
    }

    fn config(&self, connections: usize) -> RedisConfig {
        let servers: Vec<(&str, u16)> = self.0.iter().map(|(host, port)| (host.as_str(), *port)).collect();
        config(&servers, Deployment::Cluster, connections)
    }

    /// Links to those that are masters now.
    fn masters(&self) -> Vec<redis::Connection> {
        let open = |(host, port): &(String, u16)| {
            let url = format!("redis://:{PASSWORD}@{host}:{port}");
            let mut conn =
                redis::Client::open(url).unwrap().get_connection_with_timeout(Duration::from_secs(2)).ok()?;
            let role: redis::Value = redis::cmd("ROLE").query(&mut conn).ok()?;
            format!("{role:?}").contains("master").then_some(conn)
        };
        self.0.iter().filter_map(open).collect()
    }

    fn flush(&self) {
        for mut master in self.masters() {
            redis::cmd("FLUSHALL").exec(&mut master).unwrap();
        }
    }

    fn keys(&self, pattern: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for mut master in self.masters() {
            all.extend(redis::cmd("KEYS").arg(pattern).query::<Vec<String>>(&mut master).unwrap());
        }
        all
    }

    /// Runs a command on every master that does not redirect it.
    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let answer = self.masters().iter_mut().find_map(|master| command.query::<T>(master).ok());
        answer.unwrap_or_else(|| panic!("nobody answers {words:?}"))
    }

    /// Message ids of each topic that matches, and payloads by id.
    fn messages(&self, pattern: &str) -> (BTreeMap<String, Vec<String>>, HashMap<String, Vec<u8>>) {
        let (mut topics, mut payloads) = (BTreeMap::new(), HashMap::new());
        for mut master in self.masters() {
            for key in redis::cmd("KEYS").arg("mqtt:msg:*").query::<Vec<String>>(&mut master).unwrap() {
                let kind: String = redis::cmd("TYPE").arg(&key).query(&mut master).unwrap();
                let name = key["mqtt:msg:".len()..].to_owned();
                if kind == "zset" && name.starts_with(pattern) {
                    let ids = redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).query(&mut master).unwrap();
                    topics.insert(name, ids);
                } else if kind == "hash" {
                    payloads.insert(name, redis::cmd("HGET").arg(&key).arg("payload").query(&mut master).unwrap());
                }
            }
        }
        (topics, payloads)
    }

    fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        let (topics, payloads) = self.messages("t/");
        let mut stored = BTreeMap::new();
        for id in topics.into_values().flatten() {
            let payload = payloads.get(&id).unwrap_or_else(|| panic!("{id} has no hash"));
            *stored.entry(payload.clone()).or_default() += 1;
        }
        stored
    }
}

struct Shared {
    nodes: Nodes,
    sink: Faulty<RedisSink>,
    _turn: MutexGuard<'static, ()>,
}

async fn shared() -> Shared {
    let turn = TURN.lock().await;
    let nodes = Nodes::of(&forebay_services::address("redis-cluster").unwrap());
    nodes.flush();
    let _length: i64 = nodes.ask(&["RPUSH", "guard:poison", "x"]);
    Shared { sink: Faulty::new(RedisSink::new(nodes.config(3))), nodes, _turn: turn }
}

impl Subject for Shared {
    type Sink = Faulty<RedisSink>;
    fn sink(&self) -> Arc<Faulty<RedisSink>> {
        Arc::new(self.sink.clone())
    }
    fn database(&self) -> Kind {
        Kind::Redis
    }
    fn fault(&self, fault: Fault) {
        self.sink.set(fault);
    }
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        self.nodes.stored()
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        let (topics, payloads) = self.nodes.messages(topic);
        topics[topic].iter().map(|id| payloads[id].clone()).collect()
    }
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        let text = |text: &str| Part::Text(text.into());
        Some(vec![Statement {
            source: "APPEND guard:${payload} x".into(),
            parts: vec![text("APPEND guard:"), Part::Param(Param::Payload), text(" x")],
        }])
    }
    async fn acknowledged(&self, client: &str) -> usize {
        self.nodes.keys(&format!("mqtt:acked:{client}:*")).len()
    }
    fn stores_once(&self) -> bool {
        true
    }
}

macro_rules! suite {
    ($($clause:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $clause() {
            conformance::$clause(&shared().await).await;
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

fn functions(bench: &mut Bench) {
    for (hook, number, topic, function) in [
        (Hook::MessagePublish, 2, Some("#"), Function::MessageRetain),
        (Hook::MessagePublish, 3, Some("#"), Function::RetainDelete),
        (Hook::MessagePublish, 4, Some("latest/#"), Function::MessageStoreKeepLatest),
        (Hook::MessagePublish, 5, Some("queue/#"), Function::MessagePublish),
        (Hook::MessageAcked, 2, Some("queue/#"), Function::MessageAckedForQueue),
    ] {
        bench.rules.rules.push(rule(Kind::Redis, hook, number, topic, Action::Function(function)));
    }
}

/// Every function writes the same keys as on one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_function_writes_on_a_cluster_what_it_writes_on_one_server() {
    for layout in [RetainLayout::Hash, RetainLayout::Zset] {
        let _turn = TURN.lock().await;
        let nodes = Nodes::of(&forebay_services::address("redis-cluster").unwrap());
        nodes.flush();
        let mut bench = Bench::new(Kind::Redis);
        functions(&mut bench);
        let retained = |topic: &str, payload: &str| Message {
            topic: topic.into(),
            payload: payload.to_owned().into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            ..Message::default()
        };
        bench.log.connect("c", 1);
        bench.log.connect("gone", 1);
        bench.log.disconnect("gone", 1, false);
        for n in 0..3 {
            bench.log.publish("latest/a", format!("l{n}").as_bytes(), QoS::AtMostOnce);
        }
        let job = bench.log.publish("queue/a", b"job", QoS::AtLeastOnce);
        bench.log.publish("queue/a", b"left", QoS::AtLeastOnce);
        bench.log.ack("c", "queue/a", job);
        let read = bench.log.publish("t/a", b"read", QoS::AtLeastOnce);
        bench.log.ack("c", "t/a", read);
        for (topic, payload) in [("r/kept", "1"), ("r/kept", "2"), ("r/gone", "x"), ("r/gone", "")] {
            bench.log.message(retained(topic, payload));
        }
        let last = bench.log.publish("t/b", b"end", QoS::AtLeastOnce);
        let config = RedisConfig { retain: layout, ..nodes.config(3) };
        let sink = bench.start_sink(Arc::new(RedisSink::new(config)), Kind::Redis);
        caught_up(&bench, &sink, last).await;
        sink.shutdown(Duration::from_secs(20)).await;
        assert!(sink.dead_letters().is_empty());
        let (topics, payloads) = nodes.messages("");
        let of = |topic: &str| -> Vec<String> {
            topics[topic].iter().map(|id| String::from_utf8(payloads[id].clone()).unwrap()).collect()
        };
        assert_eq!(of("latest/a"), ["l2"]);
        assert_eq!(of("queue/a"), ["left"]);
        assert_eq!(of("t/a"), ["read"]);
        let acked: String = nodes.ask(&["GET", "mqtt:acked:c:t/a"]);
        assert_eq!(acked, topics["t/a"][0]);
        let status = |client: &str| nodes.ask::<Vec<String>>(&["HGETALL", &format!("mqtt:client:{client}")]);
        assert_eq!((status("c")[1].as_str(), status("c")[5].as_str()), ("1", "undefined"));
        assert_eq!(status("gone")[1], "0");
        assert_eq!(nodes.ask::<Vec<String>>(&["HKEYS", "mqtt:node:here"]), ["c"]);
        assert!(!nodes.keys("*").contains("mqtt:retain:r/gone"));
        if layout == RetainLayout::Hash {
            assert_eq!(nodes.ask::<Vec<String>>(&["HGETALL", "mqtt:retain:r/kept"])[9], "2");
            assert_eq!(payloads.len(), 4, "{payloads:?}");
        } else {
            let kept: Vec<String> = nodes.ask(&["ZRANGE", "mqtt:retain:r/kept", "0", "-1"]);
            assert_eq!(kept.iter().map(|id| payloads[id].as_slice()).collect::<Vec<_>>(), [b"2"]);
            assert_eq!(payloads.len(), 5, "{payloads:?}");
        }
        // The whole log again changes nothing.
        let before = (nodes.keys("*"), nodes.messages(""));
        let again =
            bench.start_sink(Arc::new(RedisSink::new(RedisConfig { retain: layout, ..nodes.config(3) })), Kind::Redis);
        let stored = again.status().stored;
        again.reset(forebay_sinks::ResetTo::Earliest, Duration::from_secs(20)).await.unwrap();
        until("the log is stored again", || again.status().stored >= stored + 16).await;
        caught_up(&bench, &again, last).await;
        again.shutdown(Duration::from_secs(20)).await;
        assert_eq!((nodes.keys("*"), nodes.messages("")), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_in_mid_stream_loses_nothing_and_stores_nothing_twice() {
    let mut cluster = private(&Cluster).unwrap();
    let nodes = Nodes::of(&cluster.address);
    let bench = Bench::new(Kind::Redis);
    let sink = bench.start_sink(Arc::new(RedisSink::new(nodes.config(3))), Kind::Redis);
    let mut published = 0;
    let mut publish = |count: usize| {
        let mut last = Lsn::NONE;
        for _ in 0..count {
            published += 1;
            last = bench.log.publish(
                &format!("t/{}", published % 50),
                format!("m{published}").as_bytes(),
                QoS::AtLeastOnce,
            );
        }
        last
    };
    let mut last = publish(500);
    caught_up(&bench, &sink, last).await;
    // The first three were made masters.
    for round in 0..200 {
        last = publish(20);
        if round == 40 {
            cluster.members[1].kill();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    caught_up(&bench, &sink, last).await;
    cluster.members[1].restart().unwrap();
    let last = publish(100);
    caught_up(&bench, &sink, last).await;
    let stored = nodes.stored();
    assert_eq!(stored.len(), 4_600, "messages stored");
    assert!(stored.values().all(|n| *n == 1));
    assert!(sink.dead_letters().is_empty());
    sink.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_comes_back_empty_is_filled_again() {
    let mut cluster = private(&Cluster).unwrap();
    let nodes = Nodes::of(&cluster.address);
    let bench = Bench::new(Kind::Redis);
    let sink = bench.start_sink(Arc::new(RedisSink::new(nodes.config(2))), Kind::Redis);
    let mut last = Lsn::NONE;
    for n in 0..500 {
        last = bench.log.publish(&format!("t/{}", n % 50), format!("m{n}").as_bytes(), QoS::AtLeastOnce);
    }
    caught_up(&bench, &sink, last).await;
    // Back before anybody misses it, and without its data, as its configuration has it.
    cluster.members[0].kill();
    cluster.members[0].restart().unwrap();
    let last = bench.log.publish("t/1", b"after", QoS::AtLeastOnce);
    until("everything is stored again", || sink.status().stored >= 1_001).await;
    caught_up(&bench, &sink, last).await;
    let stored = nodes.stored();
    assert_eq!(stored.len(), 501);
    assert!(stored.values().all(|n| *n == 1));
    sink.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_are_followed() {
    let cluster = private(&Cluster).unwrap();
    let nodes = Nodes::of(&cluster.address);
    let bench = Bench::new(Kind::Redis);
    let sink = bench.start_sink(Arc::new(RedisSink::new(nodes.config(3))), Kind::Redis);
    let mut published = 0;
    let mut publish = |count: usize| {
        let mut last = Lsn::NONE;
        for _ in 0..count {
            published += 1;
            last = bench.log.publish(
                &format!("t/{}", published % 50),
                format!("m{published}").as_bytes(),
                QoS::AtLeastOnce,
            );
        }
        last
    };
    let last = publish(500);
    caught_up(&bench, &sink, last).await;
    let id = |port: u16| {
        let mut conn =
            redis::Client::open(format!("redis://:{PASSWORD}@127.0.0.1:{port}")).unwrap().get_connection().unwrap();
        redis::cmd("CLUSTER").arg("MYID").query::<String>(&mut conn).unwrap()
    };
    let ports: Vec<u16> = cluster.members.iter().map(forebay_services::Process::port).collect();
    let (from, to) = (id(ports[0]), id(ports[1]));
    let moved = tokio::task::spawn_blocking(move || {
        std::process::Command::new("redis-cli")
            .args(["-a", PASSWORD, "--no-auth-warning", "--cluster", "reshard", &format!("127.0.0.1:{}", ports[0])])
            .args(["--cluster-from", &from, "--cluster-to", &to, "--cluster-slots", "2000", "--cluster-yes"])
            .output()
            .unwrap()
    });
    let mut last = last;
    while !moved.is_finished() {
        last = publish(20);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let moved = moved.await.unwrap();
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stdout));
    caught_up(&bench, &sink, last).await;
    let all = bench.log.events().iter().filter(|e| matches!(e, forebay_engine::Event::Published(_))).count();
    let stored = nodes.stored();
    assert_eq!(stored.len(), all);
    assert!(stored.values().all(|n| *n == 1));
    assert!(sink.dead_letters().is_empty());
    sink.shutdown(Duration::from_secs(20)).await;
}
