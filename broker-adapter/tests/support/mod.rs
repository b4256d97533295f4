//! A broker on a free port over an engine in a temporary folder, and raw bytes to talk to it.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use forebay_broker_adapter::client::{Client, ClientError, ClientSession, ConnectOptions, Incoming};
use forebay_broker_adapter::codec::{
    Connect, ConnectProperties, Decoder, PACKET_BYTES_MAX, Packet, Publish, RequestedFilter, Subscribe, Version, encode,
};
use forebay_broker_adapter::proxy_protocol::SIGNATURE;
use forebay_broker_adapter::{Broker, BrokerOptions, ListenerOptions, NoStore};
use forebay_engine::event::{Properties, SubscriptionOptions};
use forebay_engine::{Engine, EngineOptions, QoS};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Server {
    pub broker: Broker,
    pub engine: Engine,
    pub address: SocketAddr,
    pub dir: TempDir,
}

pub fn open_engine(dir: &Path) -> Engine {
    let mut options = EngineOptions::new(dir);
    options.log.segment_bytes = 1 << 20;
    options.rules.queue = vec!["queue/#".into()];
    Engine::open(options).unwrap().0
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub async fn serve_in(dir: TempDir, options: BrokerOptions) -> Server {
    let plain = ListenerOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    serve_all(dir, BrokerOptions { listeners: vec![plain], ..options }).await
}

/// With these listeners.
pub async fn serve_at(listeners: Vec<ListenerOptions>, options: BrokerOptions) -> Server {
    serve_all(tempfile::tempdir().unwrap(), BrokerOptions { listeners, ..options }).await
}

async fn serve_all(dir: TempDir, options: BrokerOptions) -> Server {
    let engine = open_engine(dir.path());
    let broker = Broker::start(engine.clone(), options, Arc::new(NoStore)).await.unwrap();
    let address = broker.local_addrs()[0];
    Server { broker, engine, address, dir }
}

pub async fn serve() -> Server {
    serve_in(tempfile::tempdir().unwrap(), BrokerOptions::default()).await
}

impl Server {
    /// Stops in order and starts again over the same folder.
    pub async fn restart(self) -> Server {
        let Server { broker, engine, dir, .. } = self;
        assert!(broker.shutdown(PATIENCE).await);
        engine.close();
        serve_in(dir, BrokerOptions::default()).await
    }

    /// Starts again from what the disk holds at this moment: nothing that the running server does from here on counts.
    pub async fn crash(self) -> Server {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(self.dir.path(), copy.path());
        serve_in(copy, BrokerOptions::default()).await
    }

    pub async fn connect(&self, options: ConnectOptions) -> Client {
        self.resume(options, ClientSession::default()).await
    }

    pub async fn resume(&self, options: ConnectOptions, session: ClientSession) -> Client {
        Client::connect(self.address, options, session).await.unwrap()
    }
}

/// Waits until it is so.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it comes true");
}

pub async fn next(client: &mut Client) -> Incoming {
    tokio::time::timeout(PATIENCE, client.next()).await.expect("something comes").unwrap()
}

pub async fn message(client: &mut Client) -> Publish {
    loop {
        if let Incoming::Message(publish) = next(client).await {
            return publish;
        }
    }
}

pub async fn end(client: &mut Client) -> ClientError {
    loop {
        if let Err(error) = tokio::time::timeout(PATIENCE, client.next()).await.expect("the connection ends") {
            return error;
        }
    }
}

pub async fn subscribe(client: &mut Client, filter: &str, qos: QoS) -> Vec<u8> {
    subscribe_with(client, filter, SubscriptionOptions::of_qos(qos)).await
}

pub async fn subscribe_with(client: &mut Client, filter: &str, options: SubscriptionOptions) -> Vec<u8> {
    let id = client.subscribe(&[(filter, options)]).unwrap();
    loop {
        if let Incoming::Subscribed(ack) = next(client).await {
            assert_eq!(ack.packet_id, id);
            return ack.codes;
        }
    }
}

/// Subscribes to a filter with one retained message: SUBACK and the message come in any order (MQTT-3.8.4-3).
pub async fn subscribe_for_retained(client: &mut Client, filter: &str, qos: QoS) -> Publish {
    client.subscribe(&[(filter, SubscriptionOptions::of_qos(qos))]).unwrap();
    let (mut acked, mut got) = (false, None);
    loop {
        match next(client).await {
            Incoming::Subscribed(_) => acked = true,
            Incoming::Message(publish) => got = Some(publish),
            _ => {}
        }
        if let (true, Some(publish)) = (acked, &got) {
            return publish.clone();
        }
    }
}

/// Publishes and waits for the completion; its reason code.
pub async fn publish(client: &mut Client, topic: &str, payload: &str, qos: QoS, retain: bool) -> u8 {
    let id = client.publish(topic, Bytes::copy_from_slice(payload.as_bytes()), qos, retain).unwrap();
    client.flush().await.unwrap();
    if id == 0 {
        return 0;
    }
    loop {
        if let Incoming::Completed(done) = next(client).await
            && done.packet_id == id
        {
            return done.reason;
        }
    }
}

/// A ping and its answer: everything sent before has been read by the server.
pub async fn ping(client: &mut Client) -> Vec<Publish> {
    client.ping().unwrap();
    let mut seen = Vec::new();
    loop {
        match next(client).await {
            Incoming::Pong => return seen,
            Incoming::Message(publish) => seen.push(publish),
            _ => {}
        }
    }
}

/// Packets of MQTT 5 as bytes.
pub fn encoded(packets: &[Packet]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for packet in packets {
        encode(packet, Version::V5, &mut out).unwrap();
    }
    out.to_vec()
}

pub fn connect_packet(client: &str, username: Option<&str>) -> Packet {
    Packet::Connect(Box::new(Connect {
        version: Version::V5,
        client_id: client.into(),
        clean_start: true,
        keep_alive_s: 0,
        will: None,
        username: username.map(Into::into),
        password: None,
        properties: ConnectProperties::default(),
    }))
}

pub fn subscribe_packet(filter: &str, qos: QoS) -> Packet {
    let filters = vec![RequestedFilter { filter: filter.into(), options: SubscriptionOptions::of_qos(qos) }];
    Packet::Subscribe(Subscribe { packet_id: 1, filters, user: Vec::new() })
}

/// What a proxy sends for this client (PROXY protocol, version 2), with an extension.
pub fn proxy_header(client: SocketAddr) -> Vec<u8> {
    let (family, mut rest) = match client.ip() {
        IpAddr::V4(ip) => (0x11, [ip.octets(), [10, 0, 0, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [1; 16]].concat()),
    };
    rest.extend(client.port().to_be_bytes());
    rest.extend([0x22, 0xb3, 0x04, 0x00, 0x02, 0x00, 0x00]);
    let mut out = SIGNATURE.to_vec();
    out.extend([0x21, family]);
    out.extend((rest.len() as u16).to_be_bytes());
    out.extend(rest);
    out
}

/// With QoS 1.
pub fn publish_packet(topic: &str, payload: &str, packet_id: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: topic.into(),
        packet_id,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: Properties::default(),
    })
}

/// A connection that sends and receives packets one by one, with no state of its own.
pub struct Raw<S = TcpStream> {
    pub stream: S,
    decoder: Decoder,
    input: BytesMut,
    version: Version,
}

impl Raw {
    pub async fn open(address: SocketAddr, version: Version) -> Raw {
        let stream = TcpStream::connect(address).await.unwrap();
        Raw { version, decoder: Decoder::client(version, PACKET_BYTES_MAX), ..Raw::over(stream) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// MQTT 5 over a stream that is there.
    pub fn over(stream: S) -> Raw<S> {
        let version = Version::V5;
        Raw { stream, decoder: Decoder::client(version, PACKET_BYTES_MAX), input: BytesMut::new(), version }
    }

    /// Sends CONNECT; the code of its answer, none where the connection ends instead.
    pub async fn connect(&mut self, client: &str, username: Option<&str>) -> Option<u8> {
        let bytes = self.bytes(&[connect_packet(client, username)]);
        // A server that refuses may have closed already.
        let _ = self.stream.write_all(&bytes).await;
        let _ = self.stream.flush().await;
        self.connack().await
    }

    /// The code of CONNACK, none where the connection ends instead.
    pub async fn connack(&mut self) -> Option<u8> {
        match self.receive_or_end().await? {
            Packet::ConnAck(ack) => Some(ack.code),
            other => panic!("CONNACK is due, not {other:?}"),
        }
    }

    pub async fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.send(&[subscribe_packet(filter, qos)]).await;
        assert!(matches!(self.receive().await, Some(Packet::SubAck(_))));
    }

    /// Publishes with QoS 1 and waits for the answer.
    pub async fn publish(&mut self, topic: &str, payload: &str, packet_id: u16) {
        self.send(&[publish_packet(topic, payload, packet_id)]).await;
        assert!(matches!(self.receive().await, Some(Packet::PubAck(ack)) if ack.packet_id == packet_id));
    }

    pub async fn publish_received(&mut self) -> Publish {
        match self.receive().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("PUBLISH is due, not {other:?}"),
        }
    }

    /// The next packet; none at the end, whether orderly or by a reset.
    async fn receive_or_end(&mut self) -> Option<Packet> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
                    return Some(packet);
                }
                if !self.stream.read_buf(&mut self.input).await.is_ok_and(|n| n > 0) {
                    return None;
                }
            }
        })
        .await
        .expect("a packet or the end comes")
    }

    pub fn bytes(&self, packets: &[Packet]) -> BytesMut {
        let mut out = BytesMut::new();
        for packet in packets {
            encode(packet, self.version, &mut out).unwrap();
        }
        out
    }

    pub async fn send(&mut self, packets: &[Packet]) {
        let bytes = self.bytes(packets);
        self.stream.write_all(&bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next packet; `None` when the server has closed the connection.
    pub async fn receive(&mut self) -> Option<Packet> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
                    return Some(packet);
                }
                if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                    return None;
                }
            }
        })
        .await
        .expect("a packet or the end comes")
    }
}
