//! Seams of delivery, one step at a time: a hub without the threads that usually drive it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use parking_lot::RwLock;

use super::*;
use crate::clock::SystemClock;
use crate::disk::RealDisk;
use crate::event::{Published, SessionOpened, Subscribed, SubscriptionOptions, Unsubscribed};
use crate::log::{Log, LogOptions};
use crate::postings::Postings;
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
    let postings = Postings::new(log.clone(), Arc::new(RealDisk), Arc::new(SystemClock), log.durable_end()).unwrap();
    let postings = Arc::new(postings);
    let hub = Arc::new(Hub::new(log.clone(), rules.clone(), state.clone(), Arc::new(SystemClock), postings, send));
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
        Mailbox::new(self.hub.clone(), &AttachOptions { client: client.into(), epoch, window: 10, in_flight }, &[])
    }

    /// Lets the worker do all it was asked to.
    fn work(&self) {
        while let Ok(work) = self.work.try_recv() {
            match work {
                Work::Fill(inbox) => while catch_up::fill(&self.hub, &inbox) {},
                Work::Topic(topic) => worker::hand_out(&self.hub, &topic),
                Work::Group(share) => groups::hand_out_group(&self.hub, &share),
                Work::Room(inbox) => worker::hand_out_to(&self.hub, &inbox),
                Work::Stop => return,
            }
        }
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

#[test]
fn a_lease_that_was_not_handed_out_goes_back_when_its_subscription_ends() {
    let bench = bench();
    bench.session("a", 1, false);
    bench.subscribe("a", 1, "queue/x");
    let a = bench.attach("a", 1, vec![]);
    let (stored, change) = bench.publish("queue/x", QoS::AtLeastOnce);
    assert_eq!(change, Change::Owed { queue: true, groups: vec![] });
    bench.hub.queued(stored.lsn, &stored.message.topic);
    bench.work();
    assert!(bench.hub.queue.lock().holds(stored.lsn, "a"));
    bench.hub.unsubscribed(&"a".into(), &"queue/x".into(), None, false);
    bench.session("b", 2, false);
    bench.subscribe("b", 2, "queue/x");
    let _b = bench.attach("b", 2, vec![]);
    bench.work();
    assert!(bench.hub.queue.lock().holds(stored.lsn, "b"));
    drop(a);
    assert!(bench.hub.queue.lock().holds(stored.lsn, "b"));
}

#[test]
fn settling_what_an_earlier_connection_had_in_flight_makes_room_for_queue_messages() {
    let bench = bench();
    bench.session("a", 1, false);
    bench.subscribe("a", 1, "queue/x");
    bench.subscribe("a", 1, "a");
    let (old, _) = bench.publish("a", QoS::AtLeastOnce);
    let mut a = bench.attach("a", 1, vec![old.lsn; 1]);
    bench.hub.set_offered(bench.log.durable_end());
    for _ in 0..10 {
        let (stored, _) = bench.publish("queue/x", QoS::AtLeastOnce);
        bench.hub.queued(stored.lsn, &stored.message.topic);
    }
    bench.work();
    let mut taken = Vec::new();
    a.take(20, &mut taken);
    assert_eq!(taken.len(), 9, "one place of ten is in flight from before");
    a.settle(&[(old.lsn, None, AckOutcome::Acknowledged)]);
    bench.work();
    a.take(20, &mut taken);
    assert_eq!(taken.len(), 10);
}

#[test]
fn a_newer_message_takes_no_place_from_a_plain_subscription() {
    let bench = bench();
    bench.session("c", 1, false);
    bench.subscribe("c", 1, "#");
    bench.subscribe("c", 1, "latest/x");
    let mut mailbox = bench.attach("c", 1, vec![]);
    bench.work();
    for _ in 0..2 {
        let (stored, _) = bench.publish("latest/x", QoS::AtLeastOnce);
        bench.hub.set_delivering(stored.lsn.next());
        bench.hub.publish(&stored, &mut Vec::new());
        bench.hub.set_offered(stored.lsn.next());
    }
    let mut taken = Vec::new();
    mailbox.take(10, &mut taken);
    assert_eq!(taken.len(), 2);
}

#[test]
fn a_client_that_takes_nothing_holds_no_segment() {
    let bench = bench();
    bench.session("c", 1, false);
    bench.subscribe("c", 1, "a");
    for _ in 0..2000 {
        let message =
            Message { topic: "a".into(), payload: "x".repeat(100).into(), qos: QoS::AtLeastOnce, ..Message::default() };
        let published = Published { message, packet_id: None, epoch: 0 };
        crate::engine::append(&bench.log, &[Event::Published(published)]).unwrap();
    }
    bench.log.wait_durable_blocking(Lsn(bench.log.end().0 - 1)).unwrap();
    let _mailbox = bench.attach("c", 1, vec![]);
    bench.work();
    let segments = bench.log.segments();
    assert!(segments.len() > 2, "{segments:?}");
    let trimmed = bench.log.trim_to(bench.log.durable_end()).unwrap();
    assert_eq!(trimmed.segments, segments.len() - 1);
}

/// A session with a queue's filter, a retained message of that queue, and a second filter that asked for it as retained.
fn copy_and_lease(bench: &Bench) -> (Mailbox, Lsn) {
    bench.session("c", 1, false);
    bench.subscribe("c", 1, "queue/#");
    let message = Message {
        topic: "queue/x".into(),
        payload: "x".into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        ..Message::default()
    };
    let (lsn, _) = bench.apply(&Event::Published(Published { message, packet_id: None, epoch: 0 }));
    let mailbox = bench.attach("c", 1, vec![]);
    bench.work();
    bench.subscribe("c", 1, "+/x");
    let made = Lsn(bench.log.end().0 - 1);
    bench.hub.subscribed(&"c".into(), &"+/x".into(), made, SubscriptionOptions::of_qos(QoS::ExactlyOnce), None);
    (mailbox, lsn)
}

fn unsubscribe(bench: &Bench, filter: &str) {
    let event = Unsubscribed { client: "c".into(), epoch: 1, filter: filter.into(), by_proxy: false };
    bench.apply(&Event::Unsubscribed(event));
    bench.hub.unsubscribed(&"c".into(), &filter.into(), None, false);
}

#[test]
fn a_retained_copy_that_only_a_queue_wants_still_is_no_retained_copy() {
    let bench = bench();
    let (mut mailbox, lsn) = copy_and_lease(&bench);
    bench.hub.queued(lsn, &"queue/x".into());
    bench.work();
    unsubscribe(&bench, "+/x");
    let mut taken = Vec::new();
    mailbox.take(10, &mut taken);
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(!taken[0].retain, "{taken:?}");
    assert!(bench.hub.queue.lock().holds(lsn, "c"));
}

#[test]
fn a_retained_copy_that_nobody_wants_any_more_is_not_sent() {
    let bench = bench();
    let (mut mailbox, _) = copy_and_lease(&bench);
    unsubscribe(&bench, "+/x");
    let mut taken = Vec::new();
    mailbox.take(10, &mut taken);
    assert!(taken.is_empty(), "{taken:?}");
}

#[test]
fn a_retained_copy_is_sent_with_the_best_qos_that_asks_for_its_message() {
    let bench = bench();
    bench.session("c", 1, false);
    bench.subscribe("c", 1, "a");
    let message =
        Message { topic: "a".into(), payload: "x".into(), qos: QoS::AtLeastOnce, retain: true, ..Message::default() };
    bench.apply(&Event::Published(Published { message, packet_id: None, epoch: 0 }));
    let mut mailbox = bench.attach("c", 1, vec![]);
    // The reader has not come to it for the first filter when the second one asks for it.
    bench.subscribe("c", 1, "#");
    let made = Lsn(bench.log.end().0 - 1);
    bench.hub.subscribed(&"c".into(), &"#".into(), made, SubscriptionOptions::of_qos(QoS::AtMostOnce), None);
    bench.work();
    let mut taken = Vec::new();
    mailbox.take(10, &mut taken);
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert_eq!((taken[0].qos, taken[0].retain), (QoS::AtLeastOnce, true));
}

#[test]
fn nothing_is_left_of_a_connection_that_had_messages_in_flight() {
    let bench = bench();
    bench.session("c", 1, false);
    bench.subscribe("c", 1, "a");
    bench.publish("a", QoS::AtLeastOnce);
    bench.publish("a", QoS::AtLeastOnce);
    let mut mailbox = bench.attach("c", 1, vec![]);
    bench.work();
    let mut taken = Vec::new();
    mailbox.take(1, &mut taken);
    assert_eq!(taken.len(), 1);
    let inbox = Arc::downgrade(&mailbox.inbox);
    drop(mailbox);
    bench.work();
    assert!(inbox.upgrade().is_none(), "the inbox is held by what was in it");
}

#[test]
fn an_acknowledged_queue_message_goes_to_nobody_else_when_its_connection_ends_first() {
    let bench = bench();
    bench.session("a", 1, false);
    bench.subscribe("a", 1, "queue/x");
    let mut a = bench.attach("a", 1, vec![]);
    let (stored, _) = bench.publish("queue/x", QoS::AtLeastOnce);
    bench.hub.queued(stored.lsn, &stored.message.topic);
    bench.work();
    let mut taken = Vec::new();
    a.take(1, &mut taken);
    assert_eq!(taken.len(), 1);
    a.settle(&[(stored.lsn, None, AckOutcome::Acknowledged)]);
    // Its record is not applied yet.
    drop(a);
    bench.session("b", 2, false);
    bench.subscribe("b", 2, "queue/x");
    let mut b = bench.attach("b", 2, vec![]);
    bench.work();
    b.take(1, &mut taken);
    assert_eq!(taken.len(), 1, "{taken:?}");
    bench.hub.unqueued(&[stored.lsn]);
    assert!(!bench.hub.queue.lock().holds(stored.lsn, "a"));
}
