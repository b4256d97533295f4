//! Shared subscriptions (MQTT 5, 4.8.2; the same syntax for 3.1.1) on real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use forebay_broker_adapter::client::{Client, ClientError, ClientSession, ConnectOptions, Incoming};
use forebay_broker_adapter::codec::{Ack, ConnectProperties, Packet, Publish, Version, reason};
use forebay_broker_adapter::{Broker, BrokerOptions, ListenerOptions, Store};
use forebay_engine::QoS;
use forebay_engine::event::SubscriptionOptions;
use futures_util::future::{BoxFuture, FutureExt};
use support::*;

const SHARE: &str = "$share/g/jobs/+";

fn manual(options: ConnectOptions) -> ConnectOptions {
    ConnectOptions { automatic_acks: false, ..options }
}

fn with_window(options: ConnectOptions, receive_maximum: u16) -> ConnectOptions {
    let properties = ConnectProperties { receive_maximum: Some(receive_maximum), ..options.properties };
    ConnectOptions { properties, ..options }
}

async fn publish_all(server: &Server, payloads: &[&str], qos: QoS) {
    let mut publisher = server.connect(ConnectOptions::clean("publisher")).await;
    for payload in payloads {
        assert_eq!(publish(&mut publisher, "jobs/x", payload, qos, false).await, 0);
    }
    publisher.disconnect(0).await.unwrap();
}

fn owed(server: &Server) -> u64 {
    server.engine.groups().iter().map(|group| group.messages).sum()
}

/// The next message; what acknowledges it is on its way when it is answered.
async fn taken(client: &mut Client) -> Publish {
    let publish = message(client).await;
    client.flush().await.unwrap();
    publish
}

/// Subscribes to what has messages waiting: SUBACK and they may come in any order (MQTT-3.8.4-3).
async fn subscribe_and_take(client: &mut Client, qos: QoS, messages: usize) -> Vec<Publish> {
    client.subscribe(&[(SHARE, SubscriptionOptions::of_qos(qos))]).unwrap();
    let (mut acked, mut got) = (false, Vec::new());
    while !acked || got.len() < messages {
        match next(client).await {
            Incoming::Subscribed(_) => acked = true,
            Incoming::Message(publish) => got.push(publish),
            _ => {}
        }
    }
    client.flush().await.unwrap();
    got
}

/// Goes on with the client until so many messages are owed: what was received with QoS 2 takes two turns.
async fn until_owed(server: &Server, client: &mut Client, messages: u64) {
    let going_on = async {
        while owed(server) != messages {
            if let Ok(incoming) = tokio::time::timeout(Duration::from_millis(20), client.next()).await {
                let incoming = incoming.unwrap();
                assert!(!matches!(incoming, Incoming::Message(_)), "{incoming:?}");
            }
        }
    };
    tokio::time::timeout(PATIENCE, going_on).await.expect("it comes true");
}

/// Nothing comes to a client: a message for a group of its own takes the same way and is the next.
async fn nothing_comes(server: &Server, client: &mut Client) {
    let (share, topic) = ("$share/marker/marker/x", "marker/x");
    subscribe(client, share, QoS::AtLeastOnce).await;
    let mut publisher = server.connect(ConnectOptions::clean("marker")).await;
    publish(&mut publisher, topic, "marker", QoS::AtLeastOnce, false).await;
    let got = taken(client).await;
    assert_eq!(&*got.topic, topic, "{got:?}");
    client.acknowledge(&got).unwrap();
    client.unsubscribe(&[share]).unwrap();
    while !matches!(next(client).await, Incoming::Unsubscribed(_)) {}
}

#[tokio::test]
async fn what_is_a_shared_subscription_is_granted_and_what_is_none_is_refused() {
    let server = serve().await;
    for version in [Version::V5, Version::V311] {
        let mut client = server.connect(ConnectOptions { version, ..ConnectOptions::clean("c") }).await;
        assert_ne!(client.connack().properties.shared_subscription_available, Some(false));
        for (filter, granted) in [("$share/g/jobs/+", 1), ("$share/other/#", 1), ("$share", 1), ("$shared/a", 1)] {
            assert_eq!(subscribe(&mut client, filter, QoS::AtLeastOnce).await, [granted], "{filter}");
        }
        let refused = if version.is_v5() { reason::TOPIC_FILTER_INVALID } else { reason::UNSPECIFIED_ERROR };
        for filter in ["$share//f", "$share/a+/f", "$share/#/f", "$share/a", "$share/a/", "$share/", "$share/a/b#"] {
            assert_eq!(subscribe(&mut client, filter, QoS::AtLeastOnce).await, [refused], "{filter}");
        }
        let unsubscribe = client.unsubscribe(&["$share/other/#", "$share/none/#"]).unwrap();
        let Incoming::Unsubscribed(ack) = next(&mut client).await else { panic!("UNSUBACK is due") };
        assert_eq!(ack.packet_id, unsubscribe);
        if version.is_v5() {
            assert_eq!(ack.codes, [reason::SUCCESS, reason::NO_SUBSCRIPTION_EXISTED]);
        }
    }
}

#[tokio::test]
async fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let server = serve().await;
    let mut client = server.connect(ConnectOptions::clean("c")).await;
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::of_qos(QoS::AtLeastOnce) };
    client.subscribe(&[(SHARE, options)]).unwrap();
    client.flush().await.unwrap();
    assert!(matches!(end(&mut client).await, ClientError::Disconnected(reason::PROTOCOL_ERROR)));
}

#[tokio::test]
async fn members_of_different_windows_and_versions_get_each_message_once_and_together_all() {
    const MESSAGES: usize = 600;
    let options = BrokerOptions { send_window: 20, ..BrokerOptions::default() };
    let server = serve_in(tempfile::tempdir().unwrap(), options).await;
    let mut members = vec![
        server.connect(with_window(ConnectOptions::clean("one"), 1)).await,
        server.connect(with_window(ConnectOptions::persistent("three", 3600), 3)).await,
        server.connect(ConnectOptions::clean("v3").v311()).await,
    ];
    for (member, qos) in members.iter_mut().zip([QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce]) {
        assert_eq!(subscribe(member, SHARE, qos).await, [qos.as_u8()]);
    }
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    for n in 0..MESSAGES {
        let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][n % 2];
        publisher.publish("jobs/x", Bytes::from(n.to_string()), qos, false).unwrap();
        if n % 100 == 99 {
            publisher.flush().await.unwrap();
        }
    }
    let takers: Vec<_> = members
        .into_iter()
        .map(|mut member| {
            tokio::spawn(async move {
                let mut got: Vec<usize> = Vec::new();
                loop {
                    let publish = message(&mut member).await;
                    if publish.payload == "end" {
                        member.flush().await.unwrap();
                        return got;
                    }
                    assert!(!publish.dup);
                    got.push(std::str::from_utf8(&publish.payload).unwrap().parse().unwrap());
                }
            })
        })
        .collect();
    while publisher.unacknowledged() > 0 {
        next(&mut publisher).await;
    }
    until(|| owed(&server) == 0).await;
    // Each of the three has its turn at the end.
    for _ in 0..3 {
        publish(&mut publisher, "jobs/x", "end", QoS::AtLeastOnce, false).await;
        until(|| owed(&server) == 0).await;
    }
    let mut all = Vec::new();
    for taker in takers {
        let got = taker.await.unwrap();
        // Messages of one level keep their order (MQTT 5, 4.6); QoS 2 waits for its packet id to be durable.
        for level in 0..2 {
            assert!(got.iter().filter(|n| *n % 2 == level).is_sorted() && !got.is_empty(), "{got:?}");
        }
        all.extend(got);
    }
    assert_eq!((all.len(), all.into_iter().collect::<HashSet<_>>().len()), (MESSAGES, MESSAGES));
}

#[tokio::test]
async fn a_member_never_has_more_under_way_than_its_receive_maximum_and_each_has_its_own_qos() {
    let server = serve().await;
    let mut two = server.connect(manual(with_window(ConnectOptions::clean("two"), 2))).await;
    let mut zero = server.connect(ConnectOptions::clean("zero").v311()).await;
    subscribe(&mut two, SHARE, QoS::AtLeastOnce).await;
    publish_all(&server, &["0", "1", "2", "3", "4"], QoS::ExactlyOnce).await;
    for payload in ["0", "1"] {
        let got = taken(&mut two).await;
        assert_eq!((&got.payload[..], got.qos), (payload.as_bytes(), QoS::AtLeastOnce));
    }
    assert!(ping(&mut two).await.is_empty());
    let rest = subscribe_and_take(&mut zero, QoS::AtMostOnce, 3).await;
    for (got, payload) in rest.iter().zip(["2", "3", "4"]) {
        assert_eq!((&got.payload[..], got.qos), (payload.as_bytes(), QoS::AtMostOnce));
    }
    until(|| owed(&server) == 2).await;
}

#[tokio::test]
async fn qos_0_goes_to_one_member_that_is_online_and_to_nobody_where_none_is() {
    let server = serve().await;
    let mut a = server.connect(ConnectOptions::persistent("a", 3600)).await;
    let mut b = server.connect(ConnectOptions::clean("b").v311()).await;
    subscribe(&mut a, SHARE, QoS::AtLeastOnce).await;
    subscribe(&mut b, SHARE, QoS::AtMostOnce).await;
    publish_all(&server, &["1", "2", "3", "4"], QoS::AtMostOnce).await;
    let mut got = [taken(&mut a).await, taken(&mut b).await, taken(&mut a).await, taken(&mut b).await]
        .map(|publish| publish.payload);
    got.sort();
    assert_eq!(got, ["1", "2", "3", "4"]);
    let session = a.disconnect(0).await.unwrap();
    b.disconnect(0).await.unwrap();
    until(|| server.broker.clients().is_empty()).await;
    publish_all(&server, &["nobody's"], QoS::AtMostOnce).await;
    let mut a = server.resume(ConnectOptions::persistent("a", 3600), session).await;
    nothing_comes(&server, &mut a).await;
}

#[tokio::test]
async fn messages_wait_while_no_member_is_online_also_over_a_crash_and_not_longer_than_the_group() {
    let server = serve().await;
    for options in [ConnectOptions::persistent("v5", 3600), ConnectOptions::persistent("v3", 3600).v311()] {
        let mut member = server.connect(options).await;
        subscribe(&mut member, SHARE, QoS::ExactlyOnce).await;
        member.disconnect(0).await.unwrap();
    }
    until(|| server.broker.clients().is_empty()).await;
    publish_all(&server, &["1", "2"], QoS::AtLeastOnce).await;
    publish_all(&server, &["3"], QoS::ExactlyOnce).await;
    let server = server.crash().await;
    assert_eq!(owed(&server), 3);
    let mut member = server.connect(ConnectOptions::persistent("v3", 3600).v311()).await;
    assert!(member.connack().session_present);
    for payload in ["1", "2", "3"] {
        assert_eq!(taken(&mut member).await.payload, payload);
    }
    until_owed(&server, &mut member, 0).await;
    member.disconnect(0).await.unwrap();
    publish_all(&server, &["waits for the other"], QoS::AtLeastOnce).await;
    until(|| owed(&server) == 1).await;
    server.connect(ConnectOptions::clean("v3")).await.disconnect(0).await.unwrap();
    assert_eq!(owed(&server), 1);
    // The last member's session ends, and the group with it.
    server.connect(ConnectOptions::clean("v5")).await.disconnect(0).await.unwrap();
    until(|| server.engine.groups().is_empty()).await;
    let mut member = server.connect(ConnectOptions::persistent("v5", 3600)).await;
    subscribe(&mut member, SHARE, QoS::AtLeastOnce).await;
    nothing_comes(&server, &mut member).await;
}

#[tokio::test]
async fn what_was_not_acknowledged_goes_to_another_member_in_the_old_order() {
    let server = serve().await;
    let options = || manual(ConnectOptions::persistent("a", 3600));
    let mut a = server.connect(options()).await;
    subscribe(&mut a, SHARE, QoS::AtLeastOnce).await;
    publish_all(&server, &["1", "2", "3"], QoS::AtLeastOnce).await;
    let held = [taken(&mut a).await, taken(&mut a).await, taken(&mut a).await];
    a.acknowledge(&held[1]).unwrap();
    a.flush().await.unwrap();
    until(|| owed(&server) == 2).await;
    drop(a);
    until(|| server.broker.clients().is_empty()).await;
    let mut b = server.connect(ConnectOptions::clean("b").v311()).await;
    let got = subscribe_and_take(&mut b, QoS::AtLeastOnce, 2).await;
    for (got, payload) in got.iter().zip(["1", "3"]) {
        assert_eq!((&got.payload[..], got.dup), (payload.as_bytes(), false));
    }
    until(|| owed(&server) == 0).await;
    let mut a = server.resume(options(), ClientSession::default()).await;
    assert!(a.connack().session_present);
    nothing_comes(&server, &mut a).await;
    // With nobody else there it is sent again, to the one that had it.
    b.disconnect(0).await.unwrap();
    publish_all(&server, &["4"], QoS::AtLeastOnce).await;
    let first = taken(&mut a).await;
    assert_eq!((&first.payload[..], first.dup), (&b"4"[..], false));
    drop(a);
    until(|| server.broker.clients().is_empty()).await;
    let mut a = server.resume(options(), ClientSession::default()).await;
    let again = taken(&mut a).await;
    assert_eq!((&again.payload[..], again.dup, again.packet_id), (&b"4"[..], true, first.packet_id));
    a.acknowledge(&again).unwrap();
    assert!(ping(&mut a).await.is_empty());
    until(|| owed(&server) == 0).await;
}

#[tokio::test]
async fn a_qos_2_message_stays_with_its_member_over_crashes_and_ends_with_its_session() {
    let server = serve().await;
    let options = || manual(ConnectOptions::persistent("a", 3600));
    let mut a = server.connect(options()).await;
    subscribe(&mut a, SHARE, QoS::ExactlyOnce).await;
    publish_all(&server, &["a's", "a's too"], QoS::ExactlyOnce).await;
    let (first, second) = (taken(&mut a).await, taken(&mut a).await);
    let session = a.into_session();
    until(|| server.broker.clients().is_empty()).await;
    let mut b = server.connect(ConnectOptions::persistent("b", 3600)).await;
    subscribe(&mut b, SHARE, QoS::ExactlyOnce).await;
    nothing_comes(&server, &mut b).await;
    drop(b);
    let server = server.crash().await;
    let mut b = server.connect(ConnectOptions::persistent("b", 3600)).await;
    assert!(b.connack().session_present);
    nothing_comes(&server, &mut b).await;
    publish_all(&server, &["b's"], QoS::ExactlyOnce).await;
    assert_eq!(taken(&mut b).await.payload, "b's");
    until_owed(&server, &mut b, 2).await;
    // A client that forgot what it received sees it again: under its old id.
    drop(session);
    let mut a = server.resume(options(), ClientSession::default()).await;
    let again = taken(&mut a).await;
    assert_eq!((&again.payload[..], again.dup, again.packet_id), (&b"a's"[..], true, first.packet_id));
    assert_eq!(taken(&mut a).await.packet_id, second.packet_id);
    nothing_comes(&server, &mut a).await;
    nothing_comes(&server, &mut b).await;
    a.acknowledge(&again).unwrap();
    until_owed(&server, &mut a, 1).await;
    drop(a);
    until(|| server.broker.clients().len() == 1).await;
    // Its session ends: nobody else is given it, and that is noted.
    server.connect(ConnectOptions::clean("a")).await.disconnect(0).await.unwrap();
    until(|| owed(&server) == 0).await;
    nothing_comes(&server, &mut b).await;
    assert_eq!(server.engine.gaps()[0].1.reason.as_str(), "session_ended_qos2");
}

#[tokio::test]
async fn a_qos_2_message_sent_to_a_clean_session_is_given_to_nobody_else() {
    let server = serve().await;
    let mut a = server.connect(manual(ConnectOptions::clean("a").v311())).await;
    subscribe(&mut a, SHARE, QoS::ExactlyOnce).await;
    publish_all(&server, &["1"], QoS::ExactlyOnce).await;
    assert_eq!(taken(&mut a).await.payload, "1");
    let mut b = server.connect(ConnectOptions::clean("b")).await;
    subscribe(&mut b, SHARE, QoS::ExactlyOnce).await;
    drop(a);
    until(|| owed(&server) == 0).await;
    nothing_comes(&server, &mut b).await;
    // Acknowledged in full it leaves nothing behind.
    publish_all(&server, &["2"], QoS::ExactlyOnce).await;
    assert_eq!(taken(&mut b).await.payload, "2");
    until_owed(&server, &mut b, 0).await;
    until(|| server.engine.session("b").is_some_and(|view| view.outbound.is_empty())).await;
}

#[tokio::test]
async fn a_negative_acknowledgement_ends_the_message_for_the_group() {
    let server = serve().await;
    let mut raw = Raw::open(server.address, Version::V5).await;
    assert_eq!(raw.connect("raw", None).await, Some(0));
    raw.subscribe(SHARE, QoS::ExactlyOnce).await;
    publish_all(&server, &["1"], QoS::AtLeastOnce).await;
    publish_all(&server, &["2"], QoS::ExactlyOnce).await;
    let (one, two) = (raw.publish_received().await, raw.publish_received().await);
    let mut b = server.connect(ConnectOptions::clean("b")).await;
    subscribe(&mut b, SHARE, QoS::ExactlyOnce).await;
    raw.send(&[
        Packet::PubAck(Ack::new(one.packet_id, reason::QUOTA_EXCEEDED)),
        Packet::PubRec(Ack::new(two.packet_id, reason::UNSPECIFIED_ERROR)),
    ])
    .await;
    until(|| owed(&server) == 0).await;
    drop(raw);
    nothing_comes(&server, &mut b).await;
    assert!(server.engine.gaps().is_empty());
}

#[tokio::test]
async fn no_retained_messages_but_a_copy_for_each_way_with_its_identifier() {
    let server = serve().await;
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    publish(&mut publisher, "jobs/kept", "retained", QoS::AtLeastOnce, true).await;
    let mut client = server.connect(ConnectOptions::clean("c")).await;
    let identified = |identifier| SubscriptionOptions {
        identifier,
        retain_as_published: true,
        ..SubscriptionOptions::of_qos(QoS::AtLeastOnce)
    };
    subscribe_with(&mut client, SHARE, identified(5)).await;
    assert!(ping(&mut client).await.is_empty(), "retained messages are for others");
    subscribe_with(&mut client, "$share/h/#", identified(6)).await;
    subscribe_with(&mut client, "jobs/x", identified(7)).await;
    for (qos, retain) in [(QoS::AtLeastOnce, false), (QoS::AtMostOnce, false), (QoS::AtLeastOnce, true)] {
        publish(&mut publisher, "jobs/x", "x", qos, retain).await;
        let mut got: Vec<Publish> = Vec::new();
        for _ in 0..3 {
            got.push(taken(&mut client).await);
        }
        let mut identifiers: Vec<Vec<u32>> = got.iter().map(|publish| publish.subscription_ids.clone()).collect();
        identifiers.sort();
        assert_eq!(identifiers, [[5], [6], [7]]);
        assert!(got.iter().all(|publish| publish.retain == retain && publish.qos == qos));
        assert!(ping(&mut client).await.is_empty());
    }
}

#[tokio::test]
async fn a_shared_subscription_may_be_made_and_ended_on_a_client_s_behalf() {
    let server = serve().await;
    let mut client = server.connect(ConnectOptions::clean("c")).await;
    server.broker.subscribe_for("c", SHARE, QoS::AtLeastOnce).await.unwrap();
    assert!(server.broker.subscribe_for("c", "$share//x", QoS::AtLeastOnce).await.is_err());
    publish_all(&server, &["1"], QoS::AtLeastOnce).await;
    publish_all(&server, &["2"], QoS::AtMostOnce).await;
    let mut got = [taken(&mut client).await.payload, taken(&mut client).await.payload];
    got.sort();
    assert_eq!(got, ["1", "2"]);
    server.broker.unsubscribe_for("c", SHARE).await.unwrap();
    assert!(server.engine.groups().is_empty());
    publish_all(&server, &["3"], QoS::AtMostOnce).await;
    assert!(ping(&mut client).await.is_empty());
}

#[tokio::test]
async fn a_member_that_is_granted_qos_0_finds_what_waited_for_it() {
    let server = serve().await;
    let options = || ConnectOptions::persistent("zero", 3600);
    let mut member = server.connect(options()).await;
    subscribe(&mut member, SHARE, QoS::AtMostOnce).await;
    let session = member.disconnect(0).await.unwrap();
    until(|| server.broker.clients().is_empty()).await;
    publish_all(&server, &["1"], QoS::AtLeastOnce).await;
    until(|| owed(&server) == 1).await;
    let mut member = server.resume(options(), session).await;
    let got = taken(&mut member).await;
    assert_eq!((&got.payload[..], got.qos), (&b"1"[..], QoS::AtMostOnce));
    until(|| owed(&server) == 0).await;
}

/// Notes for which filters it was asked.
#[derive(Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Store for Asked {
    fn proxy_subscriptions<'a>(&'a self, client: &'a str, _: &'a str) -> BoxFuture<'a, Vec<(ByteString, QoS)>> {
        let of = |filters: &[&str]| filters.iter().map(|filter| ((*filter).into(), QoS::AtLeastOnce)).collect();
        std::future::ready(of(if client == "c" { &[SHARE, "own"] } else { &[] })).boxed()
    }

    fn before_subscribe<'a>(&'a self, _: &'a str, filter: &'a str) -> BoxFuture<'a, ()> {
        self.0.lock().unwrap().push(filter.to_owned());
        std::future::ready(()).boxed()
    }
}

#[tokio::test]
async fn a_database_may_name_shared_subscriptions_and_is_asked_for_nothing_stored() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(dir.path());
    let asked = Asked::default();
    let filters = Arc::clone(&asked.0);
    let listeners = vec![ListenerOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)))];
    let options = BrokerOptions { listeners, ..BrokerOptions::default() };
    let broker = Broker::start(engine.clone(), options, Arc::new(asked)).await.unwrap();
    let address = broker.local_addrs()[0];
    let server = Server { broker, engine, address, dir };
    let mut client = server.connect(ConnectOptions::clean("c")).await;
    until(|| server.engine.session("c").is_some_and(|view| view.subscriptions.len() == 2)).await;
    subscribe(&mut client, "$share/h/jobs/+", QoS::AtLeastOnce).await;
    publish_all(&server, &["1"], QoS::AtLeastOnce).await;
    assert_eq!((taken(&mut client).await.payload, taken(&mut client).await.payload), ("1".into(), "1".into()));
    assert_eq!(*filters.lock().unwrap(), ["own"]);
}
