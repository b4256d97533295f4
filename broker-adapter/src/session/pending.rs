//! Packets that wait for the disk, in the order in which they are to be sent.

use std::collections::VecDeque;

use forebay_engine::Lsn;
use forebay_engine::event::Event;
use forebay_engine::log::Appended;

use crate::codec::reason::QUOTA_EXCEEDED;

/// A packet that is sent once a record is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// PUBACK.
    PubAck { id: u16 },
    /// PUBREC.
    PubRec { id: u16 },
    /// PUBACK with a code above 0x80: the message is not in the log.
    PubAckRefused { id: u16, reason: u8 },
    /// PUBREC with such a code.
    PubRecRefused { id: u16, reason: u8 },
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

    /// The client waits for an answer.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.replies.is_empty()
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

    /// True where all of it may go into the log's reserve.
    pub(crate) fn is_essential(&self) -> bool {
        self.events.iter().all(Event::is_essential)
    }

    /// This batch with another behind it.
    pub(crate) fn followed_by(mut self, other: Batch) -> Batch {
        let moved = self.events.len() as u64;
        self.events.extend(other.events);
        self.replies.extend(other.replies.into_iter().map(|(reply, event)| (reply, event.map(|index| index + moved))));
        self
    }

    /// A packet that waits for its turn only.
    pub(crate) fn reply(&mut self, reply: Reply) {
        self.replies.push((reply, None));
    }
}

/// A batch that the log had no room for, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Parted {
    /// What may go into the log's reserve, with what needs no record; goes on now.
    pub(crate) essential: Batch,
    /// Publishes that wait for room, with their acknowledgements.
    pub(crate) waiting: Batch,
    /// QoS 2 packet ids of publishes that were refused.
    pub(crate) forgotten: Vec<u16>,
    /// QoS 0 publishes that nobody waits for.
    pub(crate) shed: u64,
}

impl Batch {
    /// Takes a batch apart that the log had no room for. With `refuse` acknowledged publishes are refused instead of kept waiting.
    pub(crate) fn part(self, refuse: bool) -> Parted {
        let mut parted = Parted::default();
        let mut replies = self.replies.into_iter().peekable();
        for (index, event) in self.events.into_iter().enumerate() {
            let index = index as u64;
            // Packets that wait for nothing but their turn and come before this event's.
            while let Some((reply, None)) = replies.peek() {
                let to = if parted.waiting.is_empty() { &mut parted.essential } else { &mut parted.waiting };
                to.replies.push((*reply, None));
                replies.next();
            }
            let reply = replies.next_if(|(_, event)| *event == Some(index)).map(|(reply, _)| reply);
            match (event.is_essential(), reply) {
                (true, Some(reply)) => parted.essential.reply_after(event, reply),
                (true, None) => parted.essential.event(event),
                (false, None) => parted.shed += 1,
                (false, Some(Reply::PubAck { id })) if refuse => {
                    parted.essential.reply(Reply::PubAckRefused { id, reason: QUOTA_EXCEEDED });
                }
                (false, Some(Reply::PubRec { id })) if refuse => {
                    parted.forgotten.push(id);
                    parted.essential.reply(Reply::PubRecRefused { id, reason: QUOTA_EXCEEDED });
                }
                (false, Some(reply)) => parted.waiting.reply_after(event, reply),
            }
        }
        for (reply, _) in replies {
            let to = if parted.waiting.is_empty() { &mut parted.essential } else { &mut parted.waiting };
            to.replies.push((reply, None));
        }
        parted
    }

    /// QoS 2 packet ids whose publishes are in this batch.
    pub(crate) fn received_ids(&self) -> impl Iterator<Item = u16> {
        self.replies.iter().filter_map(|(reply, event)| match (reply, event) {
            (Reply::PubRec { id }, Some(_)) => Some(*id),
            _ => None,
        })
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
    fn a_batch_without_room_is_parted_into_what_goes_on_what_waits_and_what_is_shed() {
        let publish = || {
            Event::Published(forebay_engine::event::Published {
                message: Default::default(),
                packet_id: None,
                epoch: 1,
            })
        };
        let batch = || {
            let mut batch = Batch::default();
            batch.reply_after(publish(), Reply::PubAck { id: 1 });
            batch.event(publish());
            batch.reply_after(event(), Reply::PubComp { id: 2, reason: 0 });
            batch.reply_after(publish(), Reply::PubRec { id: 3 });
            batch.event(event());
            batch.reply(Reply::PubRec { id: 9 });
            batch
        };
        let waits = batch().part(false);
        assert_eq!((waits.essential.events.len(), waits.waiting.events.len(), waits.shed), (2, 2, 1));
        assert_eq!(waits.essential.replies, [(Reply::PubComp { id: 2, reason: 0 }, Some(0))]);
        let expected =
            [(Reply::PubAck { id: 1 }, Some(0)), (Reply::PubRec { id: 3 }, Some(1)), (Reply::PubRec { id: 9 }, None)];
        assert_eq!(waits.waiting.replies, expected);
        assert_eq!(waits.waiting.received_ids().collect::<Vec<_>>(), [3]);
        let refused = batch().part(true);
        assert!(refused.waiting.is_empty());
        assert_eq!((refused.essential.events.len(), refused.forgotten, refused.shed), (2, vec![3], 1));
        let expected = [
            (Reply::PubAckRefused { id: 1, reason: QUOTA_EXCEEDED }, None),
            (Reply::PubComp { id: 2, reason: 0 }, Some(0)),
            (Reply::PubRecRefused { id: 3, reason: QUOTA_EXCEEDED }, None),
            (Reply::PubRec { id: 9 }, None),
        ];
        assert_eq!(refused.essential.replies, expected);
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
