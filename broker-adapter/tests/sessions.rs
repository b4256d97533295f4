//! Sessions: resumption, takeover, wills, retained messages, expiry; over a restart of the server too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use bytes::Bytes;
use forebay_broker_adapter::client::{ClientError, ClientSession, ConnectOptions};
use forebay_broker_adapter::codec::{
    Ack, Connect, ConnectProperties, ConnectWill, Disconnect, Packet, Publish, RequestedFilter, Subscribe, Version,
    reason,
};
use forebay_engine::QoS;
use forebay_engine::event::{Properties, SubscriptionOptions};
use support::*;

#[tokio::test]
async fn a_persistent_session_gets_what_came_while_it_was_away_and_over_a_restart() {
    let server = serve().await;
    for options in [ConnectOptions::persistent("v5", 3600), ConnectOptions::persistent("v3", 3600).v311()] {
        let mut subscriber = server.connect(options).await;
        assert!(!subscriber.connack().session_present);
        subscribe(&mut subscriber, "t/#", QoS::ExactlyOnce).await;
        subscriber.disconnect(0).await.unwrap();
    }
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    publish(&mut publisher, "t/1", "one", QoS::AtLeastOnce, false).await;
    publish(&mut publisher, "t/2", "two", QoS::ExactlyOnce, false).await;
    let server = server.restart().await;
    for options in [ConnectOptions::persistent("v5", 3600), ConnectOptions::persistent("v3", 3600).v311()] {
        let mut subscriber = server.connect(options).await;
        assert!(subscriber.connack().session_present);
        let mut payloads = vec![message(&mut subscriber).await.payload, message(&mut subscriber).await.payload];
        payloads.sort();
        assert_eq!(payloads, ["one", "two"]);
        assert!(ping(&mut subscriber).await.is_empty());
    }
}

#[tokio::test]
async fn a_clean_start_discards_the_session() {
    let server = serve().await;
    let mut client = server.connect(ConnectOptions::persistent("c", 3600)).await;
    subscribe(&mut client, "t", QoS::AtLeastOnce).await;
    client.disconnect(0).await.unwrap();
    let client = server.connect(ConnectOptions::clean("c")).await;
    assert!(!client.connack().session_present);
    client.disconnect(0).await.unwrap();
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    publish(&mut publisher, "t", "x", QoS::AtLeastOnce, false).await;
    let mut client = server.connect(ConnectOptions::persistent("c", 3600)).await;
    assert!(!client.connack().session_present);
    assert!(ping(&mut client).await.is_empty());
}

#[tokio::test]
async fn a_newer_connection_takes_over_and_the_older_is_told() {
    let server = serve().await;
    let mut old = server.connect(ConnectOptions::persistent("c", 3600)).await;
    subscribe(&mut old, "t", QoS::AtLeastOnce).await;
    let mut new = server.connect(ConnectOptions::persistent("c", 3600)).await;
    assert!(new.connack().session_present);
    assert!(matches!(end(&mut old).await, ClientError::Disconnected(reason::SESSION_TAKEN_OVER)));
    publish(&mut new, "t", "x", QoS::AtLeastOnce, false).await;
    assert_eq!(server.broker.clients().len(), 1);
}

/// Connects without a client's state, so that the test says each packet itself; true where the session was resumed.
async fn raw(server: &Server, client: &str) -> (Raw, bool) {
    let properties = ConnectProperties { session_expiry_s: Some(3600), ..ConnectProperties::default() };
    let mut raw = Raw::open(server.address, Version::V5).await;
    let connect = Connect {
        version: Version::V5,
        client_id: client.into(),
        clean_start: false,
        keep_alive_s: 0,
        will: None,
        username: None,
        password: None,
        properties,
    };
    raw.send(&[Packet::Connect(Box::new(connect))]).await;
    match raw.receive().await {
        Some(Packet::ConnAck(ack)) => (raw, ack.session_present),
        other => panic!("{other:?}"),
    }
}

async fn receive_publish(raw: &mut Raw) -> Publish {
    match raw.receive().await {
        Some(Packet::Publish(publish)) => publish,
        other => panic!("PUBLISH is due, not {other:?}"),
    }
}

/// A subscriber of `t` that has had the QoS 2 PUBLISH and not answered it.
async fn subscriber_with_a_qos_2_publish(server: &Server) -> (Raw, Publish) {
    let (mut subscriber, _) = raw(server, "s").await;
    let options = SubscriptionOptions {
        identifier: 7,
        retain_as_published: true,
        ..SubscriptionOptions::of_qos(QoS::ExactlyOnce)
    };
    let filters = vec![RequestedFilter { filter: "t".into(), options }];
    subscriber.send(&[Packet::Subscribe(Subscribe { packet_id: 1, filters, user: Vec::new() })]).await;
    assert!(matches!(subscriber.receive().await, Some(Packet::SubAck(_))));
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    publish(&mut publisher, "t", "once", QoS::ExactlyOnce, true).await;
    let got = receive_publish(&mut subscriber).await;
    assert!(got.payload == "once" && !got.dup && got.retain && got.subscription_ids == [7]);
    (subscriber, got)
}

/// Says the rest of the handshake from PUBREL on, and that nothing else comes.
async fn finish(subscriber: &mut Raw, id: u16) {
    assert_eq!(subscriber.receive().await, Some(Packet::PubRel(Ack::new(id, 0))));
    subscriber.send(&[Packet::PubComp(Ack::new(id, 0)), Packet::PingReq]).await;
    assert_eq!(subscriber.receive().await, Some(Packet::PingResp), "nothing comes twice");
}

#[tokio::test]
async fn a_qos_2_message_interrupted_after_pubrec_is_finished_not_repeated() {
    let server = serve().await;
    let (mut subscriber, got) = subscriber_with_a_qos_2_publish(&server).await;
    subscriber.send(&[Packet::PubRec(Ack::new(got.packet_id, 0))]).await;
    // PUBREL says that PUBREC is on the disk; the crash comes before PUBCOMP.
    assert_eq!(subscriber.receive().await, Some(Packet::PubRel(Ack::new(got.packet_id, 0))));
    let server = server.crash().await;
    let (mut subscriber, resumed) = raw(&server, "s").await;
    assert!(resumed);
    finish(&mut subscriber, got.packet_id).await;
}

#[tokio::test]
async fn a_qos_2_message_interrupted_before_pubrec_comes_again_as_it_was_with_its_packet_id() {
    let server = serve().await;
    let (_subscriber, got) = subscriber_with_a_qos_2_publish(&server).await;
    let server = server.crash().await;
    let (mut subscriber, resumed) = raw(&server, "s").await;
    assert!(resumed);
    let again = receive_publish(&mut subscriber).await;
    assert_eq!(again, Publish { dup: true, ..got });
    subscriber.send(&[Packet::PubRec(Ack::new(again.packet_id, 0))]).await;
    finish(&mut subscriber, again.packet_id).await;
    let server = server.crash().await;
    let (mut subscriber, _) = raw(&server, "s").await;
    subscriber.send(&[Packet::PingReq]).await;
    // PUBCOMP may have been lost with the crash: PUBREL is then repeated, the message is not.
    match subscriber.receive().await {
        Some(Packet::PubRel(ack)) => assert_eq!(ack.packet_id, again.packet_id),
        other => assert_eq!(other, Some(Packet::PingResp)),
    }
}

#[tokio::test]
async fn a_qos_2_publish_repeated_after_a_crash_is_answered_and_not_stored_again() {
    let server = serve().await;
    let mut watcher = server.connect(ConnectOptions::persistent("w", 3600)).await;
    subscribe(&mut watcher, "t", QoS::ExactlyOnce).await;
    watcher.disconnect(0).await.unwrap();
    let (mut publisher, _) = raw(&server, "p").await;
    let packet = |dup, payload| {
        let qos = QoS::ExactlyOnce;
        Packet::Publish(Publish { dup, qos, packet_id: 5, topic: "t".into(), payload, ..Publish::default() })
    };
    publisher.send(&[packet(false, "once".into())]).await;
    assert_eq!(publisher.receive().await, Some(Packet::PubRec(Ack::new(5, 0))));
    let server = server.crash().await;
    let (mut publisher, resumed) = raw(&server, "p").await;
    assert!(resumed);
    publisher.send(&[packet(true, "once".into())]).await;
    assert_eq!(publisher.receive().await, Some(Packet::PubRec(Ack::new(5, 0))));
    publisher.send(&[Packet::PubRel(Ack::new(5, 0))]).await;
    assert_eq!(publisher.receive().await, Some(Packet::PubComp(Ack::new(5, 0))));
    // The id is free: the same id means another message, also after a crash.
    let server = server.crash().await;
    let (mut publisher, _) = raw(&server, "p").await;
    publisher.send(&[packet(false, "next".into())]).await;
    assert_eq!(publisher.receive().await, Some(Packet::PubRec(Ack::new(5, 0))));
    let mut watcher = server.connect(ConnectOptions::persistent("w", 3600)).await;
    assert_eq!(message(&mut watcher).await.payload, "once");
    assert_eq!(message(&mut watcher).await.payload, "next");
    assert!(ping(&mut watcher).await.is_empty());
}

#[tokio::test]
async fn what_is_acknowledged_is_on_the_disk() {
    let mut server = serve().await;
    let mut subscriber = server.connect(ConnectOptions::persistent("s", 3600)).await;
    subscribe(&mut subscriber, "t", QoS::AtLeastOnce).await;
    subscriber.disconnect(0).await.unwrap();
    for n in 0..20 {
        let mut publisher = server.connect(ConnectOptions::clean("p")).await;
        publish(&mut publisher, "t", &n.to_string(), QoS::AtLeastOnce, false).await;
        server = server.crash().await;
    }
    let mut subscriber = server.connect(ConnectOptions::persistent("s", 3600)).await;
    for n in 0..20 {
        assert_eq!(message(&mut subscriber).await.payload, n.to_string());
    }
}

fn with_will(client: &str, delay_s: u32, expiry_s: u32) -> ConnectOptions {
    let will =
        ConnectWill { topic: "will".into(), payload: Bytes::from(client.to_owned()), delay_s, ..Default::default() };
    ConnectOptions { will: Some(will), ..ConnectOptions::persistent(client, expiry_s) }
}

#[tokio::test]
async fn a_will_is_published_unless_the_client_says_goodbye() {
    let server = serve().await;
    let mut watcher = server.connect(ConnectOptions::clean("w")).await;
    subscribe(&mut watcher, "will", QoS::AtLeastOnce).await;
    server.connect(with_will("polite", 0, 0)).await.disconnect(0).await.unwrap();
    server.connect(with_will("asks", 0, 0)).await.disconnect(reason::DISCONNECT_WITH_WILL).await.unwrap();
    assert_eq!(message(&mut watcher).await.payload, "asks");
    drop(server.connect(with_will("lost", 0, 0)).await);
    assert_eq!(message(&mut watcher).await.payload, "lost");
    drop(server.connect(with_will("session ends first", 3600, 0)).await);
    assert_eq!(message(&mut watcher).await.payload, "session ends first");
    drop(server.connect(with_will("delayed", 1, 3600)).await);
    assert_eq!(message(&mut watcher).await.payload, "delayed");
    assert!(server.broker.kick("w"));
    assert!(matches!(end(&mut watcher).await, ClientError::Disconnected(reason::ADMINISTRATIVE_ACTION)));
}

#[tokio::test]
async fn a_clean_start_ends_the_session_and_sends_the_will_it_delays_and_a_resumption_keeps_it_back() {
    let server = serve().await;
    let mut watcher = server.connect(ConnectOptions::clean("w")).await;
    subscribe(&mut watcher, "will", QoS::AtLeastOnce).await;
    for n in 0..5 {
        // The newer connection comes while the older one is ending, or takes over from it.
        let lost = server.connect(with_will("lost", 3600, 3600)).await;
        if n % 2 == 0 {
            drop(lost);
        }
        let back = server.connect(ConnectOptions::persistent("lost", 3600)).await;
        assert!(back.connack().session_present);
        drop(server.connect(with_will("lost", 3600, 3600)).await);
        let back = server.connect(ConnectOptions::clean("lost")).await;
        assert!(!back.connack().session_present);
        assert_eq!(message(&mut watcher).await.payload, "lost", "the session ended before the delay did");
        assert!(ping(&mut watcher).await.is_empty(), "the will of a session that went on is not sent");
    }
}

#[tokio::test]
async fn a_session_given_up_at_disconnect_is_gone_for_the_next_connection_however_soon_it_comes() {
    let server = serve().await;
    for _ in 0..5 {
        let mut client = server.connect(ConnectOptions::persistent("c", 3600)).await;
        assert!(!client.connack().session_present);
        subscribe(&mut client, "t", QoS::AtLeastOnce).await;
        let mut goodbye = Disconnect::new(0);
        goodbye.properties.session_expiry_s = Some(0);
        client.send(&Packet::Disconnect(goodbye)).unwrap();
        client.flush().await.unwrap();
    }
}

#[tokio::test]
async fn retained_messages_come_with_each_subscription_and_go_with_an_empty_payload() {
    let server = serve().await;
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    publish(&mut publisher, "r/1", "kept", QoS::AtLeastOnce, true).await;
    for _ in 0..2 {
        let mut subscriber = server.connect(ConnectOptions::clean("s")).await;
        let got = subscribe_for_retained(&mut subscriber, "r/+", QoS::AtLeastOnce).await;
        assert!(got.retain && got.payload == "kept");
    }
    publish(&mut publisher, "r/1", "", QoS::AtLeastOnce, true).await;
    let mut subscriber = server.connect(ConnectOptions::clean("s")).await;
    subscribe(&mut subscriber, "r/+", QoS::AtLeastOnce).await;
    assert!(ping(&mut subscriber).await.is_empty());
}

#[tokio::test]
async fn properties_arrive_unaltered_and_expired_messages_do_not() {
    let server = serve().await;
    let mut subscriber = server.connect(ConnectOptions::persistent("s", 3600)).await;
    subscribe(&mut subscriber, "t", QoS::AtLeastOnce).await;
    subscriber.disconnect(0).await.unwrap();
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    let properties = Properties {
        payload_format: Some(0),
        expiry_s: Some(1000),
        content_type: Some("c".into()),
        response_topic: Some("r".into()),
        correlation_data: Some(Bytes::from_static(&[0, 1])),
        user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
    };
    let expired = Properties { expiry_s: Some(0), ..Properties::default() };
    for (payload, properties) in [("gone", expired), ("kept", properties.clone())] {
        let payload = Bytes::from(payload);
        let qos = QoS::AtLeastOnce;
        let packet = Publish { topic: "t".into(), payload, qos, properties, ..Publish::default() };
        publisher.publish_packet(packet).unwrap();
        next(&mut publisher).await;
    }
    let mut subscriber = server.connect(ConnectOptions::persistent("s", 3600)).await;
    let got = message(&mut subscriber).await;
    assert_eq!(got.payload, "kept");
    assert!(got.properties.expiry_s.is_some_and(|s| (900..=1000).contains(&s)));
    assert_eq!(Properties { expiry_s: Some(1000), ..got.properties }, properties);
}

#[tokio::test]
async fn an_empty_client_id_is_assigned_or_refused() {
    let server = serve().await;
    let assigned = server.connect(ConnectOptions::clean("")).await;
    assert!(assigned.connack().properties.assigned_client_id.is_some());
    let options = ConnectOptions::persistent("", 0).v311();
    let refused = forebay_broker_adapter::client::Client::connect(server.address, options, ClientSession::default());
    assert!(matches!(refused.await, Err(ClientError::Refused(2))));
}
