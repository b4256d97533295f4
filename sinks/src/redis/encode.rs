//! Records to operations. Pure.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use forebay_engine::event::{Origin, Published};
use forebay_engine::{Event, topic};

use crate::rule::{Action, Function, Param, Part, Rule, Statement};
use crate::runtime::plan::{Lane, lane};
use crate::sink::{EncodeError, SinkRecord};

/// A message as it is stored.
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
    pub payload: Bytes,
    /// Record time, s since 1970.
    pub ts: u64,
    /// When it is to go (`expired_time`), ms since 1970.
    pub expires_ms: Option<u64>,
}

/// What is to be done. Each can be repeated, but for a user's command.
#[allow(missing_docs, reason = "fields are named as in the guide")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// on_client_connected
    Online { client: ByteString, at: u64 },
    /// on_client_disconnected
    Offline { client: ByteString, at: u64 },
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
    /// A message of another program has become a record.
    Imported { topic: ByteString, msgid: String, key: ByteString },
    /// A user's command, field by field.
    Command(Vec<Bytes>),
}

/// An operation with the lane of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisOp {
    /// The lane whose position says whether it is done.
    pub lane: u16,
    /// What to do.
    pub what: What,
}

/// Turns a record into the operations of one rule.
pub(super) fn encode(record: &SinkRecord, rule: &Rule, out: &mut Vec<RedisOp>) -> Result<(), EncodeError> {
    let lane = lane_of(record);
    match &rule.action {
        Action::Function(function) => {
            out.extend(function_op(*function, record, rule).map(|what| RedisOp { lane, what }));
        }
        Action::Statements(statements) => {
            for statement in statements {
                out.push(RedisOp { lane, what: What::Command(command(statement, record)?) });
            }
        }
    }
    Ok(())
}

/// A barrier runs alone, in lane 0.
fn lane_of(record: &SinkRecord) -> u16 {
    match lane(&record.event) {
        Lane::One(lane) => lane,
        Lane::Barrier => 0,
    }
}

fn function_op(function: Function, record: &SinkRecord, rule: &Rule) -> Option<What> {
    let at = record.time_us / 1_000_000;
    let msgid = || record.msgid.to_string();
    Some(match (function, &record.event) {
        (Function::ClientConnected, Event::ClientConnected(c)) => What::Online { client: c.client.clone(), at },
        (Function::ClientDisconnected, Event::ClientDisconnected(d)) => What::Offline { client: d.client.clone(), at },
        (Function::MessagePublish | Function::MessageStore, Event::Published(p)) => {
            What::Message(message_row(record, p, rule))
        }
        (Function::MessageStoreKeepLatest, Event::Published(p)) => What::Latest(message_row(record, p, rule)),
        (Function::MessageRetain, Event::Published(p)) => What::Retain(message_row(record, p, rule)),
        (Function::RetainDelete, Event::Published(p)) => What::RetainDelete { topic: p.message.topic.clone() },
        // A plain subscriber's acknowledgement (`#` over `queue/#`) removes nothing: the message is still its queue's.
        (Function::MessageAckedForQueue, Event::Acked(a)) if !a.queue => return None,
        (Function::MessageAckedForQueue, Event::Acked(a)) => What::Remove { topic: a.topic.clone(), msgid: msgid() },
        (
            Function::MessageAcked | Function::MessageAckedForPubsub | Function::MessageAckedForKeepLatest,
            Event::Acked(a),
        ) => What::Acked { client: a.client.clone(), topic: a.topic.clone(), msgid: msgid() },
        (Function::AckedDelete, Event::Unsubscribed(u)) => {
            What::AckedDelete { client: u.client.clone(), filter: topic::unshared(&u.filter).into() }
        }
        _ => return None,
    })
}

/// What is remembered of a message that was imported from this database.
pub(super) fn imported(record: &SinkRecord) -> Option<RedisOp> {
    let Event::Published(p) = &record.event else { return None };
    let Origin::Import { key, .. } = &p.message.origin else { return None };
    let topic = p.message.topic.clone();
    let what = What::Imported { topic, msgid: record.msgid.to_string(), key: key.clone() };
    Some(RedisOp { lane: lane_of(record), what })
}

fn message_row(record: &SinkRecord, p: &Published, rule: &Rule) -> Arc<MessageRow> {
    let lives = rule.expired_time.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    Arc::new(MessageRow {
        msgid: record.msgid.to_string(),
        topic: p.message.topic.clone(),
        sender: p.message.publisher.clone(),
        qos: p.message.qos.as_u8(),
        retain: p.message.retain,
        payload: p.message.payload.clone(),
        ts: record.time_us / 1_000_000,
        // Redis takes times up to 2^63 ms.
        expires_ms: lives.map(|ms| (record.time_us / 1_000).saturating_add(ms).min(i64::MAX.unsigned_abs() >> 1)),
    })
}

/// The fields of a command. A parameter is (a piece of) the field it stands in, whatever its value holds.
fn command(statement: &Statement, record: &SinkRecord) -> Result<Vec<Bytes>, EncodeError> {
    let mut fields = Vec::new();
    for pieces in statement.fields() {
        let mut field = Vec::new();
        for piece in &pieces {
            match piece {
                Part::Text(text) => field.extend_from_slice(text.as_bytes()),
                Part::Param(param) => field.extend_from_slice(&value(*param, record)?),
            }
        }
        fields.push(Bytes::from(field));
    }
    Ok(fields)
}

fn value(param: Param, record: &SinkRecord) -> Result<Bytes, EncodeError> {
    let absent =
        || EncodeError { reason: format!("this hook has no parameter {param:?}; `forebay check` names the rule") };
    let text = |t: &ByteString| Ok(t.as_bytes().clone());
    let qos = |q: forebay_engine::QoS| Ok(Bytes::from(q.as_u8().to_string()));
    match (param, &record.event) {
        (Param::MsgId, Event::Published(_) | Event::Delivered(_) | Event::Acked(_)) => {
            Ok(Bytes::from(record.msgid.to_string()))
        }
        (Param::ClientId, Event::SessionOpened(e)) => text(&e.client),
        (Param::ClientId, Event::ClientConnected(e)) => text(&e.client),
        (Param::ClientId, Event::ClientDisconnected(e)) => text(&e.client),
        (Param::ClientId, Event::Subscribed(e)) => text(&e.client),
        (Param::ClientId, Event::Unsubscribed(e)) => text(&e.client),
        (Param::ClientId, Event::Published(e)) => text(&e.message.publisher),
        (Param::ClientId, Event::Delivered(e)) => text(&e.client),
        (Param::ClientId, Event::Acked(e)) => text(&e.client),
        (Param::Topic, Event::Subscribed(e)) => text(&topic::unshared(&e.filter).into()),
        (Param::Topic, Event::Unsubscribed(e)) => text(&topic::unshared(&e.filter).into()),
        (Param::Topic, Event::Published(e)) => text(&e.message.topic),
        (Param::Topic, Event::Delivered(e)) => text(&e.topic),
        (Param::Topic, Event::Acked(e)) => text(&e.topic),
        (Param::Qos, Event::Subscribed(e)) => qos(e.options.qos),
        (Param::Qos, Event::Published(e)) => qos(e.message.qos),
        (Param::Payload, Event::Published(e)) => Ok(e.message.payload.clone()),
        (Param::Message, Event::Published(e)) => json(record, e),
        _ => Err(absent()),
    }
}

/// The whole message: the seven fields of the hash, with numbers and a boolean as JSON has them.
fn json(record: &SinkRecord, e: &Published) -> Result<Bytes, EncodeError> {
    let Ok(payload) = std::str::from_utf8(&e.message.payload) else {
        let reason = "the payload is not UTF-8, and `${message}` is JSON, which can't hold it; use `${payload}`, which is \
                      written byte for byte";
        return Err(EncodeError { reason: reason.to_owned() });
    };
    let message = serde_json::json!({
        "id": record.msgid.to_string(),
        "from": &*e.message.publisher,
        "qos": e.message.qos.as_u8(),
        "topic": &*e.message.topic,
        "payload": payload,
        "ts": record.time_us / 1_000_000,
        "retain": e.message.retain,
    });
    Ok(Bytes::from(message.to_string()))
}

/// About how many bytes an operation takes.
pub(super) fn weight(op: &RedisOp) -> usize {
    64 + match &op.what {
        What::Message(row) | What::Latest(row) | What::Retain(row) => {
            2 * row.topic.len() + row.sender.len() + row.payload.len() + 160
        }
        What::Command(fields) => fields.iter().map(|f| f.len() + 16).sum(),
        What::Online { client, .. } | What::Offline { client, .. } => 2 * client.len(),
        What::Acked { client, topic, .. } => client.len() + topic.len(),
        What::AckedDelete { client, filter } => client.len() + filter.len(),
        What::Remove { topic, .. } | What::RetainDelete { topic } => topic.len(),
        What::Imported { topic, key, .. } => topic.len() + key.len(),
    }
}

/// The operation as an operator reads it: a user's command as it was sent.
pub(super) fn render(op: &RedisOp) -> String {
    match &op.what {
        What::Command(fields) => {
            let shown: Vec<String> = fields.iter().map(|f| String::from_utf8_lossy(f).into_owned()).collect();
            shown.join(" ")
        }
        other => format!("{other:?}"),
    }
}
