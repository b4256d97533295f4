//! DynamoDB in front of which the whole program is tested.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::AttributeValue;
use forebay_services::dynamodb::DynamoDb;
use forebay_services::{Private, private_in};
use tempfile::TempDir;

use crate::support::databases::Subject;
use crate::support::wait;

/// DynamoDB Local has tables of its own for each of these.
const KEY: &str = "OUTAGES";
const SECRET: &str = "secret";
const REGION: &str = "us-west-2";

type Item = HashMap<String, AttributeValue>;

fn text(item: &Item, name: &str) -> String {
    item[name].as_s().unwrap().clone()
}

/// All items of a table.
async fn scan(client: &Client, table: &str) -> Vec<Item> {
    let (mut found, mut start) = (Vec::new(), None);
    loop {
        let scan = client.scan().table_name(table).consistent_read(true).set_exclusive_start_key(start);
        let answer = scan.send().await.unwrap();
        found.extend(answer.items.unwrap_or_default());
        start = answer.last_evaluated_key;
        if start.is_none() {
            return found;
        }
    }
}

/// DynamoDB Local with its tables in a file, which SIGKILL takes nothing from. It is a file in memory where there is such a folder: SQLite
/// waits for the disk four times for each item, which protects from nothing that happens here.
pub struct OnDynamo {
    /// Everything but the tables: programs can't be loaded from every folder in memory.
    dir: TempDir,
    tables: TempDir,
}

impl OnDynamo {
    pub fn new() -> OnDynamo {
        let (dir, tables) = (TempDir::new().unwrap(), TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap());
        std::os::unix::fs::symlink(tables.path(), dir.path().join("tables")).unwrap();
        OnDynamo { dir, tables }
    }
}

impl Subject for OnDynamo {
    fn name(&self) -> &'static str {
        "dynamo"
    }

    fn start(&self) -> Private {
        private_in(&DynamoDb { durable: true }, self.dir.path()).unwrap()
    }

    fn pool(&self, servers: &Private) -> String {
        format!(
            "backend.dynamo.pool1.server = {}\nbackend.dynamo.pool1.region = {REGION}\n\
             backend.dynamo.pool1.aws_access_key_id = {KEY}\nbackend.dynamo.pool1.aws_secret_access_key = {SECRET}\n\
             backend.dynamo.pool1.pool_size = 4\n",
            servers.address
        )
    }

    /// Each message has its item, and its name once among those of its topic.
    fn stored(&self, servers: &Private) -> Vec<(String, String)> {
        assert!(self.tables.path().join(format!("{KEY}_{REGION}.db")).exists(), "tables are where SIGKILL leaves them");
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new(KEY, SECRET, None, None, "test"))
            .endpoint_url(&servers.address)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        let client = Client::from_conf(config);
        let (messages, map) =
            wait(async { (scan(&client, "mqtt_msg").await, scan(&client, "mqtt_topic_msg_map").await) });
        // `TOPIC#` lists the items of a topic that has several.
        let named = map.iter().filter(|item| !text(item, "topic").ends_with('#'));
        let named: Vec<&String> = named.flat_map(|item| item["MsgId"].as_ss().unwrap()).collect();
        let stored: Vec<_> = messages.iter().map(|item| (text(item, "msgid"), text(item, "payload"))).collect();
        let names: HashSet<&String> = named.iter().copied().collect();
        assert_eq!(names.len(), named.len(), "names that are there twice");
        assert_eq!(named.len(), stored.len(), "names and messages");
        assert!(stored.iter().all(|(msgid, _)| names.contains(msgid)), "every message is named");
        stored
    }

    fn outage_ms(&self) -> u64 {
        7_000
    }

    fn deadline_ms(&self) -> u64 {
        5_000
    }

    fn rounds(&self) -> u64 {
        5
    }

    fn rate(&self) -> u64 {
        200
    }
}
