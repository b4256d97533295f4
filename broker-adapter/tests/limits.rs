//! Every limit of clients and addresses on real sockets: what is answered, what is counted, and that it hurts nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_broker_adapter::client::{Client, ClientError, ClientSession, ConnectOptions, Incoming};
use forebay_broker_adapter::codec::{Ack, Connect, ConnectWill, Packet, Publish, Version, reason};
use forebay_broker_adapter::{BrokerOptions, Limits, ListenerOptions};
use forebay_engine::QoS;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const BOTH: [Version; 2] = [Version::V311, Version::V5];

static COUNTS: LazyLock<Mutex<HashMap<String, Arc<AtomicU64>>>> = LazyLock::new(|| {
    let _ = metrics::set_global_recorder(Counts);
    Mutex::default()
});

/// Counters by name and labels; nothing else.
struct Counts;

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Counter::from_arc(Arc::clone(COUNTS.lock().unwrap().entry(name).or_default()))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn counted(name: &str) -> u64 {
    COUNTS.lock().unwrap().get(name).map_or(0, |count| count.load(Ordering::Relaxed))
}

/// How often somebody was over a limit. Tests that look at the same limit do so in one function.
fn limited(limit: &str) -> u64 {
    counted(&format!("forebay_mqtt_limited_total{{limit={limit}}}"))
}

async fn serve_limited(limits: Limits) -> Server {
    LazyLock::force(&COUNTS);
    serve_in(tempfile::tempdir().unwrap(), BrokerOptions { limits, ..BrokerOptions::default() }).await
}

async fn serve_with(options: BrokerOptions) -> Server {
    LazyLock::force(&COUNTS);
    serve_in(tempfile::tempdir().unwrap(), options).await
}

fn connect_with(version: Version, client: &str) -> Connect {
    Connect {
        version,
        client_id: client.into(),
        clean_start: true,
        keep_alive_s: 0,
        will: None,
        username: None,
        password: None,
        properties: Default::default(),
    }
}

/// Connects; the code of CONNACK, none where the connection ends instead.
async fn connect(raw: &mut Raw, connect: Connect) -> Option<u8> {
    let bytes = raw.bytes(&[Packet::Connect(Box::new(connect))]);
    let _ = raw.stream.write_all(&bytes).await;
    raw.connack().await
}

/// A connection, and the code of its CONNACK.
async fn come(server: &Server, version: Version, client: &str) -> (Raw, Option<u8>) {
    let mut raw = Raw::open(server.address, version).await;
    let code = connect(&mut raw, connect_with(version, client)).await;
    (raw, code)
}

/// From an address of this machine.
async fn come_from(server: &Server, ip: [u8; 4], client: &str) -> (Raw, Option<u8>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((ip, 0))).unwrap();
    let mut raw = Raw::over(socket.connect(server.address).await.unwrap());
    let code = connect(&mut raw, connect_with(Version::V5, client)).await;
    (raw, code)
}

fn code(version: Version, v5: u8, v3: u8) -> u8 {
    if version.is_v5() { v5 } else { v3 }
}

fn publish_with(topic: &str, qos: QoS, packet_id: u16) -> Packet {
    Packet::Publish(Publish { topic: topic.into(), qos, packet_id, ..Publish::default() })
}

#[tokio::test]
async fn too_many_connections_are_told_so_and_a_place_is_free_again_at_once() {
    let server = serve_with(BrokerOptions { max_connections: 1, ..BrokerOptions::default() }).await;
    let (first, let_in) = come(&server, Version::V5, "a").await;
    assert_eq!(let_in, Some(0));
    for version in BOTH {
        let before = limited("connections");
        let (mut raw, told) = come(&server, version, "b").await;
        assert_eq!(told, Some(code(version, reason::QUOTA_EXCEEDED, 3)));
        assert_eq!(raw.receive().await, None);
        assert_eq!(limited("connections"), before + 1);
    }
    // One that says nothing is not waited for.
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, silent.read(&mut [0; 8])).await.expect("it ends");
    assert_eq!(ended.unwrap(), 0);
    assert_eq!(server.broker.stats().connections, 1);
    drop(first);
    until(|| server.broker.listeners()[0].connections == 0).await;
    assert_eq!(come(&server, Version::V5, "b").await.1, Some(0));
}

#[tokio::test]
async fn many_that_are_turned_away_do_not_keep_the_next_one_waiting() {
    let server = serve_with(BrokerOptions { max_connections: 2, ..BrokerOptions::default() }).await;
    let (_first, _) = come(&server, Version::V5, "a").await;
    let (second, _) = come(&server, Version::V5, "b").await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    drop(second);
    until(|| server.broker.listeners()[0].connections == 1).await;
    assert_eq!(come(&server, Version::V5, "c").await.1, Some(0));
}

#[tokio::test]
async fn an_address_has_its_own_number_of_connections_behind_a_proxy_too() {
    LazyLock::force(&COUNTS);
    let limits = Limits { connections_per_address: 1, ..Limits::default() };
    let listener = ListenerOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let proxied = ListenerOptions { proxy_protocol: true, ..listener.clone() };
    let server = serve_at(vec![listener, proxied], BrokerOptions { limits, ..BrokerOptions::default() }).await;
    let behind = server.broker.local_addrs()[1];

    let (first, let_in) = come(&server, Version::V5, "a").await;
    assert_eq!(let_in, Some(0));
    for version in BOTH {
        let before = limited("connections_per_address");
        assert_eq!(come(&server, version, "b").await.1, Some(code(version, reason::QUOTA_EXCEEDED, 3)));
        assert_eq!(limited("connections_per_address"), before + 1);
    }
    drop(first);
    until(|| server.broker.listeners()[0].connections == 0).await;
    assert_eq!(come(&server, Version::V5, "b").await.1, Some(0));

    let through = |client: &'static str| async move {
        let mut stream = TcpStream::connect(behind).await.unwrap();
        stream.write_all(&proxy_header(client.parse().unwrap())).await.unwrap();
        let mut raw = Raw::over(stream);
        let told = raw.connect(client, None).await;
        (raw, told)
    };
    let before = limited("connections_per_address");
    let (_kept, let_in) = through("192.0.2.1:40001").await;
    assert_eq!(let_in, Some(0));
    assert_eq!(through("192.0.2.1:40002").await.1, Some(reason::QUOTA_EXCEEDED));
    assert_eq!(through("192.0.2.2:40003").await.1, Some(0), "another client of the same proxy");
    let (_kept, let_in) = through("[2001:db8::1]:40001").await;
    assert_eq!(let_in, Some(0));
    assert_eq!(through("[2001:db8::2:2]:40002").await.1, Some(reason::QUOTA_EXCEEDED), "the same /64");
    assert_eq!(through("[2001:db8:0:1::1]:40002").await.1, Some(0), "another /64");
    assert_eq!(limited("connections_per_address"), before + 2);
}

#[tokio::test]
async fn an_address_that_connects_too_often_is_told_so_and_others_come_in() {
    let server = serve_limited(Limits { connects_per_address_per_s: 1, ..Limits::default() }).await;
    let mut let_in = 0;
    let told = loop {
        match come(&server, Version::V5, "a").await.1 {
            Some(0) => let_in += 1,
            other => break other,
        }
        assert!(let_in < 100, "nobody is refused");
    };
    assert!(told == Some(reason::CONNECTION_RATE_EXCEEDED) && let_in >= 2, "{told:?} after {let_in}");
    assert_eq!(come_from(&server, [127, 0, 0, 2], "b").await.1, Some(0));
    assert!(limited("connect_rate_per_address") >= 1);
    let before_v3 = loop {
        match come(&server, Version::V311, "a").await.1 {
            Some(0) => {}
            other => break other,
        }
    };
    assert_eq!(before_v3, Some(3));
    // It is let in again with time.
    let again = async { while come(&server, Version::V5, "a").await.1 != Some(0) {} };
    tokio::time::timeout(PATIENCE, again).await.expect("it is let in again");
}

#[tokio::test]
async fn too_many_connects_at_a_time_are_told_so() {
    let server = serve_limited(Limits { connects_per_s: 1, ..Limits::default() }).await;
    for (version, code) in [(Version::V5, reason::CONNECTION_RATE_EXCEEDED), (Version::V311, 3)] {
        let before = limited("connect_rate");
        let mut let_in = 0;
        let told = loop {
            match come(&server, version, "a").await.1 {
                Some(0) => let_in += 1,
                other => break other,
            }
            assert!(let_in < 100, "nobody is refused");
        };
        assert_eq!(told, Some(code));
        assert!(limited("connect_rate") > before);
    }
}

#[tokio::test]
async fn one_that_does_not_send_connect_is_closed_at_the_deadline() {
    let options = BrokerOptions { connect_timeout: Duration::from_millis(300), ..BrokerOptions::default() };
    let server = serve_with(options).await;
    let before = limited("connect_timeout");
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    // A byte now and then buys no time.
    let bytes = encoded(&[connect_packet("slow", None)]);
    let start = Instant::now();
    for byte in &bytes {
        if silent.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut scrap = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut scrap)).await.expect("it ends");
    assert!(scrap.is_empty() && start.elapsed() >= Duration::from_millis(300));
    until(|| limited("connect_timeout") == before + 1).await;
}

#[tokio::test]
async fn a_packet_that_is_too_large_ends_the_connection_before_its_body_is_read() {
    let server = serve_with(BrokerOptions { max_packet_bytes: 1024, ..BrokerOptions::default() }).await;
    for version in BOTH {
        let before = limited("packet_bytes");
        let (mut raw, _) = come(&server, version, "a").await;
        // 16 MiB are announced, one byte comes.
        raw.stream.write_all(&[0x30, 0xff, 0xff, 0xff, 0x07, 0]).await.unwrap();
        if version.is_v5() {
            let last = raw.receive().await;
            assert!(matches!(last, Some(Packet::Disconnect(d)) if d.reason == reason::PACKET_TOO_LARGE));
        }
        assert_eq!(raw.receive().await, None);
        assert_eq!(limited("packet_bytes"), before + 1);
    }
    let before = limited("packet_bytes");
    let mut raw = Raw::open(server.address, Version::V5).await;
    assert_eq!(connect(&mut raw, connect_with(Version::V5, &"x".repeat(2000))).await, None);
    assert_eq!(limited("packet_bytes"), before + 1);
}

#[tokio::test]
async fn more_publishes_under_way_than_allowed_end_the_connection() {
    let server = serve_with(BrokerOptions { receive_maximum: 2, ..BrokerOptions::default() }).await;
    let before = limited("receive_maximum");
    let (mut raw, _) = come(&server, Version::V5, "a").await;
    raw.send(&[1, 2, 3].map(|id| publish_with("t", QoS::ExactlyOnce, id))).await;
    let last = loop {
        match raw.receive().await {
            Some(Packet::PubRec(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(last, Some(Packet::Disconnect(d)) if d.reason == reason::RECEIVE_MAXIMUM_EXCEEDED));
    assert_eq!(limited("receive_maximum"), before + 1);
}

#[tokio::test]
async fn no_more_is_on_its_way_to_a_client_than_the_server_sends_at_a_time() {
    let server = serve_with(BrokerOptions { send_window: 2, ..BrokerOptions::default() }).await;
    let options = ConnectOptions { automatic_acks: false, ..ConnectOptions::clean("s") };
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
async fn a_client_id_that_is_too_long_is_not_valid() {
    let server = serve_limited(Limits { client_id_bytes: 30, ..Limits::default() }).await;
    for version in BOTH {
        let before = limited("client_id_bytes");
        let long = "é".repeat(16);
        assert_eq!(come(&server, version, &long).await.1, Some(code(version, reason::CLIENT_IDENTIFIER_NOT_VALID, 2)));
        assert_eq!(limited("client_id_bytes"), before + 1);
        assert_eq!(come(&server, version, &long[..30]).await.1, Some(0));
    }
}

#[tokio::test]
async fn topics_that_are_too_long_or_too_deep_are_refused_and_the_connection_goes_on() {
    let server = serve_limited(Limits { topic_bytes: 40, topic_levels: 3, ..Limits::default() }).await;
    let mut all = server.connect(ConnectOptions::clean("all")).await;
    subscribe(&mut all, "#", QoS::AtMostOnce).await;
    for (limit, bad, good) in [
        ("topic_levels", "a/b/c/d".to_owned(), "a/b/c"),
        ("topic_bytes", "x".repeat(41), "0123456789012345678901234567890123456789"),
    ] {
        let before = limited(limit);
        let (mut raw, _) = come(&server, Version::V5, "v5").await;
        let publishes = [
            publish_with(&bad, QoS::AtMostOnce, 0),
            publish_with(&bad, QoS::AtLeastOnce, 1),
            publish_with(&bad, QoS::ExactlyOnce, 2),
        ];
        raw.send(&publishes).await;
        assert_eq!(raw.receive().await, Some(Packet::PubAck(Ack::new(1, reason::TOPIC_NAME_INVALID))));
        assert_eq!(raw.receive().await, Some(Packet::PubRec(Ack::new(2, reason::TOPIC_NAME_INVALID))));
        raw.send(&[subscribe_packet(&bad, QoS::AtMostOnce)]).await;
        assert!(
            matches!(raw.receive().await, Some(Packet::SubAck(ack)) if ack.codes == [reason::TOPIC_FILTER_INVALID])
        );
        raw.send(&[publish_with(good, QoS::AtLeastOnce, 3)]).await;
        assert_eq!(raw.receive().await, Some(Packet::PubAck(Ack::new(3, 0))), "the ids of the refused ones are free");
        assert_eq!(message(&mut all).await.topic, *good);

        let (mut raw, _) = come(&server, Version::V311, "v3").await;
        raw.send(&[publish_with(&bad, QoS::AtMostOnce, 0), subscribe_packet(&bad, QoS::AtMostOnce)]).await;
        assert!(matches!(raw.receive().await, Some(Packet::SubAck(ack)) if ack.codes == [0x80]));
        raw.send(&[publish_with(&bad, QoS::AtLeastOnce, 1)]).await;
        assert_eq!(raw.receive().await, None, "what is not taken is not acknowledged");

        for (version, told) in [(Version::V5, Some(reason::TOPIC_NAME_INVALID)), (Version::V311, None)] {
            let will = ConnectWill { topic: bad.as_str().into(), ..ConnectWill::default() };
            let mut raw = Raw::open(server.address, version).await;
            let connect_packet = Connect { will: Some(will), ..connect_with(version, "w") };
            assert_eq!(connect(&mut raw, connect_packet).await, told);
        }
        assert_eq!(limited(limit), before + 9);
    }
    assert!(ping(&mut all).await.is_empty(), "nothing of what was refused was delivered");
}

#[tokio::test]
async fn a_session_has_so_many_subscriptions_and_no_more() {
    let server = serve_limited(Limits { subscriptions_per_client: 2, ..Limits::default() }).await;
    for version in BOTH {
        let before = limited("subscriptions");
        let full = code(version, reason::QUOTA_EXCEEDED, 0x80);
        let name = format!("s{}", version as u8);
        let options = ConnectOptions { version, ..ConnectOptions::persistent(&name, 3600) };
        let options = if version.is_v5() { options } else { options.v311() };
        let mut client = server.connect(options.clone()).await;
        assert_eq!(subscribe(&mut client, "a", QoS::AtLeastOnce).await, [1]);
        let several =
            ["b", "c", "a"].map(|filter| (filter, forebay_engine::event::SubscriptionOptions::of_qos(QoS::AtMostOnce)));
        client.subscribe(&several).unwrap();
        let codes = loop {
            if let Incoming::Subscribed(ack) = next(&mut client).await {
                break ack.codes;
            }
        };
        assert_eq!(codes, [0, full, 0], "one that is there may be changed");
        let session = client.into_session();
        until(|| server.engine.session(&name).is_some_and(|view| !view.connected)).await;
        let mut client = server.resume(options, session).await;
        assert!(client.connack().session_present);
        assert_eq!(subscribe(&mut client, "c", QoS::AtMostOnce).await, [full], "those of the resumed session count");
        client.unsubscribe(&["a"]).unwrap();
        while !matches!(next(&mut client).await, Incoming::Unsubscribed(_)) {}
        assert_eq!(subscribe(&mut client, "c", QoS::AtMostOnce).await, [0]);
        assert_eq!(limited("subscriptions"), before + 2);
        assert_eq!(server.engine.session(&name).unwrap().subscriptions.len(), 2);
    }
}

#[tokio::test]
async fn a_client_over_its_rate_of_messages_waits_and_nobody_else_does() {
    let server = serve_limited(Limits { messages_per_s: 20, ..Limits::default() }).await;
    let mut subscriber = server.connect(ConnectOptions::clean("s")).await;
    subscribe(&mut subscriber, "t/#", QoS::AtLeastOnce).await;
    let mut fast = server.connect(ConnectOptions::clean("fast")).await;
    let start = Instant::now();
    for n in 0..60 {
        fast.publish("t/fast", Bytes::from(format!("{n}")), QoS::AtLeastOnce, false).unwrap();
    }
    fast.flush().await.unwrap();
    let mut other = server.connect(ConnectOptions::clean("other")).await;
    publish(&mut other, "t/other", "x", QoS::AtLeastOnce, false).await;
    assert_eq!(server.broker.stats().connections, 3);
    let mut done = 0;
    while done < 60 {
        if let Incoming::Completed(completion) = next(&mut fast).await {
            assert_eq!(completion.reason, 0);
            done += 1;
        }
    }
    // The first twenty at once, twenty a second from there on.
    assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
    let (mut seen, mut others_at) = (Vec::new(), None);
    while seen.len() < 60 {
        let got = message(&mut subscriber).await;
        if &*got.topic == "t/other" {
            others_at = Some(seen.len());
        } else {
            seen.push(String::from_utf8(got.payload.to_vec()).unwrap());
        }
    }
    assert_eq!(seen, (0..60).map(|n| n.to_string()).collect::<Vec<_>>(), "all of them, in order");
    assert!(others_at.is_some_and(|at| at < 60), "the other client did not wait for them");
    assert!(limited("message_rate") > 0);
}

#[tokio::test]
async fn what_a_client_sends_before_it_leaves_is_taken_in_at_its_rate_of_bytes() {
    let server = serve_limited(Limits { bytes_per_s: 20_000, ..Limits::default() }).await;
    let mut subscriber = server.connect(ConnectOptions::clean("s")).await;
    subscribe(&mut subscriber, "t", QoS::AtMostOnce).await;
    let start = Instant::now();
    let mut fast = server.connect(ConnectOptions::clean("fast")).await;
    for _ in 0..60 {
        fast.publish("t", Bytes::from(vec![b'x'; 1000]), QoS::AtMostOnce, false).unwrap();
    }
    fast.disconnect(0).await.unwrap();
    for n in 0..60 {
        assert_eq!(message(&mut subscriber).await.payload.len(), 1000, "{n}");
    }
    assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
    assert!(limited("byte_rate") > 0);
}

/// Memory of this process that is resident, bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_never_reads_costs_little_and_keeps_nobody_waiting() {
    const FIREHOSE: usize = 3000;
    let server = serve_limited(Limits { live_queue_bytes: 1 << 20, ..Limits::default() }).await;
    let (mut stuck, _) = come(&server, Version::V5, "stuck").await;
    stuck.subscribe("fire/#", QoS::AtLeastOnce).await;
    let mut reader = server.connect(ConnectOptions::clean("reader")).await;
    subscribe(&mut reader, "fire/1", QoS::AtLeastOnce).await;
    let mut publisher = server.connect(ConnectOptions::clean("p")).await;
    let (before, shed_before) = (resident(), counted("forebay_mqtt_messages_dropped_total{reason=live_queue_full}"));
    let payload = Bytes::from(vec![7; 64 * 1024]);
    let mut sent = Vec::new();
    for n in 0..FIREHOSE {
        publisher.publish("fire/0", payload.clone(), QoS::AtMostOnce, false).unwrap();
        publisher.flush().await.unwrap();
        if n % 30 == 0 {
            // It waits for the PUBACK.
            assert_eq!(publish(&mut publisher, "fire/1", &n.to_string(), QoS::AtLeastOnce, false).await, 0);
            assert_eq!(message(&mut reader).await.payload, n.to_string());
            sent.push(n.to_string());
        }
    }
    let grown = resident().saturating_sub(before);
    // 190 MiB went by.
    assert!(grown < 80 << 20, "{} KiB", grown >> 10);
    let shed = counted("forebay_mqtt_messages_dropped_total{reason=live_queue_full}") - shed_before;
    assert!(shed > 0, "what did not fit was dropped and counted");

    // When it reads at last, nothing that was acknowledged is missing.
    let (mut live, mut got) = (0, Vec::new());
    while got.len() < sent.len() {
        let publish = stuck.publish_received().await;
        if &*publish.topic == "fire/1" {
            got.push(String::from_utf8(publish.payload.to_vec()).unwrap());
            stuck.send(&[Packet::PubAck(Ack::new(publish.packet_id, 0))]).await;
        } else {
            live += 1;
        }
    }
    assert_eq!(got, sent);
    assert!(live as u64 + shed <= FIREHOSE as u64, "{live} {shed}");
}

#[tokio::test]
async fn a_flood_of_connections_through_a_listener_with_its_own_limit_leaves_the_others_free() {
    LazyLock::force(&COUNTS);
    let any = || ListenerOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let narrow = ListenerOptions { max_connections: Some(1), ..any() };
    let server = serve_at(vec![any(), narrow], BrokerOptions::default()).await;
    let [wide, narrow] = server.broker.local_addrs()[..] else { panic!("two addresses") };
    assert!(matches!(wide.ip(), IpAddr::V4(_)));
    let connect = |address, name| Client::connect(address, ConnectOptions::clean(name), ClientSession::default());
    let _first = connect(narrow, "a").await.unwrap();
    for _ in 0..3 {
        assert!(matches!(connect(narrow, "b").await, Err(ClientError::Refused(reason::QUOTA_EXCEEDED))));
    }
    connect(wide, "b").await.unwrap();
}
