//! Records to operations. Pure.

use std::sync::Arc;

use bytestring::ByteString;
use forebay_engine::event::{Origin, Published};
use forebay_engine::{Event, topic};

use super::op::{MessageRow, SqlOp, Value};
use super::statements::Statements;
use crate::rule::{Action, Function, Param, Part, Rule, Statement};
use crate::sink::{EncodeError, SinkRecord};

/// Turns a record into the operations of one rule.
pub(crate) fn encode(
    record: &SinkRecord,
    rule: &Rule,
    statements: &Statements,
    out: &mut Vec<SqlOp>,
) -> Result<(), EncodeError> {
    match &rule.action {
        Action::Function(function) => out.extend(function_op(*function, record, rule)),
        Action::Statements(list) => {
            for statement in list {
                out.push(statement_op(statement, record, statements)?);
            }
        }
    }
    Ok(())
}

fn function_op(function: Function, record: &SinkRecord, rule: &Rule) -> Option<SqlOp> {
    let at_us = record.time_us;
    Some(match (function, &record.event) {
        (Function::ClientConnected, Event::ClientConnected(c)) => SqlOp::Online { client: c.client.clone(), at_us },
        (Function::ClientDisconnected, Event::ClientDisconnected(d)) => {
            SqlOp::Offline { client: d.client.clone(), at_us }
        }
        (Function::MessagePublish | Function::MessageStore, Event::Published(p)) => {
            SqlOp::Message(message_row(record, p, rule))
        }
        (Function::MessageStoreKeepLatest, Event::Published(p)) => SqlOp::Latest(message_row(record, p, rule)),
        (Function::MessageRetain, Event::Published(p)) => SqlOp::Retain(message_row(record, p, rule)),
        (Function::RetainDelete, Event::Published(p)) => SqlOp::RetainDelete { topic: p.message.topic.clone() },
        // A plain subscriber's acknowledgement (`#` over `queue/#`) removes nothing: the message is still its queue's.
        (Function::MessageAckedForQueue, Event::Acked(a)) if !a.queue => return None,
        (Function::MessageAckedForQueue, Event::Acked(_)) => SqlOp::Remove { msgid: record.msgid.to_string() },
        (
            Function::MessageAcked | Function::MessageAckedForPubsub | Function::MessageAckedForKeepLatest,
            Event::Acked(a),
        ) => SqlOp::Acked { client: a.client.clone(), topic: a.topic.clone(), msgid: record.msgid.to_string(), at_us },
        (Function::AckedDelete, Event::Unsubscribed(u)) => {
            SqlOp::AckedDelete { client: u.client.clone(), filter: topic::unshared(&u.filter).into() }
        }
        _ => return None,
    })
}

/// What is remembered of a row that was imported from this database.
pub(crate) fn imported(record: &SinkRecord) -> Option<SqlOp> {
    let Event::Published(p) = &record.event else { return None };
    let Origin::Import { key, .. } = &p.message.origin else { return None };
    Some(SqlOp::Imported { msgid: record.msgid.to_string(), key: key.clone() })
}

pub(crate) fn message_row(record: &SinkRecord, p: &Published, rule: &Rule) -> Arc<MessageRow> {
    let lives = rule.expired_time.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    Arc::new(MessageRow {
        msgid: record.msgid.to_string(),
        topic: p.message.topic.clone(),
        sender: p.message.publisher.clone(),
        qos: p.message.qos.as_u8(),
        retain: p.message.retain,
        payload: Value::of_bytes(&p.message.payload),
        at_us: record.time_us,
        expires_us: lives.map(|us| record.time_us.saturating_add(us)),
    })
}

fn statement_op(statement: &Statement, record: &SinkRecord, statements: &Statements) -> Result<SqlOp, EncodeError> {
    let params = statement.parts.iter().filter_map(|part| match part {
        Part::Param(param) => Some(value(*param, record)),
        Part::Text(_) => None,
    });
    let values = params.collect::<Result<Vec<Value>, EncodeError>>()?;
    Ok(SqlOp::Statement { sql: statements.text(statement), values })
}

pub(crate) fn value(param: Param, record: &SinkRecord) -> Result<Value, EncodeError> {
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
        (Param::Topic, Event::Subscribed(e)) => text(&topic::unshared(&e.filter).into()),
        (Param::Topic, Event::Unsubscribed(e)) => text(&topic::unshared(&e.filter).into()),
        (Param::Topic, Event::Published(e)) => text(&e.message.topic),
        (Param::Topic, Event::Delivered(e)) => text(&e.topic),
        (Param::Topic, Event::Acked(e)) => text(&e.topic),
        (Param::Qos, Event::Subscribed(e)) => Ok(Value::Int(i64::from(e.options.qos.as_u8()))),
        (Param::Qos, Event::Published(e)) => Ok(Value::Int(i64::from(e.message.qos.as_u8()))),
        (Param::Payload, Event::Published(e)) => Ok(Value::of_bytes(&e.message.payload)),
        _ => Err(absent()),
    }
}
