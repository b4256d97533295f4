//! The link to rumqttd's router: with `rumqttd.rs` and `attach/link.rs` the only file that knows rumqttd.
//!
//! The router is told nothing but an escaped topic and a token, with QoS 0. Its rules are kept here: a link that was told
//! to leave is never woken (that would panic the router), and the thread that wakes is the one that leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flume::RecvTimeoutError;
use parking_lot::Mutex;
use rumqttd::local::{LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{
    Disconnect, DisconnectReasonCode, Filter, Packet, QoS, RetainForwardRule, Subscribe, SubscribeProperties,
    Unsubscribe,
};
use rumqttd::{Broker, Config, Forward, Notification, RouterConfig};

/// The router has died; a new link needs a new router.
#[derive(Debug)]
pub(crate) struct RouterDied;

/// What comes over a link from its router, whoever runs that.
pub(crate) struct FromRouter {
    rx: LinkRx,
}

/// See [`FromRouter`].
#[allow(clippy::large_enum_variant, reason = "each is moved once, from the link to who makes something of it")]
pub(crate) enum Sent {
    /// A message that a subscription of the link matches.
    Message(Forward),
    /// The answer to a packet of the link.
    Answer,
    /// The link's buffer had been full and the router had paused; it was told to go on.
    Resumed,
}

impl FromRouter {
    /// For a link that has just been made.
    pub(crate) fn new(rx: LinkRx) -> FromRouter {
        FromRouter { rx }
    }

    /// The next thing, or none until `deadline`. A deadline that has passed gives what is there.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Option<Sent>, RouterDied> {
        loop {
            match self.rx.recv_deadline(deadline) {
                Ok(Some(Notification::Forward(forward))) => return Ok(Some(Sent::Message(forward))),
                Ok(Some(Notification::DeviceAck(_))) => return Ok(Some(Sent::Answer)),
                Ok(Some(Notification::Unschedule)) => {
                    self.rx.ready().map_err(|_| RouterDied)?;
                    return Ok(Some(Sent::Resumed));
                }
                Ok(Some(Notification::Disconnect(..))) => return Err(RouterDied),
                Ok(_) => {}
                Err(LinkError::RecvTimeout(RecvTimeoutError::Timeout)) => return Ok(None),
                Err(_) => return Err(RouterDied),
            }
        }
    }
}

/// A router of its own and the one link to it.
pub(super) struct RouterLink {
    tx: Arc<Mutex<LinkTx>>,
    alive: Arc<AtomicBool>,
    // Keeps the router's thread running.
    _router: Broker,
}

/// The receiving end, for one thread.
pub(super) struct RouterReader {
    tx: Arc<Mutex<LinkTx>>,
    rx: FromRouter,
    alive: Arc<AtomicBool>,
}

/// What the router hands back.
pub(super) enum Received {
    /// A token published to a topic that the subscription with this number matches.
    Token { subscription: usize, token: u64 },
    /// Nothing within the time given.
    Nothing,
}

/// Limits of the router's ring for each filter. Records hold a token only, so this is about 64 Ki messages.
const RING_SEGMENT_BYTES: usize = 1 << 20;
const RING_SEGMENTS: usize = 4;
/// A topic nobody can subscribe to through the bus; publishing to it makes the router look into the link's buffer.
const BELL: &str = "b";

/// Where a topic or filter stands in the router. The first level keeps `#` from matching `$` topics, and the router from topics whose
/// first character is not ASCII, which would kill it. The last level makes `a/#` match `a`, which the router would not.
fn escaped(topic: &str) -> String {
    let first = if topic.starts_with('$') { "d" } else { "m" };
    if topic.ends_with('#') { format!("{first}/{topic}") } else { format!("{first}/{topic}/e") }
}

impl RouterLink {
    /// Starts a router and links to it. Blocks for a moment.
    pub(super) fn start() -> Result<(RouterLink, RouterReader), Box<LinkError>> {
        let router = RouterConfig {
            max_connections: 4,
            max_outgoing_packet_count: 200,
            max_segment_size: RING_SEGMENT_BYTES,
            max_segment_count: RING_SEGMENTS,
            ..RouterConfig::default()
        };
        let router = Broker::new(Config { router, ..Config::default() });
        let (tx, rx) = router.link("forebay")?;
        let (tx, alive) = (Arc::new(Mutex::new(tx)), Arc::new(AtomicBool::new(true)));
        let reader = RouterReader { tx: Arc::clone(&tx), rx: FromRouter::new(rx), alive: Arc::clone(&alive) };
        Ok((RouterLink { tx, alive, _router: router }, reader))
    }

    /// False once the reader has seen the router die.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Subscribes; what matches comes back with `subscription`.
    pub(super) fn subscribe(&self, filter: &str, subscription: usize) -> Result<(), RouterDied> {
        let filter = Filter {
            path: escaped(filter),
            qos: QoS::AtMostOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        };
        let properties = SubscribeProperties { id: Some(subscription), user_properties: Vec::new() };
        self.send(Packet::Subscribe(Subscribe { pkid: 1, filters: vec![filter] }, Some(properties)))
    }

    /// Removes a subscription.
    pub(super) fn unsubscribe(&self, filter: &str) -> Result<(), RouterDied> {
        self.send(Packet::Unsubscribe(Unsubscribe { pkid: 1, filters: vec![escaped(filter)] }, None))
    }

    /// Publishes a token.
    pub(super) fn publish(&self, topic: &str, token: u64) -> Result<(), RouterDied> {
        if !self.is_alive() {
            return Err(RouterDied);
        }
        let result = self.tx.lock().try_publish(escaped(topic), Bytes::copy_from_slice(&token.to_be_bytes()));
        self.rung(result)
    }

    fn send(&self, packet: Packet) -> Result<(), RouterDied> {
        if !self.is_alive() {
            return Err(RouterDied);
        }
        let mut tx = self.tx.lock();
        tx.buffer().push_back(packet);
        let result = tx.try_publish(BELL, Bytes::new());
        self.rung(result)
    }

    /// A packet lies in the link's buffer before the router is told to look. Where the queue of such calls is full, an earlier one
    /// is still to come and takes the packet along; only a router that is gone is an error.
    fn rung(&self, result: Result<usize, LinkError>) -> Result<(), RouterDied> {
        match result {
            Ok(_) => Ok(()),
            Err(LinkError::TrySend(flume::TrySendError::Full(_))) => Ok(()),
            Err(_) => {
                self.alive.store(false, Ordering::Release);
                Err(RouterDied)
            }
        }
    }
}

impl RouterReader {
    /// The next token, or [`Received::Nothing`] after `wait`.
    pub(super) fn receive(&mut self, wait: Duration) -> Result<Received, RouterDied> {
        let deadline = Instant::now() + wait;
        loop {
            let forward = match self.rx.next(deadline) {
                Ok(Some(Sent::Message(forward))) => forward,
                Ok(Some(Sent::Answer | Sent::Resumed)) => continue,
                Ok(None) => return Ok(Received::Nothing),
                Err(RouterDied) => return Err(self.died()),
            };
            let subscription = forward.properties.as_ref().and_then(|p| p.subscription_identifiers.first().copied());
            let token = <[u8; 8]>::try_from(forward.publish.payload.as_ref()).map(u64::from_be_bytes);
            if let (Some(subscription), Ok(token)) = (subscription, token) {
                return Ok(Received::Token { subscription, token });
            }
        }
    }

    /// Leaves the router. The reader is gone afterwards, so nothing can wake the link any more.
    pub(super) fn leave(self) {
        let leave = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
        let mut tx = self.tx.lock();
        tx.buffer().push_back(Packet::Disconnect(leave, None));
        let _ = tx.try_publish(BELL, Bytes::new());
    }

    fn died(&self) -> RouterDied {
        self.alive.store(false, Ordering::Release);
        RouterDied
    }
}
