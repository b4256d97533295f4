//! Records to operations. Pure.

use std::sync::Arc;

use forebay_engine::event::{Origin, Published};
use forebay_engine::{Event, topic};

use super::json;
use super::op::{MessageRow, MongoOp};
use crate::rule::{Action, Function, PayloadFormat, Rule};
use crate::sink::{EncodeError, SinkRecord};

/// Turns a record into the operations of one rule.
pub(super) fn encode(record: &SinkRecord, rule: &Rule, out: &mut Vec<MongoOp>) -> Result<(), EncodeError> {
    match &rule.action {
        Action::Function(function) => {
            out.extend(function_op(*function, record, rule));
            Ok(())
        }
        Action::Statements(_) => Err(EncodeError {
            reason: "MongoDB's rules have functions only; `forebay check` names the rule".to_owned(),
        }),
    }
}

fn function_op(function: Function, record: &SinkRecord, rule: &Rule) -> Option<MongoOp> {
    let at_s = seconds(record.time_us);
    let msgid = record.msgid;
    Some(match (function, &record.event) {
        (Function::ClientConnected, Event::ClientConnected(c)) => MongoOp::Online { client: c.client.clone(), at_s },
        (Function::ClientDisconnected, Event::ClientDisconnected(d)) => {
            MongoOp::Offline { client: d.client.clone(), at_s }
        }
        (Function::MessagePublish | Function::MessageStore, Event::Published(p)) => {
            MongoOp::Message(message_row(record, p, rule))
        }
        (Function::MessageStoreKeepLatest, Event::Published(p)) => MongoOp::Latest(message_row(record, p, rule)),
        (Function::MessageRetain, Event::Published(p)) => MongoOp::Retain(message_row(record, p, rule)),
        (Function::RetainDelete, Event::Published(p)) => MongoOp::RetainDelete { topic: p.message.topic.clone() },
        // A plain subscriber's acknowledgement (`#` over `queue/#`) removes nothing: the message is still its queue's.
        (Function::MessageAckedForQueue, Event::Acked(a)) if !a.queue => return None,
        (Function::MessageAckedForQueue, Event::Acked(_)) => MongoOp::Remove { msgid },
        (
            Function::MessageAcked | Function::MessageAckedForPubsub | Function::MessageAckedForKeepLatest,
            Event::Acked(a),
        ) => MongoOp::Acked { client: a.client.clone(), topic: a.topic.clone(), msgid },
        (Function::AckedDelete, Event::Unsubscribed(u)) => {
            MongoOp::AckedDelete { client: u.client.clone(), filter: topic::unshared(&u.filter).into() }
        }
        _ => return None,
    })
}

/// What is remembered of a document that was imported from this database.
pub(super) fn imported(record: &SinkRecord) -> Option<MongoOp> {
    let Event::Published(p) = &record.event else { return None };
    let Origin::Import { key, .. } = &p.message.origin else { return None };
    Some(MongoOp::Imported { msgid: record.msgid, key: key.clone() })
}

fn message_row(record: &SinkRecord, p: &Published, rule: &Rule) -> Arc<MessageRow> {
    let lives = rule.expired_time.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    let payload = &p.message.payload;
    Arc::new(MessageRow {
        msgid: record.msgid,
        topic: p.message.topic.clone(),
        sender: p.message.publisher.clone(),
        qos: p.message.qos.as_u8(),
        retain: p.message.retain,
        payload: if rule.payload_format == PayloadFormat::MongoJson {
            json::mongo_json(payload)
        } else {
            json::plain(payload)
        },
        payload_len: payload.len(),
        at_s: seconds(record.time_us),
        expires_us: lives.map(|us| i64::try_from(record.time_us.saturating_add(us)).unwrap_or(i64::MAX)),
    })
}

fn seconds(us: u64) -> i64 {
    i64::try_from(us / 1_000_000).unwrap_or(i64::MAX)
}
