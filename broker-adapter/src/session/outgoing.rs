//! Messages to the client.

use std::sync::Arc;

use bytestring::ByteString;
use forebay_engine::delivery::Delivery;
use forebay_engine::event::{Delivered, Event, Sent, SharedSent};
use forebay_engine::{Message, QoS};

use super::aliases::Plan;
use super::{AckOutcome, InFlight, Reply, Session, Stage};
use crate::codec::{Ack, Packet, Publish};
use crate::metrics::DROPPED;

/// Deliveries taken from the mailbox at a time.
const TAKE: usize = 128;

impl Session {
    /// Sends what there is room for: first what an earlier connection had under way, then stored messages, then live ones.
    pub(crate) fn pump(&mut self) {
        self.settle();
        self.send_again();
        while let Some(delivery) = self.take_one() {
            self.deliver(delivery);
        }
        self.settle();
        while self.may_deliver() {
            let Some(live) = self.inbox.pop() else { break };
            let remaining = live.remaining_expiry_s();
            if remaining == Some(0) {
                metrics::counter!(DROPPED, "reason" => "expired").increment(1);
                continue;
            }
            let packet = publish(&live.message, remaining, QoS::AtMostOnce, live.retain, live.identifiers);
            self.send_unacknowledged(packet);
        }
    }

    fn has_window(&self) -> bool {
        self.under_way < usize::from(self.info.window)
    }

    fn send_again(&mut self) {
        while self.may_deliver() && self.has_window() {
            let Some(id) = self.resend.pop_front() else { break };
            match self.outbound.get(id).map(|d| d.stage) {
                Some(Stage::Published) => {
                    self.under_way += 1;
                    self.send_publish(id, true);
                }
                Some(Stage::Receiving | Stage::Released) => {
                    self.under_way += 1;
                    if let Some(delivery) = self.outbound.get_mut(id) {
                        delivery.stage = Stage::Released;
                    }
                    self.write(&Packet::PubRel(Ack::new(id, 0)));
                }
                Some(Stage::Recording) | None => {}
            }
        }
    }

    /// The next stored message that may be sent now.
    fn take_one(&mut self) -> Option<Delivery> {
        if !self.may_deliver() || self.blocked || !self.resend.is_empty() {
            return None;
        }
        if self.held.is_empty() {
            self.mailbox.take(TAKE, &mut self.taken);
            self.held.extend(self.taken.drain(..));
        }
        let next = self.held.front()?;
        if next.qos != QoS::AtMostOnce && (!self.has_window() || self.outbound.len() >= usize::from(u16::MAX)) {
            return None;
        }
        self.held.pop_front()
    }

    fn deliver(&mut self, delivery: Delivery) {
        let now_us = self.shared.engine.now_us();
        if delivery.message.expired(delivery.time_us, now_us) {
            metrics::counter!(DROPPED, "reason" => "expired").increment(1);
            self.settled.add(delivery.lsn, delivery.share, None, AckOutcome::Expired);
            return;
        }
        if self.shared.engine.wants_deliver(&delivery.message.topic) {
            self.batch.event(Event::Delivered(Delivered {
                client: self.info.client.clone(),
                lsn: delivery.lsn,
                time_us: delivery.time_us,
                topic: delivery.message.topic.clone(),
            }));
        }
        if delivery.qos == QoS::AtMostOnce {
            let remaining = delivery.message.remaining_expiry_s(delivery.time_us, now_us);
            let packet = publish(&delivery.message, remaining, delivery.qos, delivery.retain, delivery.identifiers);
            if self.send_unacknowledged(packet) {
                self.unwritten.push((delivery.lsn, delivery.share));
            } else {
                self.settled.add(delivery.lsn, delivery.share, None, AckOutcome::TooLarge);
            }
            return;
        }
        self.deliver_acknowledged(delivery);
    }

    fn deliver_acknowledged(&mut self, delivery: Delivery) {
        let lsn = delivery.lsn;
        // Only what has to be recorded first waits for the disk. What a group gave is this client's from then on, also where the session
        // is clean.
        let record = delivery.qos == QoS::ExactlyOnce && (self.info.is_persistent() || delivery.share.is_some());
        let share = delivery.share;
        let in_flight = InFlight {
            lsn,
            time_us: delivery.time_us,
            message: Some(delivery.message),
            qos: delivery.qos,
            retain: delivery.retain,
            identifiers: delivery.identifiers,
            share: share.clone(),
            stage: if record { Stage::Recording } else { Stage::Published },
            order: 0,
        };
        // `take_one` leaves one packet id free.
        let Some(id) = self.outbound.add(in_flight) else { return };
        self.under_way += 1;
        if record && self.fits(id) {
            let client = self.info.client.clone();
            let sent = match share {
                None => Event::Sent(Sent { client, packet_id: id, lsn }),
                Some(share) => Event::SharedSent(SharedSent { client, packet_id: id, lsn, share }),
            };
            self.batch.reply_after(sent, Reply::Publish { id });
        } else if record {
            self.drop_too_large(id);
        } else {
            self.send_publish(id, false);
        }
    }

    /// True where the PUBLISH is not larger than the client takes.
    fn fits(&mut self, id: u16) -> bool {
        let before = self.out.len();
        let fits = self.packet(id, false).is_some_and(|packet| self.write(&Packet::Publish(packet)));
        self.out.truncate(before);
        fits
    }

    /// Writes the PUBLISH of a delivery; one the client can't take is settled as if it had been sent.
    pub(super) fn send_publish(&mut self, id: u16, dup: bool) {
        let Some(packet) = self.packet(id, dup) else { return };
        if !self.write_publish(packet) {
            self.drop_too_large(id);
        }
    }

    fn drop_too_large(&mut self, id: u16) {
        if let Some(delivery) = self.outbound.remove(id) {
            metrics::counter!(DROPPED, "reason" => "too_large").increment(1);
            self.under_way = self.under_way.saturating_sub(1);
            let id = (delivery.qos == QoS::ExactlyOnce).then_some(id);
            self.settled.add(delivery.lsn, delivery.share, id, AckOutcome::TooLarge);
        }
    }

    fn packet(&self, id: u16, dup: bool) -> Option<Publish> {
        let delivery = self.outbound.get(id)?;
        let message = delivery.message.as_ref()?;
        let remaining = message.remaining_expiry_s(delivery.time_us, self.shared.engine.now_us());
        let mut packet = publish(message, remaining, delivery.qos, delivery.retain, delivery.identifiers.clone());
        packet.packet_id = id;
        packet.dup = dup;
        Some(packet)
    }

    fn send_unacknowledged(&mut self, publish: Publish) -> bool {
        let sent = self.write_publish(publish);
        if !sent {
            metrics::counter!(DROPPED, "reason" => "too_large").increment(1);
        }
        sent
    }

    /// Writes a PUBLISH, with an alias for its topic where that saves bytes. False where it is larger than the client takes.
    fn write_publish(&mut self, mut publish: Publish) -> bool {
        let qos = publish.qos;
        let sent = match self.aliases.plan(&publish.topic) {
            Plan::Topic => self.write(&Packet::Publish(publish)),
            Plan::Alias(alias) => {
                (publish.topic, publish.topic_alias) = (ByteString::new(), Some(alias));
                self.write(&Packet::Publish(publish))
            }
            Plan::Both(alias) => {
                let topic = publish.topic.clone();
                publish.topic_alias = Some(alias);
                let mut packet = Packet::Publish(publish);
                let both = self.write(&packet);
                if both {
                    self.aliases.introduced(alias, &topic);
                } else if let Packet::Publish(publish) = &mut packet {
                    publish.topic_alias = None;
                }
                // The alias's own three bytes may be the ones too many.
                both || self.write(&packet)
            }
        };
        if sent {
            self.tally.sent += 1;
            self.shared.counters.publish_sent(qos);
        }
        sent
    }
}

/// A PUBLISH of a message; `remaining_expiry_s` replaces the publisher's expiry where the message has been stored.
fn publish(
    message: &Arc<Message>,
    remaining_expiry_s: Option<u32>,
    qos: QoS,
    retain: bool,
    identifiers: Vec<u32>,
) -> Publish {
    let mut properties = message.properties.clone();
    properties.expiry_s = remaining_expiry_s.or(properties.expiry_s);
    Publish {
        dup: false,
        qos,
        retain,
        topic: message.topic.clone(),
        packet_id: 0,
        payload: message.payload.clone(),
        topic_alias: None,
        subscription_ids: identifiers,
        properties,
    }
}
