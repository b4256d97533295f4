//! What the engine's tests share: an engine in a temporary folder, and events in a line.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use forebay_engine::delivery::{AttachOptions, Delivery, Mailbox};
use forebay_engine::event::*;
use forebay_engine::rules::{PubsubRule, StartAt};
use forebay_engine::{Engine, EngineOptions, Lsn, Rules};

struct Unpark(Thread);
impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread; panics after 20 s.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing happened for 20 s");
        thread::park_timeout(left);
    }
}

pub fn rules() -> Rules {
    let pubsub = |filter: &str| PubsubRule {
        filter: filter.into(),
        start: StartAt::Earliest,
        max_returned: None,
        time_range: None,
    };
    Rules {
        queue: vec!["queue/#".into()],
        latest: vec!["latest/#".into()],
        pubsub: vec![PubsubRule { max_returned: Some(3), ..pubsub("pubsub/few/#") }, pubsub("pubsub/#")],
        publish: vec![("#".into(), 0)],
        ..Rules::default()
    }
}

pub fn options(dir: &Path) -> EngineOptions {
    let mut options = EngineOptions::new(dir);
    options.rules = rules();
    options.log.segment_bytes = 256 * 1024;
    options
}

pub fn open(dir: &Path) -> Engine {
    Engine::open(options(dir)).expect("the engine opens").0
}

/// Appends and waits until state and delivery include it.
pub fn apply(engine: &Engine, events: &[Event]) -> Lsn {
    let appended = engine.append(events).expect("appended");
    block_on(engine.applied(appended.last)).expect("applied");
    appended.first
}

pub fn message(topic: &str, payload: &str, qos: u8) -> Message {
    Message {
        topic: topic.into(),
        payload: payload.to_owned().into(),
        qos: QoS::from_u8(qos).unwrap(),
        publisher: "publisher".into(),
        ..Message::default()
    }
}

pub fn published(message: Message) -> Event {
    Event::Published(Published { message, packet_id: None, epoch: 0 })
}

pub fn publish(engine: &Engine, topic: &str, payload: &str, qos: u8) -> Lsn {
    apply(engine, &[published(message(topic, payload, qos))])
}

/// A connected client.
pub struct Client {
    pub engine: Engine,
    pub id: String,
    pub epoch: Epoch,
    pub mailbox: Option<Mailbox>,
}

impl Client {
    pub fn connect(engine: &Engine, id: &str, resumed: bool, expiry_s: u32) -> Client {
        Client::connect_with(engine, id, resumed, expiry_s, 20, vec![], None)
    }

    pub fn connect_with(
        engine: &Engine,
        id: &str,
        resumed: bool,
        expiry_s: u32,
        window: u16,
        in_flight: Vec<Lsn>,
        will: Option<Will>,
    ) -> Client {
        let epoch = engine.next_epoch();
        let opened =
            SessionOpened { client: id.into(), epoch, resumed, expiry_s, will, username: "".into(), peer: "".into() };
        apply(engine, &[Event::SessionOpened(opened)]);
        let mailbox = engine.attach(&AttachOptions { client: id.into(), epoch, window, in_flight });
        Client { engine: engine.clone(), id: id.into(), epoch, mailbox: Some(mailbox) }
    }

    pub fn subscribe(&self, filter: &str, qos: u8) {
        self.subscribe_with(filter, SubscriptionOptions::of_qos(QoS::from_u8(qos).unwrap()));
    }

    pub fn subscribe_with(&self, filter: &str, options: SubscriptionOptions) {
        let subscribed = Subscribed {
            client: self.id.as_str().into(),
            epoch: self.epoch,
            filter: filter.into(),
            options,
            by_proxy: false,
        };
        apply(&self.engine, &[Event::Subscribed(subscribed)]);
    }

    pub fn unsubscribe(&self, filter: &str) {
        let gone =
            Unsubscribed { client: self.id.as_str().into(), epoch: self.epoch, filter: filter.into(), by_proxy: false };
        apply(&self.engine, &[Event::Unsubscribed(gone)]);
    }

    fn mailbox(&mut self) -> &mut Mailbox {
        self.mailbox.as_mut().unwrap()
    }

    /// Waits for `n` deliveries, without settling them.
    pub fn take(&mut self, n: usize) -> Vec<Delivery> {
        let mut out = Vec::new();
        while out.len() < n {
            let (mailbox, left) = (self.mailbox.as_mut().unwrap(), n - out.len());
            block_on(mailbox.ready());
            mailbox.take(left, &mut out);
        }
        out
    }

    pub fn settle(&mut self, deliveries: &[Delivery]) {
        let own = deliveries.iter().filter(|d| d.share.is_none());
        let settled: Vec<_> = own.map(|d| (d.lsn, None, AckOutcome::Acknowledged)).collect();
        self.mailbox().settle(&settled);
        let shared = deliveries.iter().filter_map(|d| d.share.clone().map(|share| (d.lsn, share)));
        let settled: Vec<_> = shared.map(|(lsn, share)| (lsn, share, None, AckOutcome::Acknowledged)).collect();
        self.mailbox().settle_shared(&settled);
    }

    /// Waits for these payloads, in this order, and settles them.
    pub fn expect(&mut self, payloads: &[&str]) {
        let got = self.take(payloads.len());
        let texts: Vec<String> = got.iter().map(|d| String::from_utf8_lossy(&d.message.payload).into_owned()).collect();
        assert_eq!(texts, payloads, "{}", self.id);
        self.settle(&got);
    }

    /// Nothing (more) comes: whatever was appended so far is applied, and a marker published after it is the next thing to arrive.
    pub fn expect_nothing_but(&mut self, marker_topic: &str) {
        publish(&self.engine.clone(), marker_topic, "marker", 1);
        self.expect(&["marker"]);
    }

    pub fn disconnect(mut self) {
        let positions = self.mailbox().positions();
        self.mailbox = None;
        let gone = ClientDisconnected {
            client: self.id.as_str().into(),
            epoch: self.epoch,
            reason: DisconnectReason::Normal,
            superseded: false,
            cancel_will: true,
            expiry_s: None,
            positions,
        };
        apply(&self.engine, &[Event::ClientDisconnected(gone)]);
    }
}
