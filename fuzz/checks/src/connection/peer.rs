//! A client: what it sends, and what it may be sent.

mod rules;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use forebay_broker_adapter::codec::{
    Ack, Connect, ConnectProperties, ConnectWill, Decoder, Disconnect, Packet, Publish, RequestedFilter, Subscribe,
    Unsubscribe, Version,
};
use forebay_engine::QoS;
use forebay_engine::event::SubscriptionOptions;
use forebay_engine::topic::{self, matches};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::Schedule;
use super::packets::{TOPICS, id, publish, subscribe};

const CLIENTS: [&str; 3] = ["a", "b", ""];
const FILTERS: [&str; 16] = [
    "t",
    "t/#",
    "+/1",
    "#",
    "q/x",
    "a/#/b",
    "$own/+",
    "a/long/+/with/levels",
    "$share/g/t",
    "$share/g/#",
    "$share/h/q/x",
    "$share/h/t/#",
    "$share//t",
    "$share/g",
    "$share/g+/t",
    "$share/g/a/#/b",
];
const WITNESS: &str = "witness";
/// Bytes on their way, each way.
const PIPE: usize = 64 << 10;

fn any_filter(schedule: &mut Schedule<'_>) -> &'static str {
    FILTERS[usize::from(schedule.byte()) % FILTERS.len()]
}

/// A clean session that subscribes to these.
fn joining(client_id: &str, filters: &[ByteString], qos: QoS, world: &mut World) -> (Packet, Packet) {
    let connect = Connect {
        version: Version::V5,
        client_id: client_id.into(),
        clean_start: true,
        keep_alive_s: 0,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    world.filters.entry(client_id.to_owned()).or_default().extend(filters.iter().map(ToString::to_string));
    let options = SubscriptionOptions::of_qos(qos);
    let filters = filters.iter().map(|filter| RequestedFilter { filter: filter.clone(), options }).collect();
    (Packet::Connect(Box::new(connect)), Packet::Subscribe(Subscribe { packet_id: 1, filters, user: Vec::new() }))
}

/// What outlives connections: the filters each client id has ever asked for that can be subscribed to.
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
    /// The codes of each SUBACK that was asked for, by its id.
    codes: HashMap<u16, VecDeque<Vec<u8>>>,
    /// It has asked for what ends a connection.
    doomed: bool,
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
    /// Topic and payload of these.
    bodies: HashMap<u16, (String, Bytes)>,
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
                let filter = any_filter(schedule);
                if topic::check_subscription(filter).is_ok() {
                    world.filters.entry(client.unwrap_or_default()).or_default().insert(filter.to_owned());
                }
                subscribe(filter, schedule)
            }
            3 => {
                let filters = vec![any_filter(schedule).into()];
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
            10 => return self.acknowledge(),
            _ => return Vec::new(),
        };
        self.now.sends(&packet)
    }

    /// Acknowledges the first that has come and is not acknowledged; nothing where there is none.
    pub(crate) fn acknowledge(&mut self) -> Vec<u8> {
        let packet = match self.now.in_flight.first().copied() {
            Some((id, QoS::AtLeastOnce)) => Packet::PubAck(Ack::new(id, 0)),
            Some((id, _)) if self.now.released.contains(&id) => Packet::PubComp(Ack::new(id, 0)),
            Some((id, _)) => Packet::PubRec(Ack::new(id, 0)),
            None => return Vec::new(),
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
        let (connect, filters) = joining(WITNESS, &[WITNESS.into()], QoS::AtLeastOnce, world);
        let qos = QoS::AtLeastOnce;
        let publish =
            Publish { qos, packet_id: 2, topic: WITNESS.into(), payload: WITNESS.into(), ..Publish::default() };
        [connect, filters, Packet::Publish(publish)].iter().map(|packet| self.now.sends(packet)).collect()
    }

    /// What a client sends that subscribes to these and to nothing else.
    pub(crate) fn join(&mut self, shares: &[ByteString], world: &mut World) -> Vec<Vec<u8>> {
        let (connect, filters) = joining("member", shares, QoS::ExactlyOnce, world);
        [connect, filters].iter().map(|packet| self.now.sends(packet)).collect()
    }

    /// It has asked for what ends a connection, and goes on.
    pub(crate) fn outlives_its_error(&self) -> bool {
        let now = &self.now;
        now.doomed && now.greeted && now.stream.is_some() && !now.over && !now.garbled
    }

    /// Its client id.
    pub(crate) fn client(&self) -> &str {
        self.now.connect.as_ref().map_or("", |connect| &connect.client_id)
    }

    /// What groups of shared subscriptions gave it and it has not acknowledged: subscription and payload. Only where that can be known: of
    /// all that the client has ever subscribed to, one matches, and that is shared.
    pub(crate) fn shared(&self, world: &World) -> Vec<(String, Bytes)> {
        let now = &self.now;
        let unknown = now.over || now.garbled || now.guessed || world.garbled || self.client().is_empty();
        let Some(filters) = world.filters.get(self.client()).filter(|_| now.stream.is_some() && !unknown) else {
            return Vec::new();
        };
        let given = now.in_flight.iter().filter_map(|(id, _)| now.bodies.get(id));
        // Wills are all alike.
        let given = given.filter(|(_, payload)| payload.first().is_some_and(u8::is_ascii_digit));
        let of_group = |(topic, payload): &(String, Bytes)| {
            let mut reasons = filters.iter().filter(|filter| matches(topic::unshared(filter), topic));
            let only = reasons.next().filter(|_| reasons.next().is_none());
            only.filter(|filter| topic::shared(filter).is_some()).map(|share| (share.clone(), payload.clone()))
        };
        given.filter_map(of_group).collect()
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
