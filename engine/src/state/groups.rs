//! The groups of shared subscriptions: who belongs to them, and the messages that they owe.
//!
//! A group is the sessions that subscribe to the same `$share/<name>/<filter>`. It begins with its first member and ends with its last
//! one; a message with QoS 1 or 2 that is published in between is owed by it, as a row of its own, until a member has acknowledged it.
//! A row for each message, and not one position: members acknowledge out of order for as long as one of them is away with a message that
//! was sent to it with QoS 2.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytestring::ByteString;

use super::bounds::excess;
use super::rows::{RowKey, copy};
use super::{Name, Outbound, State};
use crate::event::{DropOwner, DropReason, DroppedRange, Message, QoS};
use crate::ids::Lsn;
use crate::topic;
use crate::trie::Trie;

/// A group.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Clients whose sessions subscribe.
    pub(crate) members: BTreeSet<Name>,
    /// Messages it owes: bytes of payload and topic of each.
    owed: BTreeMap<Lsn, u64>,
    bytes: u64,
}

impl Group {
    /// Numbers of the messages it owes, in order.
    pub(crate) fn owed(&self) -> impl Iterator<Item = Lsn> {
        self.owed.keys().copied()
    }

    /// How many messages it owes, and their bytes.
    pub(crate) fn backlog(&self) -> (u64, u64) {
        (self.owed.len() as u64, self.bytes)
    }

    fn remove(&mut self, lsn: Lsn) -> bool {
        let bytes = self.owed.remove(&lsn);
        self.bytes = self.bytes.saturating_sub(bytes.unwrap_or(0));
        bytes.is_some()
    }

    fn in_range(&self, range: &Range<Lsn>) -> impl Iterator<Item = Lsn> {
        self.owed.range(range.start..range.end.max(range.start)).map(|(lsn, _)| *lsn)
    }
}

/// All groups, by their subscription.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: BTreeMap<ByteString, Group>,
    /// Their subscriptions, by the topic filter in them.
    filters: Trie<ByteString>,
    /// Groups that grew since somebody looked whether they are within their bounds.
    grown: BTreeSet<ByteString>,
    /// How many messages all of them owe.
    rows: usize,
}

impl Groups {
    pub(crate) fn get(&self, share: &str) -> Option<&Group> {
        self.groups.get(share)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, &Group)> {
        self.groups.iter()
    }

    pub(super) fn join(&mut self, share: &ByteString, client: Name) {
        let group = match self.groups.get_mut(share) {
            Some(group) => group,
            None => self.groups.entry(copy(share)).or_default(),
        };
        if group.members.is_empty() {
            self.filters.insert(topic::unshared(share), copy(share));
        }
        group.members.insert(client);
    }

    /// Takes a member out. Where it was the last one the group ends: the answer is what it owed.
    fn leave(&mut self, share: &ByteString, client: &str) -> Option<Vec<Lsn>> {
        let group = self.groups.get_mut(share)?;
        if !group.members.remove(client) || !group.members.is_empty() {
            return None;
        }
        self.filters.remove(topic::unshared(share), |known| known == share);
        self.grown.remove(share);
        let owed: Vec<Lsn> = self.groups.remove(share)?.owed().collect();
        self.rows -= owed.len();
        Some(owed)
    }

    /// The groups whose filter matches a topic.
    fn matching(&self, topic: &str) -> Vec<ByteString> {
        let mut found = Vec::new();
        if !self.groups.is_empty() {
            self.filters.matches(topic, |share| {
                found.push(share.clone());
                true
            });
        }
        found
    }

    pub(super) fn insert(&mut self, lsn: Lsn, share: &ByteString, bytes: u64) {
        let group = match self.groups.get_mut(share) {
            Some(group) => group,
            None => self.groups.entry(copy(share)).or_default(),
        };
        if group.owed.insert(lsn, bytes).is_none() {
            group.bytes += bytes;
            self.rows += 1;
            if !self.grown.contains(share) {
                self.grown.insert(copy(share));
            }
        }
    }

    /// How many rows there are: one for each message that a group owes.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn row(&self, share: &str, lsn: Lsn) -> Option<u64> {
        self.groups.get(share)?.owed.get(&lsn).copied()
    }

    fn remove(&mut self, share: &str, lsn: Lsn) -> bool {
        let owed = self.groups.get_mut(share).is_some_and(|group| group.remove(lsn));
        self.rows -= usize::from(owed);
        owed
    }

    /// Every message owed: the group's subscription and the record.
    pub(super) fn owed(&self) -> impl Iterator<Item = (&ByteString, Lsn)> {
        self.groups.iter().flat_map(|(share, group)| group.owed().map(move |lsn| (share, lsn)))
    }

    /// Numbers of the messages in `range` that some group owes; a number comes once for each group.
    pub(crate) fn numbers(&self, range: &Range<Lsn>) -> impl Iterator<Item = Lsn> {
        self.groups.values().flat_map(move |group| group.in_range(range))
    }

    /// Groups that owe messages of `range`, and how many each.
    pub(crate) fn in_range(&self, range: &Range<Lsn>) -> Vec<(ByteString, u64)> {
        let counted = self.groups.iter().map(|(share, group)| (share.clone(), group.in_range(range).count() as u64));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn has_grown(&self) -> bool {
        !self.grown.is_empty()
    }

    /// The groups that grew since the last call and owe more than these numbers of messages and bytes (0 = any number): what has to go of
    /// each, oldest first.
    pub(crate) fn beyond(&mut self, messages_max: u64, bytes_max: u64) -> Vec<(DropReason, DroppedRange)> {
        let grown = std::mem::take(&mut self.grown);
        let excess_of = |share: ByteString| {
            let group = self.groups.get(&share)?;
            let owed = group.owed.iter().map(|(lsn, bytes)| (*lsn, *bytes));
            let over = excess(owed, group.backlog(), (messages_max, bytes_max))?;
            let owner = DropOwner::Group(share);
            Some((over.reason, DroppedRange { owner, from: over.from, to: over.to, count: over.count }))
        };
        grown.into_iter().filter_map(excess_of).collect()
    }

    /// The group is to be looked at again by [`Groups::beyond`].
    pub(crate) fn look_again(&mut self, share: ByteString) {
        if self.groups.contains_key(&share) {
            self.grown.insert(share);
        }
    }
}

/// What the end of a session did to groups.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Messages that no member is given any more, by group: they were sent to this session with QoS 2.
    pub(crate) lost: Vec<(ByteString, Lsn)>,
    /// How many of these the client had not confirmed.
    pub(crate) unconfirmed: u64,
    /// Groups that ended with it.
    pub(crate) ended: Vec<ByteString>,
}

impl State {
    /// The groups that owe the message from here on.
    pub(super) fn share(&mut self, lsn: Lsn, message: &Message) -> Vec<ByteString> {
        if message.qos == QoS::AtMostOnce {
            return Vec::new();
        }
        let groups = self.groups.matching(&message.topic);
        let bytes = (message.topic.len() + message.payload.len()) as u64;
        for share in &groups {
            self.groups.insert(lsn, share, bytes);
            self.dirty.insert(RowKey::Shared(share.clone(), lsn));
        }
        groups
    }

    /// A message is done for a group; false where the group did not owe it.
    pub(super) fn unshare(&mut self, share: &ByteString, lsn: Lsn) -> bool {
        let owed = self.groups.remove(share, lsn);
        if owed {
            self.dirty.insert(RowKey::Shared(share.clone(), lsn));
        }
        owed
    }

    /// The group owes nothing of the range any more. The answer is what it owed.
    pub(super) fn unshare_range(&mut self, share: &ByteString, range: &Range<Lsn>) -> Vec<Lsn> {
        let owed: Vec<Lsn> = self.groups.get(share).map(|group| group.in_range(range).collect()).unwrap_or_default();
        for lsn in &owed {
            self.unshare(share, *lsn);
        }
        owed
    }

    /// A session leaves a group; true where the group ends with it.
    pub(super) fn leave_group(&mut self, share: &ByteString, client: &str) -> bool {
        let Some(owed) = self.groups.leave(share, client) else { return false };
        self.dirty.extend(owed.into_iter().map(|lsn| RowKey::Shared(share.clone(), lsn)));
        self.forget_gap(&DropOwner::Group(share.clone()));
        true
    }

    /// What a session that ends had been sent with QoS 2 by groups is given to no other member [MQTT-4.8.2-5].
    pub(super) fn lose_sent<'a>(
        &mut self,
        time_us: u64,
        outbound: impl Iterator<Item = &'a Outbound>,
        left: &mut Left,
    ) {
        for out in outbound {
            let Some(share) = out.share.as_ref().filter(|share| self.unshare(share, out.lsn)) else { continue };
            left.lost.push((share.clone(), out.lsn));
            // One whose PUBREC came was received.
            if !out.received {
                left.unconfirmed += 1;
                let owner = DropOwner::Group(share.clone());
                let range = DroppedRange { owner, from: out.lsn, to: out.lsn.next(), count: 1 };
                self.note_gap(time_us, DropReason::SessionEndedQos2, &range);
            }
        }
    }

    /// Members of groups are derived from the sessions' subscriptions.
    pub(super) fn gather_groups(&mut self) {
        let mut members = Vec::new();
        for (client, session) in &self.sessions {
            let shared = session.subscriptions.keys().filter(|filter| topic::shared(filter).is_some());
            members.extend(shared.map(|share| (share.to_byte_string(), client.clone())));
        }
        for (share, client) in members {
            self.groups.join(&share, client);
        }
    }
}
