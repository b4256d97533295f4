//! A log without room, as clients see it: who is refused, who waits, who goes on, and that it ends by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_broker_adapter::client::{Client, ClientError, ConnectOptions};
use forebay_broker_adapter::codec::{Connect, ConnectProperties, ConnectWill, Packet, Publish, Version};
use forebay_broker_adapter::{Broker, BrokerOptions, ListenerOptions, NoStore, OperatorError};
use forebay_engine::event::{Event, Published, SinkPosition};
use forebay_engine::log::AppendError;
use forebay_engine::{Engine, EngineOptions, Lsn, Message, QoS};
use support::*;

const NO_ROOM: u8 = 0x97;

/// A server whose log is full because the sink `s` has stored nothing.
async fn full() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let mut options = EngineOptions::new(dir.path());
    options.log.segment_bytes = 256 * 1024;
    options.rules.publish = vec![("#".into(), 0)];
    options.log.disk_budget = Some(8 * 256 * 1024 + (8 << 20));
    let engine = Engine::open(options).unwrap().0;
    engine.hold_for_sinks(&["s".to_owned()]);
    let options = BrokerOptions {
        listeners: vec![ListenerOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)))],
        ..BrokerOptions::default()
    };
    let broker = Broker::start(engine.clone(), options, Arc::new(NoStore)).await.unwrap();
    let address = broker.local_addrs()[0];
    Server { broker, engine, address, dir }
}

async fn fill(engine: &Engine) {
    let message = Message { topic: "fill".into(), payload: vec![7; 4000].into(), ..Message::default() };
    let mut one = vec![Event::Published(Published { message, packet_id: None, epoch: 0 })];
    loop {
        match engine.append(&one) {
            Ok(appended) => engine.durable(appended.last).await.unwrap(),
            Err(AppendError::NoSpace { .. }) => match &mut one[0] {
                // To the last byte, so that small messages do not fit either.
                Event::Published(p) if !p.message.payload.is_empty() => {
                    p.message.payload.truncate(p.message.payload.len() / 2)
                }
                _ => return,
            },
            Err(error) => panic!("{error}"),
        }
    }
}

async fn make_room(engine: &Engine) {
    let next = engine.durable_end();
    engine.append(&[Event::SinkPosition(SinkPosition { sink: "s".into(), next })]).unwrap();
}

fn options(id: &str, clean: bool) -> ConnectOptions {
    let mut options = ConnectOptions::clean(id);
    options.clean_start = clean;
    options.properties.session_expiry_s = (!clean).then_some(1000);
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mqtt_5_publisher_is_refused_and_goes_on_when_there_is_room() {
    let server = full().await;
    let mut publisher = server.connect(options("p", true)).await;
    let mut subscriber = server.connect(options("s", false)).await;
    assert_eq!(subscribe(&mut subscriber, "t", QoS::AtLeastOnce).await, [1]);
    assert_eq!(publish(&mut publisher, "t", "before", QoS::AtLeastOnce, false).await, 0);
    fill(&server.engine).await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(publish(&mut publisher, "t", "refused", qos, false).await, NO_ROOM);
    }
    // A subscriber reads and acknowledges; new subscriptions and sessions are refused.
    assert_eq!(message(&mut subscriber).await.payload, "before");
    assert_eq!(subscribe(&mut subscriber, "u", QoS::AtLeastOnce).await, [NO_ROOM]);
    let refused = Client::connect(server.address, options("new", false), Default::default());
    assert!(matches!(refused.await, Err(ClientError::Refused(NO_ROOM))));
    // An existing session is resumed.
    drop(subscriber);
    let mut subscriber = server.connect(options("s", false)).await;
    make_room(&server.engine).await;
    let accepted = async {
        while publish(&mut publisher, "t", "after", QoS::ExactlyOnce, false).await != 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, accepted).await.expect("it resumes");
    while message(&mut subscriber).await.payload != "after" {}
    server.broker.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_3_1_1_publisher_waits_and_one_that_leaves_gives_its_place_back() {
    let server = full().await;
    let connect = |id: &str| {
        Packet::Connect(Box::new(Connect {
            version: Version::V311,
            client_id: id.into(),
            clean_start: false,
            keep_alive_s: 0,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        }))
    };
    let packet = |id, qos| {
        Packet::Publish(Publish { topic: "t".into(), payload: "x".into(), qos, packet_id: id, ..Publish::default() })
    };
    let mut waiting = Raw::open(server.address, Version::V311).await;
    let mut leaving = Raw::open(server.address, Version::V311).await;
    for (raw, id) in [(&mut waiting, "waiting"), (&mut leaving, "leaving")] {
        raw.send(&[connect(id)]).await;
        assert!(matches!(raw.receive().await, Some(Packet::ConnAck(_))));
    }
    fill(&server.engine).await;
    waiting.send(&[packet(1, QoS::AtLeastOnce)]).await;
    leaving.send(&[packet(1, QoS::ExactlyOnce)]).await;
    drop(leaving);
    // The seat is free again though its publish never got into the log, and so is the packet id.
    let mut back = Raw::open(server.address, Version::V311).await;
    back.send(&[connect("leaving")]).await;
    assert!(matches!(back.receive().await, Some(Packet::ConnAck(ack)) if ack.session_present));
    make_room(&server.engine).await;
    assert!(matches!(waiting.receive().await, Some(Packet::PubAck(ack)) if ack.packet_id == 1));
    back.send(&[packet(1, QoS::ExactlyOnce)]).await;
    assert!(matches!(back.receive().await, Some(Packet::PubRec(ack)) if ack.packet_id == 1));
    // PUBREC waits for the disk; state takes the record a moment later.
    server.engine.applied(Lsn(server.engine.durable_end().0 - 1)).await.unwrap();
    let session = server.engine.session("leaving").unwrap();
    assert_eq!(session.received, [1], "the message is in the log now");
    server.broker.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_can_t_be_dropped_for_its_will_keeps_what_it_has_in_flight() {
    let server = full().await;
    let connect = |will: Option<ConnectWill>| {
        Packet::Connect(Box::new(Connect {
            version: Version::V311,
            client_id: "c".into(),
            clean_start: false,
            keep_alive_s: 0,
            will,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        }))
    };
    let will = ConnectWill { topic: "w".into(), payload: "gone".into(), retain: true, ..ConnectWill::default() };
    let mut raw = Raw::open(server.address, Version::V311).await;
    raw.send(&[connect(Some(will))]).await;
    assert!(matches!(raw.receive().await, Some(Packet::ConnAck(_))));
    raw.subscribe("t", QoS::AtLeastOnce).await;
    let mut publisher = server.connect(options("p", true)).await;
    publish(&mut publisher, "t", "x", QoS::AtLeastOnce, false).await;
    let sent = raw.publish_received().await;
    fill(&server.engine).await;

    let operator = server.broker.operator();
    match operator.drop_session("c").await {
        Err(error @ OperatorError::HalfDone { .. }) => {
            assert!(error.to_string().contains("its session is not"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(raw.receive().await, None);
    let view = server.engine.session("c").unwrap();
    assert!(view.will.is_some() && view.subscriptions.len() == 1 && server.engine.retained("w").is_none());
    let mut back = Raw::open(server.address, Version::V311).await;
    back.send(&[connect(None)]).await;
    assert!(matches!(back.receive().await, Some(Packet::ConnAck(ack)) if ack.session_present));
    let again = back.publish_received().await;
    assert_eq!((again.dup, again.packet_id, again.payload), (true, sent.packet_id, sent.payload));
    // Its client has come back without a will: the end of a session alone needs no room.
    operator.drop_session("c").await.unwrap();
    assert!(server.engine.session("c").is_none());
    assert!(matches!(operator.drop_session("c").await, Err(OperatorError::NoSession(_))));
    make_room(&server.engine).await;
    server.broker.shutdown(PATIENCE).await;
}
