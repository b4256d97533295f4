//! DynamoDB by its SDK: a loop of the operations that the sink sends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{AttributeValue, BillingMode, PutRequest, Select, WriteRequest};
use forebay_services::dynamodb::DynamoDb as Service;
use forebay_services::{Private, private};
use tokio::task::JoinSet;

use super::rows::{Rows, SECONDS, SENDER};
use super::side::{Side, Work};

/// Items of one request, DynamoDB's most.
const ITEMS: usize = 25;

/// Messages after which their topics' lists follow, as in the sink's batches.
const BATCH: usize = 1_000;

/// Tables that a turn fills.
const FILLED: [&str; 3] = ["mqtt_msg", "mqtt_topic_msg_map", "forebay_position"];

const REGION: &str = "us-west-2";
const KEY: &str = "BENCH";

/// DynamoDB Local.
#[derive(Debug)]
pub(super) struct Dynamo {
    durable: bool,
    rows: Option<(Rows, usize)>,
}

impl Dynamo {
    pub(super) fn new(durable: bool) -> Dynamo {
        Dynamo { durable, rows: None }
    }
}

fn client(port: u16) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(KEY, KEY, None, None, "bench"))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

/// What the sink stores of a message.
fn item(rows: Rows, n: u64) -> HashMap<String, AttributeValue> {
    let text = AttributeValue::S;
    let number = |n: u64| AttributeValue::N(n.to_string());
    [
        ("msgid", text(Rows::msgid(n))),
        ("topic", text(rows.topic(n))),
        ("sender", text(SENDER.to_owned())),
        ("payload", text(rows.payload(n))),
        ("qos", number(1)),
        ("retain", number(0)),
        ("arrived", number(SECONDS)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Some messages, in one request.
async fn put(client: &Client, rows: Rows, numbers: &[u64]) -> Result<()> {
    let puts = numbers.iter().map(|n| {
        let put = PutRequest::builder().set_item(Some(item(rows, *n))).build()?;
        Ok(WriteRequest::builder().put_request(put).build())
    });
    let puts = puts.collect::<Result<Vec<_>>>()?;
    let answer = client.batch_write_item().request_items("mqtt_msg", puts).send().await?;
    ensure!(answer.unprocessed_items.is_none_or(|left| left.is_empty()), "the server did not take all");
    Ok(())
}

/// Names of messages to their topic's list.
async fn name(client: &Client, topic: &str, names: Vec<String>) -> Result<()> {
    client
        .update_item()
        .table_name("mqtt_topic_msg_map")
        .key("topic", AttributeValue::S(topic.to_owned()))
        .update_expression("add #MsgId :names")
        .expression_attribute_names("#MsgId", "MsgId")
        .expression_attribute_values(":names", AttributeValue::Ss(names))
        .send()
        .await?;
    Ok(())
}

/// Stores messages, then what names them.
async fn store(client: &Client, rows: Rows, numbers: &[u64]) -> Result<()> {
    for batch in numbers.chunks(BATCH) {
        for some in batch.chunks(ITEMS) {
            put(client, rows, some).await?;
        }
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        batch.iter().for_each(|n| names.entry(rows.topic(*n)).or_default().push(Rows::msgid(*n)));
        for (topic, names) in names {
            name(client, &topic, names).await?;
        }
    }
    Ok(())
}

impl Side for Dynamo {
    fn names(&self) -> (&'static str, &'static str) {
        let name = if self.durable { "DynamoDB (Local, on disk)" } else { "DynamoDB (Local, in memory)" };
        (name, "loop of the same operations")
    }

    fn bar(&self) -> f64 {
        0.5
    }

    fn most(&self) -> u64 {
        if self.durable { 10_000 } else { 30_000 }
    }

    fn start(&self) -> Result<Option<Private>> {
        private(&Service { durable: self.durable }).map(Some)
    }

    fn words(&self) -> (&'static str, &'static str) {
        ("dynamo", "dynamo")
    }

    fn pool(&self, port: u16) -> Vec<String> {
        vec![
            format!("region = {REGION}"),
            format!("server = http://127.0.0.1:{port}"),
            format!("aws_access_key_id = {KEY}"),
            format!("aws_secret_access_key = {KEY}"),
        ]
    }

    fn clear(&self, port: u16) -> Work<'_, ()> {
        Box::pin(async move {
            let client = client(port);
            for table in FILLED {
                let known = client.describe_table().table_name(table).send().await?.table.context("no description")?;
                client.delete_table().table_name(table).send().await?;
                client
                    .create_table()
                    .table_name(table)
                    .set_key_schema(known.key_schema)
                    .set_attribute_definitions(known.attribute_definitions)
                    .billing_mode(BillingMode::PayPerRequest)
                    .send()
                    .await?;
            }
            Ok(())
        })
    }

    fn count(&self, port: u16) -> Work<'_, u64> {
        Box::pin(async move {
            let (client, mut count, mut start) = (client(port), 0, None);
            loop {
                let scan = client.scan().table_name("mqtt_msg").select(Select::Count).consistent_read(true);
                let answer = scan.set_exclusive_start_key(start).send().await?;
                count += u64::try_from(answer.count)?;
                start = answer.last_evaluated_key;
                if start.is_none() {
                    return Ok(count);
                }
            }
        })
    }

    fn prepare(&mut self, rows: Rows, connections: usize) -> Result<()> {
        self.rows = Some((rows, connections));
        Ok(())
    }

    fn bulk(&self, port: u16) -> Work<'_, f64> {
        Box::pin(async move {
            let (rows, connections) = self.rows.context("the bulk way was not prepared")?;
            let client = Arc::new(client(port));
            // Each topic is one loop's, as it is one lane's.
            let mut parts = vec![Vec::new(); connections];
            for n in 0..rows.messages {
                let part = (n % rows.topics.max(1)) as usize % connections;
                parts.get_mut(part).context("a part too many")?.push(n);
            }
            let begun = Instant::now();
            let mut storing = JoinSet::new();
            for part in parts {
                let client = client.clone();
                storing.spawn(async move { store(&client, rows, &part).await });
            }
            while let Some(ended) = storing.join_next().await {
                ended.context("a loop panicked")??;
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }

    fn plain(&self, port: u16, rows: Rows) -> Work<'_, f64> {
        Box::pin(async move {
            let client = client(port);
            let begun = Instant::now();
            for n in 0..rows.messages {
                client.put_item().table_name("mqtt_msg").set_item(Some(item(rows, n))).send().await?;
                name(&client, &rows.topic(n), vec![Rows::msgid(n)]).await?;
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }
}
