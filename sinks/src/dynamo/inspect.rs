//! Looking at DynamoDB without changing it: credentials, tables, keys, rights to read, throughput.

use aws_sdk_dynamodb::types::{BillingMode, TableDescription};

use super::connect::DynamoSink;
use super::error::failure;
use super::schema::{self, TABLES, Table};
use crate::sink::{Finding, WriteError};
use crate::sql::SchemaMode;

/// Write units a second below which a table is warned of.
const FEW: i64 = 100;

pub(super) async fn inspect(sink: &DynamoSink) -> Vec<Finding> {
    match look(sink).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::fault(error.to_string())],
    }
}

async fn look(sink: &DynamoSink) -> Result<Vec<Finding>, WriteError> {
    let client = sink.client().await;
    let mut findings = Vec::new();
    for table in &TABLES {
        match schema::describe(&client, table.name).await? {
            None => findings.push(missing(table, sink.config.schema)),
            Some(found) => {
                findings.extend(schema::wrong_keys(table, &found).map(Finding::fault));
                findings.extend(throughput(table, &found));
                let read = client.scan().table_name(table.name).limit(1).send().await;
                if let Err(refused) = read {
                    findings.push(Finding::fault(failure(&refused, table.name).into_write().to_string()));
                }
            }
        }
    }
    Ok(findings)
}

fn missing(table: &Table, mode: SchemaMode) -> Finding {
    let name = table.name;
    match mode {
        SchemaMode::Create => Finding::fine(format!("{name} is not there yet and is made at the start")),
        SchemaMode::Verify => Finding::fault(format!("{name} is missing; run: {}", table.command())),
        SchemaMode::Off => {
            Finding::warning(format!("{name} is missing, and `schema = off` leaves it so; run: {}", table.command()))
        }
    }
}

/// A unit is an item of 1 KB written a second.
fn throughput(table: &Table, found: &TableDescription) -> Option<Finding> {
    if found.billing_mode_summary().and_then(|mode| mode.billing_mode()) == Some(&BillingMode::PayPerRequest) {
        return None;
    }
    let units = found.provisioned_throughput()?.write_capacity_units()?;
    (1..FEW).contains(&units).then(|| {
        Finding::warning(format!(
            "{} takes {units} write units a second, one for each KB of each item: the sink goes no faster; give it more, or bill it by request",
            table.name
        ))
    })
}
