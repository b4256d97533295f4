//! Packets from the client.

use forebay_engine::event::{DisconnectReason, Event, Origin, Properties, Published, Received, Released};
use forebay_engine::topic::check_name;
use forebay_engine::{Message, QoS};

use super::inbound::AliasError;
use super::outbound::Step;
use super::{AckOutcome, Close, Reply, Session, Stage};
use crate::codec::{Ack, AckProperties, Disconnect, Packet, Publish, reason};
use crate::limits::Limit;

impl Session {
    /// Acts on a packet from the client.
    pub(crate) fn on_packet(&mut self, packet: Packet) -> Result<(), Close> {
        match packet {
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubAck(ack) => {
                self.on_puback(&ack);
                Ok(())
            }
            Packet::PubRec(ack) => {
                self.on_pubrec(&ack);
                Ok(())
            }
            Packet::PubRel(ack) => {
                self.on_pubrel(&ack);
                Ok(())
            }
            Packet::PubComp(ack) => {
                self.on_pubcomp(&ack);
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.on_subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                self.on_unsubscribe(unsubscribe);
                Ok(())
            }
            Packet::PingReq => {
                self.write(&Packet::PingResp);
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.on_disconnect(&disconnect)),
            Packet::Auth(auth) if self.info.enhanced && auth.reason == reason::REAUTHENTICATE => {
                Err(Close::protocol(reason::NOT_AUTHORIZED, "who is connected can't authenticate again"))
            }
            Packet::Auth(_) => Err(Close::protocol(reason::PROTOCOL_ERROR, "AUTH that nobody has asked for")),
            Packet::Connect(_) => Err(Close::protocol(reason::PROTOCOL_ERROR, "a second CONNECT")),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(Close::protocol(reason::PROTOCOL_ERROR, "a packet that only a server sends"))
            }
        }
    }

    fn on_publish(&mut self, publish: Publish) -> Result<(), Close> {
        self.shared.counters.publish_received(publish.qos);
        self.tally.received += 1;
        let (qos, id) = (publish.qos, publish.packet_id);
        let message = self.message(publish)?;
        let again = qos == QoS::ExactlyOnce && self.inbound.is_received(id);
        if !again && !self.gate.may_publish(&message.topic) {
            return self.deny_publish(qos, id, &message.topic);
        }
        if let Some(limit) = self.shared.options.limits.topic(&message.topic).filter(|_| !again) {
            limit.hit();
            return self.refuse_publish(qos, id, reason::TOPIC_NAME_INVALID, limit.text());
        }
        if !again && !payload_is_as_promised(&message.properties, &message.payload) {
            let text = "a payload that is not the UTF-8 its format indicator promises";
            if qos == QoS::AtMostOnce {
                return Err(Close::protocol(reason::PAYLOAD_FORMAT_INVALID, text));
            }
            return self.refuse_publish(qos, id, reason::PAYLOAD_FORMAT_INVALID, text);
        }
        match qos {
            QoS::AtMostOnce => {
                self.publish_qos0(message);
                return Ok(());
            }
            // The first one counted; this is the same message.
            QoS::ExactlyOnce if again => {
                self.batch.reply(Reply::PubRec { id });
                return Ok(());
            }
            _ => {}
        }
        if !self.inbound.begin() && self.info.version.is_v5() {
            return Err(over_receive_maximum());
        }
        let (reply, keep_id) = if qos == QoS::ExactlyOnce {
            self.inbound.receive(id);
            (Reply::PubRec { id }, self.info.is_persistent())
        } else {
            (Reply::PubAck { id }, false)
        };
        // A packet id that must outlive a crash needs its record, whoever wants the message.
        if keep_id || self.shared.engine.wants(&message) {
            let published = Published { message, packet_id: keep_id.then_some(id), epoch: self.info.epoch };
            self.batch.reply_after(Event::Published(published), reply);
        } else {
            self.shared.fan_out(message);
            self.batch.reply(reply);
        }
        Ok(())
    }

    /// What is not allowed is never acknowledged as if it were: MQTT 5 has a code for it, before that only the connection's end tells.
    fn deny_publish(&mut self, qos: QoS, id: u16, topic: &str) -> Result<(), Close> {
        let client = &self.info.client;
        let ends = qos != QoS::AtMostOnce && !self.info.version.is_v5();
        if !ends && self.gate.is_first_denial() {
            tracing::info!(%client, ?topic, "a publish is not allowed; what else is not, is only counted");
        }
        if ends {
            tracing::warn!(%client, ?topic, "a publish is not allowed: the connection ends");
            return Err(Close {
                reason: DisconnectReason::Kicked,
                code: Some(reason::NOT_AUTHORIZED),
                text: "a publish that is not allowed",
            });
        }
        self.refuse_publish(qos, id, reason::NOT_AUTHORIZED, "a publish that is not allowed")
    }

    /// Answers a publish that is not taken in. Before MQTT 5 the connection ends, unless it is of QoS 0.
    fn refuse_publish(&mut self, qos: QoS, id: u16, reason: u8, text: &'static str) -> Result<(), Close> {
        if qos == QoS::AtMostOnce {
            return Ok(());
        }
        if !self.info.version.is_v5() {
            return Err(Close::protocol(reason, text));
        }
        if !self.inbound.begin() {
            return Err(over_receive_maximum());
        }
        if qos == QoS::ExactlyOnce {
            // A refused PUBREC ends it: nothing is kept of the id.
            self.inbound.answered();
            self.batch.reply(Reply::PubRecRefused { id, reason });
        } else {
            self.batch.reply(Reply::PubAckRefused { id, reason });
        }
        Ok(())
    }

    fn publish_qos0(&mut self, message: Message) {
        if self.shared.engine.wants(&message) {
            let event =
                Event::Published(Published { message: message.clone(), packet_id: None, epoch: self.info.epoch });
            self.batch.event(event);
        }
        self.shared.fan_out(message);
    }

    /// Checks a PUBLISH and makes it the message that others see.
    fn message(&mut self, publish: Publish) -> Result<Message, Close> {
        if !publish.subscription_ids.is_empty() {
            return Err(Close::protocol(reason::PROTOCOL_ERROR, "a subscription identifier in a client's PUBLISH"));
        }
        if publish.topic.is_empty() && publish.topic_alias.is_none() && self.info.version.is_v5() {
            return Err(Close::protocol(reason::PROTOCOL_ERROR, "neither a topic nor a topic alias"));
        }
        let topic = self.inbound.resolve(publish.topic, publish.topic_alias).map_err(|error| match error {
            AliasError::OutOfRange => Close::protocol(reason::TOPIC_ALIAS_INVALID, "a topic alias out of range"),
            AliasError::Unknown => Close::protocol(reason::PROTOCOL_ERROR, "a topic alias that stands for nothing"),
        })?;
        if check_name(&topic).is_err() {
            return Err(Close::protocol(reason::TOPIC_NAME_INVALID, "a topic name that is empty or has a wildcard"));
        }
        if publish.properties.response_topic.as_ref().is_some_and(|t| check_name(t).is_err()) {
            return Err(Close::protocol(reason::PROTOCOL_ERROR, "a response topic that is no topic name"));
        }
        Ok(Message {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            publisher: self.info.client.clone(),
            username: self.info.username.clone(),
            peer: self.info.peer.clone(),
            origin: Origin::Client,
            properties: publish.properties,
        })
    }

    fn on_pubrel(&mut self, ack: &Ack) {
        let id = ack.packet_id;
        if !self.inbound.release(id) {
            // In a session that goes on it was released before, and its client lost the PUBCOMP: libraries tell their users of a publish that
            // failed where they are told that the id is unknown.
            let reason = if self.resumed { reason::SUCCESS } else { reason::PACKET_ID_NOT_FOUND };
            self.batch.reply(Reply::PubComp { id, reason });
        } else if self.info.is_persistent() {
            let released = Released { client: self.info.client.clone(), packet_id: id };
            self.batch.reply_after(Event::Released(released), Reply::PubComp { id, reason: 0 });
        } else {
            self.batch.reply(Reply::PubComp { id, reason: 0 });
        }
    }

    fn on_puback(&mut self, ack: &Ack) {
        let step = self.outbound.acknowledged(ack.packet_id);
        self.done(step, None, outcome(ack));
    }

    fn on_pubrec(&mut self, ack: &Ack) {
        let id = ack.packet_id;
        match self.outbound.received(id, ack.reason >= reason::UNSPECIFIED_ERROR) {
            step @ Step::Done(..) => self.done(step, Some(id), AckOutcome::Refused),
            Step::Received if self.info.is_persistent() => {
                let received = Received { client: self.info.client.clone(), packet_id: id };
                self.batch.reply_after(Event::Received(received), Reply::PubRel { id });
            }
            // In their turn: behind the first PUBREL too, if that still waits for the disk.
            Step::Received | Step::Again => self.batch.reply(Reply::PubRel { id }),
            Step::Unknown => {
                self.write(&Packet::PubRel(Ack::new(id, reason::PACKET_ID_NOT_FOUND)));
            }
        }
    }

    fn on_pubcomp(&mut self, ack: &Ack) {
        let step = self.outbound.completed(ack.packet_id);
        self.done(step, Some(ack.packet_id), outcome(ack));
    }

    /// Settles a delivery that is over. Acknowledgements of unknown packet ids change nothing.
    fn done(&mut self, step: Step, id: Option<u16>, outcome: AckOutcome) {
        if let Step::Done(lsn, share) = step {
            self.shared.counters.acks_received.increment(1);
            self.under_way = self.under_way.saturating_sub(1);
            // The log knows of packet ids of sessions that outlive their connection, and of what groups gave: no record for others.
            let recorded = self.info.is_persistent() || self.resumed || share.is_some();
            self.settled.add(lsn, share, id.filter(|_| recorded), outcome);
        }
    }

    /// Writes a packet whose turn has come.
    pub(super) fn answer(&mut self, reply: Reply) {
        match reply {
            Reply::PubAck { id } => {
                self.inbound.answered();
                self.write(&Packet::PubAck(Ack::new(id, 0)));
            }
            Reply::PubRec { id } => {
                self.write(&Packet::PubRec(Ack::new(id, 0)));
            }
            Reply::PubAckRefused { id, reason } => {
                self.inbound.answered();
                self.write_refusal(Packet::PubAck, id, reason);
            }
            Reply::PubRecRefused { id, reason } => self.write_refusal(Packet::PubRec, id, reason),
            Reply::PubComp { id, reason } => {
                self.write(&Packet::PubComp(Ack::new(id, reason)));
            }
            Reply::PubRel { id } => {
                if let Some(delivery) = self.outbound.get_mut(id) {
                    delivery.stage = Stage::Released;
                }
                self.write(&Packet::PubRel(Ack::new(id, 0)));
            }
            Reply::Publish { id } => {
                if let Some(delivery) = self.outbound.get_mut(id) {
                    delivery.stage = Stage::Published;
                }
                self.send_publish(id, false);
            }
        }
    }

    /// Writes a PUBACK or PUBREC that refuses, with the reason in words where the client wants it and has room for it.
    fn write_refusal(&mut self, packet: fn(Ack) -> Packet, id: u16, code: u8) {
        let plain = Ack::new(id, code);
        if let Some(text) = reason::text(code).filter(|_| self.info.problem_information && self.info.version.is_v5()) {
            let properties = AckProperties { reason_string: Some(text.into()), ..AckProperties::default() };
            if self.write(&packet(Ack { properties: Some(Box::new(properties)), ..plain.clone() })) {
                return;
            }
        }
        self.write(&packet(plain));
    }

    fn on_disconnect(&mut self, disconnect: &Disconnect) -> Close {
        if disconnect.properties.server_reference.is_some() {
            return Close::protocol(reason::PROTOCOL_ERROR, "a server reference in a client's DISCONNECT");
        }
        if let Some(expiry_s) = disconnect.properties.session_expiry_s {
            if self.info.expiry_s == 0 && expiry_s > 0 {
                return Close::protocol(reason::PROTOCOL_ERROR, "DISCONNECT can't extend a session that ends with it");
            }
            self.changed_expiry_s = Some(expiry_s.min(self.shared.options.session_expiry_max));
        }
        if disconnect.reason == reason::SUCCESS {
            self.cancel_will = true;
            return Close { reason: DisconnectReason::Normal, code: None, text: "the client disconnected" };
        }
        Close {
            reason: DisconnectReason::WithWill,
            code: None,
            text: "the client disconnected and wants its will sent",
        }
    }
}

fn over_receive_maximum() -> Close {
    Limit::ReceiveMaximum.hit();
    Close::protocol(reason::RECEIVE_MAXIMUM_EXCEEDED, Limit::ReceiveMaximum.text())
}

/// False where a payload format indicator of 1 stands beside a payload that is not UTF-8.
pub(crate) fn payload_is_as_promised(properties: &Properties, payload: &[u8]) -> bool {
    properties.payload_format != Some(1) || std::str::from_utf8(payload).is_ok()
}

/// A negative acknowledgement counts as one (MQTT 5, 4.4).
fn outcome(ack: &Ack) -> AckOutcome {
    if ack.reason >= reason::UNSPECIFIED_ERROR { AckOutcome::Refused } else { AckOutcome::Acknowledged }
}
