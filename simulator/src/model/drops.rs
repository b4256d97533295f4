//! What named policies let go of: only what they may, and as much as they say.

use std::collections::BTreeSet;
use std::ops::Range;

use bytestring::ByteString;
use forebay_engine::engine::WhenFull;
use forebay_engine::event::{DropOwner, DropReason, Dropped, DroppedRange, QoS};
use forebay_engine::{Lsn, Message, topic};

use super::{Kind, Model};

impl Model {
    /// Takes in what was let go of by the record at `at`.
    pub(super) fn dropped(&mut self, at: Lsn, e: &Dropped) -> Result<(), String> {
        for range in &e.drops {
            let taken = match (&range.owner, e.reason) {
                (DropOwner::Cursor { client, filter }, _) => self.cursor_lost(at, e.reason, client, filter, range),
                (DropOwner::Queue(topic), DropReason::QueueMessages | DropReason::QueueBytes) => {
                    self.queue_lost(at, e.reason, topic, range)
                }
                (DropOwner::Group(share), DropReason::QueueMessages | DropReason::QueueBytes) => {
                    self.group_lost(at, e.reason, share, range)
                }
                (DropOwner::Sink(_), DropReason::DiskBudget) => self.sink_lost(range),
                _ => Err("no policy allows it".to_owned()),
            };
            let count = taken.map_err(|why| format!("{:?} took {range:?}: {why}", e.reason))?;
            // That a sink was passed is noted even where it lost no message.
            if count > 0 || matches!(range.owner, DropOwner::Sink(_)) {
                *self.gaps.entry(range.owner.clone()).or_default() += count;
            }
        }
        Ok(())
    }

    fn cursor_lost(
        &mut self,
        at: Lsn,
        reason: DropReason,
        client: &ByteString,
        filter: &ByteString,
        range: &DroppedRange,
    ) -> Result<u64, String> {
        let bounds = &self.bounds;
        let newer = self.between(range.to..at).filter(|(_, m)| m.qos > QoS::AtMostOnce).count() as u64;
        let allowed = match (Kind::of(filter), reason) {
            (Kind::Pubsub, DropReason::Retention) => true,
            (Kind::Plain, DropReason::SessionMessages) => {
                bounds.session_messages_max > 0 && newer >= bounds.session_messages_max
            }
            (Kind::Plain, DropReason::SessionBytes) => bounds.session_bytes_max > 0 && newer > 0,
            _ => false,
        };
        if !allowed {
            return Err("no policy allows it".to_owned());
        }
        let all: BTreeSet<Lsn> = self
            .between(range.from..range.to)
            .filter(|(_, message)| topic::matches(filter, &message.topic))
            .map(|(lsn, _)| lsn)
            .collect();
        let Some(claim) = self.claims.get(&(client.clone(), filter.clone())) else { return Ok(0) };
        let from = if Kind::of(filter).is_rule() { self.first } else { Lsn::NONE };
        // What was acknowledged between the decision and its record may have been counted; what had left the log before may not.
        let surely = all.iter().filter(|lsn| {
            let message = self.messages.get(lsn).map(|(_, message)| message);
            let own = |m: &Message| m.publisher == *client && self.leaves_own_out(client, &m.topic);
            let due = message.is_some_and(|m| m.qos > QoS::AtMostOnce && !own(m));
            due && **lsn >= claim.since.max(from) && !claim.done.contains(lsn) && !self.has_settled(client, **lsn)
        });
        let surely = surely.count() as u64;
        if range.count < surely || range.count > all.len() as u64 {
            return Err(format!("{surely} to {} messages were lost", all.len()));
        }
        self.lost.extend(all.iter().map(|lsn| (client.clone(), *lsn)));
        self.settled.entry(client.clone()).or_default().extend(all);
        Ok(range.count)
    }

    fn queue_lost(
        &mut self,
        at: Lsn,
        reason: DropReason,
        topic: &ByteString,
        range: &DroppedRange,
    ) -> Result<u64, String> {
        let of_topic = |range: Range<Lsn>| self.between(range).filter(|(_, message)| message.topic == *topic);
        if self.is_within(reason, of_topic(range.from..at).map(|(_, message)| message)) {
            return Err("the queue is within its bounds".to_owned());
        }
        let lost: Vec<Lsn> =
            of_topic(range.from..range.to).map(|(lsn, _)| lsn).filter(|lsn| self.queue.contains(lsn)).collect();
        let count = lost.len() as u64;
        if range.count < count {
            return Err(format!("{count} messages were lost"));
        }
        for lsn in lost {
            self.queue.remove(&lsn);
            self.let_go.insert(lsn);
        }
        Ok(count)
    }

    fn group_lost(
        &mut self,
        at: Lsn,
        reason: DropReason,
        share: &ByteString,
        range: &DroppedRange,
    ) -> Result<u64, String> {
        let filter = topic::unshared(share);
        let matching = self.between(range.from..at).map(|(_, message)| message);
        let matching = matching.filter(|m| m.qos > QoS::AtMostOnce && topic::matches(filter, &m.topic));
        if self.is_within(reason, matching) {
            return Err("the group is within its bounds".to_owned());
        }
        let Some(group) = self.groups.get_mut(share) else { return Ok(0) };
        let lost: Vec<Lsn> = group.owed.range(range.from..range.to.max(range.from)).copied().collect();
        let count = lost.len() as u64;
        if range.count < count {
            return Err(format!("{count} messages were lost"));
        }
        for lsn in lost {
            group.owed.remove(&lsn);
            self.let_go_shared.insert((share.clone(), lsn));
            self.notes.push("taken from a group");
        }
        Ok(count)
    }

    /// True when so much may be owed.
    fn is_within<'a>(&self, reason: DropReason, messages: impl Iterator<Item = &'a Message>) -> bool {
        let (max, there) = if reason == DropReason::QueueMessages {
            (self.bounds.queue_messages_max, messages.count())
        } else {
            (self.bounds.queue_bytes_max, messages.map(|m| m.topic.len() + m.payload.len()).sum())
        };
        max == 0 || there as u64 <= max
    }

    fn sink_lost(&mut self, range: &DroppedRange) -> Result<u64, String> {
        if self.when_full != WhenFull::DropOldest {
            return Err("the log is to wait for its sinks".to_owned());
        }
        let count = self.between(range.from..range.to).count() as u64;
        if count != range.count {
            return Err(format!("{count} messages were lost"));
        }
        self.passed = self.passed.max(range.to);
        if self.sink.unwrap_or(Lsn::NONE) < range.to {
            self.sink = Some(range.to);
        }
        Ok(count)
    }

    /// The messages of a range.
    fn between(&self, range: Range<Lsn>) -> impl Iterator<Item = (Lsn, &Message)> {
        let messages = self.messages.range(range.start..range.end.max(range.start));
        messages.map(|(lsn, (_, message))| (*lsn, message))
    }

    /// A queue or group that owes more messages than it may.
    #[must_use]
    pub fn queue_beyond_bounds(&self) -> Option<(&ByteString, usize)> {
        let max = self.bounds.queue_messages_max;
        if max == 0 {
            return None;
        }
        let topics = self.queue.iter().filter_map(|lsn| self.messages.get(lsn)).map(|(_, message)| &message.topic);
        let topics: BTreeSet<&ByteString> = topics.collect();
        let owed = |topic: &ByteString| {
            let messages = self.queue.iter().filter_map(|lsn| self.messages.get(lsn));
            messages.filter(|(_, message)| message.topic == *topic).count()
        };
        let queues = topics.into_iter().map(|topic| (topic, owed(topic)));
        let groups = self.groups.iter().map(|(share, group)| (share, group.owed.len()));
        queues.chain(groups).find(|(_, owed)| *owed as u64 > max)
    }
}
