//! Collections and indexes: the guide's, and Forebay's own.

use std::sync::atomic::Ordering;

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use sha2::{Digest, Sha256};

use super::command::{Command, Kind, integer};
use super::config::SchemaMode;
use super::conn::MongoConn;
use super::connect::MongoSink;
use super::error::map;
use crate::sink::WriteError;

/// Where read positions from before Forebay are kept.
pub(super) const ACKED_BEFORE: &str = "forebay_acked";

/// The document there that says that all were copied.
const COMPLETE: &str = "complete";

/// Numbers of messages of other programs are expected below this: Forebay's begin here, or are negative.
pub(super) const OWN_NUMBERS: i64 = 1 << 48;

/// Collections and the keys of their indexes.
fn wanted() -> Vec<(&'static str, Vec<Document>)> {
    vec![
        ("mqtt_client", vec![doc! { "clientid": 1, "node": 2 }]),
        ("mqtt_sub", vec![doc! { "clientid": 1 }]),
        ("mqtt_msg", vec![doc! { "sender": 1, "topic": 2 }, doc! { "topic": 1, "_id": 1 }]),
        ("mqtt_retain", vec![doc! { "topic": 1 }]),
        ("mqtt_acked", vec![doc! { "clientid": 1, "topic": 1 }]),
        ("forebay_position", vec![]),
        ("forebay_expiry", vec![doc! { "at_us": 1 }]),
        ("forebay_imported", vec![doc! { "key": 1 }]),
        (ACKED_BEFORE, vec![]),
    ]
}

/// The name that MongoDB gives to an index by itself.
fn index_name(keys: &Document) -> String {
    let parts = keys.iter().map(|(field, way)| format!("{field}_{}", integer(Some(way)).unwrap_or(1)));
    parts.collect::<Vec<_>>().join("_")
}

/// What is missing: collections, and indexes of collections that are there or not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Missing {
    pub(super) collections: Vec<&'static str>,
    pub(super) indexes: Vec<(&'static str, Document)>,
}

impl Missing {
    pub(super) fn is_empty(&self) -> bool {
        self.collections.is_empty() && self.indexes.is_empty()
    }

    /// The commands that make it, in the words of MongoDB's shell.
    pub(super) fn script(&self) -> String {
        let collections = self.collections.iter().map(|name| format!("db.createCollection(\"{name}\")"));
        let indexes = self.indexes.iter().map(|(name, keys)| format!("db.{name}.createIndex({keys})"));
        collections.chain(indexes).collect::<Vec<_>>().join("; ")
    }
}

pub(super) async fn missing(conn: &MongoConn) -> Result<Missing, WriteError> {
    let names = conn.db.list_collection_names().await.map_err(map)?;
    let mut missing = Missing::default();
    for (name, indexes) in wanted() {
        let exists = names.iter().any(|known| known == name);
        if !exists {
            missing.collections.push(name);
            missing.indexes.extend(indexes.into_iter().map(|keys| (name, keys)));
            continue;
        }
        if indexes.is_empty() {
            continue;
        }
        let known: Vec<Document> = match conn.collection(name).list_indexes().await {
            Ok(found) => found.map_ok(|index| index.keys).try_collect().await.map_err(map)?,
            Err(error) => return Err(map(error)),
        };
        // The guide's `2` is a direction like `1`.
        let same = |a: &Document, b: &Document| {
            let fields = |keys: &Document| {
                let way = |way: &Bson| integer(Some(way)).map(|way| way > 0);
                keys.iter().map(|(field, value)| (field.clone(), way(value))).collect::<Vec<_>>()
            };
            fields(a) == fields(b)
        };
        missing
            .indexes
            .extend(indexes.into_iter().filter(|keys| !known.iter().any(|k| same(k, keys))).map(|k| (name, k)));
    }
    Ok(missing)
}

/// Makes what is missing, or says what it is; and looks at what there is.
pub(super) async fn prepare(sink: &MongoSink, conn: &mut MongoConn) -> Result<(), WriteError> {
    if sink.config.schema != SchemaMode::Off {
        let missing = missing(conn).await?;
        if sink.config.schema == SchemaMode::Verify && !missing.is_empty() {
            return Err(WriteError::busy(format!("the database lacks collections or indexes: {}", missing.script())));
        }
        create(conn, &missing).await?;
    }
    let copied = doc! { "_id": COMPLETE };
    if conn.collection(ACKED_BEFORE).find_one(copied).await.map_err(map)?.is_none() {
        keep_read_positions(conn).await?;
    }
    let known = conn.collection("forebay_imported").find_one(doc! {}).await.map_err(map)?;
    if known.is_some() {
        sink.shared.imports.store(true, Ordering::Relaxed);
    }
    Ok(())
}

async fn create(conn: &MongoConn, missing: &Missing) -> Result<(), WriteError> {
    for name in &missing.collections {
        ignore(conn.db.run_command(doc! { "create": *name }).await, 48)?;
    }
    for (name, keys) in &missing.indexes {
        let index = doc! { "key": keys.clone(), "name": index_name(keys) };
        match ignore(conn.db.run_command(doc! { "createIndexes": *name, "indexes": [index] }).await, 68) {
            Err(WriteError::Busy { cause, .. })
                if cause.to_string().contains("code 85;") || cause.to_string().contains("code 86;") =>
            {
                tracing::warn!(collection = name, %keys, %cause, "index not made: taken as it is");
            }
            other => other?,
        }
    }
    Ok(())
}

/// Success, or the error that says that it is there already.
fn ignore(answer: mongodb::error::Result<Document>, code: i32) -> Result<(), WriteError> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) => match &*error.kind {
            mongodb::error::ErrorKind::Command(refused) if refused.code == code => Ok(()),
            _ => Err(map(error)),
        },
    }
}

/// Keeps the read positions from before Forebay: they say which messages of other programs a client has, and are overwritten by its
/// acknowledgements of Forebay's own. Done once, before this database gets the first of those.
async fn keep_read_positions(conn: &mut MongoConn) -> Result<(), WriteError> {
    let theirs = doc! { "mongo_id": { "$gte": 0_i64, "$lt": OWN_NUMBERS } };
    let mut rows = conn.collection("mqtt_acked").find(theirs).await.map_err(map)?;
    let mut command = Command::new(Kind::Update, ACKED_BEFORE).ordered();
    while let Some(row) = rows.try_next().await.map_err(map)? {
        let (Ok(client), Ok(topic)) = (row.get_str("clientid"), row.get_str("topic")) else { continue };
        let Some(number) = integer(row.get("mongo_id")) else { continue };
        let set = doc! { "clientid": client, "topic": topic, "mongo_id": number };
        command.update(doc! { "_id": key_id(&[client, topic]) }, doc! { "$set": set }, true, Vec::new());
    }
    command.update(doc! { "_id": COMPLETE }, doc! { "$set": { "complete": true } }, true, Vec::new());
    conn.demand(&command).await
}

/// An `_id` made of a document's natural key: two that are inserted at once are one.
pub(super) fn key_id(key: &[&str]) -> mongodb::bson::oid::ObjectId {
    let mut hash = Sha256::new();
    for part in key {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut id = [0u8; 12];
    for (to, from) in id.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    mongodb::bson::oid::ObjectId::from_bytes(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_collection_is_in_the_text_that_the_operator_gets() {
        let text = super::super::schema_text();
        for (name, _) in wanted() {
            assert!(text.contains(name), "{name}");
        }
        assert_eq!(index_name(&doc! { "clientid": 1, "node": 2 }), "clientid_1_node_2");
    }

    #[test]
    fn ids_are_of_the_key_and_of_all_of_it() {
        assert_eq!(key_id(&["a", "b"]), key_id(&["a", "b"]));
        assert_ne!(key_id(&["a", "b"]), key_id(&["ab", ""]));
    }

    #[test]
    fn what_is_missing_is_a_script() {
        let missing = Missing { collections: vec!["mqtt_sub"], indexes: vec![("mqtt_sub", doc! { "clientid": 1 })] };
        assert_eq!(missing.script(), "db.createCollection(\"mqtt_sub\"); db.mqtt_sub.createIndex({ \"clientid\": 1 })");
    }
}
