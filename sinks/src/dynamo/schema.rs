//! The tables: what is there, what is missing, and how that is made.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ProvisionedThroughput, ScalarAttributeType,
    TableDescription, TableStatus,
};

use super::config::{Billing, DynamoConfig};
use super::error::{Failure, failure};
use crate::sink::WriteError;
use crate::sql::SchemaMode;

/// A table and its keys, all of type S.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    partition: &'static str,
    sort: Option<&'static str>,
}

const fn table(name: &'static str, partition: &'static str, sort: Option<&'static str>) -> Table {
    Table { name, partition, sort }
}

/// The guide's, then Forebay's own.
pub(super) const TABLES: [Table; 10] = [
    table("mqtt_client", "clientid", None),
    table("mqtt_sub", "clientid", Some("topic")),
    table("mqtt_msg", "msgid", None),
    table("mqtt_topic_msg_map", "topic", None),
    table("mqtt_retain", "topic", None),
    table("mqtt_acked", "topic", Some("clientid")),
    table("forebay_position", "sink", None),
    table("forebay_imported", "name", None),
    table("forebay_acked", "clientid", Some("topic")),
    table("forebay_expiry", "slot", Some("at")),
];

/// How often a table in the making is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The tables, as `forebay schema dynamo` prints them.
pub(crate) fn schema_text() -> String {
    let head = "table                keys (partition, sort)    attributes\n\n";
    let made = TABLES.iter().map(|table| format!("{}\n", table.command()));
    format!("{head}{}\n{}", include_str!("tables.txt"), made.collect::<String>())
}

impl Table {
    fn keys(&self) -> impl Iterator<Item = (&'static str, KeyType)> {
        [(Some(self.partition), KeyType::Hash), (self.sort, KeyType::Range)]
            .into_iter()
            .filter_map(|(name, kind)| Some((name?, kind)))
    }

    /// The line that makes it by hand.
    pub(super) fn command(&self) -> String {
        let keys = || self.keys();
        let attributes: Vec<String> = keys().map(|(name, _)| format!("AttributeName={name},AttributeType=S")).collect();
        let schema: Vec<String> =
            keys().map(|(name, kind)| format!("AttributeName={name},KeyType={}", kind.as_str())).collect();
        format!(
            "aws dynamodb create-table --table-name {} --attribute-definitions {} --key-schema {} --billing-mode PAY_PER_REQUEST",
            self.name,
            attributes.join(" "),
            schema.join(" ")
        )
    }

    async fn create(&self, client: &Client, billing: Billing) -> Result<(), WriteError> {
        let impossible = |e: BuildError| WriteError::busy(e.to_string());
        let mut create = client.create_table().table_name(self.name);
        for (name, kind) in self.keys() {
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
            let key = KeySchemaElement::builder().attribute_name(name).key_type(kind);
            create = create
                .attribute_definitions(attribute.build().map_err(impossible)?)
                .key_schema(key.build().map_err(impossible)?);
        }
        create = match billing {
            Billing::OnDemand => create.billing_mode(BillingMode::PayPerRequest),
            Billing::Provisioned { read, write } => {
                let units = ProvisionedThroughput::builder().read_capacity_units(read).write_capacity_units(write);
                create.billing_mode(BillingMode::Provisioned).provisioned_throughput(units.build().map_err(impossible)?)
            }
        };
        match create.send().await {
            Ok(_) => Ok(()),
            // Another node makes it too.
            Err(error) if error.as_service_error().is_some_and(|e| e.is_resource_in_use_exception()) => Ok(()),
            Err(error) => Err(failure(&error, self.name).into_write()),
        }
    }
}

/// A table as it is; `None` where it is not there.
pub(super) async fn describe(client: &Client, name: &'static str) -> Result<Option<TableDescription>, WriteError> {
    match client.describe_table().table_name(name).send().await.map_err(|e| failure(&e, name)) {
        Ok(answer) => Ok(answer.table),
        Err(Failure::Missing(_)) => Ok(None),
        Err(failure) => Err(failure.into_write()),
    }
}

/// What is wrong with the keys of a table that is there.
pub(super) fn wrong_keys(table: &Table, found: &TableDescription) -> Option<String> {
    let mut there: Vec<(&str, KeyType)> =
        found.key_schema().iter().map(|key| (key.attribute_name(), key.key_type().clone())).collect();
    there.sort_by_key(|(_, kind)| *kind == KeyType::Range);
    let texts = found.attribute_definitions().iter().filter(|a| *a.attribute_type() == ScalarAttributeType::S);
    let texts: Vec<&str> = texts.map(AttributeDefinition::attribute_name).collect();
    let keys: Vec<(&str, KeyType)> = table.keys().collect();
    if there == keys && there.iter().all(|(name, _)| texts.contains(name)) {
        return None;
    }
    let names: Vec<&str> = keys.iter().map(|(name, _)| *name).collect();
    Some(format!("{} has other keys than {} of type S: rename it, or make it anew", table.name, names.join(", ")))
}

/// Finds what is there, creates what is missing where the pool says so, and waits until all can be used.
pub(super) async fn prepare(client: &Client, config: &DynamoConfig) -> Result<(), WriteError> {
    if config.schema == SchemaMode::Off {
        return Ok(());
    }
    let mut missing: Vec<&Table> = Vec::new();
    let mut unfinished: Vec<&Table> = Vec::new();
    let all = TABLES.iter().map(|table| async move { (table, describe(client, table.name).await) });
    for (table, found) in futures_util::future::join_all(all).await {
        match found? {
            None => missing.push(table),
            Some(found) => {
                if let Some(wrong) = wrong_keys(table, &found) {
                    return Err(WriteError::busy(wrong));
                }
                if is_unfinished(&found) {
                    unfinished.push(table);
                }
            }
        }
    }
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|table| table.name).collect();
        if config.schema == SchemaMode::Verify {
            let commands: Vec<String> = missing.iter().map(|table| table.command()).collect();
            return Err(WriteError::busy(format!("{} missing; run: {}", names.join(", "), commands.join("; "))));
        }
        tracing::info!(region = config.region, tables = names.join(", "), "tables were missing and are created");
        for table in &missing {
            table.create(client, config.billing).await?;
        }
        unfinished.extend(missing);
    }
    for table in unfinished {
        while describe(client, table.name).await?.is_none_or(|found| is_unfinished(&found)) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

fn is_unfinished(found: &TableDescription) -> bool {
    matches!(found.table_status(), Some(TableStatus::Creating))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_tables_are_those_that_are_made() {
        let text = schema_text();
        for table in TABLES {
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(table.name)).unwrap();
            for (name, _) in table.keys() {
                assert!(line.contains(&format!("{name} S")), "{line}");
            }
            assert!(text.contains(&format!("--table-name {} ", table.name)));
        }
    }

    #[test]
    fn keys_are_compared_with_those_of_the_guide() {
        let described = |keys: &[(&str, KeyType, ScalarAttributeType)]| {
            let mut found = TableDescription::builder();
            for (name, kind, of) in keys {
                found = found
                    .key_schema(
                        KeySchemaElement::builder().attribute_name(*name).key_type(kind.clone()).build().unwrap(),
                    )
                    .attribute_definitions(
                        AttributeDefinition::builder()
                            .attribute_name(*name)
                            .attribute_type(of.clone())
                            .build()
                            .unwrap(),
                    );
            }
            found.build()
        };
        let (hash, range, text) = (KeyType::Hash, KeyType::Range, ScalarAttributeType::S);
        let acked = &TABLES[5];
        let good = [("topic", hash.clone(), text.clone()), ("clientid", range.clone(), text.clone())];
        assert_eq!(wrong_keys(acked, &described(&good)), None);
        let turned = [("clientid", hash.clone(), text.clone()), ("topic", range, text.clone())];
        assert!(wrong_keys(acked, &described(&turned)).unwrap().contains("topic, clientid"));
        assert!(wrong_keys(acked, &described(&good[..1])).is_some());
        let numbers = [("msgid", hash, ScalarAttributeType::N)];
        assert!(wrong_keys(&TABLES[2], &described(&numbers)).is_some());
    }
}
