//! Sessions: resumption, takeover, wills, retained messages, expiry; over a restart of the server too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use bytes::Bytes;
use forebay_broker_adapter::client::{ClientError, ClientSession, ConnectOptions};
use forebay_broker_adapter::codec::{ConnectWill, Publish, reason};
use forebay_engine::QoS;
use forebay_engine::event::Properties;
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

#[tokio::test]
async fn a_qos_2_message_interrupted_after_pubrec_is_finished_not_repeated() {
    let server = serve().await;
    let options = ConnectOptions::persistent("s", 3600);
    let mut subscriber = server.connect(options.clone()).await;
    subscribe(&mut subscriber, "t", QoS::ExactlyOnce).await;
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    publish(&mut publisher, "t", "once", QoS::ExactlyOnce, false).await;
    assert_eq!(message(&mut subscriber).await.payload, "once");
    let session = subscriber.into_session();
    let server = server.restart().await;
    let mut subscriber = server.resume(options, session).await;
    assert!(subscriber.connack().session_present);
    assert!(ping(&mut subscriber).await.is_empty(), "the client has it already");
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
async fn retained_messages_come_with_each_subscription_and_go_with_an_empty_payload() {
    let server = serve().await;
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    publish(&mut publisher, "r/1", "kept", QoS::AtLeastOnce, true).await;
    for _ in 0..2 {
        let mut subscriber = server.connect(ConnectOptions::clean("s")).await;
        subscribe(&mut subscriber, "r/+", QoS::AtLeastOnce).await;
        let got = message(&mut subscriber).await;
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
