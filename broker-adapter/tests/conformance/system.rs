//! `$SYS`: what the broker says of itself.

use std::collections::HashMap;
use std::time::Duration;

use forebay_broker_adapter::BrokerOptions;
use forebay_engine::Lsn;
use tempfile::tempdir;

use crate::support::{Server, serve_in};
use crate::wire::*;

async fn reporting(every: Duration) -> Server {
    let options = BrokerOptions { system_interval: every, ..BrokerOptions::default() };
    serve_in(tempdir().unwrap(), options).await
}

const TOPICS: [&str; 12] = [
    "version",
    "uptime",
    "clients/connected",
    "clients/total",
    "messages/received",
    "messages/sent",
    "bytes/received",
    "bytes/sent",
    "subscriptions/count",
    "retained messages/count",
    "log/end",
    "log/lag",
];

#[tokio::test]
async fn it_tells_those_who_ask_and_keeps_nothing_of_it() {
    let server = reporting(Duration::from_millis(100)).await;
    let mut wild = Wire::hello5(&server, "wild").await;
    for filter in ["#", "+/#", "+/broker/version"] {
        wild.subscribed(filter, 1).await;
    }
    let mut publisher = Wire::hello5(&server, "p").await;
    publisher.answers(&publish5(0x33, "kept", 1, &[], "x"), &ack(0x40, 1)).await;
    let mut away = Wire::accepted(&server, &lasting5("away", &[])).await;
    away.subscribed("$SYS/#", 1).await;
    drop(away);
    let mut watcher = Wire::hello5(&server, "watcher").await;
    watcher.subscribed("$SYS/broker/#", 2).await;
    crate::support::until(|| server.engine.applied_end() == server.engine.durable_end()).await;
    let end = server.engine.durable_end();
    let mut seen: HashMap<String, String> = HashMap::new();
    // Two rounds: the second one has counted the first.
    for _ in 0..2 * TOPICS.len() {
        let got = watcher.message().await;
        assert_eq!((got.qos.as_u8(), got.retain), (0, false));
        let topic = got.topic.strip_prefix("$SYS/broker/").unwrap().to_owned();
        seen.insert(topic, String::from_utf8(got.payload.to_vec()).unwrap());
    }
    let mut topics: Vec<_> = seen.keys().map(String::as_str).collect();
    topics.sort_unstable();
    let mut expected = TOPICS;
    expected.sort_unstable();
    assert_eq!(topics, expected);
    assert_eq!(seen["version"], format!("forebay {}", env!("CARGO_PKG_VERSION")));
    assert!(seen["uptime"].ends_with(" seconds"));
    for (topic, expected) in [
        ("clients/connected", 3),
        ("clients/total", 4),
        ("messages/received", 1),
        ("subscriptions/count", 5),
        ("retained messages/count", 1),
        ("log/end", end.0),
        ("log/lag", 0),
    ] {
        assert_eq!(seen[topic], expected.to_string(), "{topic}");
    }
    for topic in ["messages/sent", "bytes/received", "bytes/sent"] {
        assert!(seen[topic].parse::<u64>().unwrap() > 0, "{topic}");
    }
    assert_eq!(server.engine.durable_end(), end, "nothing of it is in the log");
    assert!(server.engine.retained("$SYS/broker/version").is_none() && end > Lsn(0));
    // A leading wildcard sees the retained message and nothing of $SYS.
    for packet in wild.quiet().await {
        if let forebay_broker_adapter::codec::Packet::Publish(publish) = packet {
            assert!(!publish.topic.starts_with('$'), "{publish:?}");
        }
    }
}

#[tokio::test]
async fn nobody_else_publishes_there() {
    let server = reporting(Duration::from_secs(3600)).await;
    let mut watcher = Wire::hello5(&server, "watcher").await;
    watcher.subscribed("$SYS/#", 1).await;
    watcher.quiet().await;
    let mut wire = Wire::hello5(&server, "c").await;
    for topic in ["$SYS", "$SYS/broker/version", "$SYS/mine"] {
        wire.send(&publish5(0x32, topic, 1, &[], "x")).await;
        let bytes = wire.bytes().await;
        assert_eq!((bytes[0], &bytes[2..5]), (0x40, &[0, 1, 0x87][..]));
        wire.send(&publish5(0x34, topic, 1, &[], "x")).await;
        let bytes = wire.bytes().await;
        assert_eq!((bytes[0], &bytes[2..5]), (0x50, &[0, 1, 0x87][..]));
        wire.send(&publish5(0x31, topic, 0, &[], "x")).await;
        wire.nothing().await;
        let mut old = Wire::hello3(&server, "d").await;
        old.send(&publish3(0x32, topic, 1, "x")).await;
        old.ends().await;
        assert!(server.engine.retained(topic).is_none());
    }
    watcher.nothing().await;
    // Other names that begin with a dollar are no business of the broker's.
    wire.answers(&publish5(0x32, "$SYSTEM", 1, &[], "x"), &ack(0x40, 1)).await;
}

#[tokio::test]
async fn an_interval_of_zero_is_silence() {
    let server = reporting(Duration::ZERO).await;
    let mut watcher = Wire::hello5(&server, "watcher").await;
    watcher.subscribed("$SYS/#", 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    watcher.nothing().await;
}
