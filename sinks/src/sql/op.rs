//! What is sent to an SQL database: values, rows and operations.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

/// A bound parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(ByteString),
    /// A number.
    Int(i64),
    /// Bytes.
    Blob(Bytes),
}

impl Value {
    /// Text where it can be shown as text; any other bytes are kept as they are.
    pub(crate) fn of_bytes(bytes: &Bytes) -> Value {
        match ByteString::try_from(bytes.clone()) {
            Ok(text) if !bytes.contains(&0) => Value::Text(text),
            _ => Value::Blob(bytes.clone()),
        }
    }

    /// Its bytes; of a number about what it takes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
            Value::Int(_) => 8,
        }
    }
}

/// A row of mqtt_msg or mqtt_retain.
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
    /// Text where it is valid UTF-8 without U+0000, bytes otherwise.
    pub payload: Value,
    /// Record time, us since 1970.
    pub at_us: u64,
    /// When the row is to go (`expired_time`), us since 1970.
    pub expires_us: Option<u64>,
}

/// An operation. Each can be repeated, but for a user's statement.
#[allow(missing_docs, reason = "fields are named as the columns they fill")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlOp {
    /// on_client_connected
    Online { client: ByteString, at_us: u64 },
    /// on_client_disconnected
    Offline { client: ByteString, at_us: u64 },
    /// on_message_publish, on_message_store
    Message(Arc<MessageRow>),
    /// on_message_store_keep_latest
    Latest(Arc<MessageRow>),
    /// on_message_retain
    Retain(Arc<MessageRow>),
    /// on_retain_delete
    RetainDelete { topic: ByteString },
    /// on_message_acked, …_for_pubsub, …_for_keep_latest
    Acked { client: ByteString, topic: ByteString, msgid: String, at_us: u64 },
    /// on_message_acked_for_queue
    Remove { msgid: String },
    /// on_acked_delete
    AckedDelete { client: ByteString, filter: ByteString },
    /// A row of another program has become a record.
    Imported { msgid: String, key: ByteString },
    /// A user's statement.
    Statement { sql: Arc<str>, values: Vec<Value> },
}

/// About how many bytes an operation takes.
pub(crate) fn weight(op: &SqlOp) -> usize {
    64 + match op {
        SqlOp::Message(row) | SqlOp::Latest(row) | SqlOp::Retain(row) => {
            row.topic.len() + row.sender.len() + row.payload.len() + 64
        }
        SqlOp::Statement { values, .. } => values.iter().map(Value::len).sum(),
        SqlOp::Online { client, .. } | SqlOp::Offline { client, .. } => client.len(),
        SqlOp::Acked { client, topic, .. } => client.len() + topic.len(),
        SqlOp::AckedDelete { client, filter } => client.len() + filter.len(),
        SqlOp::RetainDelete { topic } => topic.len(),
        SqlOp::Imported { key, .. } => key.len(),
        SqlOp::Remove { .. } => 0,
    }
}

/// The operation as an operator reads it.
pub(crate) fn render(op: &SqlOp) -> String {
    match op {
        SqlOp::Statement { sql, values } => format!("{sql} -- {values:?}"),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_that_are_not_text_stay_bytes() {
        for bytes in [&b"\xff\x00"[..], b"a\0b"] {
            assert_eq!(Value::of_bytes(&Bytes::copy_from_slice(bytes)), Value::Blob(Bytes::copy_from_slice(bytes)));
        }
        assert_eq!(Value::of_bytes(&Bytes::from_static("é".as_bytes())), Value::Text("é".into()));
    }
}
