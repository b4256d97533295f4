//! DynamoDB Local for tests: tables of one test's own (each access key has some), and what stands in them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::AttributeValue;
use forebay_engine::Lsn;
use forebay_sinks::conformance::{MemoryLog, nowhere, rule};
use forebay_sinks::dead_letter::{LetterStore, MemoryLetters};
use forebay_sinks::dynamo::{Billing, DynamoConfig, Secret};
use forebay_sinks::rule::{Action, Database, Function, Hook, Pool, RuleSet, Setting};
use forebay_sinks::runtime::RuntimeOptions;
use forebay_sinks::runtime::backoff::Backoff;
use forebay_sinks::source::Source;
use forebay_sinks::sql::{BinaryPayload, SchemaMode};
use forebay_sinks::{DatabaseOptions, Sinks, SinksOptions};

pub type Item = HashMap<String, AttributeValue>;

/// s since 1970 of a log that begins with 2024.
pub const AT_S: u64 = 1_704_067_200;

pub const SINK: &str = "dynamo/pool1";

/// The shared server.
pub fn shared() -> String {
    forebay_services::address("dynamodb").unwrap_or_else(|error| panic!("{error:#}"))
}

/// An access key that no other test has: letters and digits.
pub fn account() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("T{}X{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A pool as a configuration would give it.
pub fn config(endpoint: &str, account: &str, connections: usize) -> DynamoConfig {
    DynamoConfig {
        endpoint: Some(endpoint.to_owned()),
        region: "us-west-2".to_owned(),
        credentials: Some((Secret(account.to_owned()), Secret("s3cret".to_owned()))),
        connections,
        binary_payload: BinaryPayload::Refuse,
        schema: SchemaMode::Create,
        billing: Billing::OnDemand,
        map_ids: 1_000,
        node_name: "here".to_owned(),
    }
}

/// The tables of an account, with a client that is no sink's.
pub struct View {
    pub client: Client,
    pub endpoint: String,
    pub account: String,
}

pub fn text(item: &Item, name: &str) -> String {
    match item.get(name) {
        Some(AttributeValue::S(text) | AttributeValue::N(text)) => text.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

pub fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

pub fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub fn item<const N: usize>(attributes: [(&str, AttributeValue); N]) -> Item {
    attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl View {
    /// Of a new account of the shared server.
    pub fn new() -> View {
        View::at(&shared(), &account())
    }

    pub fn at(endpoint: &str, account: &str) -> View {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-west-2"))
            .credentials_provider(Credentials::new(account, "s3cret", None, None, "test"))
            .endpoint_url(endpoint)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        View { client: Client::from_conf(config), endpoint: endpoint.to_owned(), account: account.to_owned() }
    }

    pub fn config(&self, connections: usize) -> DynamoConfig {
        config(&self.endpoint, &self.account, connections)
    }

    /// The items of a table, which may be missing; in the order of what they show.
    pub async fn scan(&self, table: &str) -> Vec<Item> {
        let (mut found, mut start) = (Vec::new(), None);
        loop {
            let scan = self.client.scan().table_name(table).consistent_read(true).set_exclusive_start_key(start);
            let answer = match scan.send().await {
                Ok(answer) => answer,
                Err(error) if error.as_service_error().is_some_and(|e| e.is_resource_not_found_exception()) => {
                    return found;
                }
                Err(error) => panic!("{table}: {error:?}"),
            };
            found.extend(answer.items.unwrap_or_default());
            start = answer.last_evaluated_key;
            if start.is_none() {
                return found;
            }
        }
    }

    pub async fn put(&self, table: &str, item: Item) {
        self.client.put_item().table_name(table).set_item(Some(item)).send().await.unwrap();
    }

    /// How often each payload is stored.
    pub async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        let mut stored = BTreeMap::new();
        for message in self.scan("mqtt_msg").await {
            *stored.entry(payload(&message)).or_default() += 1;
        }
        stored
    }

    /// Names of messages by the key of the item that has them.
    pub async fn map(&self) -> BTreeMap<String, Vec<String>> {
        let row = |found: &Item| {
            let mut names = match found.get("MsgId") {
                Some(AttributeValue::Ss(names)) => names.clone(),
                other => panic!("MsgId is {other:?}"),
            };
            names.sort();
            (text(found, "topic"), names)
        };
        self.scan("mqtt_topic_msg_map").await.iter().map(row).collect()
    }

    /// Names of a topic's messages, in order, each as often as it is there.
    pub async fn names(&self, topic: &str) -> Vec<String> {
        let of_topic = |key: &str| {
            key.strip_prefix(topic).is_some_and(|rest| rest.is_empty() || (rest.starts_with('#') && rest.len() > 1))
        };
        let mut names: Vec<String> =
            self.map().await.into_iter().filter(|(key, _)| of_topic(key)).flat_map(|(_, names)| names).collect();
        names.sort();
        names
    }

    /// Payloads of a topic, by the names that the map has of it.
    pub async fn payloads(&self, topic: &str) -> Vec<Vec<u8>> {
        let messages: HashMap<String, Item> =
            self.scan("mqtt_msg").await.into_iter().map(|found| (text(&found, "msgid"), found)).collect();
        self.names(topic).await.iter().map(|name| payload(&messages[name])).collect()
    }

    /// The pool of this account, with more settings.
    pub fn pool(&self, more: &[(&str, &str)]) -> Pool {
        let setting = |value: &str| Setting { value: value.to_owned(), secret: false, at: nowhere() };
        let mut settings: BTreeMap<String, Setting> = [
            ("server", &*self.endpoint),
            ("aws_access_key_id", &*self.account),
            ("aws_secret_access_key", "s3cret"),
            ("pool_size", "2"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), setting(value)))
        .collect();
        settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), setting(value))));
        Pool { database: Database::Dynamo, name: "pool1".into(), settings, at: nowhere() }
    }

    pub fn rules(&self, rules: &[(Hook, Option<&str>, Function)]) -> RuleSet {
        let rules = rules.iter().enumerate().map(|(n, (hook, topic, function))| {
            rule(Database::Dynamo, *hook, n as u32 + 1, *topic, Action::Function(*function))
        });
        RuleSet { pools: vec![self.pool(&[])], rules: rules.collect() }
    }
}

/// The bytes of a message's payload.
pub fn payload(message: &Item) -> Vec<u8> {
    match message.get("payload") {
        Some(AttributeValue::S(text)) => text.clone().into_bytes(),
        Some(AttributeValue::B(blob)) => blob.as_ref().to_vec(),
        other => panic!("payload is {other:?}"),
    }
}

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
