//! Operations of a batch, put together by collection, so that each gets one command for many records.
//!
//! Per key only the outcome is kept; messages are stored before they are acknowledged, and removed after it. Each statement knows the
//! operations it stands for: what a server refuses of it is refused of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_engine::MsgId;

use super::op::{MessageRow, MongoOp};

/// A batch by collection.
#[derive(Debug, Default)]
pub(super) struct Segment<'a> {
    /// New messages, in log order, each once.
    pub(super) messages: Vec<Keyed<&'a Arc<MessageRow>>>,
    /// Records of documents of other programs: msgid and key.
    pub(super) imported: Vec<Keyed<(&'a MsgId, &'a str)>>,
    /// What happens to mqtt_acked, in order.
    pub(super) acked: Vec<AckStep<'a>>,
    /// By topic the message that outlives those before it.
    pub(super) latest: BTreeMap<&'a str, Keyed<&'a Arc<MessageRow>>>,
    /// Messages to be removed.
    pub(super) removed: Vec<Keyed<&'a MsgId>>,
    /// By topic the retained message, or that there is none any more.
    pub(super) retained: BTreeMap<&'a str, Keyed<Option<&'a Arc<MessageRow>>>>,
    /// By client.
    pub(super) clients: BTreeMap<&'a str, Keyed<Status>>,
}

/// A value and the operations it comes from, by their place in the batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Keyed<T> {
    pub(super) value: T,
    pub(super) entries: Vec<usize>,
}

/// What was acknowledged, in order, by client and topic.
pub(super) type Acks<'a> = BTreeMap<(&'a str, &'a str), Keyed<Vec<&'a MsgId>>>;

/// A step on mqtt_acked.
#[derive(Debug)]
pub(super) enum AckStep<'a> {
    /// Positions to be moved on.
    Read(Acks<'a>),
    /// The client's positions of the topics that a filter matches are forgotten.
    Forget { client: &'a str, filter: &'a str, entry: usize },
}

/// How a client is left. Times are s since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Online {
        at_s: i64,
    },
    /// With the time it came, where it came within the batch too.
    Offline {
        at_s: i64,
        came_s: Option<i64>,
    },
}

fn put<'a, T>(map: &mut BTreeMap<&'a str, Keyed<T>>, key: &'a str, value: T, entry: usize) {
    let mut entries = map.remove(key).map(|known| known.entries).unwrap_or_default();
    entries.push(entry);
    map.insert(key, Keyed { value, entries });
}

impl<'a> Segment<'a> {
    pub(super) fn of(ops: impl IntoIterator<Item = &'a MongoOp>) -> Segment<'a> {
        let mut segment = Segment::default();
        for (entry, op) in ops.into_iter().enumerate() {
            segment.push(entry, op);
        }
        segment
    }

    fn message(&mut self, entry: usize, row: &'a Arc<MessageRow>) {
        match self.messages.last_mut() {
            // Two rules that store the same message (on_message_publish and on_message_store) store it once.
            Some(last) if last.value.msgid == row.msgid => last.entries.push(entry),
            _ => self.messages.push(Keyed { value: row, entries: vec![entry] }),
        }
    }

    fn push(&mut self, entry: usize, op: &'a MongoOp) {
        match op {
            MongoOp::Message(row) => self.message(entry, row),
            MongoOp::Latest(row) => {
                self.message(entry, row);
                put(&mut self.latest, &row.topic, row, entry);
            }
            MongoOp::Retain(row) => put(&mut self.retained, &row.topic, Some(row), entry),
            MongoOp::RetainDelete { topic } => put(&mut self.retained, topic, None, entry),
            MongoOp::Acked { client, topic, msgid } => {
                if !matches!(self.acked.last(), Some(AckStep::Read(_))) {
                    self.acked.push(AckStep::Read(BTreeMap::new()));
                }
                if let Some(AckStep::Read(acks)) = self.acked.last_mut() {
                    let ack =
                        acks.entry((client, topic)).or_insert_with(|| Keyed { value: Vec::new(), entries: Vec::new() });
                    ack.value.push(msgid);
                    ack.entries.push(entry);
                }
            }
            MongoOp::AckedDelete { client, filter } => self.acked.push(AckStep::Forget { client, filter, entry }),
            MongoOp::Remove { msgid } => self.removed.push(Keyed { value: msgid, entries: vec![entry] }),
            MongoOp::Imported { msgid, key } => {
                self.imported.push(Keyed { value: (msgid, key), entries: vec![entry] });
            }
            MongoOp::Online { client, at_s } => {
                put(&mut self.clients, client, Status::Online { at_s: *at_s }, entry);
            }
            MongoOp::Offline { client, at_s } => {
                let came_s = match self.clients.get(&**client).map(|known| known.value) {
                    Some(Status::Online { at_s }) => Some(at_s),
                    Some(Status::Offline { came_s, .. }) => came_s,
                    None => None,
                };
                put(&mut self.clients, client, Status::Offline { at_s: *at_s, came_s }, entry);
            }
        }
    }

    /// Messages that are acknowledged or removed.
    pub(super) fn settled(&self) -> impl Iterator<Item = &'a MsgId> {
        let read = self.acked.iter().filter_map(|step| match step {
            AckStep::Read(acks) => Some(acks.values().flat_map(|ack| ack.value.iter().copied())),
            AckStep::Forget { .. } => None,
        });
        read.flatten().chain(self.removed.iter().map(|removed| removed.value))
    }
}

#[cfg(test)]
mod tests {
    use forebay_engine::Lsn;
    use mongodb::bson::Bson;

    use super::*;

    #[test]
    fn per_key_only_the_outcome_is_left_and_knows_where_it_comes_from() {
        let id = |lsn| MsgId::new(1, 1, Lsn(lsn));
        let row = |topic: &str, lsn| {
            Arc::new(MessageRow {
                msgid: id(lsn),
                topic: topic.into(),
                sender: "s".into(),
                qos: 1,
                retain: false,
                payload: Bson::Null,
                payload_len: 0,
                at_s: 0,
                expires_us: None,
            })
        };
        let acked = |lsn| MongoOp::Acked { client: "c".into(), topic: "t".into(), msgid: id(lsn) };
        let ops = [
            MongoOp::Message(row("t", 1)),
            MongoOp::Message(row("t", 1)),
            MongoOp::Latest(row("l", 2)),
            MongoOp::Latest(row("l", 3)),
            MongoOp::Retain(row("r", 4)),
            MongoOp::RetainDelete { topic: "r".into() },
            acked(1),
            acked(2),
            MongoOp::AckedDelete { client: "c".into(), filter: "t".into() },
            acked(3),
            MongoOp::Online { client: "a".into(), at_s: 1 },
            MongoOp::Offline { client: "a".into(), at_s: 2 },
            MongoOp::Offline { client: "d".into(), at_s: 5 },
        ];
        let segment = Segment::of(&ops);
        let messages: Vec<(u64, Vec<usize>)> =
            segment.messages.iter().map(|m| (m.value.msgid.lsn.0, m.entries.clone())).collect();
        assert_eq!(messages, [(1, vec![0, 1]), (2, vec![2]), (3, vec![3])]);
        assert_eq!(segment.latest["l"].value.msgid, id(3));
        assert_eq!(segment.latest["l"].entries, [2, 3]);
        assert_eq!(segment.retained["r"], Keyed { value: None, entries: vec![4, 5] });
        assert!(
            matches!(&segment.acked[0], AckStep::Read(acks) if acks[&("c", "t")] == Keyed { value: vec![&id(1), &id(2)], entries: vec![6, 7] })
        );
        assert!(matches!(&segment.acked[1], AckStep::Forget { client: "c", filter: "t", entry: 8 }));
        assert!(matches!(&segment.acked[2], AckStep::Read(acks) if acks[&("c", "t")].value == [&id(3)]));
        assert_eq!(segment.clients["a"].value, Status::Offline { at_s: 2, came_s: Some(1) });
        assert_eq!(segment.clients["d"].value, Status::Offline { at_s: 5, came_s: None });
        assert_eq!(segment.settled().map(|id| id.lsn.0).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
