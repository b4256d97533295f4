//! One-to-one queues: who holds which message right now.
//!
//! That a queue owes a message is state (a row until its acknowledgement); who holds it is not: after a restart all are free again,
//! but those that were sent with QoS 2, which stay with their client.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use bytestring::ByteString;

use crate::event::Epoch;
use crate::ids::Lsn;
use crate::topic;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: HashMap<Lsn, Owed>,
    /// Messages nobody holds, by topic, in the order of the log.
    ready: BTreeMap<ByteString, BTreeSet<Lsn>>,
    /// Messages that a client holds, by client.
    held: HashMap<ByteString, BTreeSet<Lsn>>,
    /// Messages given back when their client left: it may still believe it has them in flight.
    given_back: HashMap<ByteString, BTreeSet<Lsn>>,
    /// Round robin over subscribers.
    turn: usize,
}

/// Who holds a message: a client, and which connection of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    client: ByteString,
    epoch: Epoch,
}

#[derive(Debug)]
struct Owed {
    topic: ByteString,
    holder: Option<Holder>,
}

/// What a client that came back finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Resumed {
    /// In flight with it, and its own (again).
    pub(super) held: Vec<Lsn>,
    /// In flight with it, and given to somebody else in the meantime.
    pub(super) lost: Vec<Lsn>,
    /// Topics with messages that an earlier connection held and this one knows nothing of: they are free again.
    pub(super) free: Vec<ByteString>,
}

impl Queue {
    pub(super) fn add(&mut self, lsn: Lsn, topic: ByteString, pinned_to: Option<ByteString>) {
        let holder = match pinned_to {
            None => {
                self.ready.entry(topic.clone()).or_default().insert(lsn);
                None
            }
            Some(client) => {
                self.held.entry(client.clone()).or_default().insert(lsn);
                Some(Holder { client, epoch: 0 })
            }
        };
        self.entries.insert(lsn, Owed { topic, holder });
    }

    pub(super) fn remove(&mut self, lsn: Lsn) {
        let Some(owed) = self.entries.remove(&lsn) else { return };
        match owed.holder {
            Some(holder) => self.unhold(&holder.client, lsn),
            None => self.unready(&owed.topic, lsn),
        }
    }

    fn unhold(&mut self, client: &ByteString, lsn: Lsn) {
        if let Some(held) = self.held.get_mut(client) {
            held.remove(&lsn);
            if held.is_empty() {
                self.held.remove(client);
            }
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

    /// The next topic after `after` with messages that nobody holds and that matches the filter.
    pub(super) fn next_ready_topic(&self, filter: &str, after: Option<&str>) -> Option<ByteString> {
        if !topic::has_wildcard(filter) {
            let found = self.ready.get_key_value(filter).filter(|_| after.is_none());
            return found.map(|(topic, _)| topic.clone());
        }
        let prefix = filter.split(['+', '#']).next().unwrap_or_default();
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        self.ready
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(topic, _)| topic)
            .take_while(|topic| topic.starts_with(prefix))
            .find(|topic| topic::matches(filter, topic))
            .cloned()
    }

    /// Where the next round begins among `n` subscribers.
    pub(super) fn next_turn(&mut self, n: usize) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn % n.max(1)
    }

    /// The connection holds the message now. False where somebody else holds it or it is gone.
    pub(super) fn lease(&mut self, lsn: Lsn, client: &ByteString, epoch: Epoch) -> bool {
        let topic = match self.entries.get_mut(&lsn) {
            Some(owed) if owed.holder.as_ref().is_none_or(|holder| holder.client == *client) => {
                owed.holder = Some(Holder { client: client.clone(), epoch });
                owed.topic.clone()
            }
            _ => return false,
        };
        self.held.entry(client.clone()).or_default().insert(lsn);
        self.unready(&topic, lsn);
        true
    }

    /// The client has acknowledged these, and the record of that is on its way: they are given to nobody until it is applied.
    pub(super) fn settled(&mut self, client: &ByteString, lsns: &[Lsn]) {
        for lsn in lsns {
            self.unhold(client, *lsn);
        }
    }

    /// True when the client holds the message.
    pub(super) fn holds(&self, lsn: Lsn, client: &str) -> bool {
        self.entries.get(&lsn).and_then(|owed| owed.holder.as_ref()).is_some_and(|holder| holder.client == *client)
    }

    /// These are free again where this connection still holds them; with `remember`, the client may still believe that it has
    /// them in flight. Returns the topics that have something to hand out.
    pub(super) fn release(
        &mut self,
        client: &ByteString,
        epoch: Epoch,
        leases: &[Lsn],
        remember: bool,
    ) -> Vec<ByteString> {
        let holder = Holder { client: client.clone(), epoch };
        let mut topics = BTreeSet::new();
        for lsn in leases {
            let Some(owed) = self.entries.get_mut(lsn).filter(|o| o.holder.as_ref() == Some(&holder)) else { continue };
            owed.holder = None;
            self.ready.entry(owed.topic.clone()).or_default().insert(*lsn);
            topics.insert(owed.topic.clone());
            self.unhold(client, *lsn);
            if remember {
                self.given_back.entry(client.clone()).or_default().insert(*lsn);
            }
            metrics::counter!(crate::metrics::REQUEUED).increment(1);
        }
        topics.into_iter().collect()
    }

    /// The connection left: what it held is free again, but what was `sent` with QoS 2 stays with its client.
    pub(super) fn release_all(
        &mut self,
        client: &ByteString,
        epoch: Epoch,
        sent: &[Lsn],
        remember: bool,
    ) -> Vec<ByteString> {
        let held = self.held.get(client).into_iter().flatten();
        let leases: Vec<Lsn> = held.copied().filter(|lsn| sent.binary_search(lsn).is_err()).collect();
        self.release(client, epoch, &leases, remember)
    }

    /// The client's session is over: what stayed with it is free again.
    pub(super) fn forget(&mut self, client: &ByteString) -> Vec<ByteString> {
        self.given_back.remove(client);
        self.release_held(client, |_| true)
    }

    fn release_held(&mut self, client: &ByteString, which: impl Fn(&Lsn) -> bool) -> Vec<ByteString> {
        let held: Vec<Lsn> = self.held.get(client).into_iter().flatten().copied().filter(|lsn| which(lsn)).collect();
        let mut topics = BTreeSet::new();
        for lsn in held {
            let epoch = self.entries.get(&lsn).and_then(|owed| owed.holder.as_ref()).map_or(0, |holder| holder.epoch);
            topics.extend(self.release(client, epoch, &[lsn], false));
        }
        topics.into_iter().collect()
    }

    /// The client is back and has these in flight: which of them it holds (again), and which it has lost to somebody else. What
    /// an earlier connection held and this one does not know of is free again, or it would wait for nobody.
    pub(super) fn resume(&mut self, client: &ByteString, epoch: Epoch, in_flight: &[Lsn]) -> Resumed {
        let given_back = self.given_back.remove(client).unwrap_or_default();
        let mut resumed = Resumed::default();
        for lsn in in_flight {
            if self.entries.contains_key(lsn) && self.lease(*lsn, client, epoch) {
                resumed.held.push(*lsn);
            } else if given_back.contains(lsn) {
                resumed.lost.push(*lsn);
            }
        }
        let known: BTreeSet<Lsn> = in_flight.iter().copied().collect();
        resumed.free = self.release_held(client, |lsn| !known.contains(lsn));
        resumed
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
            assert!(queue.lease(Lsn(lsn), &a, 1));
        }
        assert!(!queue.lease(Lsn(1), &b, 2));
        let topics = queue.release_all(&a, 1, &[Lsn(3)], true);
        assert_eq!(topics, ["queue/x"]);
        assert!(queue.lease(Lsn(1), &b, 2));
        let resumed = queue.resume(&a, 3, &[Lsn(1), Lsn(2), Lsn(3)]);
        assert_eq!(resumed, Resumed { held: vec![Lsn(2), Lsn(3)], lost: vec![Lsn(1)], free: vec![] });
    }

    #[test]
    fn an_old_connection_can_not_give_back_what_its_successor_holds() {
        let a = ByteString::from("a");
        let mut queue = Queue::default();
        queue.add(Lsn(1), "queue/x".into(), None);
        assert!(queue.lease(Lsn(1), &a, 1));
        assert_eq!(queue.resume(&a, 2, &[Lsn(1)]).held, [Lsn(1)]);
        assert!(queue.release_all(&a, 1, &[], true).is_empty());
        assert_eq!(queue.first_ready("queue/x"), None);
    }

    #[test]
    fn what_a_client_that_came_back_knows_nothing_of_is_free_again() {
        let a = ByteString::from("a");
        let mut queue = Queue::default();
        queue.add(Lsn(1), "queue/x".into(), Some(a.clone()));
        queue.add(Lsn(2), "queue/x".into(), Some(a.clone()));
        assert_eq!(queue.resume(&a, 2, &[Lsn(2)]).free, ["queue/x"]);
        assert_eq!(queue.first_ready("queue/x"), Some(Lsn(1)));
        queue.remove(Lsn(2));
        queue.remove(Lsn(1));
        assert!(queue.held.is_empty() && queue.ready.is_empty() && queue.entries.is_empty());
    }

    #[test]
    fn topics_are_found_through_wildcards() {
        let mut queue = Queue::default();
        for (lsn, topic) in [(1, "queue"), (2, "queue/a"), (3, "queue/a/b"), (4, "queues")] {
            queue.add(Lsn(lsn), topic.into(), None);
        }
        let topics = |filter: &str| {
            let mut found: Vec<ByteString> = Vec::new();
            while let Some(topic) = queue.next_ready_topic(filter, found.last().map(|t| &**t)) {
                found.push(topic);
            }
            found
        };
        assert_eq!(topics("queue/#"), ["queue", "queue/a", "queue/a/b"]);
        assert_eq!(topics("queue/+"), ["queue/a"]);
        assert_eq!(topics("queue/a"), ["queue/a"]);
        assert_eq!(topics("+/a"), ["queue/a"]);
    }
}
