//! Redis servers for tests: a database of the shared server for one test, servers of a test's own, and what stands in them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_services::redis::PASSWORD;
use forebay_sinks::redis::{Deployment, RedisConfig, RetainLayout, Secret, Server, Tls};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue};

/// Key that says whose a database of the shared server is, while a test runs.
const OWNER: &str = "test:owner";

/// How long a killed test keeps its database, s.
const KEPT: u64 = 300;

/// A database of the shared server, empty at first. Given back when dropped.
pub struct Database {
    pub host: String,
    pub port: u16,
    pub number: i64,
}

/// Host and port of `scheme://user:password@host:port`.
fn place(url: &str) -> (String, u16) {
    let rest = url.rsplit('@').next().unwrap().rsplit('/').next().unwrap();
    let (host, port) = rest.rsplit_once(':').unwrap();
    (host.to_owned(), port.parse().unwrap())
}

pub fn shared() -> (String, u16) {
    place(&forebay_services::address("redis").unwrap())
}

fn open(host: &str, port: u16, number: i64) -> redis::Connection {
    Client::open(format!("redis://:{PASSWORD}@{host}:{port}/{number}")).unwrap().get_connection().unwrap()
}

impl Database {
    /// Waits for a free one.
    pub fn take() -> Database {
        let (host, port) = shared();
        let end = std::time::Instant::now() + Duration::from_secs(120);
        loop {
            for number in 0..16 {
                let mut conn = open(&host, port, number);
                let mut ask = redis::cmd("SET");
                ask.arg(OWNER).arg(std::process::id()).arg("NX").arg("EX").arg(KEPT);
                if ask.query::<Option<String>>(&mut conn).unwrap().is_some() {
                    let mut pipe = redis::pipe();
                    pipe.atomic().cmd("FLUSHDB").cmd("SET").arg(OWNER).arg(std::process::id()).arg("EX").arg(KEPT);
                    pipe.exec(&mut conn).unwrap();
                    return Database { host, port, number };
                }
            }
            assert!(std::time::Instant::now() < end, "all databases of the shared Redis are taken");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn config(&self, connections: usize) -> RedisConfig {
        RedisConfig { database: self.number, ..config(&[(&self.host, self.port)], Deployment::Single, connections) }
    }

    pub async fn view(&self) -> View {
        View::of(&self.host, self.port, self.number).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _left_to_expire = redis::cmd("FLUSHDB").exec(&mut open(&self.host, self.port, self.number));
    }
}

/// A pool as a configuration would give it.
pub fn config(servers: &[(&str, u16)], deployment: Deployment, connections: usize) -> RedisConfig {
    RedisConfig {
        servers: servers.iter().map(|(host, port)| Server { host: (*host).to_owned(), port: *port }).collect(),
        deployment,
        connections,
        database: 0,
        username: None,
        password: Some(Secret(PASSWORD.to_owned())),
        channel: Some("mqtt_channel".to_owned()),
        retain: RetainLayout::Hash,
        tls: None,
        wait_replicas: 0,
        rewind: Duration::from_secs(10),
        node_name: "here".to_owned(),
    }
}

/// TLS as the test's certificates have it.
pub fn tls(with_client: bool) -> Tls {
    let files = forebay_services::certificates::certificates().unwrap();
    let text = |path: &std::path::Path| path.display().to_string();
    Tls {
        ca: Some(text(&files.authority)),
        client: with_client.then(|| (text(&files.client), text(&files.client_key))),
    }
}

/// What stands in a database.
#[derive(Clone)]
pub struct View(MultiplexedConnection);

impl View {
    pub async fn of(host: &str, port: u16, number: i64) -> View {
        let client = Client::open(format!("redis://:{PASSWORD}@{host}:{port}/{number}")).unwrap();
        let setup = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(10)))
            .set_response_timeout(Some(Duration::from_secs(20)));
        View(client.get_multiplexed_async_connection_with_config(&setup).await.unwrap())
    }

    /// A command, fields separated by spaces.
    pub async fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        self.words(&command.split(' ').collect::<Vec<_>>()).await
    }

    pub async fn words<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_words(words).await.unwrap()
    }

    pub async fn try_words<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut cmd = redis::cmd(words[0]);
        for word in &words[1..] {
            cmd.arg(*word);
        }
        cmd.query_async(&mut self.0.clone()).await
    }

    /// `HGETALL`, field by field, as `redis-cli` shows it.
    pub async fn hash(&self, key: &str) -> Vec<String> {
        self.words(&["HGETALL", key]).await
    }

    /// Every key that a user knows of, in order.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask("KEYS *").await;
        keys.retain(|k| k != OWNER && !k.starts_with("forebay:"));
        keys.sort();
        keys
    }

    /// Payloads of a topic in the order of the sorted set; a member without its hash is `None`.
    pub async fn payloads(&self, topic: &str) -> Vec<Option<Vec<u8>>> {
        let ids: Vec<String> = self.words(&["ZRANGE", &format!("mqtt:msg:{topic}"), "0", "-1"]).await;
        let mut pipe = redis::pipe();
        for id in &ids {
            pipe.cmd("HGET").arg(format!("mqtt:msg:{id}")).arg("payload");
        }
        if ids.is_empty() { Vec::new() } else { pipe.query_async(&mut self.0.clone()).await.unwrap() }
    }

    /// How often each payload is stored under the topics that match a pattern.
    pub async fn stored(&self, pattern: &str) -> BTreeMap<Vec<u8>, u64> {
        let topics: Vec<String> = self.words(&["KEYS", &format!("mqtt:msg:{pattern}")]).await;
        let mut stored = BTreeMap::new();
        for topic in topics {
            for payload in self.payloads(topic.strip_prefix("mqtt:msg:").unwrap()).await {
                *stored.entry(payload.expect("a member of a topic has its hash")).or_default() += 1;
            }
        }
        stored
    }
}
