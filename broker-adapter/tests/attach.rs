//! A program's own rumqttd, with real clients at its listeners, and an engine attached to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code, reason = "its `main` is not called")]
#[path = "../examples/attach_to_rumqttd.rs"]
mod attach_to_rumqttd;
mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use forebay_broker_adapter::attach::{
    AttachCounts, AttachError, AttachFailure, AttachOptions, AttachState, Attached, attach,
};
use forebay_broker_adapter::client::{Client, ClientSession, ConnectOptions};
use forebay_broker_adapter::codec::Publish;
use forebay_engine::delivery::AttachOptions as MailboxOptions;
use forebay_engine::event::{
    ClientDisconnected, DisconnectReason, Event, Properties, Published, SessionOpened, SinkPosition, Subscribed,
    SubscriptionOptions,
};
use forebay_engine::log::AppendError;
use forebay_engine::{Engine, EngineOptions, Message, QoS};
use futures_util::FutureExt;
use rumqttd::protocol::{Packet, Publish as LocalPublish};
use rumqttd::{Broker, Config, RouterConfig};
use support::{message, open_engine, publish, subscribe, until};

const PATIENCE: Duration = Duration::from_secs(30);

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Somebody's rumqttd, attached to before it serves.
struct Theirs {
    v5: SocketAddr,
    attached: Vec<Attached>,
}

fn serve_with(change: impl FnOnce(&mut Config), engines: &[(&Engine, AttachOptions)]) -> Theirs {
    let v5 = free();
    let mut settings = attach_to_rumqttd::settings(free(), Some(v5));
    settings.v4 = None;
    change(&mut settings);
    let mut broker = Broker::new(settings);
    let attached = engines.iter().map(|(engine, options)| attach(&broker, engine, options).unwrap()).collect();
    thread::spawn(move || broker.start().unwrap());
    Theirs { v5, attached }
}

fn serve(engine: &Engine) -> (SocketAddr, Attached) {
    let mut theirs = serve_with(|_| {}, &[(engine, AttachOptions::default())]);
    (theirs.v5, theirs.attached.remove(0))
}

/// With a keep alive, which rumqttd insists on, as soon as it listens.
async fn connect(address: SocketAddr, options: ConnectOptions) -> Client {
    for _ in 0..1000 {
        let options = ConnectOptions { keep_alive_s: 60, ..options.clone() };
        if let Ok(client) = Client::connect(address, options, ClientSession::default()).await {
            return client;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("rumqttd does not listen on {address}");
}

async fn client(address: SocketAddr, id: &str) -> Client {
    connect(address, ConnectOptions::clean(id)).await
}

async fn stop(attached: Attached) -> Result<AttachCounts, AttachFailure> {
    tokio::task::spawn_blocking(move || attached.stop(PATIENCE)).await.unwrap()
}

/// The messages of the log, from the beginning.
fn logged(engine: &Engine) -> Vec<Message> {
    let (mut reader, mut records) = (engine.log().reader(engine.log().first()).unwrap(), Vec::new());
    while reader.read_batch(1000, 1 << 20, &mut records).unwrap() > 0 {}
    let message = |record: forebay_engine::Record| match Event::decode(record.kind, record.body).unwrap() {
        Event::Published(published) => Some(published.message),
        _ => None,
    };
    records.into_iter().filter_map(message).collect()
}

fn reopened(engine: Engine, dir: &Path) -> Engine {
    engine.close();
    open_engine(dir)
}

fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|m| String::from_utf8(m.payload.to_vec()).unwrap()).collect()
}

/// Publishes `first..first + count` with QoS 1, all in flight at once, and waits until all are acknowledged.
async fn flood(client: &mut Client, topic: &str, first: u32, count: u32, padding: usize) {
    for n in first..first + count {
        let payload = Bytes::from(format!("{n:0padding$}"));
        client.publish(topic, payload, QoS::AtLeastOnce, false).unwrap();
    }
    while client.unacknowledged() > 0 {
        support::next(client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_in_the_log_after_a_restart_with_topic_payload_qos_and_properties() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(dir.path());
    let (address, attached) = serve(&engine);
    let mut publisher = client(address, "p").await;
    assert_eq!(publish(&mut publisher, "a/b", "zero", QoS::AtMostOnce, false).await, 0);
    assert_eq!(publish(&mut publisher, "a/é", "one", QoS::AtLeastOnce, true).await, 0);
    assert_eq!(publish(&mut publisher, "/", "two", QoS::ExactlyOnce, false).await, 0);
    let properties = Properties {
        payload_format: Some(1),
        expiry_s: Some(1000),
        content_type: Some("text/plain".into()),
        response_topic: Some("answer".into()),
        correlation_data: Some("c".into()),
        user: vec![("k".into(), "1".into()), ("k".into(), "2".into())],
    };
    let with = Publish {
        topic: "p".into(),
        payload: "with properties".into(),
        qos: QoS::AtLeastOnce,
        properties: properties.clone(),
        ..Publish::default()
    };
    publisher.publish_packet(with).unwrap();
    while publisher.unacknowledged() > 0 {
        support::next(&mut publisher).await;
    }
    let counts = stop(attached).await.unwrap();
    assert_eq!((counts.appended, counts.missed, counts.refused, counts.retained), (4, 0, 0, 0));
    assert!(counts.last.unwrap() < engine.durable_end());

    let engine = reopened(engine, dir.path());
    let found = logged(&engine);
    let facts: Vec<_> = found.iter().map(|m| (&*m.topic, &m.payload[..], m.qos.as_u8(), m.retain)).collect();
    // QoS 2 is told from 0, not from 1; the retain flag is not told at all.
    let expected = [
        ("a/b", &b"zero"[..], 0, false),
        ("a/é", b"one", 1, false),
        ("/", b"two", 1, false),
        ("p", b"with properties", 1, false),
    ];
    assert_eq!(facts, expected);
    let left = found[3].properties.expiry_s.unwrap();
    assert!((900..=1000).contains(&left), "{left}");
    assert_eq!(Properties { expiry_s: Some(1000), ..found[3].properties.clone() }, properties);
    assert!(found.iter().all(|m| m.publisher.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_the_engine_are_given_what_passes_also_what_passed_while_they_slept() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(dir.path());
    let options = AttachOptions { filters: vec!["t/+".into(), "u".into()], min_qos: QoS::AtLeastOnce };
    let theirs = serve_with(|_| {}, &[(&engine, options)]);
    let opened = |epoch, resumed| {
        Event::SessionOpened(SessionOpened {
            client: "s".into(),
            epoch,
            resumed,
            expiry_s: 1000,
            will: None,
            username: "".into(),
            peer: "".into(),
        })
    };
    let epoch = engine.next_epoch();
    let subscribed = Subscribed {
        client: "s".into(),
        epoch,
        filter: "#".into(),
        options: SubscriptionOptions::of_qos(QoS::AtLeastOnce),
        by_proxy: false,
    };
    let left = ClientDisconnected {
        client: "s".into(),
        epoch,
        reason: DisconnectReason::ConnectionLost,
        superseded: false,
        cancel_will: false,
        expiry_s: None,
        positions: Vec::new(),
    };
    let events = [opened(epoch, false), Event::Subscribed(subscribed), Event::ClientDisconnected(left)];
    let appended = engine.append(&events).unwrap();
    engine.applied(appended.last).await.unwrap();

    let mut publisher = client(theirs.v5, "p").await;
    publish(&mut publisher, "t/1", "asleep", QoS::AtMostOnce, false).await;
    publish(&mut publisher, "elsewhere", "not asked for", QoS::AtLeastOnce, false).await;
    publish(&mut publisher, "u", "also", QoS::AtLeastOnce, false).await;
    until(|| theirs.attached[0].counts().appended == 2).await;
    let epoch = engine.next_epoch();
    let appended = engine.append(&[opened(epoch, true)]).unwrap();
    engine.applied(appended.last).await.unwrap();
    let mut mailbox = engine.attach(&MailboxOptions { client: "s".into(), epoch, window: 10, in_flight: Vec::new() });
    let mut got = Vec::new();
    while got.len() < 2 {
        tokio::time::timeout(PATIENCE, mailbox.ready()).await.expect("both come");
        mailbox.take(10, &mut got);
    }
    let got: Vec<_> = got.iter().map(|d| (&*d.message.topic, &d.message.payload[..])).collect();
    assert_eq!(got, [("t/1", &b"asleep"[..]), ("u", b"also")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_takes_all_that_was_acknowledged_before_and_leaves_the_others_alone() {
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (engine, other) = (open_engine(dir.path()), open_engine(other_dir.path()));
    let mut theirs = serve_with(|_| {}, &[(&engine, AttachOptions::default()), (&other, AttachOptions::default())]);
    let mut publisher = client(theirs.v5, "p").await;
    flood(&mut publisher, "f", 0, 5000, 1).await;
    let counts = stop(theirs.attached.remove(0)).await.unwrap();
    assert_eq!((counts.appended, counts.missed), (5000, 0));
    assert!(counts.last.unwrap() < engine.durable_end(), "durable when it returns");

    let mut subscriber = client(theirs.v5, "s").await;
    subscribe(&mut subscriber, "f", QoS::AtLeastOnce).await;
    flood(&mut publisher, "f", 5000, 300, 1).await;
    assert_eq!(message(&mut subscriber).await.payload, "5000");
    let others = stop(theirs.attached.remove(0)).await.unwrap();
    assert_eq!((others.appended, others.missed), (5300, 0));
    publish(&mut publisher, "f", "nobody is attached", QoS::AtLeastOnce, false).await;
    let expected: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    assert_eq!(payloads(&logged(&reopened(engine, dir.path()))), expected);
    assert_eq!(logged(&other).len(), 5300);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_closed_ends_it_and_rumqttd_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(dir.path());
    let (address, attached) = serve(&engine);
    let (mut publisher, mut subscriber) = (client(address, "p").await, client(address, "s").await);
    subscribe(&mut subscriber, "t", QoS::AtLeastOnce).await;
    publish(&mut publisher, "t", "before", QoS::AtLeastOnce, false).await;
    until(|| attached.counts().appended == 1).await;
    engine.close();
    // Noticed without a message.
    let state = tokio::task::block_in_place(|| attached.wait(PATIENCE));
    assert!(matches!(&state, AttachState::Failed(AttachFailure::EngineStopped(_))), "{state:?}");
    flood(&mut publisher, "t", 0, 500, 1).await;
    assert_eq!(message(&mut subscriber).await.payload, "before");
    assert_eq!(message(&mut subscriber).await.payload, "0");
    assert!(matches!(stop(attached).await, Err(AttachFailure::EngineStopped(_))));
    assert_eq!(payloads(&logged(&open_engine(dir.path()))), ["before"]);
}

/// An engine whose log has no room until [`make_room`].
async fn full_engine(dir: &Path) -> Engine {
    let mut options = EngineOptions::new(dir);
    options.log.segment_bytes = 256 * 1024;
    options.log.disk_budget = Some(8 * 256 * 1024 + (8 << 20));
    options.rules.publish = vec![("#".into(), 0)];
    let engine = Engine::open(options).unwrap().0;
    engine.hold_for_sinks(&["s".to_owned()]);
    let message = Message { topic: "fill".into(), payload: vec![b'x'; 4000].into(), ..Message::default() };
    let mut one = [Event::Published(Published { message, packet_id: None, epoch: 0 })];
    loop {
        match engine.append(&one) {
            Ok(_) => {}
            Err(AppendError::Full { .. }) => engine.wait_room(&one).await,
            Err(AppendError::NoSpace { .. }) => match &mut one[0] {
                Event::Published(p) if !p.message.payload.is_empty() => {
                    p.message.payload.truncate(p.message.payload.len() / 2);
                }
                _ => return engine,
            },
            Err(error) => panic!("{error}"),
        }
    }
}

fn make_room(engine: &Engine) {
    let next = engine.durable_end();
    engine.append(&[Event::SinkPosition(SinkPosition { sink: "s".into(), next })]).unwrap();
}

fn passed(engine: &Engine) -> Vec<String> {
    let passed: Vec<Message> = logged(engine).into_iter().filter(|m| m.topic != "fill").collect();
    payloads(&passed)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_log_has_no_room_messages_wait_in_the_ring_and_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let engine = full_engine(dir.path()).await;
    let (address, attached) = serve(&engine);
    let mut publisher = client(address, "p").await;
    flood(&mut publisher, "f", 0, 2000, 1).await;
    until(|| matches!(attached.state(), AttachState::Waiting(_))).await;
    assert_eq!(attached.counts().appended, 0);
    make_room(&engine);
    // Ten times what the router hands out in one turn lies in its ring; stopping takes all of it.
    let counts = stop(attached).await.unwrap();
    assert_eq!((counts.appended, counts.missed), (2000, 0));
    let expected: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    assert_eq!(passed(&engine), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_ring_that_overruns_loses_is_counted_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let engine = full_engine(dir.path()).await;
    let small =
        |settings: &mut Config| (settings.router.max_segment_size, settings.router.max_segment_count) = (4096, 2);
    let mut theirs = serve_with(small, &[(&engine, AttachOptions::default())]);
    let attached = theirs.attached.remove(0);
    let mut publisher = client(theirs.v5, "p").await;
    publish(&mut publisher, "f", "0", QoS::AtLeastOnce, false).await;
    until(|| matches!(attached.state(), AttachState::Waiting(_))).await;
    flood(&mut publisher, "f", 1, 3000, 100).await;
    make_room(&engine);
    until(|| attached.state() == AttachState::Reading).await;
    let counts = stop(attached).await.unwrap();
    assert!(counts.missed > 0, "{counts:?}");
    assert_eq!(counts.appended + counts.missed, 3001, "{counts:?}");
    let numbers: Vec<u32> = passed(&engine).iter().map(|p| p.parse().unwrap()).collect();
    assert_eq!(numbers.len() as u64, counts.appended);
    assert_eq!((numbers[0], numbers[numbers.len() - 1]), (0, 3000));
    assert!(numbers.is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_without_room_ends_in_time_and_says_what_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let engine = full_engine(dir.path()).await;
    let (address, attached) = serve(&engine);
    let mut publisher = client(address, "p").await;
    publish(&mut publisher, "f", "no room", QoS::AtLeastOnce, false).await;
    until(|| matches!(attached.state(), AttachState::Waiting(_))).await;
    let stopped = tokio::task::block_in_place(|| attached.stop(Duration::from_millis(300)));
    assert_eq!(stopped, Err(AttachFailure::TooLate));
    publish(&mut publisher, "f", "rumqttd serves on", QoS::AtLeastOnce, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_take_is_left_out_alone_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = EngineOptions::new(dir.path());
    options.log.record_bytes_max = 1000;
    let engine = Engine::open(options).unwrap().0;
    let broker = Broker::new(attach_to_rumqttd::settings(free(), None));
    let (mut own, _own_rx) = broker.link("own").unwrap();
    let attached = attach(&broker, &engine, &AttachOptions::default()).unwrap();
    for (topic, bytes) in [("t", 10), ("t", 2000), ("a/+", 10), ("u", 10)] {
        own.publish(topic, vec![b'x'; bytes]).unwrap();
    }
    let counts = stop(attached).await.unwrap();
    assert_eq!((counts.appended, counts.refused), (2, 2));
    let topics: Vec<_> = logged(&engine).iter().map(|m| (m.topic.to_string(), m.payload.len())).collect();
    assert_eq!(topics, [("t".to_owned(), 10), ("u".to_owned(), 10)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_of_before_are_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(dir.path());
    let broker = Broker::new(attach_to_rumqttd::settings(free(), None));
    let (mut own, _own_rx) = broker.link("own").unwrap();
    let mut own_publish = |topic: &'static str, retain| {
        own.send(Packet::Publish(LocalPublish::new(topic, "r", retain), None)).now_or_never().unwrap().unwrap();
    };
    own_publish("old", true);
    let attached = attach(&broker, &engine, &AttachOptions::default()).unwrap();
    own_publish("new", true);
    let counts = stop(attached).await.unwrap();
    assert_eq!((counts.appended, counts.retained), (1, 1));
    assert_eq!(logged(&engine)[0].topic, "new");
}

/// rumqttd 0.20 itself: any subscription at all makes its router look at a topic's first byte as if it were a letter.
#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_dies_is_reported_and_what_it_had_handed_out_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(dir.path());
    let (address, attached) = serve(&engine);
    let mut publisher = client(address, "p").await;
    publish(&mut publisher, "t", "before", QoS::AtLeastOnce, false).await;
    until(|| attached.counts().appended == 1).await;
    publisher.publish("état/1", Bytes::new(), QoS::AtMostOnce, false).unwrap();
    publisher.flush().await.unwrap();
    let state = tokio::task::block_in_place(|| attached.wait(PATIENCE));
    assert_eq!(state, AttachState::Failed(AttachFailure::RouterDied));
    assert_eq!(stop(attached).await, Err(AttachFailure::RouterDied));
    assert_eq!(payloads(&logged(&reopened(engine, dir.path()))), ["before"]);
}

#[test]
fn filters_that_would_cost_the_link_or_record_twice_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(dir.path());
    let broker = Broker::new(attach_to_rumqttd::settings(free(), None));
    let refused = |filters: &[&str]| {
        let filters = filters.iter().map(|f| (*f).to_owned()).collect();
        attach(&broker, &engine, &AttachOptions { filters, ..AttachOptions::default() }).map(|_| ()).unwrap_err()
    };
    assert!(matches!(refused(&[]), AttachError::NoFilter));
    assert!(matches!(refused(&["a", "a#"]), AttachError::Filter { .. }));
    assert!(matches!(refused(&["$SYS/#"]), AttachError::Dollar(_)));
    assert!(matches!(refused(&["a/#", "b", "a/+/c"]), AttachError::Overlap(a, b) if a == "a/#" && b == "a/+/c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_that_is_dropped_leaves_its_place_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(dir.path());
    let settings = attach_to_rumqttd::settings(free(), None);
    let router = RouterConfig { max_connections: 1, ..settings.router.clone() };
    let broker = Broker::new(Config { router, ..settings });
    let attached = attach(&broker, &engine, &AttachOptions::default()).unwrap();
    assert!(matches!(attach(&broker, &engine, &AttachOptions::default()), Err(AttachError::NoLink(_))));
    drop(attached);
    until(|| attach(&broker, &engine, &AttachOptions::default()).is_ok()).await;
}

#[test]
fn the_example_tells_what_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let address = free();
    let (tell, told) = mpsc::channel();
    let publish_one = move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut publisher = connect(address, ConnectOptions::clean("p").v311()).await;
            publish(&mut publisher, "a/b", "hello", QoS::AtLeastOnce, false).await;
        });
    };
    let settings = attach_to_rumqttd::settings(address, None);
    let counts = attach_to_rumqttd::run(dir.path(), settings, publish_one, move |topic, payload| {
        tell.send((topic.to_owned(), payload.to_vec())).unwrap();
    });
    assert_eq!(counts.unwrap().appended, 1);
    assert_eq!(told.iter().collect::<Vec<_>>(), [("a/b".to_owned(), b"hello".to_vec())]);
    assert_eq!(payloads(&logged(&open_engine(dir.path()))), ["hello"]);
}
