//! Operations, and how an operator reads them.

use std::sync::Arc;

use bytestring::ByteString;

use crate::sql::text::datetime;
use crate::sql::{MessageRow, Value, shown};

/// An operation. Each can be repeated, but for what a user's statement adds up.
#[allow(missing_docs, reason = "fields are named as the columns they fill")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CassandraOp {
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
    Acked { client: ByteString, topic: ByteString, msgid: String },
    /// on_message_acked_for_queue
    Remove { topic: ByteString, msgid: String },
    /// on_acked_delete
    AckedDelete { client: ByteString, filter: ByteString },
    /// A row of another program has become a record.
    Imported { topic: ByteString, msgid: String, key: ByteString },
    /// A user's statement; those of one lane run one after the other.
    Statement { lane: u16, cql: Arc<str>, values: Vec<Value> },
}

/// About how many bytes an operation takes.
pub(super) fn weight(op: &CassandraOp) -> usize {
    64 + match op {
        CassandraOp::Message(row) | CassandraOp::Latest(row) => row_weight(row),
        CassandraOp::Retain(row) => row_weight(row) + row.topic.len() + 64,
        CassandraOp::Statement { values, .. } => values.iter().map(Value::len).sum(),
        CassandraOp::Online { client, .. } | CassandraOp::Offline { client, .. } => client.len(),
        CassandraOp::Acked { client, topic, .. } => client.len() + topic.len(),
        CassandraOp::AckedDelete { client, filter } => client.len() + filter.len(),
        CassandraOp::RetainDelete { topic } | CassandraOp::Remove { topic, .. } => topic.len(),
        CassandraOp::Imported { topic, key, .. } => 2 * (topic.len() + key.len()),
    }
}

fn row_weight(row: &MessageRow) -> usize {
    row.topic.len() + row.sender.len() + row.payload.len() + 64
}

/// The operation as an operator reads it: what a statement for it alone would be. Timestamps are left out: each has its record's.
pub(super) fn render(op: &CassandraOp) -> String {
    let message = |row: &MessageRow| {
        let expiry = row.expires_us.map(|us| format!(" -- goes at {} UTC", datetime(us))).unwrap_or_default();
        format!(
            "insert into msg (topic, msgid, arrived, payload, qos, retain, sender) values ('{}', '{}', '{}', {}, {}, {}, '{}'){expiry}",
            row.topic,
            row.msgid,
            datetime(row.at_us),
            shown(&row.payload),
            row.qos,
            u8::from(row.retain),
            row.sender,
        )
    };
    match op {
        CassandraOp::Online { client, at_us } => format!(
            "insert into client (client_id, connected, disconnected, state) values ('{client}', '{}', null, 1)",
            datetime(*at_us)
        ),
        CassandraOp::Offline { client, at_us } => {
            format!("update client set disconnected = '{}', state = 0 where client_id = '{client}'", datetime(*at_us))
        }
        CassandraOp::Message(row) => message(row),
        CassandraOp::Latest(row) => {
            format!("{}; delete from msg where topic = '{}' and msgid < '{}'", message(row), row.topic, row.msgid)
        }
        CassandraOp::Retain(row) => {
            format!("{}; insert into retain (topic, msgid) values ('{}', '{}')", message(row), row.topic, row.msgid)
        }
        CassandraOp::RetainDelete { topic } => format!("delete from retain where topic = '{topic}'"),
        CassandraOp::Acked { client, topic, msgid } => {
            format!("insert into acked (client_id, topic, msgid) values ('{client}', '{topic}', '{msgid}')")
        }
        CassandraOp::Remove { topic, msgid } => {
            format!("delete from msg where topic = '{topic}' and msgid = '{msgid}'")
        }
        CassandraOp::AckedDelete { client, filter } => {
            format!("delete from acked where client_id = '{client}' and topic = '{filter}'")
        }
        CassandraOp::Imported { msgid, key, .. } => {
            format!("row {key} of another program is '{msgid}' from now on")
        }
        CassandraOp::Statement { cql, values, .. } => {
            let values: Vec<String> = values.iter().map(shown).collect();
            format!("{cql} -- {}", values.join(", "))
        }
    }
}
