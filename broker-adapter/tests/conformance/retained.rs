//! Chapter 3.3.1.3: retained messages, and the subscription options that concern them.

use forebay_broker_adapter::codec::{Packet, Publish};

use crate::support::serve;
use crate::wire::*;

/// What SUBSCRIBE brings before the retained message of the next one comes.
async fn brings(wire: &mut Wire, filter: &str, options: u8) -> Vec<Publish> {
    wire.send(&publish5(0x33, "$next", 1, &[], "x")).await;
    wire.send(&subscribe5(1, &[], &[(filter, options)])).await;
    wire.send(&subscribe5(2, &[], &[("$next", 0)])).await;
    let mut got: Vec<Publish> = Vec::new();
    loop {
        if let Packet::Publish(publish) = wire.read().await {
            if &*publish.topic == "$next" {
                break;
            }
            if publish.packet_id > 0 {
                wire.send(&ack(0x40, publish.packet_id)).await;
            }
            got.push(publish);
        }
    }
    wire.send(&unsubscribe5(3, &["$next"])).await;
    assert!(!wire.quiet().await.iter().any(|packet| matches!(packet, Packet::Publish(_))));
    got.sort_by(|a, b| a.topic.cmp(&b.topic));
    got
}

#[tokio::test]
async fn the_newest_one_with_the_flag_is_kept_and_an_empty_one_removes_it() {
    let server = serve().await;
    let mut publisher = Wire::hello5(&server, "p").await;
    let mut live = Wire::hello5(&server, "live").await;
    live.subscribed("t", 1).await;
    for (first, payload, kept) in [
        (0x33, "one", Some("one")),
        (0x31, "two", Some("two")),
        (0x35, "three", Some("three")),
        // Without the flag it neither replaces nor removes.
        (0x32, "four", Some("three")),
        (0x32, "", Some("three")),
        (0x33, "", None),
        (0x31, "five", Some("five")),
        (0x31, "", None),
    ] {
        publisher.send(&publish5(first, "t", 1, &[], payload)).await;
        if first & 6 != 0 {
            publisher.bytes().await;
        }
        if first & 6 == 4 {
            publisher.answers(&ack(0x62, 1), &ack(0x70, 1)).await;
        }
        // Those who are there get each of them, the empty ones too.
        let got = live.message().await;
        assert_eq!((got.retain, &got.payload[..]), (false, payload.as_bytes()));
        publisher.nothing().await;
        let mut late = Wire::hello5(&server, "late").await;
        let got = brings(&mut late, "t", 1).await;
        assert_eq!(
            got.iter().map(|p| (p.retain, &p.payload[..])).collect::<Vec<_>>(),
            kept.map(|kept| (true, kept.as_bytes())).into_iter().collect::<Vec<_>>(),
            "after {payload:?}"
        );
    }
}

#[tokio::test]
async fn retain_handling_says_when_they_are_sent() {
    let server = serve().await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for topic in ["r/1", "r/2", "other"] {
        publisher.answers(&publish5(0x33, topic, 1, &[], "kept"), &ack(0x40, 1)).await;
    }
    let mut wire = Wire::accepted(&server, &lasting5("s", &[])).await;
    for (options, expected) in [
        (0x20, 0), // never
        (0x10, 0), // only for a new subscription, and this one exists
        (0x00, 2), // always
        (0x00, 2),
        (0x10, 0),
    ] {
        assert_eq!(brings(&mut wire, "r/+", options).await.len(), expected, "{options:#04x}");
    }
    // It exists on the next connection too, until it is gone.
    drop(wire);
    let mut wire = Wire::accepted(&server, &lasting5("s", &[])).await;
    assert_eq!(brings(&mut wire, "r/+", 0x10).await.len(), 0);
    wire.answers(&unsubscribe5(2, &["r/+"]), &[0xb0, 4, 0, 2, 0, 0]).await;
    assert_eq!(brings(&mut wire, "r/+", 0x10).await.len(), 2);
    let all: Vec<_> = brings(&mut wire, "#", 0).await.into_iter().map(|p| p.topic.to_string()).collect();
    assert_eq!(all, ["other", "r/1", "r/2"]);
}

#[tokio::test]
async fn retain_as_published_keeps_the_flag_and_without_it_only_what_was_kept_has_it() {
    let server = serve().await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for (qos, options, expected) in [(0, 0, false), (1, 0, false), (0, 8, true), (1, 8, true), (2, 8, true)] {
        let mut wire = Wire::hello5(&server, "s").await;
        assert!(brings(&mut wire, "t", options | 0x20 | qos).await.is_empty());
        for retain in [0, 1u8] {
            publisher.send(&publish5(0x30 | qos << 1 | retain, "t", 1, &[], "x")).await;
            publisher.send(&ack(0x62, 1)).await;
            assert_eq!(wire.message().await.retain, retain == 1 && expected, "QoS {qos}, options {options}");
        }
        let mut late = Wire::hello5(&server, "late").await;
        assert!(brings(&mut late, "t", options).await[0].retain);
    }
}

#[tokio::test]
async fn they_outlive_the_session_that_published_them_and_the_server() {
    let server = serve().await;
    let mut publisher = Wire::hello5(&server, "p").await;
    publisher.answers(&publish5(0x33, "t", 1, &[&user("a", "b")], "kept"), &ack(0x40, 1)).await;
    publisher.send(&GOODBYE).await;
    publisher.ends().await;
    let server = server.crash().await;
    let mut wire = Wire::hello5(&server, "s").await;
    let got = brings(&mut wire, "t", 2).await;
    assert_eq!((got[0].retain, &got[0].payload[..], got[0].qos.as_u8()), (true, &b"kept"[..], 1));
    assert_eq!(got[0].properties.user.len(), 1);
}
