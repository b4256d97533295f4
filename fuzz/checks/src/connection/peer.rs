//! A client: what it sends, and what it may be sent.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use bytes::BytesMut;
use forebay_broker_adapter::codec::{
    Ack, Connect, ConnectProperties, ConnectWill, Decoder, Disconnect, Packet, PacketKind, Publish, RequestedFilter,
    Subscribe, Unsubscribe, Version, encode,
};
use forebay_engine::QoS;
use forebay_engine::event::SubscriptionOptions;
use forebay_engine::topic::matches;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::Schedule;
use super::packets::{TOPICS, id, publish, subscribe};

const CLIENTS: [&str; 3] = ["a", "b", ""];
const FILTERS: [&str; 8] = ["t", "t/#", "+/1", "#", "q/x", "a/#/b", "$own/+", "a/long/+/with/levels"];
const WITNESS: &str = "witness";
/// Bytes on their way, each way.
const PIPE: usize = 64 << 10;

/// What outlives connections: the filters each client id has ever asked for.
#[derive(Default)]
pub(crate) struct World {
    filters: HashMap<String, HashSet<String>>,
    /// Somebody has sent garbage, and with it perhaps a SUBSCRIBE.
    garbled: bool,
    published: u32,
}

/// One connection as its client knows it.
#[derive(Default)]
struct Connection {
    stream: Option<DuplexStream>,
    task: Option<JoinHandle<()>>,
    input: BytesMut,
    decoder: Option<Decoder>,
    connect: Option<Connect>,
    /// Answers that were asked for and have not come: the type of the answer and its id.
    asked: HashMap<(u8, u16), usize>,
    /// Something was sent that is no packet: what is answered can't be known.
    garbled: bool,
    /// It came before CONNECT: not even the version can.
    blind: bool,
    /// Something was acknowledged that had not come yet: what is in flight can't be known.
    guessed: bool,
    greeted: bool,
    over: bool,
    /// What the server sends and has no acknowledgement for, in the order it came.
    in_flight: Vec<(u16, QoS)>,
    released: HashSet<u16>,
    aliases: HashMap<u16, String>,
    seen: Vec<Packet>,
}

/// A client of which one connection is open at a time.
#[derive(Default)]
pub(crate) struct Peer {
    now: Connection,
    before: Vec<JoinHandle<()>>,
}

impl Peer {
    pub(crate) fn is_open(&self) -> bool {
        self.now.stream.is_some()
    }

    pub(crate) fn open(&mut self, serve: impl FnOnce(DuplexStream, SocketAddr) -> JoinHandle<()>) {
        self.hang_up();
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let task = serve(theirs, SocketAddr::from(([192, 0, 2, 1], 1)));
        self.before.extend(self.now.task.take());
        self.now = Connection { stream: Some(ours), task: Some(task), ..Connection::default() };
    }

    pub(crate) fn hang_up(&mut self) {
        self.now.stream = None;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.before.iter().chain(&self.now.task).all(JoinHandle::is_finished)
    }

    pub(crate) fn awaits_connack(&self) -> bool {
        let now = &self.now;
        now.stream.is_some() && now.connect.is_some() && !now.greeted && !now.over && !now.garbled
    }

    pub(crate) fn seen(&self) -> &[Packet] {
        &self.now.seen
    }

    /// Sends what the server takes. What it does not take at once is lost with the connection.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.now.stream else { return };
        match stream.write(bytes).now_or_never() {
            Some(Ok(n)) if n == bytes.len() => {}
            _ => self.hang_up(),
        }
    }

    /// The bytes of an action.
    pub(crate) fn act(&mut self, what: u8, schedule: &mut Schedule<'_>, world: &mut World) -> Vec<u8> {
        let client = self.now.connect.as_ref().map(|connect| connect.client_id.to_string());
        let packet = match what {
            0 => self.connect(schedule, world),
            1 => publish(schedule, &mut world.published),
            2 => {
                let filter = FILTERS[usize::from(schedule.byte() % 8)];
                world.filters.entry(client.unwrap_or_default()).or_default().insert(filter.to_owned());
                subscribe(filter, schedule)
            }
            3 => {
                let filters = vec![FILTERS[usize::from(schedule.byte() % 8)].into()];
                Packet::Unsubscribe(Unsubscribe { packet_id: id(schedule), filters, user: Vec::new() })
            }
            4 => {
                let (kind, ack) =
                    (schedule.byte(), Ack::new(id(schedule), [0, 0, 0x80, 0x92][usize::from(schedule.byte() % 4)]));
                match kind % 4 {
                    0 => Packet::PubAck(ack),
                    1 => Packet::PubRec(ack),
                    2 => Packet::PubRel(ack),
                    _ => Packet::PubComp(ack),
                }
            }
            5 => Packet::PingReq,
            6 => {
                let mut disconnect = Disconnect::new([0, 4, 0x80, 0][usize::from(schedule.byte() % 4)]);
                disconnect.properties.session_expiry_s = [None, Some(0), Some(100)][usize::from(schedule.byte() % 3)];
                Packet::Disconnect(disconnect)
            }
            7 => {
                (self.now.garbled, world.garbled) = (true, true);
                self.now.blind |= self.now.connect.is_none();
                let len = usize::from(schedule.byte() % 40);
                return schedule.take(len);
            }
            8 => {
                self.hang_up();
                return Vec::new();
            }
            9 => Packet::Auth(Disconnect::new(0x19)),
            10 => match self.now.in_flight.first().copied() {
                Some((id, QoS::AtLeastOnce)) => Packet::PubAck(Ack::new(id, 0)),
                Some((id, _)) if self.now.released.contains(&id) => Packet::PubComp(Ack::new(id, 0)),
                Some((id, _)) => Packet::PubRec(Ack::new(id, 0)),
                None => return Vec::new(),
            },
            _ => return Vec::new(),
        };
        self.now.sends(&packet)
    }

    fn connect(&mut self, schedule: &mut Schedule<'_>, world: &mut World) -> Packet {
        let flags = schedule.byte();
        let client_id = CLIENTS[usize::from(flags >> 1 & 3).min(2)];
        let mut properties = ConnectProperties::default();
        let version = [Version::V5, Version::V5, Version::V311, Version::V31][usize::from(flags >> 6)];
        if version == Version::V5 {
            properties.session_expiry_s = (flags & 8 != 0).then_some(100);
            properties.receive_maximum = (flags & 16 != 0).then_some(2);
            properties.topic_alias_maximum = (flags & 16 != 0).then_some(5);
            properties.maximum_packet_size = (flags & 48 == 48).then_some(80);
        }
        let will = (flags & 32 != 0).then(|| ConnectWill {
            topic: TOPICS[usize::from(schedule.byte() % 6)].into(),
            payload: "will".into(),
            ..ConnectWill::default()
        });
        let connect = Connect {
            version,
            client_id: client_id.into(),
            clean_start: flags & 1 != 0,
            keep_alive_s: 0,
            will,
            username: None,
            password: None,
            properties,
        };
        world.filters.entry(client_id.to_owned()).or_default();
        Packet::Connect(Box::new(connect))
    }

    /// What the witness sends, one behind the other.
    pub(crate) fn witness(&mut self, world: &mut World) -> Vec<Vec<u8>> {
        let connect = Connect {
            version: Version::V5,
            client_id: WITNESS.into(),
            clean_start: true,
            keep_alive_s: 0,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        world.filters.entry(WITNESS.to_owned()).or_default().insert(WITNESS.to_owned());
        let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
        let filters = vec![RequestedFilter { filter: WITNESS.into(), options }];
        let qos = QoS::AtLeastOnce;
        let publish =
            Publish { qos, packet_id: 2, topic: WITNESS.into(), payload: WITNESS.into(), ..Publish::default() };
        [
            Packet::Connect(Box::new(connect)),
            Packet::Subscribe(Subscribe { packet_id: 1, filters, user: Vec::new() }),
            Packet::Publish(publish),
        ]
        .iter()
        .map(|packet| self.now.sends(packet))
        .collect()
    }

    /// Takes in what has come; true where there was something.
    pub(crate) fn receive(&mut self, world: &mut World) -> bool {
        let now = &mut self.now;
        let Some(stream) = &mut now.stream else { return false };
        let before = now.input.len();
        let ended = match stream.read_buf(&mut now.input).now_or_never() {
            None => return false,
            Some(Ok(n)) => n == 0,
            Some(Err(_)) => true,
        };
        while let Some(decoder) = now.decoder.as_mut().filter(|_| !now.blind) {
            match decoder.decode(&mut now.input).expect("the server's packets read") {
                Some(packet) => now.takes(packet, world),
                None => break,
            }
        }
        if now.blind {
            now.input.clear();
        }
        if ended {
            assert!(now.input.is_empty(), "the server ends in the middle of a packet");
            now.stream = None;
        }
        now.input.len() != before || ended
    }
}

impl Connection {
    /// Notes what a packet asks for; its bytes.
    fn sends(&mut self, packet: &Packet) -> Vec<u8> {
        match packet {
            Packet::Connect(connect) if self.connect.is_none() => {
                self.decoder = Some(Decoder::client(connect.version, 1 << 20));
                self.connect = Some((**connect).clone());
            }
            Packet::Publish(p) if p.qos == QoS::AtLeastOnce => self.ask(PacketKind::PubAck, p.packet_id),
            Packet::Publish(p) if p.qos == QoS::ExactlyOnce => self.ask(PacketKind::PubRec, p.packet_id),
            Packet::PubRel(ack) => self.ask(PacketKind::PubComp, ack.packet_id),
            Packet::PubRec(ack) => self.ask(PacketKind::PubRel, ack.packet_id),
            Packet::Subscribe(s) => self.ask(PacketKind::SubAck, s.packet_id),
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

    fn ask(&mut self, answer: PacketKind, id: u16) {
        *self.asked.entry((answer as u8, id)).or_default() += 1;
    }

    fn holds(&self, id: u16) -> bool {
        self.in_flight.iter().any(|(other, _)| *other == id)
    }

    fn settles(&mut self, id: u16, level: QoS) {
        self.in_flight.retain(|(other, qos)| (*other, *qos) != (id, level));
    }

    /// Checks a packet of the server's.
    fn takes(&mut self, packet: Packet, world: &World) {
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
            Packet::SubAck(ack) => self.answered(PacketKind::SubAck, ack.packet_id, &packet),
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
            assert!(filters.iter().any(|filter| matches(filter, &topic)), "{topic} was not asked for");
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
        let window = usize::from(connect.properties.receive_maximum.unwrap_or(u16::MAX));
        assert!(!known || self.in_flight.len() <= window, "more than Receive Maximum");
    }
}
