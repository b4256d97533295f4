//! Records to operations. Pure.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use forebay_engine::Event;
use forebay_engine::event::{Origin, Published};

use crate::rule::{Action, Function, Param, Part, Rule, Statement};
use crate::sink::{EncodeError, SinkRecord};

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
pub enum SqliteOp {
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

/// Turns a record into the operations of one rule.
pub(super) fn encode(record: &SinkRecord, rule: &Rule, out: &mut Vec<SqliteOp>) -> Result<(), EncodeError> {
    match &rule.action {
        Action::Function(function) => out.extend(function_op(*function, record, rule)),
        Action::Statements(statements) => {
            for statement in statements {
                out.push(statement_op(statement, record)?);
            }
        }
    }
    Ok(())
}

fn function_op(function: Function, record: &SinkRecord, rule: &Rule) -> Option<SqliteOp> {
    let at_us = record.time_us;
    Some(match (function, &record.event) {
        (Function::ClientConnected, Event::ClientConnected(c)) => SqliteOp::Online { client: c.client.clone(), at_us },
        (Function::ClientDisconnected, Event::ClientDisconnected(d)) => {
            SqliteOp::Offline { client: d.client.clone(), at_us }
        }
        (Function::MessagePublish | Function::MessageStore, Event::Published(p)) => {
            SqliteOp::Message(message_row(record, p, rule))
        }
        (Function::MessageStoreKeepLatest, Event::Published(p)) => SqliteOp::Latest(message_row(record, p, rule)),
        (Function::MessageRetain, Event::Published(p)) => SqliteOp::Retain(message_row(record, p, rule)),
        (Function::RetainDelete, Event::Published(p)) => SqliteOp::RetainDelete { topic: p.message.topic.clone() },
        // A plain subscriber's acknowledgement (`#` over `queue/#`) removes nothing: the message is still its queue's.
        (Function::MessageAckedForQueue, Event::Acked(a)) if !a.queue => return None,
        (Function::MessageAckedForQueue, Event::Acked(_)) => SqliteOp::Remove { msgid: record.msgid.to_string() },
        (
            Function::MessageAcked | Function::MessageAckedForPubsub | Function::MessageAckedForKeepLatest,
            Event::Acked(a),
        ) => {
            SqliteOp::Acked { client: a.client.clone(), topic: a.topic.clone(), msgid: record.msgid.to_string(), at_us }
        }
        (Function::AckedDelete, Event::Unsubscribed(u)) => {
            SqliteOp::AckedDelete { client: u.client.clone(), filter: u.filter.clone() }
        }
        _ => return None,
    })
}

/// What is remembered of a row that was imported from this database.
pub(super) fn imported(record: &SinkRecord) -> Option<SqliteOp> {
    let Event::Published(p) = &record.event else { return None };
    let Origin::Import { key, .. } = &p.message.origin else { return None };
    Some(SqliteOp::Imported { msgid: record.msgid.to_string(), key: key.clone() })
}

fn message_row(record: &SinkRecord, p: &Published, rule: &Rule) -> Arc<MessageRow> {
    let lives = rule.expired_time.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    Arc::new(MessageRow {
        msgid: record.msgid.to_string(),
        topic: p.message.topic.clone(),
        sender: p.message.publisher.clone(),
        qos: p.message.qos.as_u8(),
        retain: p.message.retain,
        payload: payload(&p.message.payload),
        at_us: record.time_us,
        expires_us: lives.map(|us| record.time_us.saturating_add(us)),
    })
}

/// Text where the shell can show it as text; any other bytes are kept as they are.
fn payload(bytes: &Bytes) -> Value {
    match ByteString::try_from(bytes.clone()) {
        Ok(text) if !bytes.contains(&0) => Value::Text(text),
        _ => Value::Blob(bytes.clone()),
    }
}

fn statement_op(statement: &Statement, record: &SinkRecord) -> Result<SqliteOp, EncodeError> {
    let mut sql = String::with_capacity(statement.source.len());
    let mut values = Vec::new();
    let mut quoted = false;
    for (index, part) in statement.parts.iter().enumerate() {
        match part {
            Part::Text(text) => {
                let text = if quoted { text.get(1..).unwrap_or_default() } else { text };
                quoted = false;
                sql.push_str(text);
            }
            Part::Param(param) => {
                // '${topic}' means the same as ${topic}: a bound value is never inside quotes.
                let next = statement.parts.get(index + 1);
                let closes = |q: char| matches!(next, Some(Part::Text(t)) if t.starts_with(q));
                quoted = ['\'', '"'].into_iter().any(|q| sql.ends_with(q) && closes(q));
                if quoted {
                    sql.pop();
                }
                sql.push('?');
                values.push(value(*param, record)?);
            }
        }
    }
    Ok(SqliteOp::Statement { sql: sql.into(), values })
}

fn value(param: Param, record: &SinkRecord) -> Result<Value, EncodeError> {
    let absent =
        || EncodeError { reason: format!("this hook has no parameter {param:?}; `forebay check` names the rule") };
    let text = |t: &ByteString| Ok(Value::Text(t.clone()));
    match (param, &record.event) {
        (Param::MsgId, Event::Published(_) | Event::Delivered(_) | Event::Acked(_)) => {
            Ok(Value::Text(record.msgid.to_string().into()))
        }
        (Param::ClientId, Event::SessionOpened(e)) => text(&e.client),
        (Param::ClientId, Event::ClientConnected(e)) => text(&e.client),
        (Param::ClientId, Event::ClientDisconnected(e)) => text(&e.client),
        (Param::ClientId, Event::Subscribed(e)) => text(&e.client),
        (Param::ClientId, Event::Unsubscribed(e)) => text(&e.client),
        (Param::ClientId, Event::Published(e)) => text(&e.message.publisher),
        (Param::ClientId, Event::Delivered(e)) => text(&e.client),
        (Param::ClientId, Event::Acked(e)) => text(&e.client),
        (Param::Topic, Event::Subscribed(e)) => text(&e.filter),
        (Param::Topic, Event::Unsubscribed(e)) => text(&e.filter),
        (Param::Topic, Event::Published(e)) => text(&e.message.topic),
        (Param::Topic, Event::Delivered(e)) => text(&e.topic),
        (Param::Topic, Event::Acked(e)) => text(&e.topic),
        (Param::Qos, Event::Subscribed(e)) => Ok(Value::Int(i64::from(e.options.qos.as_u8()))),
        (Param::Qos, Event::Published(e)) => Ok(Value::Int(i64::from(e.message.qos.as_u8()))),
        (Param::Payload, Event::Published(e)) => Ok(payload(&e.message.payload)),
        _ => Err(absent()),
    }
}

/// About how many bytes an operation takes.
pub(super) fn weight(op: &SqliteOp) -> usize {
    let value = |v: &Value| match v {
        Value::Text(t) => t.len(),
        Value::Blob(b) => b.len(),
        Value::Int(_) => 8,
    };
    64 + match op {
        SqliteOp::Message(row) | SqliteOp::Latest(row) | SqliteOp::Retain(row) => {
            row.topic.len() + row.sender.len() + value(&row.payload) + 64
        }
        SqliteOp::Statement { values, .. } => values.iter().map(value).sum(),
        SqliteOp::Online { client, .. } | SqliteOp::Offline { client, .. } => client.len(),
        SqliteOp::Acked { client, topic, .. } => client.len() + topic.len(),
        SqliteOp::AckedDelete { client, filter } => client.len() + filter.len(),
        SqliteOp::RetainDelete { topic } => topic.len(),
        SqliteOp::Imported { key, .. } => key.len(),
        SqliteOp::Remove { .. } => 0,
    }
}

/// The operation as an operator reads it.
pub(super) fn render(op: &SqliteOp) -> String {
    match op {
        SqliteOp::Statement { sql, values } => format!("{sql} -- {values:?}"),
        other => format!("{other:?}"),
    }
}

/// `YYYY-MM-DD HH:MM:SS`, UTC.
pub(super) fn datetime(us: u64) -> String {
    let seconds = us / 1_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01 in cycles of 400 years: leap days then come last in their year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_479_202_840, "2016-11-15 09:40:40"),
            (4_102_444_799, "2099-12-31 23:59:59"),
        ] {
            assert_eq!(datetime(seconds * 1_000_000), text);
        }
    }

    #[test]
    fn payloads_that_are_not_text_stay_bytes() {
        assert_eq!(payload(&Bytes::from_static(b"\xff\x00")), Value::Blob(Bytes::from_static(b"\xff\x00")));
        assert_eq!(payload(&Bytes::from_static(b"a\0b")), Value::Blob(Bytes::from_static(b"a\0b")));
        assert_eq!(payload(&Bytes::from_static("é".as_bytes())), Value::Text("é".into()));
    }
}
