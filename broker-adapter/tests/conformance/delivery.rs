//! Chapters 4.6 and 3.3.4: order, and who gets what.

use forebay_broker_adapter::{BrokerOptions, Limits};
use tempfile::tempdir;

use crate::support::{serve, serve_in};
use crate::wire::*;

#[tokio::test]
async fn messages_of_one_client_topic_and_level_come_in_their_order_live_and_stored() {
    let server = serve().await;
    let mut away = Wire::accepted(&server, &lasting5("away", &[])).await;
    away.subscribed("t", 2).await;
    drop(away);
    let mut live = Wire::hello5(&server, "live").await;
    live.subscribed("t", 2).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    let mut sent = Vec::new();
    for n in 1..=300u16 {
        let first = [0x30, 0x32, 0x34][usize::from(n % 3)];
        sent.extend(publish5(first, "t", n, &[], n.to_string()));
    }
    publisher.send(&sent).await;
    let mut away = Wire::accepted(&server, &lasting5("away", &[])).await;
    for (wire, levels) in [(&mut live, 0..3u8), (&mut away, 1..3)] {
        let mut last = [0u16; 3];
        let expected = if levels.start == 0 { 300 } else { 200 };
        for _ in 0..expected {
            let got = loop {
                match wire.read().await {
                    forebay_broker_adapter::codec::Packet::Publish(publish) => break publish,
                    forebay_broker_adapter::codec::Packet::PubRel(ack_) => wire.send(&ack(0x70, ack_.packet_id)).await,
                    other => panic!("{other:?}"),
                }
            };
            let (level, n) =
                (usize::from(got.qos.as_u8()), std::str::from_utf8(&got.payload).unwrap().parse().unwrap());
            assert!(last[level] < n, "{n} after {}", last[level]);
            last[level] = n;
            match level {
                1 => wire.send(&ack(0x40, got.packet_id)).await,
                2 => wire.send(&ack(0x50, got.packet_id)).await,
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_message_has_a_topic_that_one_of_the_client_s_filters_matches() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "s").await;
    for filter in ["a/+/c", "b/#"] {
        wire.subscribed(filter, 1).await;
    }
    let mut publisher = Wire::hello5(&server, "p").await;
    for first in [0x30, 0x32] {
        for (topic, matches) in [
            ("a/b/c", true),
            ("a//c", true),
            ("a/b/c/d", false),
            ("a/c", false),
            ("A/b/c", false),
            ("b", true),
            ("b/", true),
            ("b/x/y", true),
            ("bx", false),
            ("/b", false),
        ] {
            publisher.send(&publish5(first, topic, 1, &[], "x")).await;
            publisher.quiet().await;
            if matches {
                let got = wire.message().await;
                assert_eq!(&*got.topic, topic);
                if got.packet_id > 0 {
                    wire.send(&ack(0x40, got.packet_id)).await;
                }
            } else {
                wire.nothing().await;
            }
        }
    }
}

#[tokio::test]
async fn topics_are_as_long_as_a_string_can_be_and_may_begin_with_any_letter() {
    let limits = Limits { topic_bytes: 65_535, ..Limits::default() };
    let server = serve_in(tempdir().unwrap(), BrokerOptions { limits, ..BrokerOptions::default() }).await;
    let mut wire = Wire::hello5(&server, "s").await;
    wire.subscribed("#", 1).await;
    for topic in ["x".repeat(65_535), "état/1".to_owned(), "温度".to_owned(), "😀".to_owned(), "/é".to_owned()] {
        for (first, id) in [(0x30, 0), (0x32, 1)] {
            wire.send(&publish5(first, &topic, id, &[], "x")).await;
            let got = loop {
                if let forebay_broker_adapter::codec::Packet::Publish(publish) = wire.read().await {
                    break publish;
                }
            };
            assert_eq!(*got.topic, *topic);
            if got.packet_id > 0 {
                wire.send(&ack(0x40, got.packet_id)).await;
                wire.quiet().await;
            }
        }
    }
}

#[tokio::test]
async fn a_slow_subscriber_of_a_clean_session_loses_nothing_while_it_is_connected() {
    let server = serve().await;
    let (mut wire, _) = Wire::open(&server, &connect5_with("s", CLEAN, &[&two(0x21, 1)], &[])).await;
    wire.subscribed("t", 1).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    let (sent, answers): (Vec<_>, Vec<_>) =
        (1..=1000u16).map(|n| (publish5(0x32, "t", n, &[], format!("{n} {}", "x".repeat(1000))), ack(0x40, n))).unzip();
    for (sent, answers) in sent.chunks(500).zip(answers.chunks(500)) {
        publisher.answers(&sent.concat(), &answers.concat()).await;
    }
    for n in 1..=1000u16 {
        let got = wire.message().await;
        let payload = std::str::from_utf8(&got.payload).unwrap();
        assert_eq!(payload.split(' ').next(), Some(&*n.to_string()));
        wire.send(&ack(0x40, got.packet_id)).await;
    }
    wire.nothing().await;
}
