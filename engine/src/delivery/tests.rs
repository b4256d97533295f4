//! Seams of delivery, one step at a time: a hub without the threads that usually drive it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use parking_lot::RwLock;

use super::*;
use crate::clock::SystemClock;
use crate::event::{Published, SessionOpened, Subscribed, SubscriptionOptions};
use crate::log::{Log, LogOptions};
use crate::rules::{PubsubRule, RuleIndex, Rules, StartAt};
use crate::state::{Change, State, StoredMessage};

struct Bench {
    _dir: tempfile::TempDir,
    log: Log,
    rules: Arc<RuleIndex>,
    state: Arc<RwLock<State>>,
    hub: Arc<Hub>,
    work: Receiver<Work>,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogOptions { segment_bytes: 64 << 10, ..LogOptions::new(dir.path()) }).unwrap().0;
    let pubsub =
        PubsubRule { filter: "pubsub/#".into(), start: StartAt::Earliest, max_returned: None, time_range: None };
    let rules = Rules {
        queue: vec!["queue/#".into()],
        latest: vec!["latest/#".into()],
        pubsub: vec![pubsub],
        ..Rules::default()
    };
    let rules = Arc::new(RuleIndex::new(&rules));
    let state = Arc::new(RwLock::new(State { applied: Lsn::FIRST, ..State::default() }));
    let (send, work) = channel();
    let hub = Arc::new(Hub::new(log.clone(), rules.clone(), state.clone(), Arc::new(SystemClock), send));
    Bench { _dir: dir, log, rules, state, hub, work }
}

impl Bench {
    /// Logs an event and takes it into state; nothing is delivered.
    fn apply(&self, event: &Event) -> (Lsn, Change) {
        let lsn = crate::engine::append(&self.log, std::slice::from_ref(event)).unwrap().last;
        self.log.wait_durable_blocking(lsn).unwrap();
        (lsn, self.state.write().apply(&self.rules, lsn, lsn.0, event))
    }

    fn session(&self, client: &str, epoch: Epoch, resumed: bool) {
        let opened = SessionOpened {
            client: client.into(),
            epoch,
            resumed,
            expiry_s: 100,
            will: None,
            username: "".into(),
            peer: "".into(),
        };
        self.apply(&Event::SessionOpened(opened));
    }

    fn subscribe(&self, client: &str, epoch: Epoch, filter: &str) {
        let options = SubscriptionOptions::of_qos(QoS::ExactlyOnce);
        let event = Subscribed { client: client.into(), epoch, filter: filter.into(), options, by_proxy: false };
        self.apply(&Event::Subscribed(event));
    }

    fn publish(&self, topic: &str, qos: QoS) -> (StoredMessage, Change) {
        let message = Message { topic: topic.into(), payload: "x".into(), qos, ..Message::default() };
        let published = Published { message: message.clone(), packet_id: None, epoch: 0 };
        let (lsn, change) = self.apply(&Event::Published(published));
        (StoredMessage { lsn, time_us: lsn.0, message: Arc::new(message) }, change)
    }

    fn attach(&self, client: &str, epoch: Epoch, in_flight: Vec<Lsn>) -> Mailbox {
        let end = self.log.durable_end();
        self.hub.set_delivering(end);
        self.hub.set_offered(end);
        Mailbox::new(self.hub.clone(), &AttachOptions { client: client.into(), epoch, window: 10, in_flight })
    }

    /// Lets the worker do all it was asked to.
    fn work(&self) {
        self.hub.send(Work::Stop);
        run(&self.hub, &self.work);
    }
}

#[test]
fn a_cursor_does_not_pass_a_record_that_is_just_being_offered() {
    let bench = bench();
    bench.session("c", 1, false);
    bench.subscribe("c", 1, "a");
    let mut mailbox = bench.attach("c", 1, vec![]);
    bench.work();
    let (first, _) = bench.publish("a", QoS::AtLeastOnce);
    let (second, _) = bench.publish("a", QoS::AtLeastOnce);
    let mut touched = Vec::new();
    bench.hub.set_delivering(first.lsn.next());
    bench.hub.publish(&first, &mut touched);
    bench.hub.set_offered(first.lsn.next());
    let mut taken = Vec::new();
    mailbox.take(10, &mut taken);
    assert_eq!(taken.len(), 1);
    // The applier has begun with the second record and has not come to this inbox yet.
    bench.hub.set_delivering(second.lsn.next());
    mailbox.settle(&[(first.lsn, None, AckOutcome::Acknowledged)]);
    assert_eq!(mailbox.positions()[0].low, second.lsn);
    bench.log.wait_durable_blocking(Lsn(bench.log.end().0 - 1)).unwrap();
    let acked = bench.log.read(Lsn(bench.log.end().0 - 1)).unwrap().unwrap();
    let Event::Acked(acked) = Event::decode(acked.kind, acked.body).unwrap() else { panic!("not an Acked") };
    assert!(acked.cursors[0].low <= second.lsn, "{acked:?}");
}
