//! Cassandra for tests: a keyspace of the shared server for one test, servers of a test's own, and what stands in them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_engine::Lsn;
use forebay_sinks::cassandra::{CassandraConfig, CassandraSink};
use forebay_sinks::conformance::{MemoryLog, nowhere, rule};
use forebay_sinks::dead_letter::{LetterStore, MemoryLetters};
use forebay_sinks::rule::{Action, Database, Function, Hook, Pool, RuleSet, Setting, parse_conf};
use forebay_sinks::runtime::RuntimeOptions;
use forebay_sinks::runtime::backoff::Backoff;
use forebay_sinks::sink::{Sink, WriteError};
use forebay_sinks::source::Source;
use forebay_sinks::sql::{BinaryPayload, SchemaMode};
use forebay_sinks::{DatabaseOptions, Sinks, SinksOptions};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::statement::Consistency;

/// Host and port of `cassandra://user:password@host:port`.
pub fn place(url: &str) -> String {
    url.rsplit('@').next().unwrap().to_owned()
}

/// The shared server.
pub fn shared() -> String {
    place(&forebay_services::address("cassandra").unwrap_or_else(|error| panic!("{error:#}")))
}

/// A name that no other test has.
pub fn name(prefix: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A pool as a configuration would give it.
pub fn config(node: &str, keyspace: &str, connections: usize) -> CassandraConfig {
    CassandraConfig {
        nodes: vec![node.to_owned()],
        connections: NonZeroUsize::new(connections).unwrap(),
        username: Some("cassandra".to_owned()),
        password: Some("cassandra".to_owned()),
        tls: None,
        keyspace: keyspace.to_owned(),
        consistency: Consistency::LocalQuorum,
        binary_payload: BinaryPayload::Refuse,
        schema: SchemaMode::Create,
        node_name: "here".to_owned(),
    }
}

/// Connects once. Other tests' schema changes take statements from the server's cache between their preparation and their use; the
/// runtime asks again then, and so does this.
pub async fn connected(sink: &CassandraSink) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match sink.connect().await {
            Ok(_) => return,
            Err(WriteError::Busy { .. }) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// A keyspace, with a session that is no sink's.
pub struct View {
    pub session: Session,
    pub node: String,
    pub keyspace: String,
}

impl View {
    /// A new keyspace with Forebay's tables.
    pub async fn new(node: &str) -> View {
        let keyspace = name("suite");
        let sink = CassandraSink::new(config(node, &keyspace, 1));
        connected(&sink).await;
        View::of(node, &keyspace).await
    }

    /// A keyspace that is there.
    pub async fn of(node: &str, keyspace: &str) -> View {
        let view = View::empty(node, keyspace).await;
        view.session.use_keyspace(keyspace, true).await.unwrap();
        view
    }

    /// A keyspace that is not there yet.
    pub async fn empty(node: &str, keyspace: &str) -> View {
        let end = std::time::Instant::now() + Duration::from_secs(120);
        loop {
            let builder = SessionBuilder::new().known_node(node).user("cassandra", "cassandra");
            match builder.fetch_schema_metadata(false).build().await {
                Ok(session) => return View { session, node: node.to_owned(), keyspace: keyspace.to_owned() },
                Err(error) if std::time::Instant::now() > end => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    pub fn config(&self, connections: usize) -> CassandraConfig {
        config(&self.node, &self.keyspace, connections)
    }

    /// Runs a statement.
    pub async fn run(&self, cql: &str) {
        self.session.query_unpaged(cql, ()).await.unwrap_or_else(|error| panic!("{cql}: {error}"));
    }

    /// Rows of a query.
    pub async fn rows<R: for<'a, 'b> DeserializeRow<'a, 'b>>(&self, cql: &str) -> Vec<R> {
        let answer = self.session.query_unpaged(cql, ()).await.unwrap_or_else(|error| panic!("{cql}: {error}"));
        answer.into_rows_result().unwrap().rows::<R>().unwrap().map(Result::unwrap).collect()
    }

    /// How often each payload is stored.
    pub async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        let mut stored = BTreeMap::new();
        for (payload,) in self.rows::<(String,)>("select payload from msg").await {
            *stored.entry(payload.into_bytes()).or_default() += 1;
        }
        stored
    }

    /// Payloads of a topic, oldest first.
    pub async fn payloads(&self, topic: &str) -> Vec<Vec<u8>> {
        let cql = format!("select payload from msg where topic = '{topic}' order by msgid asc");
        self.rows::<(String,)>(&cql).await.into_iter().map(|(payload,)| payload.into_bytes()).collect()
    }

    /// Removes the keyspace.
    pub async fn drop(&self) {
        self.run(&format!("drop keyspace if exists {}", self.keyspace)).await;
    }
}

/// Timestamps as the guide's tables show them, for a log that begins with 2024.
pub const AT_MS: i64 = 1_704_067_200_000;

impl View {
    /// The pool of this keyspace, with more settings.
    pub fn pool(&self, more: &[(&str, &str)]) -> Pool {
        let setting = |value: &str| Setting { value: value.to_owned(), secret: false, at: nowhere() };
        let mut settings: BTreeMap<String, Setting> = [
            ("nodes", &*self.node),
            ("username", "cassandra"),
            ("password", "cassandra"),
            ("keyspace", &*self.keyspace),
            ("pool_size", "2"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), setting(value)))
        .collect();
        settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), setting(value))));
        Pool { database: Database::Cassandra, name: "pool1".into(), settings, at: nowhere() }
    }

    pub fn rules(&self, rules: &[(Hook, Option<&str>, Function)]) -> RuleSet {
        let rules = rules.iter().enumerate().map(|(n, (hook, topic, function))| {
            rule(Database::Cassandra, *hook, n as u32 + 1, *topic, Action::Function(*function))
        });
        RuleSet { pools: vec![self.pool(&[])], rules: rules.collect() }
    }

    /// The rules of a `.conf` text on this keyspace.
    pub fn conf(&self, text: &str) -> RuleSet {
        let text = format!("backend.ecql.pool1.size = 1\n{text}");
        let parsed = parse_conf(std::path::Path::new("guide.conf"), &text);
        assert_eq!(parsed.faults, []);
        RuleSet { pools: vec![self.pool(&[])], ..parsed.rules }
    }

    /// How many rows a table has.
    pub async fn count(&self, table: &str) -> i64 {
        self.rows::<(i64,)>(&format!("select count(*) from {table}")).await[0].0
    }
}

pub const SINK: &str = "cassa/pool1";

/// Settings of the tests' sinks.
pub fn options() -> SinksOptions {
    SinksOptions {
        databases: DatabaseOptions { data_dir: std::env::temp_dir(), node_name: "forebay@here".into() },
        lookup_deadline: Duration::from_secs(20),
        runtime: RuntimeOptions {
            backoff: Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(200) },
            request_deadline: Duration::from_secs(10),
            ..RuntimeOptions::default()
        },
        open_letters: Arc::new(|_| Ok(Arc::new(MemoryLetters::default()) as Arc<dyn LetterStore>)),
    }
}

pub fn start(log: &MemoryLog, rules: &RuleSet) -> Sinks {
    Sinks::start(Arc::new(log.clone()), rules, &options()).unwrap()
}

pub async fn done(log: &MemoryLog, sinks: &Sinks, last: Lsn) {
    let end = tokio::time::Instant::now() + Duration::from_secs(120);
    while sinks.status()[0].position <= last {
        assert!(tokio::time::Instant::now() < end, "not beyond {last} within two minutes: {:?}", sinks.status());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(log.durable_end() > last);
}

/// Waits until the sink says something.
pub async fn shows(sinks: &Sinks, what: &str) {
    let error = || sinks.status()[0].last_error.clone().unwrap_or_default();
    let end = tokio::time::Instant::now() + Duration::from_secs(120);
    while !error().contains(what) {
        assert!(tokio::time::Instant::now() < end, "it should say `{what}` and says: {}", error());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn stop(sinks: Sinks) {
    sinks.shutdown(Duration::from_secs(10)).await;
}
