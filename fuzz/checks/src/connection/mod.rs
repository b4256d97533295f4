//! Whole connections: clients that send packets, pieces of packets and garbage in any order, against a broker over an engine
//! without threads, on a disk in memory. One task runs it all, so that an input gives the same run each time.
//!
//! ```text
//! input: actions, each a byte and what it asks for
//! bits 0..3  what            0 connect    1 publish      2 subscribe  3 unsubscribe  4 acknowledge  5 ping  6 disconnect
//!                            7 garbage    8 hang up      9 AUTH      10 acknowledge what was received    others: wait
//! bit  4     which client    bit 5  in two pieces        bit 6  the server gets its turn behind it
//! ```

mod packets;
mod peer;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use forebay_broker_adapter::codec::Packet;
use forebay_broker_adapter::{Broker, BrokerOptions, ListenerOptions, NoStore};
use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::ForgettingDisk;
use forebay_engine::simulation::{ForgettingStore, Manual};
use forebay_engine::{Engine, EngineOptions};

use peer::{Peer, World};

/// Publishes a client may have unanswered.
pub(crate) const RECEIVE_MAXIMUM: u16 = 3;
/// Actions of one input.
const ACTIONS_MAX: usize = 200;

/// The bytes that say what happens.
pub(crate) struct Schedule<'a>(&'a [u8]);

impl Schedule<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// A broker and its engine, whose threads are steps.
struct Server {
    broker: Broker,
    engine: Engine,
    manual: Manual,
}

impl Server {
    async fn start() -> Server {
        let mut options = EngineOptions::new("/data");
        options.log.segment_bytes = 256 << 10;
        options.log.prepare_ahead = false;
        options.clock = Arc::new(SteppedClock::new(1_700_000_000_000_000));
        options.rules.queue = vec!["q/#".into()];
        let disk = Arc::new(ForgettingDisk::new());
        let (engine, manual, _) =
            Engine::open_manual(options, disk, Box::new(ForgettingStore::new())).expect("an empty disk opens");
        let options = BrokerOptions {
            listeners: vec![ListenerOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)))],
            receive_maximum: RECEIVE_MAXIMUM,
            max_packet_bytes: 4096,
            topic_alias_maximum: 2,
            sent_topic_aliases: 2,
            system_interval: std::time::Duration::ZERO,
            ..BrokerOptions::default()
        };
        let broker = Broker::start(engine.clone(), options, Arc::new(NoStore)).await.expect("a broker starts");
        Server { broker, engine, manual }
    }

    /// Lets everybody work until nothing more happens.
    async fn settle(&mut self, peers: &mut [Peer], world: &mut World) {
        let (mut idle, mut waited) = (0, 0);
        while idle < 6 {
            let mut busy = self.manual.write();
            busy |= self.manual.apply(256).expect("state follows the log");
            busy |= self.manual.keep();
            busy |= self.manual.deliver();
            tokio::task::yield_now().await;
            for peer in peers.iter_mut() {
                busy |= peer.receive(world);
            }
            idle = if busy { 0 } else { idle + 1 };
            // A resumed session is read on a thread of its own; a client that has sent half of its CONNECT waits for nothing.
            if idle == 6 && waited < 20 && peers.iter().any(Peer::awaits_connack) {
                tokio::time::sleep(std::time::Duration::from_micros(100)).await;
                (idle, waited) = (0, waited + 1);
            }
        }
        is_with_one(peers, world);
    }
}

/// See the module.
pub(crate) fn check(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(Schedule(data)));
    // A thread that reads a session has nobody to read it for.
    runtime.shutdown_background();
}

async fn run(mut schedule: Schedule<'_>) {
    let mut server = Server::start().await;
    let mut world = World::default();
    let mut peers = [Peer::default(), Peer::default()];
    for _ in 0..ACTIONS_MAX {
        let Some(action) = schedule.next() else { break };
        let peer = &mut peers[usize::from(action >> 4 & 1)];
        if action & 15 == 0 && !peer.is_open() {
            peer.open(|stream, address| tokio::spawn(server.broker.serve(stream, address)));
        }
        let bytes = peer.act(action & 15, &mut schedule, &mut world);
        let (first, second) = bytes.split_at(if action & 0x20 == 0 { bytes.len() } else { bytes.len() / 2 });
        for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
            peers[usize::from(action >> 4 & 1)].send(piece);
            if action & 0x40 != 0 {
                server.settle(&mut peers, &mut world).await;
            }
        }
    }
    server.settle(&mut peers, &mut world).await;
    for peer in &mut peers {
        assert!(!peer.outlives_its_error(), "a shared subscription with no-local is a protocol error");
        peer.hang_up();
    }
    ends(&mut server, &mut peers, &mut world).await;
    joins(&mut server, &mut world).await;
    witness(&mut server, &mut world).await;
}

/// Every connection has come to its end.
async fn ends(server: &mut Server, peers: &mut [Peer], world: &mut World) {
    for _ in 0..2000 {
        server.settle(peers, world).await;
        if peers.iter().all(Peer::has_ended) {
            assert_eq!(server.broker.stats().connections, 0, "a client that is gone holds a seat");
            assert!(
                server.engine.sessions().iter().all(|view| !view.connected),
                "a session is open without its client"
            );
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("a connection does not end");
}

/// No message that a group of a shared subscription gave is with two of its members.
fn is_with_one(peers: &[Peer], world: &World) {
    let mut holders: HashMap<_, &str> = HashMap::new();
    for peer in peers {
        for shared in peer.shared(world) {
            let message = format!("{shared:?}");
            let other = holders.insert(shared, peer.client()).filter(|other| *other != peer.client());
            assert!(other.is_none(), "{message} is with {other:?} and {}", peer.client());
        }
    }
}

/// Nobody is connected: who joins the groups that are there is given all that they owe, but what was sent to others with QoS 2.
async fn joins(server: &mut Server, world: &mut World) {
    let shares: Vec<_> = server.engine.groups().into_iter().map(|group| group.share).collect();
    if shares.is_empty() {
        return;
    }
    let mut peers = [Peer::default()];
    peers[0].open(|stream, address| tokio::spawn(server.broker.serve(stream, address)));
    for bytes in peers[0].join(&shares, world) {
        peers[0].send(&bytes);
        server.settle(&mut peers, world).await;
    }
    for _ in 0..4 * ACTIONS_MAX {
        let bytes = peers[0].acknowledge();
        if bytes.is_empty() {
            break;
        }
        peers[0].send(&bytes);
        server.settle(&mut peers, world).await;
    }
    let owed: u64 = server.engine.groups().iter().map(|group| group.messages).sum();
    let sessions = server.engine.sessions();
    let sent = sessions.iter().flat_map(|view| &view.outbound).filter(|out| out.share.is_some()).count();
    assert!(
        owed <= sent as u64,
        "groups owe {owed} messages, {sent} were sent to others, and a member takes all it is given"
    );
    peers[0].hang_up();
    ends(server, &mut peers, world).await;
}

/// Whatever happened, a client that does nothing wrong is served.
async fn witness(server: &mut Server, world: &mut World) {
    let mut peers = [Peer::default()];
    peers[0].open(|stream, address| tokio::spawn(server.broker.serve(stream, address)));
    for bytes in peers[0].witness(world) {
        peers[0].send(&bytes);
        server.settle(&mut peers, world).await;
    }
    let seen = peers[0].seen();
    let is = |wanted: fn(&Packet) -> bool| seen.iter().filter(|packet| wanted(packet)).count();
    assert_eq!(is(|packet| matches!(packet, Packet::SubAck(ack) if ack.codes == [1])), 1, "{seen:?}");
    assert_eq!(is(|packet| matches!(packet, Packet::PubAck(ack) if ack.reason == 0)), 1, "{seen:?}");
    assert_eq!(is(|packet| matches!(packet, Packet::Publish(p) if p.payload == "witness")), 1, "{seen:?}");
}
