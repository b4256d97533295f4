//! What is sent to MongoDB: rows and operations.

use std::sync::Arc;

use bytestring::ByteString;
use forebay_engine::MsgId;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc, rawdoc};

/// A document of mqtt_msg or mqtt_retain.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageRow {
    /// The message's name.
    pub msgid: MsgId,
    /// Topic.
    pub topic: ByteString,
    /// Publisher.
    pub sender: ByteString,
    /// QoS.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// A string, binary, or with `payload_format = mongo_json` a document or array.
    pub payload: Bson,
    /// Bytes of the payload.
    pub payload_len: usize,
    /// Record time, s since 1970.
    pub at_s: i64,
    /// When it is to go (`expired_time`), us since 1970.
    pub expires_us: Option<i64>,
}

/// An operation. Each can be repeated.
#[allow(missing_docs, reason = "fields are named as in the guide")]
#[derive(Clone, Debug, PartialEq)]
pub enum MongoOp {
    /// on_client_connected
    Online { client: ByteString, at_s: i64 },
    /// on_client_disconnected
    Offline { client: ByteString, at_s: i64 },
    /// on_message_publish, on_message_store
    Message(Arc<MessageRow>),
    /// on_message_store_keep_latest
    Latest(Arc<MessageRow>),
    /// on_message_retain
    Retain(Arc<MessageRow>),
    /// on_retain_delete
    RetainDelete { topic: ByteString },
    /// on_message_acked, …_for_pubsub, …_for_keep_latest
    Acked { client: ByteString, topic: ByteString, msgid: MsgId },
    /// on_message_acked_for_queue
    Remove { msgid: MsgId },
    /// on_acked_delete
    AckedDelete { client: ByteString, filter: ByteString },
    /// A document of another program has become a record.
    Imported { msgid: MsgId, key: ByteString },
}

/// The `_id` of a message: node number << 48 | record number.
#[must_use]
pub(super) fn number(msgid: &MsgId) -> i64 {
    ((u64::from(msgid.node) << 48) | msgid.lsn.0).cast_signed()
}

/// The least and the greatest `_id` of a message's node.
#[must_use]
pub(super) fn node_range(msgid: &MsgId) -> (i64, i64) {
    let low = u64::from(msgid.node) << 48;
    (low.cast_signed(), (low | ((1 << 48) - 1)).cast_signed())
}

impl MessageRow {
    /// The document in mqtt_msg.
    pub(super) fn message(&self) -> RawDocumentBuf {
        rawdoc! {
            "_id": number(&self.msgid),
            "topic": &*self.topic,
            "msgid": self.msgid.to_string(),
            "sender": &*self.sender,
            "qos": i32::from(self.qos),
            "retain": i32::from(self.retain),
            "payload": raw(&self.payload),
            "arrived": self.at_s,
        }
    }

    /// The fields of the document in mqtt_retain.
    pub(super) fn retained(&self) -> Document {
        doc! {
            "topic": &*self.topic,
            "msgid": self.msgid.to_string(),
            "sender": &*self.sender,
            "qos": i32::from(self.qos),
            "payload": self.payload.clone(),
            "arrived": self.at_s,
        }
    }
}

/// As it goes into a raw document. Payloads are made of what converts.
fn raw(payload: &Bson) -> mongodb::bson::RawBson {
    payload.clone().try_into().unwrap_or(mongodb::bson::RawBson::Null)
}

/// About how many bytes an operation takes.
pub(super) fn weight(op: &MongoOp) -> usize {
    64 + match op {
        MongoOp::Message(row) | MongoOp::Latest(row) | MongoOp::Retain(row) => {
            row.topic.len() + row.sender.len() + row.payload_len + 128
        }
        MongoOp::Online { client, .. } | MongoOp::Offline { client, .. } => client.len() + 64,
        MongoOp::Acked { client, topic, .. } => 2 * (client.len() + topic.len()) + 128,
        MongoOp::AckedDelete { client, filter } => client.len() + filter.len(),
        MongoOp::RetainDelete { topic } => topic.len(),
        MongoOp::Imported { key, .. } => key.len() + 32,
        MongoOp::Remove { .. } => 0,
    }
}

/// The operation as an operator reads it, in the words of MongoDB's shell.
pub(super) fn render(op: &MongoOp, node: &str) -> String {
    let insert = |row: &MessageRow| {
        let goes = row.expires_us.map(|us| format!(" // goes at {} s", us / 1_000_000)).unwrap_or_default();
        let mut shown = doc! { "_id": number(&row.msgid) };
        shown.extend(shortened(row));
        shown.insert("retain", i32::from(row.retain));
        format!("db.mqtt_msg.insertOne({shown}){goes}")
    };
    match op {
        MongoOp::Online { client, at_s } => {
            let set = doc! { "state": 1, "node": node, "online_at": *at_s, "offline_at": Bson::Null };
            format!(
                "db.mqtt_client.updateOne({}, {}, {{ upsert: true }})",
                doc! { "clientid": &**client },
                doc! { "$set": set }
            )
        }
        MongoOp::Offline { client, at_s } => format!(
            "db.mqtt_client.updateOne({}, {})",
            doc! { "clientid": &**client, "node": node },
            doc! { "$set": { "state": 0, "offline_at": *at_s } }
        ),
        MongoOp::Message(row) => insert(row),
        MongoOp::Latest(row) => {
            format!("{}; db.mqtt_msg.deleteMany({}), the older ones", insert(row), doc! { "topic": &*row.topic })
        }
        MongoOp::Retain(row) => format!(
            "db.mqtt_retain.updateOne({}, {}, {{ upsert: true }})",
            doc! { "topic": &*row.topic },
            doc! { "$set": shortened(row) }
        ),
        MongoOp::RetainDelete { topic } => format!("db.mqtt_retain.deleteMany({})", doc! { "topic": &**topic }),
        MongoOp::Acked { client, topic, msgid } => format!(
            "db.mqtt_acked.updateOne({}, {}, {{ upsert: true }})",
            doc! { "clientid": &**client, "topic": &**topic },
            doc! { "$set": { "mongo_id": number(msgid) } }
        ),
        MongoOp::Remove { msgid } => format!("db.mqtt_msg.deleteOne({})", doc! { "_id": number(msgid) }),
        MongoOp::AckedDelete { client, filter } => {
            format!("db.mqtt_acked.deleteMany({}), where the topic matches {filter}", doc! { "clientid": &**client })
        }
        MongoOp::Imported { msgid, key } => format!("document {key} of another program is {msgid} from now on"),
    }
}

/// The fields of a message; a long payload is cut.
fn shortened(row: &MessageRow) -> Document {
    const LONGEST: usize = 200;
    let mut fields = row.retained();
    let cut = match &row.payload {
        Bson::String(text) if text.chars().count() > LONGEST => {
            Some(format!("{}... ({} bytes)", text.chars().take(LONGEST).collect::<String>(), text.len()))
        }
        Bson::String(_) => None,
        _ if row.payload_len > LONGEST => Some(format!("({} bytes)", row.payload_len)),
        _ => None,
    };
    if let Some(cut) = cut {
        fields.insert("payload", cut);
    }
    fields
}

#[cfg(test)]
mod tests {
    use forebay_engine::Lsn;

    use super::*;

    #[test]
    fn ids_are_node_and_record_and_stay_within_their_node() {
        let id = |node, lsn| MsgId::new(1, node, Lsn(lsn));
        assert_eq!(number(&id(0, 7)), 7);
        assert_eq!(number(&id(1, 7)), (1 << 48) | 7);
        for node in [0, 1, 0x7fff, 0x8000, 0xffff] {
            let (low, high) = node_range(&id(node, 5));
            assert!(low < number(&id(node, 1)) && number(&id(node, 1)) < number(&id(node, 2)));
            assert!(number(&id(node, (1 << 48) - 1)) <= high);
        }
    }
}
