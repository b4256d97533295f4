//! The three levels of service, both ways, byte by byte where it matters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use bytes::Bytes;
use forebay_broker_adapter::BrokerOptions;
use forebay_broker_adapter::client::{ClientError, ConnectOptions, Incoming};
use forebay_broker_adapter::codec::{
    Ack, Connect, ConnectProperties, Packet, Publish, RequestedFilter, Subscribe, Version, reason,
};
use forebay_engine::QoS;
use forebay_engine::event::SubscriptionOptions;
use support::*;
use tokio::io::AsyncWriteExt;

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn connect(version: Version, client: &str) -> Packet {
    Packet::Connect(Box::new(Connect {
        version,
        client_id: client.into(),
        clean_start: true,
        keep_alive_s: 0,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }))
}

fn qos2(id: u16, payload: &'static str) -> Publish {
    let payload = Bytes::from_static(payload.as_bytes());
    Publish { qos: QoS::ExactlyOnce, packet_id: id, topic: "t".into(), payload, ..Publish::default() }
}

#[tokio::test]
async fn a_message_arrives_once_with_the_lower_of_both_levels() {
    let server = serve().await;
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    for granted in LEVELS {
        for version in [Version::V5, Version::V311] {
            let options = ConnectOptions { version, ..ConnectOptions::clean("s") };
            let mut subscriber = server.connect(options).await;
            assert_eq!(subscribe(&mut subscriber, "état/+", granted).await, [granted.as_u8()]);
            for published in LEVELS {
                assert_eq!(publish(&mut publisher, "état/1", "x", published, false).await, 0);
                let got = message(&mut subscriber).await;
                assert_eq!(
                    (&*got.topic, got.qos, got.retain, got.dup),
                    ("état/1", published.min(granted), false, false)
                );
            }
            assert!(ping(&mut subscriber).await.is_empty(), "nothing comes twice");
        }
    }
}

#[tokio::test]
async fn a_repeated_qos_2_publish_is_answered_and_delivered_once() {
    let server = serve().await;
    let mut subscriber = server.connect(ConnectOptions::clean("s")).await;
    subscribe(&mut subscriber, "t", QoS::ExactlyOnce).await;
    let mut raw = Raw::open(server.address, Version::V311).await;
    raw.send(&[connect(Version::V311, "p")]).await;
    assert!(matches!(raw.receive().await, Some(Packet::ConnAck(_))));
    let again = Publish { dup: true, ..qos2(5, "once") };
    raw.send(&[Packet::Publish(qos2(5, "once")), Packet::Publish(again.clone()), Packet::Publish(again)]).await;
    for _ in 0..3 {
        assert_eq!(raw.receive().await, Some(Packet::PubRec(Ack::new(5, 0))));
    }
    raw.send(&[Packet::PubRel(Ack::new(5, 0)), Packet::Publish(qos2(5, "next"))]).await;
    assert_eq!(raw.receive().await, Some(Packet::PubComp(Ack::new(5, 0))));
    assert_eq!(raw.receive().await, Some(Packet::PubRec(Ack::new(5, 0))));
    assert_eq!(message(&mut subscriber).await.payload, "once");
    assert_eq!(message(&mut subscriber).await.payload, "next");
}

/// What state knows nothing of needs no record: a session that ends with its connection has no packet id to outlive it.
#[tokio::test]
async fn qos_2_between_clean_sessions_is_one_record_a_message() {
    let server = serve().await;
    let (mut publisher, mut subscriber) =
        (server.connect(ConnectOptions::clean("p")).await, server.connect(ConnectOptions::clean("s")).await);
    subscribe(&mut subscriber, "t", QoS::ExactlyOnce).await;
    let before = server.engine.log().end();
    for n in 0..20 {
        publish(&mut publisher, "t", &n.to_string(), QoS::ExactlyOnce, false).await;
        assert_eq!(message(&mut subscriber).await.payload, n.to_string());
    }
    // PUBREL of the last one comes before the answer to one ping, its PUBCOMP is taken in before that to another.
    for _ in 0..2 {
        assert!(ping(&mut subscriber).await.is_empty());
    }
    assert_eq!(server.engine.log().end().0, before.0 + 20);
}

#[tokio::test]
async fn acknowledgements_in_any_order_and_of_unknown_ids_never_cost_the_connection() {
    let server = serve().await;
    let options = ConnectOptions { automatic_acks: false, ..ConnectOptions::persistent("s", 3600) };
    let mut subscriber = server.connect(options.clone()).await;
    subscribe(&mut subscriber, "t", QoS::AtLeastOnce).await;
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    for n in 0..3 {
        publish(&mut publisher, "t", &n.to_string(), QoS::AtLeastOnce, false).await;
    }
    let (_first, second, third) =
        (message(&mut subscriber).await, message(&mut subscriber).await, message(&mut subscriber).await);
    for packet in [Packet::PubAck(Ack::new(999, 0)), Packet::PubComp(Ack::new(998, 0))] {
        subscriber.send(&packet).unwrap();
    }
    subscriber.acknowledge(&third).unwrap();
    subscriber.acknowledge(&second).unwrap();
    ping(&mut subscriber).await;
    let session = subscriber.into_session();
    let mut subscriber = server.resume(options, session).await;
    assert!(subscriber.connack().session_present);
    let again = message(&mut subscriber).await;
    assert!(again.dup && again.payload == "0", "only the unacknowledged one comes again");
    assert!(ping(&mut subscriber).await.is_empty());

    let mut raw = Raw::open(server.address, Version::V5).await;
    raw.send(&[connect(Version::V5, "r"), Packet::PubRec(Ack::new(7, 0)), Packet::PubRel(Ack::new(8, 0))]).await;
    assert!(matches!(raw.receive().await, Some(Packet::ConnAck(_))));
    assert_eq!(raw.receive().await, Some(Packet::PubRel(Ack::new(7, reason::PACKET_ID_NOT_FOUND))));
    assert_eq!(raw.receive().await, Some(Packet::PubComp(Ack::new(8, reason::PACKET_ID_NOT_FOUND))));
}

#[tokio::test]
async fn packets_that_come_with_connect_are_decoded_even_one_byte_at_a_time() {
    let server = serve().await;
    let filter = RequestedFilter { filter: "t".into(), options: SubscriptionOptions::of_qos(QoS::AtMostOnce) };
    let packets = [
        connect(Version::V311, "r"),
        Packet::Subscribe(Subscribe { packet_id: 1, filters: vec![filter], user: Vec::new() }),
        Packet::Publish(Publish { topic: "t".into(), ..Publish::default() }),
        Packet::PingReq,
    ];
    for byte_by_byte in [false, true] {
        let mut raw = Raw::open(server.address, Version::V311).await;
        let bytes = raw.bytes(&packets);
        if byte_by_byte {
            raw.stream.set_nodelay(true).unwrap();
            for byte in &bytes {
                raw.stream.write_all(&[*byte]).await.unwrap();
            }
        } else {
            raw.stream.write_all(&bytes).await.unwrap();
        }
        assert!(matches!(raw.receive().await, Some(Packet::ConnAck(_))));
        assert!(matches!(raw.receive().await, Some(Packet::SubAck(_))));
        let mut rest = [raw.receive().await.unwrap(), raw.receive().await.unwrap()];
        rest.sort_by_key(|p| matches!(p, Packet::PingResp));
        assert!(matches!(&rest[0], Packet::Publish(p) if &*p.topic == "t"));
    }
}

#[tokio::test]
async fn a_client_that_breaks_receive_maximum_is_told_0x93() {
    let options = BrokerOptions { receive_maximum: 2, ..BrokerOptions::default() };
    let server = serve_in(tempfile::tempdir().unwrap(), options).await;
    let mut raw = Raw::open(server.address, Version::V5).await;
    let packets: Vec<_> = (1..=3).map(|id| Packet::Publish(qos2(id, "x"))).collect();
    raw.send(&[connect(Version::V5, "p")]).await;
    raw.send(&packets).await;
    let last = loop {
        match raw.receive().await {
            Some(Packet::ConnAck(ack)) => assert_eq!(ack.properties.receive_maximum, Some(2)),
            Some(Packet::PubRec(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(last, Some(Packet::Disconnect(d)) if d.reason == reason::RECEIVE_MAXIMUM_EXCEEDED));
    assert_eq!(raw.receive().await, None);
}

#[tokio::test]
async fn a_subscriber_never_has_more_under_way_than_its_receive_maximum() {
    let server = serve().await;
    let mut options = ConnectOptions { automatic_acks: false, ..ConnectOptions::clean("s") };
    options.properties.receive_maximum = Some(2);
    let mut subscriber = server.connect(options).await;
    subscribe(&mut subscriber, "t", QoS::AtLeastOnce).await;
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    for _ in 0..4 {
        publish(&mut publisher, "t", "x", QoS::AtLeastOnce, false).await;
    }
    let first = message(&mut subscriber).await;
    message(&mut subscriber).await;
    assert!(ping(&mut subscriber).await.is_empty());
    subscriber.acknowledge(&first).unwrap();
    message(&mut subscriber).await;
    assert!(ping(&mut subscriber).await.is_empty());
}

#[tokio::test]
async fn wildcard_publishes_and_bad_filters_are_refused() {
    let server = serve().await;
    let mut client = server.connect(ConnectOptions::clean("c")).await;
    assert_eq!(subscribe(&mut client, "a/#/b", QoS::AtMostOnce).await, [reason::TOPIC_FILTER_INVALID]);
    client.unsubscribe(&["never"]).unwrap();
    match next(&mut client).await {
        Incoming::Unsubscribed(ack) => assert_eq!(ack.codes, [reason::NO_SUBSCRIPTION_EXISTED]),
        other => panic!("{other:?}"),
    }
    client.publish("a/+", Bytes::new(), QoS::AtMostOnce, false).unwrap();
    assert!(matches!(end(&mut client).await, ClientError::Disconnected(reason::TOPIC_NAME_INVALID)));
}

#[tokio::test]
async fn a_queue_message_of_any_qos_goes_to_one_subscriber_and_a_broader_subscription_sees_it_too() {
    let server = serve().await;
    let (mut first, mut second) =
        (server.connect(ConnectOptions::clean("first")).await, server.connect(ConnectOptions::clean("second")).await);
    let mut broad = server.connect(ConnectOptions::clean("broad")).await;
    for worker in [&mut first, &mut second] {
        subscribe(worker, "queue/a", QoS::AtLeastOnce).await;
    }
    subscribe(&mut broad, "#", QoS::AtLeastOnce).await;
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    for qos in LEVELS {
        publish(&mut publisher, "queue/a", "one", qos, false).await;
        publish(&mut publisher, "queue/a", "two", qos, false).await;
        for worker in [&mut first, &mut second] {
            let got = message(worker).await;
            assert_eq!((got.qos, &*got.topic), (qos.min(QoS::AtLeastOnce), "queue/a"));
        }
        assert_eq!(message(&mut broad).await.payload, "one");
        assert_eq!(message(&mut broad).await.payload, "two");
    }
    for client in [&mut first, &mut second, &mut broad] {
        assert!(ping(client).await.is_empty(), "nothing comes twice");
    }
}
