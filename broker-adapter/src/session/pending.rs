//! Packets that wait for the disk, in the order in which they are to be sent.

use std::collections::VecDeque;

use forebay_engine::Lsn;
use forebay_engine::event::Event;
use forebay_engine::log::Appended;

/// A packet that is sent once a record is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// PUBACK.
    PubAck { id: u16 },
    /// PUBREC.
    PubRec { id: u16 },
    /// PUBCOMP, with its reason code.
    PubComp { id: u16, reason: u8 },
    /// PUBREL.
    PubRel { id: u16 },
    /// The QoS 2 PUBLISH of this packet id.
    Publish { id: u16 },
}

/// Events that go into the log with one append, and the packets that wait for them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    /// Packet and the index of the event it waits for; `None` waits for nothing but its turn.
    replies: Vec<(Reply, Option<u64>)>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.replies.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len() + self.replies.len()
    }

    /// An event nothing waits for.
    pub(crate) fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// A packet that waits for `event`.
    pub(crate) fn reply_after(&mut self, event: Event, reply: Reply) {
        self.replies.push((reply, Some(self.events.len() as u64)));
        self.events.push(event);
    }

    /// A packet that waits for its turn only.
    pub(crate) fn reply(&mut self, reply: Reply) {
        self.replies.push((reply, None));
    }
}

/// Packets whose records are in the log and perhaps not durable.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    queue: VecDeque<(Lsn, Reply)>,
    /// Last record of each batch: one wait covers a batch.
    ends: VecDeque<Lsn>,
}

impl Pending {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes a batch in; `appended` is `None` where it had no events.
    pub(crate) fn extend(&mut self, batch: Batch, appended: Option<Appended>) {
        let first = appended.map_or(Lsn::NONE, |a| a.first);
        for (reply, index) in batch.replies {
            self.queue.push_back((index.map_or(Lsn::NONE, |n| first.plus(n)), reply));
        }
        if let Some(appended) = appended {
            self.ends.push_back(appended.last);
        }
    }

    /// The next packet whose record lies below the durable watermark.
    pub(crate) fn release(&mut self, durable_end: Lsn) -> Option<Reply> {
        while self.ends.front().is_some_and(|end| *end < durable_end) {
            self.ends.pop_front();
        }
        if self.queue.front()?.0 >= durable_end {
            return None;
        }
        self.queue.pop_front().map(|(_, reply)| reply)
    }

    /// The record to wait for before anything more can be sent.
    pub(crate) fn waits_for(&self) -> Option<Lsn> {
        let (lsn, _) = self.queue.front()?;
        Some(self.ends.front().copied().unwrap_or(*lsn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_engine::event::Released;

    fn event() -> Event {
        Event::Released(Released { client: "c".into(), packet_id: 1 })
    }

    #[test]
    fn packets_leave_in_order_and_only_below_the_watermark() {
        let mut batch = Batch::default();
        batch.reply_after(event(), Reply::PubAck { id: 1 });
        batch.event(event());
        batch.reply_after(event(), Reply::PubAck { id: 2 });
        batch.reply(Reply::PubRec { id: 3 });
        let mut pending = Pending::default();
        pending.extend(batch, Some(Appended { first: Lsn(10), last: Lsn(12), first_time_us: 0 }));
        assert_eq!(pending.waits_for(), Some(Lsn(12)));
        assert_eq!(pending.release(Lsn(10)), None, "record 10 is not below 10");
        assert_eq!(pending.release(Lsn(12)), Some(Reply::PubAck { id: 1 }));
        assert_eq!(pending.release(Lsn(12)), None);
        assert_eq!(pending.release(Lsn(13)), Some(Reply::PubAck { id: 2 }));
        assert_eq!(pending.release(Lsn(13)), Some(Reply::PubRec { id: 3 }), "it waited for its turn");
        assert_eq!(pending.waits_for(), None);
    }
}
