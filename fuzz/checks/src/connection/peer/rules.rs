//! One connection's rules: what a packet asks for, and what the server may answer.

use std::collections::VecDeque;

use bytes::BytesMut;
use forebay_broker_adapter::codec::{
    Connect, Decoder, Packet, PacketKind, Publish, RequestedFilter, Subscribe, Version, encode,
};
use forebay_engine::QoS;
use forebay_engine::topic::{self, matches};

use super::{Connection, World};

impl Connection {
    /// Notes what a packet asks for; its bytes.
    pub(super) fn sends(&mut self, packet: &Packet) -> Vec<u8> {
        match packet {
            Packet::Connect(connect) if self.connect.is_none() => {
                self.decoder = Some(Decoder::client(connect.version, 1 << 20));
                self.connect = Some((**connect).clone());
            }
            Packet::Publish(p) if p.qos == QoS::AtLeastOnce => self.ask(PacketKind::PubAck, p.packet_id),
            Packet::Publish(p) if p.qos == QoS::ExactlyOnce => self.ask(PacketKind::PubRec, p.packet_id),
            Packet::PubRel(ack) => self.ask(PacketKind::PubComp, ack.packet_id),
            Packet::PubRec(ack) => self.ask(PacketKind::PubRel, ack.packet_id),
            Packet::Subscribe(s) => self.subscribes(s),
            Packet::Unsubscribe(u) => self.ask(PacketKind::UnsubAck, u.packet_id),
            Packet::PingReq => self.ask(PacketKind::PingResp, 0),
            _ => {}
        }
        match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) => self.guessed |= !self.holds(ack.packet_id),
            Packet::PubComp(ack) => self.guessed |= !self.released.contains(&ack.packet_id),
            _ => {}
        }
        match packet {
            Packet::PubAck(ack) => self.settles(ack.packet_id, QoS::AtLeastOnce),
            Packet::PubComp(ack) if self.released.remove(&ack.packet_id) => {
                self.settles(ack.packet_id, QoS::ExactlyOnce)
            }
            Packet::PubRec(ack) if ack.reason >= 0x80 && !self.released.contains(&ack.packet_id) => {
                self.settles(ack.packet_id, QoS::ExactlyOnce);
            }
            _ => {}
        }
        let version = self.connect.as_ref().map_or(Version::V5, |connect| connect.version);
        let mut out = BytesMut::new();
        encode(packet, version, &mut out).expect("nothing here is too long");
        out.to_vec()
    }

    fn subscribes(&mut self, subscribe: &Subscribe) {
        let v5 = self.connect.as_ref().is_none_or(|connect| connect.version == Version::V5);
        let is_shared = |requested: &RequestedFilter| topic::shared(&requested.filter).is_some();
        if v5 && subscribe.filters.iter().any(|requested| requested.options.no_local && is_shared(requested)) {
            self.doomed = true;
            return;
        }
        let code = |requested: &RequestedFilter| match topic::check_subscription(&requested.filter) {
            Ok(()) => requested.options.qos.as_u8(),
            Err(_) if v5 => 0x8f,
            Err(_) => 0x80,
        };
        let codes = subscribe.filters.iter().map(code).collect();
        self.codes.entry(subscribe.packet_id).or_default().push_back(codes);
        self.ask(PacketKind::SubAck, subscribe.packet_id);
    }

    fn ask(&mut self, answer: PacketKind, id: u16) {
        *self.asked.entry((answer as u8, id)).or_default() += 1;
    }

    fn holds(&self, id: u16) -> bool {
        self.in_flight.iter().any(|(other, _)| *other == id)
    }

    fn settles(&mut self, id: u16, level: QoS) {
        self.in_flight.retain(|(other, qos)| (*other, *qos) != (id, level));
        if !self.holds(id) {
            self.bodies.remove(&id);
        }
    }

    /// Checks a packet of the server's.
    pub(super) fn takes(&mut self, packet: Packet, world: &World) {
        let connect = self.connect.clone().expect("it was sent before anything could be answered");
        assert!(!self.over, "after its last word the server says {packet:?}");
        match &packet {
            Packet::ConnAck(ack) => {
                assert!(!self.greeted, "a second CONNACK");
                assert!(ack.code == 0 || !ack.session_present, "refused, and with a session");
                self.greeted = true;
                self.over = ack.code != 0;
                self.seen.push(packet);
                return;
            }
            _ => assert!(self.greeted, "{packet:?} before CONNACK"),
        }
        match &packet {
            Packet::Disconnect(_) => {
                assert_eq!(connect.version, Version::V5, "DISCONNECT of a server before MQTT 5");
                self.over = true;
            }
            Packet::Publish(publish) => self.takes_publish(publish, &connect, world),
            Packet::PubAck(ack) => self.answered(PacketKind::PubAck, ack.packet_id, &packet),
            Packet::PubRec(ack) => self.answered(PacketKind::PubRec, ack.packet_id, &packet),
            Packet::PubComp(ack) => self.answered(PacketKind::PubComp, ack.packet_id, &packet),
            Packet::SubAck(ack) => {
                self.answered(PacketKind::SubAck, ack.packet_id, &packet);
                let expected = self.codes.get_mut(&ack.packet_id).and_then(VecDeque::pop_front);
                assert!(self.garbled || expected.as_ref() == Some(&ack.codes), "{packet:?}, not {expected:?}");
            }
            Packet::UnsubAck(ack) => self.answered(PacketKind::UnsubAck, ack.packet_id, &packet),
            Packet::PingResp => self.answered(PacketKind::PingResp, 0, &packet),
            Packet::PubRel(ack) => {
                // An answer, or what an earlier connection left: that is in flight as a PUBLISH is.
                let id = ack.packet_id;
                let asked = self.asked.get_mut(&(PacketKind::PubRel as u8, id)).filter(|n| **n > 0);
                match asked {
                    Some(n) => *n -= 1,
                    None => assert!(self.garbled || !connect.clean_start, "PUBREL {id} for nothing"),
                }
                if ack.reason == 0 {
                    self.released.insert(id);
                    if !self.in_flight.contains(&(id, QoS::ExactlyOnce)) {
                        self.in_flight.push((id, QoS::ExactlyOnce));
                    }
                }
            }
            other => panic!("the server sends {other:?}"),
        }
        self.seen.push(packet);
    }

    fn answered(&mut self, kind: PacketKind, id: u16, packet: &Packet) {
        let asked = self.asked.entry((kind as u8, id)).or_default();
        assert!(*asked > 0 || self.garbled, "{packet:?} answers nothing");
        *asked = asked.saturating_sub(1);
    }

    fn takes_publish(&mut self, publish: &Publish, connect: &Connect, world: &World) {
        let mut bytes = BytesMut::new();
        encode(&Packet::Publish(publish.clone()), connect.version, &mut bytes).expect("it was encoded once");
        let largest = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
        assert!(bytes.len() as u64 <= u64::from(largest), "larger than the client takes");
        let topic = match publish.topic_alias {
            Some(alias) => {
                assert!(alias > 0 && alias <= connect.properties.topic_alias_maximum.unwrap_or(0), "alias {alias}");
                if !publish.topic.is_empty() {
                    self.aliases.insert(alias, publish.topic.to_string());
                }
                self.aliases.get(&alias).expect("an alias that was introduced").clone()
            }
            None => publish.topic.to_string(),
        };
        assert!(!topic.is_empty());
        // An id that the server has chosen begins with nothing; what garbage subscribed to nobody knows.
        let known = world.filters.get(&*connect.client_id).filter(|_| !connect.client_id.is_empty());
        if let Some(filters) = known.filter(|_| !world.garbled) {
            assert!(filters.iter().any(|filter| matches(topic::unshared(filter), &topic)), "{topic} was not asked for");
        }
        if publish.qos == QoS::AtMostOnce {
            assert!(!publish.dup);
            return;
        }
        let id = publish.packet_id;
        assert!(id != 0);
        let known = !self.garbled && !self.guessed;
        assert!(!known || !self.holds(id), "id {id} is in use");
        self.in_flight.push((id, publish.qos));
        self.bodies.insert(id, (topic, publish.payload.clone()));
        let window = usize::from(connect.properties.receive_maximum.unwrap_or(u16::MAX));
        assert!(!known || self.in_flight.len() <= window, "more than Receive Maximum");
    }
}
