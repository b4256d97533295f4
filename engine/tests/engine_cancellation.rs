//! Every future may be dropped before it is ready: nothing is lost, nothing is left behind, and the next one resolves. Every future
//! has a blocking counterpart that ends with its time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use forebay_engine::delivery::{AttachOptions, Delivery, Mailbox};
use forebay_engine::event::{AckOutcome, Event, Published, SessionOpened, Subscribed, SubscriptionOptions};
use forebay_engine::log::{AppendError, NewRecord};
use forebay_engine::{Engine, EngineOptions, Log, LogOptions, Lsn, Message, QoS};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(5);

/// Polls once and drops.
fn cancel<T>(future: impl Future<Output = T>) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

fn engine(dir: &tempfile::TempDir) -> Engine {
    let mut options = EngineOptions::new(dir.path());
    options.log.segment_bytes = 1 << 20;
    Engine::open(options).unwrap().0
}

fn published(topic: &str, payload: Vec<u8>) -> Event {
    let message = Message { topic: topic.into(), payload: payload.into(), qos: QoS::AtLeastOnce, ..Message::default() };
    Event::Published(Published { message, packet_id: None, epoch: 0 })
}

fn subscriber(engine: &Engine) -> Mailbox {
    let epoch = engine.next_epoch();
    let opened = SessionOpened {
        client: "c".into(),
        epoch,
        resumed: false,
        expiry_s: 3600,
        will: None,
        username: "".into(),
        peer: "".into(),
    };
    let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
    let subscribed = Subscribed { client: "c".into(), epoch, filter: "t/#".into(), options, by_proxy: false };
    let events = [Event::SessionOpened(opened), Event::Subscribed(subscribed)];
    let appended = engine.append_within(&events, LONG).unwrap();
    assert!(engine.applied_within(appended.last, LONG).unwrap());
    engine.attach(&AttachOptions { client: "c".into(), epoch, window: 10, in_flight: vec![] })
}

#[test]
fn waiting_for_a_record_can_be_dropped_and_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&dir);
    let next = engine.log().end();
    for _ in 0..100 {
        assert!(cancel(engine.durable(next)));
        assert!(cancel(engine.applied(next)));
        assert!(cancel(engine.log().wait_durable(next)));
    }
    assert!(!engine.durable_within(next, SHORT).unwrap());
    assert!(!engine.applied_within(next, SHORT).unwrap());
    assert!(!engine.log().wait_durable_within(next, SHORT).unwrap());
    engine.append(&[published("t/1", b"x".to_vec())]).unwrap();
    assert!(engine.durable_within(next, LONG).unwrap());
    assert!(engine.applied_within(next, LONG).unwrap());
    engine.close();
    // What never comes is told, to tasks and to threads.
    let after = Lsn(engine.log().end().0 + 10);
    assert!(!cancel(engine.durable(after)));
    assert!(engine.durable_within(after, LONG).is_err());
    assert!(engine.log().wait_durable_within(after, LONG).is_err());
}

#[test]
fn a_dropped_wait_of_a_mailbox_takes_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&dir);
    let mut mailbox = subscriber(&engine);
    assert!(!mailbox.ready_within(SHORT));
    for _ in 0..100 {
        assert!(cancel(mailbox.ready()));
    }
    engine.append(&[published("t/1", b"x".to_vec())]).unwrap();
    assert!(mailbox.ready_within(LONG));
    // Ready twice, given once.
    assert!(!cancel(mailbox.ready()) && !cancel(mailbox.ready()));
    let mut taken: Vec<Delivery> = Vec::new();
    while taken.is_empty() {
        assert!(mailbox.ready_within(LONG));
        mailbox.take(10, &mut taken);
    }
    assert_eq!(taken.len(), 1);
    mailbox.settle(&[(taken[0].lsn, None, AckOutcome::Acknowledged)]);
    engine.close();
}

/// A log whose queue is full: nothing is written while a waker of its watermark blocks the writer.
#[test]
fn a_dropped_append_has_appended_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = EngineOptions::new(dir.path());
    options.log.segment_bytes = 1 << 20;
    options.log.queue_bytes_max = 64 << 10;
    let (engine, _) = Engine::open(options).unwrap();
    let events = [published("t/1", vec![b'x'; 30 << 10]), published("t/2", vec![b'y'; 30 << 10])];
    let mut appended = 0;
    for _ in 0..200 {
        // Polled once: either there was room, and both are in, or it is dropped while it waits, and none is.
        let future = pin!(engine.append_wait(&events));
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => {
                let done = done.unwrap();
                assert_eq!(done.last.0, done.first.0 + 1);
                appended += 2;
            }
            Poll::Pending => {}
        }
    }
    let last = engine.append_within(&events, LONG).unwrap().last;
    appended += 2;
    assert!(engine.durable_within(last, LONG).unwrap());
    let mut reader = engine.log().reader(engine.log().first()).unwrap();
    let mut records = Vec::new();
    while reader.read_batch(100, 1 << 20, &mut records).unwrap() > 0 {}
    assert_eq!(records.len(), appended);
    engine.close();
    assert!(matches!(engine.append_within(&events, LONG), Err(AppendError::Stopped(_))));
}

#[test]
fn a_log_alone_waits_without_a_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(LogOptions { segment_bytes: 64 << 10, ..LogOptions::new(dir.path()) }).unwrap();
    let log = Arc::new(log);
    let next = log.end();
    let waiting = {
        let log = Arc::clone(&log);
        std::thread::spawn(move || log.wait_durable_within(next, LONG))
    };
    assert!(log.wait_room_within(LONG));
    log.append_batch(vec![NewRecord { kind: 1, body: b"x".to_vec() }]).unwrap();
    assert!(waiting.join().unwrap().unwrap());
    log.close();
}
