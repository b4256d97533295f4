//! Records to operations. Pure.

use std::sync::Arc;

use bytestring::ByteString;
use forebay_engine::event::{Origin, Published};
use forebay_engine::{Event, MsgId, topic};

use super::item::{ITEM, PARTITION_KEY, SORT_KEY, bytes};
use super::op::{DynamoOp, MessageRow, Payload};
use crate::rule::{Action, Function, Rule};
use crate::sink::{EncodeError, SinkRecord};
use crate::sql::BinaryPayload;

/// The longest topic of a message, bytes: `mqtt_topic_msg_map` has keys of a topic, `#` and a message's name.
const TOPIC: usize = PARTITION_KEY - MsgId::LEN - 1;

/// Turns a record into the operations of one rule.
pub(super) fn encode(
    record: &SinkRecord,
    rule: &Rule,
    binary: BinaryPayload,
    out: &mut Vec<DynamoOp>,
) -> Result<(), EncodeError> {
    let Action::Function(function) = &rule.action else { return Ok(()) };
    let Some(op) = function_op(*function, record, rule, binary) else { return Ok(()) };
    if never_stored(&op) {
        return Ok(());
    }
    fits(&op).map_err(|reason| EncodeError { reason })?;
    out.push(op);
    Ok(())
}

/// True for what takes away something whose key is too long to have been stored.
fn never_stored(op: &DynamoOp) -> bool {
    match op {
        DynamoOp::RetainDelete { topic, .. } | DynamoOp::Remove { topic, .. } => topic.len() > TOPIC,
        DynamoOp::AckedDelete { client, .. } => client.len() > SORT_KEY,
        _ => false,
    }
}

fn function_op(function: Function, record: &SinkRecord, rule: &Rule, binary: BinaryPayload) -> Option<DynamoOp> {
    let at_s = record.time_us / 1_000_000;
    let msgid = || record.msgid.to_string();
    Some(match (function, &record.event) {
        (Function::ClientConnected, Event::ClientConnected(c)) => DynamoOp::Online { client: c.client.clone(), at_s },
        (Function::ClientDisconnected, Event::ClientDisconnected(d)) => {
            DynamoOp::Offline { client: d.client.clone(), at_s }
        }
        (Function::MessagePublish | Function::MessageStore, Event::Published(p)) => {
            DynamoOp::Message(message_row(record, p, rule, binary))
        }
        (Function::MessageStoreKeepLatest, Event::Published(p)) => {
            DynamoOp::Latest(message_row(record, p, rule, binary))
        }
        (Function::MessageRetain, Event::Published(p)) => DynamoOp::Retain(message_row(record, p, rule, binary)),
        (Function::RetainDelete, Event::Published(p)) => {
            DynamoOp::RetainDelete { topic: p.message.topic.clone(), msgid: msgid() }
        }
        // A plain subscriber's acknowledgement (`#` over `queue/#`) removes nothing: the message is still its queue's.
        (Function::MessageAckedForQueue, Event::Acked(a)) if !a.queue => return None,
        (Function::MessageAckedForQueue, Event::Acked(a)) => {
            DynamoOp::Remove { topic: a.topic.clone(), msgid: msgid() }
        }
        (
            Function::MessageAcked | Function::MessageAckedForPubsub | Function::MessageAckedForKeepLatest,
            Event::Acked(a),
        ) => DynamoOp::Acked { client: a.client.clone(), topic: a.topic.clone(), msgid: msgid() },
        (Function::AckedDelete, Event::Unsubscribed(u)) => {
            DynamoOp::AckedDelete { client: u.client.clone(), filter: topic::unshared(&u.filter).into() }
        }
        _ => return None,
    })
}

fn message_row(record: &SinkRecord, p: &Published, rule: &Rule, binary: BinaryPayload) -> Arc<MessageRow> {
    let lives = rule.expired_time.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    let payload = &p.message.payload;
    Arc::new(MessageRow {
        msgid: record.msgid.to_string(),
        topic: p.message.topic.clone(),
        sender: p.message.publisher.clone(),
        qos: p.message.qos.as_u8(),
        retain: p.message.retain,
        payload: match ByteString::try_from(payload.clone()) {
            Ok(text) => Payload::Text(text),
            Err(_) => match binary.text(payload) {
                Some(digits) => Payload::Text(digits.into()),
                None => Payload::Binary(payload.clone()),
            },
        },
        at_s: record.time_us / 1_000_000,
        expires_us: lives.map(|us| record.time_us.saturating_add(us)),
    })
}

/// What DynamoDB would refuse, in words.
fn fits(op: &DynamoOp) -> Result<(), String> {
    let key = |what: &str, text: &str, most: usize| match text.len() {
        length if length > most => Err(format!("the {what} has {length} bytes, and a key of DynamoDB takes {most}")),
        _ => Ok(()),
    };
    match op {
        DynamoOp::Online { client, .. } | DynamoOp::Offline { client, .. } => key("client id", client, PARTITION_KEY),
        DynamoOp::Message(row) | DynamoOp::Latest(row) | DynamoOp::Retain(row) => {
            key("topic", &row.topic, TOPIC)?;
            // Cheap for what is far from the bound.
            if row.bytes() < ITEM / 2 {
                return Ok(());
            }
            let length = bytes(&row.item());
            if length <= ITEM {
                return Ok(());
            }
            Err(format!(
                "the item would have {length} bytes, and DynamoDB takes {ITEM} (400 KB): send less at once, or store this topic elsewhere"
            ))
        }
        DynamoOp::Acked { client, topic, .. } => {
            key("client id", client, SORT_KEY)?;
            key("topic", topic, SORT_KEY)
        }
        _ => Ok(()),
    }
}

/// What is remembered of an item that was imported from this database.
pub(super) fn imported(record: &SinkRecord) -> Option<DynamoOp> {
    let Event::Published(p) = &record.event else { return None };
    let Origin::Import { key, .. } = &p.message.origin else { return None };
    Some(DynamoOp::Imported { msgid: record.msgid.to_string(), key: key.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(topic: &str, payload: usize) -> DynamoOp {
        DynamoOp::Message(Arc::new(MessageRow {
            msgid: "0".repeat(20),
            topic: topic.into(),
            sender: "s".into(),
            qos: 1,
            retain: false,
            payload: Payload::Text("x".repeat(payload).into()),
            at_s: 1,
            expires_us: None,
        }))
    }

    #[test]
    fn what_is_too_large_is_said_before_it_is_sent() {
        assert_eq!(fits(&row("t", 400_000)), Ok(()));
        let large = fits(&row("t", 410_000)).unwrap_err();
        assert!(large.contains("400 KB") && large.contains("4100"), "{large}");
        assert_eq!(fits(&row(&"t".repeat(TOPIC), 1)), Ok(()));
        assert!(fits(&row(&"t".repeat(TOPIC + 1), 1)).unwrap_err().contains("2027"));
        let acked = DynamoOp::Acked { client: "c".repeat(1_025).into(), topic: "t".into(), msgid: String::new() };
        assert!(fits(&acked).is_err());
        let remove = |length| DynamoOp::Remove { topic: "t".repeat(length).into(), msgid: String::new() };
        assert!(never_stored(&remove(TOPIC + 1)) && !never_stored(&remove(TOPIC)));
    }
}
