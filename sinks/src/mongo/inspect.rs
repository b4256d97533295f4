//! Looking at a MongoDB without changing it: login, kind of deployment, collections, confirmations.

use mongodb::bson::doc;

use super::config::{SchemaMode, Transactions};
use super::connect::MongoSink;
use super::schema;
use crate::sink::Finding;

pub(super) async fn inspect(sink: &MongoSink) -> Vec<Finding> {
    let (conn, hello) = match sink.look().await {
        Ok(found) => found,
        Err(error) => return vec![Finding::fault(error.to_string())],
    };
    let mut findings = Vec::new();
    let missing = match schema::missing(&conn).await {
        Ok(missing) => missing,
        Err(error) => return vec![Finding::fault(error.to_string())],
    };
    if let Err(error) = conn.collection("mqtt_msg").find_one(doc! { "_id": 0_i64 }).await {
        return vec![Finding::fault(super::error::map(error).to_string())];
    }
    let config = &sink.config;
    if !missing.is_empty() && config.schema == SchemaMode::Verify {
        findings.push(Finding::fault(format!("missing: {}", missing.script())));
    }
    if !config.safe {
        findings.push(Finding::warning(
            "w_mode = unsafe: a batch counts as stored when one server has answered, and is lost where that one fails before its next flush",
        ));
    }
    let transactions = match config.transactions {
        Transactions::Auto => hello.has_transactions(),
        Transactions::On => true,
        Transactions::Off => false,
    };
    if config.transactions == Transactions::On && !hello.has_transactions() {
        findings.push(Finding::warning("transactions = on: the server does not say that it has any"));
    }
    let kind = match (&hello.set, hello.router) {
        (_, true) => "a sharded cluster".to_owned(),
        (Some(name), _) => format!("the primary of {name}"),
        (None, _) => "one server".to_owned(),
    };
    let how = if transactions {
        "batches and positions in transactions"
    } else {
        "no transactions: batches can be repeated, the position follows them"
    };
    let made = match missing.is_empty() {
        true => "collections and indexes are there".to_owned(),
        false if config.schema == SchemaMode::Create => {
            format!(
                "{} collections and {} indexes are made at the start",
                missing.collections.len(),
                missing.indexes.len()
            )
        }
        false => "collections or indexes are missing, which is not looked at (schema = off)".to_owned(),
    };
    findings.push(Finding::fine(format!("{kind}; {how}; {made}")));
    findings
}
