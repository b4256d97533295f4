//! Operations, the items they write, and how an operator reads them.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use super::item::{Item, b, item, n, s};

/// A payload as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Type S.
    Text(ByteString),
    /// Type B: bytes that are no UTF-8.
    Binary(Bytes),
}

impl Payload {
    pub(super) fn len(&self) -> usize {
        match self {
            Payload::Text(text) => text.len(),
            Payload::Binary(bytes) => bytes.len(),
        }
    }
}

/// An item of mqtt_msg or mqtt_retain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRow {
    /// The message's name.
    pub msgid: String,
    /// Topic.
    pub topic: ByteString,
    /// Publisher.
    pub sender: ByteString,
    /// QoS.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// Payload.
    pub payload: Payload,
    /// Record time, s since 1970.
    pub at_s: u64,
    /// When it is to go (`expired_time`), us since 1970.
    pub expires_us: Option<u64>,
}

impl MessageRow {
    /// Its item, the same in both tables: which attribute is the key is the table's.
    pub(super) fn item(&self) -> Item {
        item([
            ("msgid", s(self.msgid.as_str())),
            ("topic", s(&*self.topic)),
            ("sender", s(&*self.sender)),
            (
                "payload",
                match &self.payload {
                    Payload::Text(text) => s(&**text),
                    Payload::Binary(bytes) => b(bytes),
                },
            ),
            ("qos", n(self.qos)),
            ("retain", n(u8::from(self.retain))),
            ("arrived", n(self.at_s)),
        ])
    }

    pub(super) fn bytes(&self) -> usize {
        self.topic.len() + self.sender.len() + self.payload.len() + 64
    }
}

/// An operation. Each can be repeated.
#[allow(missing_docs, reason = "fields are named as the attributes they fill")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DynamoOp {
    /// on_client_connected
    Online { client: ByteString, at_s: u64 },
    /// on_client_disconnected
    Offline { client: ByteString, at_s: u64 },
    /// on_message_publish, on_message_store
    Message(Arc<MessageRow>),
    /// on_message_store_keep_latest
    Latest(Arc<MessageRow>),
    /// on_message_retain
    Retain(Arc<MessageRow>),
    /// on_retain_delete, with the name of the message that deletes
    RetainDelete { topic: ByteString, msgid: String },
    /// on_message_acked, …_for_pubsub, …_for_keep_latest
    Acked { client: ByteString, topic: ByteString, msgid: String },
    /// on_message_acked_for_queue
    Remove { topic: ByteString, msgid: String },
    /// on_acked_delete
    AckedDelete { client: ByteString, filter: ByteString },
    /// An item of another program has become a record.
    Imported { msgid: String, key: ByteString },
}

/// About how many bytes an operation takes.
pub(super) fn weight(op: &DynamoOp) -> usize {
    64 + match op {
        DynamoOp::Message(row) | DynamoOp::Latest(row) | DynamoOp::Retain(row) => row.bytes(),
        DynamoOp::Online { client, .. } | DynamoOp::Offline { client, .. } => client.len() + 64,
        DynamoOp::Acked { client, topic, .. } => 2 * (client.len() + topic.len()) + 64,
        DynamoOp::AckedDelete { client, filter } => client.len() + filter.len(),
        DynamoOp::RetainDelete { topic, .. } | DynamoOp::Remove { topic, .. } => topic.len(),
        DynamoOp::Imported { key, .. } => 2 * key.len(),
    }
}

/// The operation as an operator reads it, in the words of DynamoDB's API.
pub(super) fn render(op: &DynamoOp, node: &str) -> String {
    match op {
        DynamoOp::Online { client, at_s } => format!(
            "PutItem mqtt_client {{clientid: {client:?}, connect_state: 1, node: {node:?}, online_at: {at_s}, offline_at: 0}}"
        ),
        DynamoOp::Offline { client, at_s } => format!(
            "UpdateItem mqtt_client {{clientid: {client:?}}} set connect_state = 0, offline_at = {at_s}, where node is {node:?}"
        ),
        DynamoOp::Message(row) => message(row),
        DynamoOp::Latest(row) => format!("{}; older messages of the topic go", message(row)),
        DynamoOp::Retain(row) => format!("PutItem mqtt_retain {}", fields(row)),
        DynamoOp::RetainDelete { topic, .. } => format!("DeleteItem mqtt_retain {{topic: {topic:?}}}"),
        DynamoOp::Acked { client, topic, msgid } => {
            format!("UpdateItem mqtt_acked {{topic: {topic:?}, clientid: {client:?}}} set msgid = {msgid:?}")
        }
        DynamoOp::Remove { topic, msgid } => format!(
            "DeleteItem mqtt_msg {{msgid: {msgid:?}}}; UpdateItem mqtt_topic_msg_map {{topic: {topic:?}}} delete MsgId {{{msgid:?}}}"
        ),
        DynamoOp::AckedDelete { client, filter } => {
            format!("DeleteItem mqtt_acked {{topic, clientid: {client:?}}} of the topics that match {filter:?}")
        }
        DynamoOp::Imported { msgid, key } => format!("item {key} of another program is {msgid} from now on"),
    }
}

fn message(row: &MessageRow) -> String {
    let goes = row.expires_us.map(|us| format!(", goes at {} s", us / 1_000_000)).unwrap_or_default();
    format!(
        "PutItem mqtt_msg {}; UpdateItem mqtt_topic_msg_map {{topic: {:?}}} add MsgId {{{:?}}}{goes}",
        fields(row),
        &*row.topic,
        row.msgid
    )
}

/// The attributes of a message; a long payload is cut.
fn fields(row: &MessageRow) -> String {
    const LONGEST: usize = 200;
    let payload = match &row.payload {
        Payload::Text(text) if text.chars().count() > LONGEST => {
            format!("{:?}... ({} bytes)", text.chars().take(LONGEST).collect::<String>(), text.len())
        }
        Payload::Text(text) => format!("{:?}", &**text),
        Payload::Binary(bytes) => {
            let hex: String = bytes.iter().take(LONGEST / 2).map(|byte| format!("{byte:02x}")).collect();
            format!("B {hex}{} ({} bytes)", if bytes.len() > LONGEST / 2 { "..." } else { "" }, bytes.len())
        }
    };
    format!(
        "{{msgid: {:?}, topic: {:?}, sender: {:?}, payload: {payload}, qos: {}, retain: {}, arrived: {}}}",
        row.msgid,
        &*row.topic,
        &*row.sender,
        row.qos,
        u8::from(row.retain),
        row.at_s
    )
}
