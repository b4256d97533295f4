//! One-to-one queues: who holds which message right now.
//!
//! That a queue owes a message is state (a row until its acknowledgement); who holds it is not: after a restart all are free again,
//! but those that were sent with QoS 2, which stay with their client.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use bytestring::ByteString;

use crate::ids::Lsn;
use crate::topic;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: HashMap<Lsn, Owed>,
    /// Messages nobody holds, by topic, in the order of the log.
    ready: BTreeMap<ByteString, BTreeSet<Lsn>>,
    /// Messages given back when their client left: it may still believe it has them in flight.
    given_back: HashMap<ByteString, BTreeSet<Lsn>>,
    /// Round robin over subscribers.
    turn: usize,
}

#[derive(Debug)]
struct Owed {
    topic: ByteString,
    holder: Option<ByteString>,
}

impl Queue {
    pub(super) fn add(&mut self, lsn: Lsn, topic: ByteString, holder: Option<ByteString>) {
        if holder.is_none() {
            self.ready.entry(topic.clone()).or_default().insert(lsn);
        }
        self.entries.insert(lsn, Owed { topic, holder });
    }

    pub(super) fn remove(&mut self, lsn: Lsn) {
        if let Some(owed) = self.entries.remove(&lsn) {
            self.unready(&owed.topic, lsn);
        }
    }

    fn unready(&mut self, topic: &ByteString, lsn: Lsn) {
        if let Some(ready) = self.ready.get_mut(topic) {
            ready.remove(&lsn);
            if ready.is_empty() {
                self.ready.remove(topic);
            }
        }
    }

    /// The oldest message of the topic that nobody holds.
    pub(super) fn first_ready(&self, topic: &str) -> Option<Lsn> {
        self.ready.get(topic).and_then(|ready| ready.first().copied())
    }

    /// Topics with messages that nobody holds and that match the filter.
    pub(super) fn ready_topics(&self, filter: &str) -> Vec<ByteString> {
        if !topic::has_wildcard(filter) {
            return self.ready.get_key_value(filter).map(|(topic, _)| topic.clone()).into_iter().collect();
        }
        let prefix = filter.split(['+', '#']).next().unwrap_or_default();
        let from = prefix.strip_suffix('/').unwrap_or(prefix);
        self.ready
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .map(|(topic, _)| topic)
            .take_while(|topic| topic.starts_with(from))
            .filter(|topic| topic::matches(filter, topic))
            .cloned()
            .collect()
    }

    /// Where the next round begins among `n` subscribers.
    pub(super) fn next_turn(&mut self, n: usize) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn % n.max(1)
    }

    /// The client holds the message now. False where somebody else holds it or it is gone.
    pub(super) fn lease(&mut self, lsn: Lsn, client: &ByteString) -> bool {
        let topic = match self.entries.get_mut(&lsn) {
            Some(owed) if owed.holder.as_ref().is_none_or(|holder| holder == client) => {
                owed.holder = Some(client.clone());
                owed.topic.clone()
            }
            _ => return false,
        };
        self.unready(&topic, lsn);
        true
    }

    /// The client left: its messages are free again. Those of `pinned` stay with it (sent with QoS 2).
    /// Returns the topics that have something to hand out.
    pub(super) fn release(&mut self, client: &ByteString, leases: &[(Lsn, bool)], remember: bool) -> Vec<ByteString> {
        let mut topics = BTreeSet::new();
        for (lsn, pinned) in leases {
            let Some(owed) = self.entries.get_mut(lsn).filter(|o| o.holder.as_ref() == Some(client)) else { continue };
            if *pinned {
                continue;
            }
            owed.holder = None;
            self.ready.entry(owed.topic.clone()).or_default().insert(*lsn);
            topics.insert(owed.topic.clone());
            if remember {
                self.given_back.entry(client.clone()).or_default().insert(*lsn);
            }
            metrics::counter!(crate::metrics::REQUEUED).increment(1);
        }
        topics.into_iter().collect()
    }

    /// The client's session is over: what stayed with it is free again.
    pub(super) fn forget(&mut self, client: &ByteString) -> Vec<ByteString> {
        self.given_back.remove(client);
        let held: Vec<(Lsn, bool)> = self
            .entries
            .iter()
            .filter(|(_, owed)| owed.holder.as_ref() == Some(client))
            .map(|(lsn, _)| (*lsn, false))
            .collect();
        self.release(client, &held, false)
    }

    /// The client is back and has these in flight: which of them it holds (again), and which it has lost to somebody else.
    pub(super) fn resume(&mut self, client: &ByteString, in_flight: &[Lsn]) -> (Vec<Lsn>, Vec<Lsn>) {
        let given_back = self.given_back.remove(client).unwrap_or_default();
        let (mut held, mut lost) = (Vec::new(), Vec::new());
        for lsn in in_flight {
            if self.entries.contains_key(lsn) && self.lease(*lsn, client) {
                held.push(*lsn);
            } else if given_back.contains(lsn) {
                lost.push(*lsn);
            }
        }
        (held, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_given_back_is_lost_to_its_old_holder_only_once_another_took_it() {
        let (a, b) = (ByteString::from("a"), ByteString::from("b"));
        let mut queue = Queue::default();
        for lsn in 1..=3 {
            queue.add(Lsn(lsn), "queue/x".into(), None);
        }
        assert_eq!(queue.first_ready("queue/x"), Some(Lsn(1)));
        for lsn in 1..=3 {
            assert!(queue.lease(Lsn(lsn), &a));
        }
        assert!(!queue.lease(Lsn(1), &b));
        let topics = queue.release(&a, &[(Lsn(1), false), (Lsn(2), false), (Lsn(3), true)], true);
        assert_eq!(topics, ["queue/x"]);
        assert!(queue.lease(Lsn(1), &b));
        let (held, lost) = queue.resume(&a, &[Lsn(1), Lsn(2), Lsn(3)]);
        assert_eq!((held, lost), (vec![Lsn(2), Lsn(3)], vec![Lsn(1)]));
    }

    #[test]
    fn topics_are_found_through_wildcards() {
        let mut queue = Queue::default();
        for (lsn, topic) in [(1, "queue"), (2, "queue/a"), (3, "queue/a/b"), (4, "queues")] {
            queue.add(Lsn(lsn), topic.into(), None);
        }
        assert_eq!(queue.ready_topics("queue/#"), ["queue", "queue/a", "queue/a/b"]);
        assert_eq!(queue.ready_topics("queue/+"), ["queue/a"]);
        assert_eq!(queue.ready_topics("queue/a"), ["queue/a"]);
        assert_eq!(queue.ready_topics("+/a"), ["queue/a"]);
    }
}
