//! Bounds and gaps in state: how much each queue owes, and what named policies have let go of for whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use bytestring::ByteString;

use super::rows::{RowKey, copy};
use super::{Change, State};
use crate::event::{CursorAt, DropOwner, DropReason, Dropped, DroppedRange, Positions};
use crate::ids::Lsn;

/// Gaps of queues that are remembered; the one furthest back goes first. Those of cursors and sinks live as long as their owner.
const QUEUE_GAPS_MAX: usize = 10_000;

/// What an owner lost by a named policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The newest range: its first record. Ranges of a sink that follow each other without a hole are one.
    pub from: Lsn,
    /// The newest range: the first record behind it.
    pub to: Lsn,
    /// Messages lost in that range.
    pub count: u64,
    /// Why.
    pub reason: DropReason,
    /// When it was recorded, us since 1970.
    pub time_us: u64,
    /// Messages lost in all ranges so far.
    pub total: u64,
}

/// A message owed by a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) topic: ByteString,
    /// Bytes of its payload and topic.
    pub(crate) bytes: u64,
}

/// What the queue of a topic owes.
#[derive(Debug, Default)]
pub(crate) struct QueueUse {
    pub(crate) lsns: BTreeSet<Lsn>,
    /// Bytes of payloads and topics.
    pub(crate) bytes: u64,
}

/// The messages that queues owe, by record number and by topic.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    by_lsn: BTreeMap<Lsn, Queued>,
    by_topic: HashMap<ByteString, QueueUse>,
    /// Topics that grew since somebody looked whether they are within their bounds.
    grown: BTreeSet<ByteString>,
}

impl Queues {
    pub(crate) fn insert(&mut self, lsn: Lsn, topic: ByteString, bytes: u64) {
        let topic = match self.by_topic.get_key_value(&topic) {
            Some((known, _)) => known.clone(), // One copy of the name for all of its messages.
            None => topic,
        };
        let queue = self.by_topic.entry(topic.clone()).or_default();
        if queue.lsns.insert(lsn) {
            queue.bytes += bytes;
            if !self.grown.contains(&topic) {
                self.grown.insert(topic.clone());
            }
            self.by_lsn.insert(lsn, Queued { topic, bytes });
        }
    }

    pub(crate) fn remove(&mut self, lsn: Lsn) -> Option<Queued> {
        let queued = self.by_lsn.remove(&lsn)?;
        if let Some(queue) = self.by_topic.get_mut(&queued.topic) {
            queue.lsns.remove(&lsn);
            queue.bytes = queue.bytes.saturating_sub(queued.bytes);
            if queue.lsns.is_empty() {
                self.by_topic.remove(&queued.topic);
                self.grown.remove(&queued.topic);
            }
        }
        Some(queued)
    }

    pub(crate) fn get(&self, lsn: Lsn) -> Option<&Queued> {
        self.by_lsn.get(&lsn)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Lsn, &Queued)> {
        self.by_lsn.iter().map(|(lsn, queued)| (*lsn, queued))
    }

    /// Numbers of the messages in `range`.
    pub(crate) fn numbers(&self, range: &Range<Lsn>) -> impl Iterator<Item = Lsn> {
        self.by_lsn.range(range.start..range.end.max(range.start)).map(|(lsn, _)| *lsn)
    }

    /// Topics of the messages in `range`, and how many each has there.
    pub(crate) fn topics_in(&self, range: &Range<Lsn>) -> BTreeMap<ByteString, u64> {
        let mut topics = BTreeMap::new();
        for (_, queued) in self.by_lsn.range(range.start..range.end.max(range.start)) {
            *topics.entry(queued.topic.clone()).or_default() += 1;
        }
        topics
    }

    pub(crate) fn len(&self) -> usize {
        self.by_lsn.len()
    }

    pub(crate) fn has_grown(&self) -> bool {
        !self.grown.is_empty()
    }

    /// The queues that grew since the last call and owe more than these numbers of messages and bytes (0 = any number): what has to go
    /// of each, oldest first.
    pub(crate) fn beyond(&mut self, messages_max: u64, bytes_max: u64) -> Vec<(DropReason, DroppedRange)> {
        let grown = std::mem::take(&mut self.grown);
        grown.into_iter().filter_map(|topic| self.excess(topic, messages_max, bytes_max)).collect()
    }

    /// The queue is to be looked at again by [`Queues::beyond`].
    pub(crate) fn look_again(&mut self, topic: ByteString) {
        if self.by_topic.contains_key(&topic) {
            self.grown.insert(topic);
        }
    }

    fn excess(&self, topic: ByteString, messages_max: u64, bytes_max: u64) -> Option<(DropReason, DroppedRange)> {
        let queue = self.by_topic.get(&topic)?;
        let owed = queue.lsns.iter().map(|lsn| (*lsn, self.by_lsn.get(lsn).map_or(0, |q| q.bytes)));
        let over = excess(owed, (queue.lsns.len() as u64, queue.bytes), (messages_max, bytes_max))?;
        let owner = DropOwner::Queue(topic);
        Some((over.reason, DroppedRange { owner, from: over.from, to: over.to, count: over.count }))
    }

    pub(crate) fn of(&self, topic: &str) -> Option<&QueueUse> {
        self.by_topic.get(topic)
    }
}

/// What has to go of what is owed.
pub(super) struct Excess {
    pub(super) reason: DropReason,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
    pub(super) count: u64,
}

/// The oldest of these messages (number and bytes, in order; together so many messages and bytes) that are beyond the bounds.
pub(super) fn excess(
    owed: impl Iterator<Item = (Lsn, u64)>,
    (mut messages, mut bytes): (u64, u64),
    (messages_max, bytes_max): (u64, u64),
) -> Option<Excess> {
    let mut found: Option<Excess> = None;
    for (lsn, size) in owed {
        // The newest message stays however large it is.
        let reason = if messages_max > 0 && messages > messages_max {
            DropReason::QueueMessages
        } else if bytes_max > 0 && bytes > bytes_max && messages > 1 {
            DropReason::QueueBytes
        } else {
            break;
        };
        let over = found.get_or_insert(Excess { reason, from: lsn, to: lsn, count: 0 });
        (over.to, over.count) = (lsn.next(), over.count + 1);
        messages -= 1;
        bytes = bytes.saturating_sub(size);
    }
    found
}

impl State {
    /// Positions of connected cursors: those of a connection that was replaced, or of a subscription made later, are void.
    pub(super) fn positions(&mut self, e: &Positions) -> Change {
        for session in &e.sessions {
            let Some(known) = self.sessions.get(&session.client).filter(|s| s.epoch == session.epoch) else { continue };
            let meant: Vec<&CursorAt> = session
                .cursors
                .iter()
                .filter(|at| known.subscriptions.get(&at.filter).is_some_and(|s| s.since <= e.seen))
                .collect();
            for CursorAt { filter, low } in meant {
                self.move_cursor(&session.client, filter, |cursor| cursor.advance(*low));
            }
        }
        Change::None
    }

    /// Takes from each owner what the event says.
    pub(super) fn dropped(&mut self, time_us: u64, e: &Dropped) -> Change {
        let (mut unqueued, mut unshared) = (Vec::new(), Vec::new());
        for range in &e.drops {
            match &range.owner {
                DropOwner::Queue(topic) => {
                    let lsns: Vec<Lsn> = self
                        .queue
                        .of(topic)
                        .map(|queue| queue.lsns.range(range.from..range.to.max(range.from)).copied().collect())
                        .unwrap_or_default();
                    for lsn in &lsns {
                        self.queue.remove(*lsn);
                        self.dirty.insert(RowKey::Queue(*lsn));
                    }
                    // Some may have been acknowledged since the event was made.
                    self.note_gap(time_us, e.reason, &DroppedRange { count: lsns.len() as u64, ..range.clone() });
                    unqueued.extend(lsns);
                }
                DropOwner::Group(share) => {
                    let lsns = self.unshare_range(share, &(range.from..range.to));
                    if self.groups.get(share).is_some() {
                        let lost = DroppedRange { count: lsns.len() as u64, ..range.clone() };
                        self.note_gap(time_us, e.reason, &lost);
                    }
                    unshared.extend(lsns.into_iter().map(|lsn| (share.clone(), lsn)));
                }
                DropOwner::Cursor { client, filter } => {
                    if e.reason == DropReason::IdleCursors {
                        self.remove_cursor(client, filter);
                        continue;
                    }
                    let there = self.cursors.get(client).is_some_and(|cursors| cursors.contains_key(filter));
                    self.move_cursor(client, filter, |cursor| cursor.advance(range.to));
                    if there {
                        self.note_gap(time_us, e.reason, range);
                    }
                }
                DropOwner::Sink(sink) => {
                    let position = self.sinks.get(sink).copied().unwrap_or(Lsn::NONE);
                    if position < range.to {
                        self.sinks.insert(copy(sink), range.to);
                        self.dirty.insert(RowKey::Sink(sink.clone()));
                    }
                    self.note_gap(time_us, e.reason, range);
                }
            }
        }
        Change::done(unqueued, unshared)
    }

    pub(super) fn note_gap(&mut self, time_us: u64, reason: DropReason, range: &DroppedRange) {
        // That a sink was passed counts even where it lost no message: its database may still know the place before.
        if range.count == 0 && !matches!(range.owner, DropOwner::Sink(_)) {
            return;
        }
        let before = self.gaps.get(&range.owner).map_or(0, |gap| gap.total);
        // A sink that stands still while it is passed again and again lost one range: its database still knows the place before the first.
        let longer = self
            .gaps
            .get(&range.owner)
            .filter(|gap| matches!(range.owner, DropOwner::Sink(_)) && gap.to == range.from && gap.reason == reason);
        let gap = Gap {
            from: longer.map_or(range.from, |gap| gap.from),
            to: range.to,
            count: longer.map_or(0, |gap| gap.count).saturating_add(range.count),
            reason,
            time_us,
            total: before.saturating_add(range.count),
        };
        let queues = |owner: &DropOwner| matches!(owner, DropOwner::Queue(_));
        if before == 0 && queues(&range.owner) && self.gaps.keys().filter(|o| queues(o)).count() >= QUEUE_GAPS_MAX {
            let oldest = self.gaps.iter().filter(|(o, _)| queues(o)).min_by_key(|(_, gap)| gap.to);
            if let Some(owner) = oldest.map(|(owner, _)| owner.clone()) {
                self.forget_gap(&owner);
            }
        }
        self.gaps.insert(range.owner.clone(), gap);
        self.dirty.insert(RowKey::Gap(range.owner.clone()));
    }

    pub(super) fn forget_gap(&mut self, owner: &DropOwner) {
        if self.gaps.remove(owner).is_some() {
            self.dirty.insert(RowKey::Gap(owner.clone()));
        }
    }
}
