//! Operations of a batch, put together by table, so that each table gets few statements for many records.
//!
//! Between two users' statements nothing but an operation on the same key of the same table can tell in which order two operations
//! ran, and acknowledgements, which look at stored messages. So per key only the outcome is kept, messages are stored before they are
//! acknowledged, and they are removed after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::op::{MessageRow, SqlOp};

/// A run of operations without a user's statement, by table.
#[derive(Debug, Default)]
pub(crate) struct Segment<'a> {
    /// New rows of mqtt_msg, in log order, each message once.
    pub(crate) messages: Vec<&'a Arc<MessageRow>>,
    /// Records of rows of other programs: msgid and row key.
    pub(crate) imported: Vec<(&'a str, &'a str)>,
    /// What happens to mqtt_acked, in order.
    pub(crate) acked: Vec<AckStep<'a>>,
    /// Messages to be removed.
    pub(crate) removed: Vec<&'a str>,
    /// By topic the message that outlives those before it.
    pub(crate) latest: BTreeMap<&'a str, &'a str>,
    /// By topic the retained message, or that there is none any more.
    pub(crate) retained: BTreeMap<&'a str, Option<&'a Arc<MessageRow>>>,
    /// By client.
    pub(crate) clients: BTreeMap<&'a str, Status>,
}

/// A step on mqtt_acked.
#[derive(Debug)]
pub(crate) enum AckStep<'a> {
    /// Positions to be moved on.
    Read(Vec<Ack<'a>>),
    /// The client's positions of the topics that a filter matches are forgotten.
    Forget { client: &'a str, filter: &'a str },
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack<'a> {
    pub(crate) client: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) msgid: &'a str,
    pub(crate) at_us: u64,
}

/// How a client is left. Times are us since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Online {
        at_us: u64,
    },
    /// With the time it came, where it came within the segment too.
    Offline {
        at_us: u64,
        came_us: Option<u64>,
    },
}

impl<'a> Segment<'a> {
    pub(crate) fn of(ops: impl IntoIterator<Item = &'a SqlOp>) -> Segment<'a> {
        let mut segment = Segment::default();
        for op in ops {
            segment.push(op);
        }
        // Two rules that store the same message (on_message_publish and on_message_store) store it once.
        segment.messages.dedup_by(|a, b| a.msgid == b.msgid);
        segment
    }

    fn push(&mut self, op: &'a SqlOp) {
        match op {
            SqlOp::Message(row) => self.messages.push(row),
            SqlOp::Latest(row) => {
                self.messages.push(row);
                self.latest.insert(&row.topic, &row.msgid);
            }
            SqlOp::Retain(row) => {
                self.retained.insert(&row.topic, Some(row));
            }
            SqlOp::RetainDelete { topic } => {
                self.retained.insert(topic, None);
            }
            SqlOp::Acked { client, topic, msgid, at_us } => {
                let ack = Ack { client, topic, msgid, at_us: *at_us };
                match self.acked.last_mut() {
                    Some(AckStep::Read(acks)) => acks.push(ack),
                    _ => self.acked.push(AckStep::Read(vec![ack])),
                }
            }
            SqlOp::AckedDelete { client, filter } => self.acked.push(AckStep::Forget { client, filter }),
            SqlOp::Remove { msgid } => self.removed.push(msgid),
            SqlOp::Imported { msgid, key } => self.imported.push((msgid, key)),
            SqlOp::Online { client, at_us } => {
                self.clients.insert(client, Status::Online { at_us: *at_us });
            }
            SqlOp::Offline { client, at_us } => {
                let came_us = match self.clients.get(&**client) {
                    Some(Status::Online { at_us }) => Some(*at_us),
                    Some(Status::Offline { came_us, .. }) => *came_us,
                    None => None,
                };
                self.clients.insert(client, Status::Offline { at_us: *at_us, came_us });
            }
            SqlOp::Statement { .. } => {}
        }
    }

    /// Rows of forebay_expiry: msgid, kind, topic, us since 1970.
    pub(crate) fn expiring(&self) -> Vec<(&'a str, &'static str, &'a str, i64)> {
        let messages = self.messages.iter().map(|row| (*row, "msg"));
        let retained = self.retained.values().flatten().map(|row| (*row, "retain"));
        messages
            .chain(retained)
            .filter_map(|(row, kind)| Some((&*row.msgid, kind, &*row.topic, row.expires_us?.cast_signed())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_key_only_the_outcome_is_left() {
        let row = |topic: &str, msgid: &str| {
            Arc::new(MessageRow {
                msgid: msgid.into(),
                topic: topic.into(),
                sender: "s".into(),
                qos: 1,
                retain: false,
                payload: super::super::Value::Int(0),
                at_us: 0,
                expires_us: (msgid == "3").then_some(9),
            })
        };
        let acked = |msgid: &str| SqlOp::Acked { client: "c".into(), topic: "t".into(), msgid: msgid.into(), at_us: 0 };
        let ops = [
            SqlOp::Message(row("t", "1")),
            SqlOp::Message(row("t", "1")),
            SqlOp::Latest(row("l", "2")),
            SqlOp::Latest(row("l", "3")),
            SqlOp::Retain(row("r", "4")),
            SqlOp::RetainDelete { topic: "r".into() },
            acked("1"),
            acked("2"),
            SqlOp::AckedDelete { client: "c".into(), filter: "t".into() },
            acked("3"),
            SqlOp::Online { client: "a".into(), at_us: 1 },
            SqlOp::Offline { client: "a".into(), at_us: 2 },
            SqlOp::Offline { client: "b".into(), at_us: 3 },
            SqlOp::Online { client: "b".into(), at_us: 4 },
            SqlOp::Offline { client: "d".into(), at_us: 5 },
        ];
        let segment = Segment::of(&ops);
        assert_eq!(segment.messages.iter().map(|row| &*row.msgid).collect::<Vec<_>>(), ["1", "2", "3"]);
        assert_eq!(segment.latest, BTreeMap::from([("l", "3")]));
        assert_eq!(segment.retained, BTreeMap::from([("r", None)]));
        assert_eq!(segment.acked.len(), 3);
        assert_eq!(
            segment.clients,
            BTreeMap::from([
                ("a", Status::Offline { at_us: 2, came_us: Some(1) }),
                ("b", Status::Online { at_us: 4 }),
                ("d", Status::Offline { at_us: 5, came_us: None }),
            ])
        );
        assert_eq!(segment.expiring(), [("3", "msg", "l", 9)]);
    }
}
