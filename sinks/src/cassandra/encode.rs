//! Records to operations. Pure.

use forebay_engine::event::Origin;
use forebay_engine::{Event, topic};

use super::op::CassandraOp;
use crate::rule::{Action, Function, Part, Rule};
use crate::runtime::plan::{Lane, lane};
use crate::sink::{EncodeError, SinkRecord};
use crate::sql::Value;
use crate::sql::encode::{message_row, value};
use crate::sql::statements::Statements;

/// Turns a record into the operations of one rule.
pub(super) fn encode(
    record: &SinkRecord,
    rule: &Rule,
    statements: &Statements,
    out: &mut Vec<CassandraOp>,
) -> Result<(), EncodeError> {
    let list = match &rule.action {
        Action::Function(function) => {
            out.extend(function_op(*function, record, rule));
            return Ok(());
        }
        Action::Statements(list) => list,
    };
    // A barrier runs alone.
    let lane = match lane(&record.event) {
        Lane::One(lane) => lane,
        Lane::Barrier => 0,
    };
    for statement in list {
        let params = statement.parts.iter().filter_map(|part| match part {
            Part::Param(param) => Some(value(*param, record)),
            Part::Text(_) => None,
        });
        let values = params.collect::<Result<Vec<Value>, EncodeError>>()?;
        out.push(CassandraOp::Statement { lane, cql: statements.text(statement), values });
    }
    Ok(())
}

fn function_op(function: Function, record: &SinkRecord, rule: &Rule) -> Option<CassandraOp> {
    let at_us = record.time_us;
    let msgid = || record.msgid.to_string();
    Some(match (function, &record.event) {
        (Function::ClientConnected, Event::ClientConnected(c)) => {
            CassandraOp::Online { client: c.client.clone(), at_us }
        }
        (Function::ClientDisconnected, Event::ClientDisconnected(d)) => {
            CassandraOp::Offline { client: d.client.clone(), at_us }
        }
        (Function::MessagePublish | Function::MessageStore, Event::Published(p)) => {
            CassandraOp::Message(message_row(record, p, rule))
        }
        (Function::MessageStoreKeepLatest, Event::Published(p)) => CassandraOp::Latest(message_row(record, p, rule)),
        (Function::MessageRetain, Event::Published(p)) => CassandraOp::Retain(message_row(record, p, rule)),
        (Function::RetainDelete, Event::Published(p)) => CassandraOp::RetainDelete { topic: p.message.topic.clone() },
        // A plain subscriber's acknowledgement (`#` over `queue/#`) removes nothing: the message is still its queue's.
        (Function::MessageAckedForQueue, Event::Acked(a)) if !a.queue => return None,
        (Function::MessageAckedForQueue, Event::Acked(a)) => {
            CassandraOp::Remove { topic: a.topic.clone(), msgid: msgid() }
        }
        (
            Function::MessageAcked | Function::MessageAckedForPubsub | Function::MessageAckedForKeepLatest,
            Event::Acked(a),
        ) => CassandraOp::Acked { client: a.client.clone(), topic: a.topic.clone(), msgid: msgid() },
        (Function::AckedDelete, Event::Unsubscribed(u)) => {
            CassandraOp::AckedDelete { client: u.client.clone(), filter: topic::unshared(&u.filter).into() }
        }
        _ => return None,
    })
}

/// What is remembered of a row that was imported from this database.
pub(super) fn imported(record: &SinkRecord) -> Option<CassandraOp> {
    let Event::Published(p) = &record.event else { return None };
    let Origin::Import { key, .. } = &p.message.origin else { return None };
    let topic = p.message.topic.clone();
    Some(CassandraOp::Imported { topic, msgid: record.msgid.to_string(), key: key.clone() })
}

/// True for a user's statement that may do more when it is run again: counters, lists that grow, names made by the server.
pub(super) fn adds(cql: &str) -> bool {
    let text: String = cql.to_ascii_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
    ["now(", "uuid(", "totimestamp(", "currenttime", "currentdate"].iter().any(|name| text.contains(name))
        || (text.starts_with("update") && text.contains(['+', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_add_up_are_told_from_those_that_set() {
        for (cql, more) in [
            ("insert into conn(clientid) values(?)", false),
            ("update seen set n = n + 1 where id = ?", true),
            ("insert into ev (id, at) values (uuid(), toTimestamp( now()))", true),
            ("delete from acked where client_id = ? and topic = ?", false),
        ] {
            assert_eq!(adds(cql), more, "{cql}");
        }
    }
}
