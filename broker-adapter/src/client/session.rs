//! A client's session state: what is kept between connections.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::codec::{Ack, Packet, Publish, reason};
use forebay_engine::QoS;

/// The end of a QoS 1/2 publish: PUBACK, PUBCOMP, or a PUBREC that refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The publish's packet id.
    pub packet_id: u16,
    /// MQTT 5 reason code, 0 = success.
    pub reason: u8,
}

#[derive(Clone, Debug)]
enum Sent {
    /// PUBLISH is unacknowledged.
    Publish(Box<Publish>),
    /// PUBREL is unacknowledged.
    Release,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct ClientSession {
    last_id: u16,
    last_order: u64,
    /// By order of sending.
    sent: BTreeMap<u64, (u16, Sent)>,
    order_of: HashMap<u16, u64>,
    /// QoS 2 ids received and not released.
    received: HashSet<u16>,
}

impl ClientSession {
    /// Publishes that are not completed.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.sent.len()
    }

    /// A packet id that nothing uses; `None` while all are in use.
    pub(super) fn next_id(&mut self) -> Option<u16> {
        for _ in 0..=u16::MAX {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.order_of.contains_key(&self.last_id) {
                return Some(self.last_id);
            }
        }
        None
    }

    pub(super) fn remember(&mut self, publish: Publish) {
        self.last_order += 1;
        self.order_of.insert(publish.packet_id, self.last_order);
        self.sent.insert(self.last_order, (publish.packet_id, Sent::Publish(Box::new(publish))));
    }

    /// The server has no session: its packet ids mean nothing any more.
    pub(super) fn forget_received(&mut self) {
        self.received.clear();
    }

    /// What is to be sent again on a new connection, in order; marked as sent before where the server `resumed` the session.
    pub(super) fn resend(&self, resumed: bool) -> Vec<Packet> {
        let again = |(id, sent): &(u16, Sent)| match sent {
            Sent::Publish(publish) => Packet::Publish(Publish { dup: resumed, ..(**publish).clone() }),
            Sent::Release => Packet::PubRel(Ack::new(*id, 0)),
        };
        self.sent.values().map(again).collect()
    }

    fn complete(&mut self, ack: &Ack) -> Option<Completion> {
        let order = self.order_of.remove(&ack.packet_id)?;
        self.sent.remove(&order);
        Some(Completion { packet_id: ack.packet_id, reason: ack.reason })
    }

    /// PUBACK or PUBCOMP; `None` for an id that is not under way.
    pub(super) fn acknowledged(&mut self, ack: &Ack) -> Option<Completion> {
        self.complete(ack)
    }

    /// PUBREC: the PUBREL to send, or the completion where it refuses.
    pub(super) fn received(&mut self, ack: &Ack) -> Result<Packet, Option<Completion>> {
        if ack.reason >= reason::UNSPECIFIED_ERROR {
            return Err(self.complete(ack));
        }
        let Some(sent) = self.order_of.get(&ack.packet_id).and_then(|order| self.sent.get_mut(order)) else {
            return Ok(Packet::PubRel(Ack::new(ack.packet_id, reason::PACKET_ID_NOT_FOUND)));
        };
        sent.1 = Sent::Release;
        Ok(Packet::PubRel(Ack::new(ack.packet_id, 0)))
    }

    /// A PUBLISH from the server; false where it is a QoS 2 message seen before.
    pub(super) fn is_new(&mut self, publish: &Publish) -> bool {
        publish.qos != QoS::ExactlyOnce || self.received.insert(publish.packet_id)
    }

    /// PUBREL from the server: the PUBCOMP to send.
    pub(super) fn released(&mut self, id: u16) -> Packet {
        let reason = if self.received.remove(&id) { 0 } else { reason::PACKET_ID_NOT_FOUND };
        Packet::PubComp(Ack::new(id, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(session: &mut ClientSession, qos: QoS) -> u16 {
        let id = session.next_id().unwrap();
        session.remember(Publish { topic: "t".into(), qos, packet_id: id, ..Publish::default() });
        id
    }

    #[test]
    fn what_is_unacknowledged_is_sent_again_in_order_with_dup() {
        let mut session = ClientSession::default();
        let (a, b, c) = (
            publish(&mut session, QoS::AtLeastOnce),
            publish(&mut session, QoS::ExactlyOnce),
            publish(&mut session, QoS::AtLeastOnce),
        );
        assert!(session.received(&Ack::new(b, 0)).is_ok());
        assert!(session.acknowledged(&Ack::new(a, 0)).is_some());
        let again = session.resend(true);
        assert_eq!(again.first(), Some(&Packet::PubRel(Ack::new(b, 0))));
        assert!(matches!(&again[1], Packet::Publish(p) if p.dup && p.packet_id == c));
        assert_eq!(again.len(), 2);
    }

    #[test]
    fn a_qos_2_message_is_new_once_until_it_is_released() {
        let mut session = ClientSession::default();
        let message = Publish { qos: QoS::ExactlyOnce, packet_id: 9, ..Publish::default() };
        assert!(session.is_new(&message));
        assert!(!session.is_new(&message));
        assert_eq!(session.released(9), Packet::PubComp(Ack::new(9, 0)));
        assert_eq!(session.released(9), Packet::PubComp(Ack::new(9, reason::PACKET_ID_NOT_FOUND)));
        assert!(session.is_new(&message));
    }
}
