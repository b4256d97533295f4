//! Operations of a batch, put together by item, so that each item is written once for many records.
//!
//! Per key only the outcome is kept: a message that is stored and removed within a batch is only removed, in case an earlier attempt has
//! stored it. Each write knows the operations it stands for: what is refused of it is refused of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::op::{DynamoOp, MessageRow};

/// A batch by item.
#[derive(Debug, Default)]
pub(super) struct Segment<'a> {
    /// New messages by name.
    pub(super) messages: BTreeMap<&'a str, Message<'a>>,
    /// Names of messages that go, and the operations that say so.
    pub(super) removed: BTreeMap<&'a str, Vec<usize>>,
    /// By topic what happens to its names.
    pub(super) topics: BTreeMap<&'a str, Change<'a>>,
    /// By topic the retained message, or what deletes it.
    pub(super) retained: BTreeMap<&'a str, Keyed<Retained<'a>>>,
    /// By client.
    pub(super) clients: BTreeMap<&'a str, Keyed<Status>>,
    /// What happens to mqtt_acked, in order.
    pub(super) acked: Vec<AckStep<'a>>,
    /// Names of ours and keys of items of other programs.
    pub(super) imported: Vec<Keyed<(&'a str, &'a str)>>,
}

/// A message, of which there may be several rules' operations.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) row: &'a Arc<MessageRow>,
    /// When it goes: of two rules the longer life holds.
    pub(super) expires_us: Option<u64>,
    pub(super) entries: Vec<usize>,
}

/// What happens to the names of a topic's messages.
#[derive(Debug, Default)]
pub(super) struct Change<'a> {
    /// Names that are new, each with the operations it is for.
    pub(super) add: BTreeMap<&'a str, Vec<usize>>,
    /// Names that go.
    pub(super) remove: Vec<&'a str>,
    /// The message that outlives those before it.
    pub(super) latest: Option<&'a Arc<MessageRow>>,
}

/// A value and the operations it comes from, by their place in the batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Keyed<T> {
    pub(super) value: T,
    pub(super) entries: Vec<usize>,
}

/// How a topic's retained message is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Retained<'a> {
    Is(&'a Arc<MessageRow>),
    /// Deleted by the message of this name.
    Gone(&'a str),
}

/// The furthest acknowledgement by client and topic.
pub(super) type Acks<'a> = BTreeMap<(&'a str, &'a str), Keyed<&'a str>>;

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
        at_s: u64,
    },
    /// With the time it came, where it came within the batch too.
    Offline {
        at_s: u64,
        came_s: Option<u64>,
    },
}

fn put<'a, T>(map: &mut BTreeMap<&'a str, Keyed<T>>, key: &'a str, value: T, entry: usize) {
    let mut entries = map.remove(key).map(|known| known.entries).unwrap_or_default();
    entries.push(entry);
    map.insert(key, Keyed { value, entries });
}

impl<'a> Segment<'a> {
    pub(super) fn of(ops: impl IntoIterator<Item = &'a DynamoOp>) -> Segment<'a> {
        let mut segment = Segment::default();
        for (entry, op) in ops.into_iter().enumerate() {
            segment.push(entry, op);
        }
        segment
    }

    fn message(&mut self, entry: usize, row: &'a Arc<MessageRow>) {
        // Two rules that store the same message (on_message_publish and on_message_store) store it once.
        let message =
            self.messages.entry(&row.msgid).or_insert(Message { row, expires_us: row.expires_us, entries: Vec::new() });
        message.expires_us = message.expires_us.zip(row.expires_us).map(|(a, b)| a.max(b));
        message.entries.push(entry);
        self.topics.entry(&row.topic).or_default().add.entry(&row.msgid).or_default().push(entry);
    }

    /// The message goes, whether this batch or an earlier attempt stored it.
    fn remove(&mut self, topic: &'a str, msgid: &'a str, entry: Option<usize>) {
        self.messages.remove(msgid);
        self.removed.entry(msgid).or_default().extend(entry);
        let change = self.topics.entry(topic).or_default();
        change.add.remove(msgid);
        change.remove.push(msgid);
    }

    fn push(&mut self, entry: usize, op: &'a DynamoOp) {
        match op {
            DynamoOp::Message(row) => self.message(entry, row),
            DynamoOp::Latest(row) => {
                let known = self.topics.entry(&row.topic).or_default().add.keys();
                let older: Vec<&str> = known.copied().filter(|msgid| **msgid < *row.msgid).collect();
                for msgid in older {
                    self.remove(&row.topic, msgid, None);
                }
                self.message(entry, row);
                self.topics.entry(&row.topic).or_default().latest = Some(row);
            }
            DynamoOp::Retain(row) => put(&mut self.retained, &row.topic, Retained::Is(row), entry),
            DynamoOp::RetainDelete { topic, msgid } => put(&mut self.retained, topic, Retained::Gone(msgid), entry),
            DynamoOp::Acked { client, topic, msgid } => {
                if !matches!(self.acked.last(), Some(AckStep::Read(_))) {
                    self.acked.push(AckStep::Read(BTreeMap::new()));
                }
                if let Some(AckStep::Read(acks)) = self.acked.last_mut() {
                    let ack = acks.entry((client, topic)).or_insert(Keyed { value: msgid, entries: Vec::new() });
                    ack.value = ack.value.max(msgid);
                    ack.entries.push(entry);
                }
            }
            DynamoOp::AckedDelete { client, filter } => self.acked.push(AckStep::Forget { client, filter, entry }),
            DynamoOp::Remove { topic, msgid } => self.remove(topic, msgid, Some(entry)),
            DynamoOp::Imported { msgid, key } => {
                self.imported.push(Keyed { value: (msgid, key), entries: vec![entry] });
            }
            DynamoOp::Online { client, at_s } => {
                put(&mut self.clients, client, Status::Online { at_s: *at_s }, entry);
            }
            DynamoOp::Offline { client, at_s } => {
                let came_s = match self.clients.get(&**client).map(|known| known.value) {
                    Some(Status::Online { at_s }) => Some(at_s),
                    Some(Status::Offline { came_s, .. }) => came_s,
                    None => None,
                };
                put(&mut self.clients, client, Status::Offline { at_s: *at_s, came_s }, entry);
            }
        }
    }

    /// Names of messages that are acknowledged or removed.
    pub(super) fn settled(&self) -> impl Iterator<Item = &'a str> {
        let read = self.acked.iter().filter_map(|step| match step {
            AckStep::Read(acks) => Some(acks.values().map(|ack| ack.value)),
            AckStep::Forget { .. } => None,
        });
        read.flatten().chain(self.removed.iter().filter(|(_, of)| !of.is_empty()).map(|(msgid, _)| *msgid))
    }
}

#[cfg(test)]
mod tests {
    use super::super::op::Payload;
    use super::*;

    #[test]
    fn per_key_only_the_outcome_is_left_and_knows_where_it_comes_from() {
        let row = |topic: &str, msgid: &str, expires_us| {
            Arc::new(MessageRow {
                msgid: msgid.into(),
                topic: topic.into(),
                sender: "s".into(),
                qos: 1,
                retain: false,
                payload: Payload::Text("".into()),
                at_s: 0,
                expires_us,
            })
        };
        let acked = |msgid: &str| DynamoOp::Acked { client: "c".into(), topic: "t".into(), msgid: msgid.into() };
        let remove = |msgid: &str| DynamoOp::Remove { topic: "t".into(), msgid: msgid.into() };
        let ops = [
            DynamoOp::Message(row("t", "1", Some(5))),
            DynamoOp::Message(row("t", "1", Some(7))),
            DynamoOp::Message(row("t", "2", None)),
            remove("2"),
            remove("0"),
            DynamoOp::Latest(row("l", "3", None)),
            DynamoOp::Latest(row("l", "4", None)),
            DynamoOp::Retain(row("r", "5", None)),
            DynamoOp::RetainDelete { topic: "r".into(), msgid: "6".into() },
            acked("2"),
            acked("1"),
            DynamoOp::AckedDelete { client: "c".into(), filter: "t".into() },
            acked("3"),
            DynamoOp::Online { client: "a".into(), at_s: 1 },
            DynamoOp::Offline { client: "a".into(), at_s: 2 },
        ];
        let segment = Segment::of(&ops);
        let stored: Vec<(&str, Option<u64>, &[usize])> =
            segment.messages.iter().map(|(id, m)| (*id, m.expires_us, &m.entries[..])).collect();
        assert_eq!(stored, [("1", Some(7), &[0, 1][..]), ("4", None, &[6][..])]);
        let removed: Vec<(&str, &[usize])> = segment.removed.iter().map(|(id, of)| (*id, &of[..])).collect();
        assert_eq!(removed, [("0", &[4][..]), ("2", &[3][..]), ("3", &[][..])]);
        assert_eq!(segment.topics["t"].add.keys().copied().collect::<Vec<_>>(), ["1"]);
        assert_eq!(segment.topics["t"].remove, ["2", "0"]);
        assert_eq!(segment.topics["l"].latest.map(|row| row.msgid.as_str()), Some("4"));
        assert_eq!(segment.retained["r"], Keyed { value: Retained::Gone("6"), entries: vec![7, 8] });
        assert!(
            matches!(&segment.acked[0], AckStep::Read(acks) if acks[&("c", "t")] == Keyed { value: "2", entries: vec![9, 10] })
        );
        assert!(matches!(&segment.acked[1], AckStep::Forget { client: "c", filter: "t", entry: 11 }));
        assert_eq!(segment.clients["a"].value, Status::Offline { at_s: 2, came_s: Some(1) });
        assert_eq!(segment.settled().collect::<Vec<_>>(), ["2", "3", "0", "2"]);
    }
}
