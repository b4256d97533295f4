//! Chapter 3.3: PUBLISH, its flags and properties.

use std::time::Duration;

use forebay_broker_adapter::BrokerOptions;
use forebay_broker_adapter::codec::Packet;
use tempfile::tempdir;

use crate::support::{serve, serve_in};
use crate::wire::*;

#[tokio::test]
async fn both_qos_bits_and_dup_with_qos_0_are_malformed() {
    let server = serve().await;
    for first in [0x36, 0x37, 0x3e, 0x38] {
        let mut wire = Wire::hello5(&server, "c").await;
        wire.send(&publish5(first, "t", 1, &[], "x")).await;
        assert!(wire.ends_with(0x81).await.is_empty());
        let mut wire = Wire::hello3(&server, "c").await;
        wire.send(&publish3(first, "t", 1, "x")).await;
        wire.ends().await;
    }
}

#[tokio::test]
async fn dup_is_between_sender_and_receiver_and_never_passed_on() {
    let server = serve().await;
    let mut subscriber = Wire::hello5(&server, "s").await;
    subscriber.subscribed("t", 1).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    publisher.answers(&publish5(0x3a, "t", 1, &[], "dup"), &ack(0x40, 1)).await;
    assert_eq!(subscriber.bytes().await[0], 0x32);
    publisher.answers(&publish5(0x3c, "t", 2, &[], "dup"), &ack(0x50, 2)).await;
    assert_eq!(subscriber.bytes().await[0], 0x32);
}

#[tokio::test]
async fn properties_arrive_as_they_were_sent_and_in_their_order() {
    let server = serve().await;
    let (mut live, mut stored, mut other) = (
        Wire::hello5(&server, "live").await,
        Wire::hello5(&server, "stored").await,
        Wire::hello3(&server, "other").await,
    );
    live.subscribed("t", 0).await;
    stored.subscribed("t", 1).await;
    other.subscribed("t", 1).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for format in [0, 1u8] {
        let list: Vec<Vec<u8>> = vec![
            vec![0x01, format],
            long(0x03, "text/plain"),
            long(0x08, "answers/here"),
            long(0x09, [0, 0xff, 1]),
            user("b", "1"),
            user("a", "2"),
            user("b", "1"),
            user("", ""),
        ];
        let parts: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
        for first in [0x30, 0x32] {
            publisher.send(&publish5(first, "t", 5, &parts, "payload")).await;
            for wire in [&mut live, &mut stored] {
                let got = wire.message().await;
                let p = &got.properties;
                assert_eq!((p.payload_format, p.expiry_s), (Some(format), None));
                assert_eq!(p.content_type.as_deref(), Some("text/plain"));
                assert_eq!(p.response_topic.as_deref(), Some("answers/here"));
                assert_eq!(p.correlation_data.as_deref(), Some(&[0, 0xff, 1][..]));
                let user: Vec<_> = p.user.iter().map(|(n, v)| (&**n, &**v)).collect();
                assert_eq!(user, [("b", "1"), ("a", "2"), ("b", "1"), ("", "")]);
            }
            assert_eq!(other.message().await.payload, "payload");
        }
    }
}

#[tokio::test]
async fn a_payload_that_is_not_what_its_format_promises_is_refused() {
    let server = serve().await;
    let mut subscriber = Wire::hello5(&server, "s").await;
    subscriber.subscribed("t", 1).await;
    let mut wire = Wire::hello5(&server, "c").await;
    let text: &[&[u8]] = &[&[0x01, 1]];
    for (first, answer) in [(0x32, 0x40), (0x34, 0x50)] {
        for _ in 0..2 {
            wire.send(&publish5(first, "t", 3, text, [0xc3])).await;
            let bytes = wire.bytes().await;
            assert_eq!((bytes[0], &bytes[2..5]), (answer, &[0, 3, 0x99][..]));
        }
        // The id is free: a message that is what it says is a new one.
        wire.answers(&publish5(first, "t", 3, text, "é"), &ack(answer, 3)).await;
        assert_eq!(subscriber.message().await.payload, "é");
    }
    wire.answers(&publish5(0x32, "t", 4, &[&[0x01, 0]], [0xc3]), &ack(0x40, 4)).await;
    assert_eq!(subscriber.message().await.payload, &[0xc3][..]);
    wire.send(&publish5(0x30, "t", 0, text, [0xc3])).await;
    wire.ends_with(0x99).await;
    subscriber.nothing().await;
}

#[tokio::test]
async fn a_response_topic_is_a_topic_name() {
    let server = serve().await;
    for topic in ["a/+", "#", ""] {
        let mut wire = Wire::hello5(&server, "c").await;
        wire.send(&publish5(0x32, "t", 1, &[&long(0x08, topic)], "x")).await;
        wire.ends_with(0x82).await;
    }
}

#[tokio::test]
async fn a_client_s_publish_has_no_subscription_identifier() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    wire.send(&publish5(0x30, "t", 0, &[&[0x0b, 1]], "x")).await;
    wire.ends_with(0x82).await;
}

#[tokio::test]
async fn aliases_of_the_client_stand_for_topics_up_to_the_maximum_and_end_with_the_connection() {
    let options = BrokerOptions { topic_alias_maximum: 2, ..BrokerOptions::default() };
    let server = serve_in(tempdir().unwrap(), options).await;
    let mut subscriber = Wire::hello5(&server, "s").await;
    subscriber.subscribed("t/+", 1).await;
    let (mut wire, connack) = Wire::open(&server, &lasting5("c", &[])).await;
    assert_eq!(connack.properties.topic_alias_maximum, Some(2));
    for (topic, alias, expected) in
        [("t/1", 1, "t/1"), ("t/2", 2, "t/2"), ("", 1, "t/1"), ("", 2, "t/2"), ("t/3", 1, "t/3"), ("", 1, "t/3")]
    {
        wire.answers(&publish5(0x32, topic, 1, &[&two(0x23, alias)], "x"), &ack(0x40, 1)).await;
        let got = subscriber.message().await;
        assert_eq!((&*got.topic, got.topic_alias), (expected, None), "an alias is nobody else's");
    }
    for (topic, alias, code) in [("", 3, 0x94), ("t/1", 3, 0x94), ("t/1", 0, 0x94), ("", 1, 0x82)] {
        let (mut wire, ack) = Wire::open(&server, &lasting5("c", &[])).await;
        assert!(ack.session_present, "the session goes on, its aliases do not");
        wire.send(&publish5(0x32, topic, 1, &[&two(0x23, alias)], "x")).await;
        wire.ends_with(code).await;
    }
    subscriber.nothing().await;
}

#[tokio::test]
async fn aliases_to_the_client_are_within_its_maximum_and_save_bytes() {
    let server = serve().await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for (maximum, qos) in [(1, 0), (2, 1), (100, 2)] {
        let (mut wire, _) = Wire::open(&server, &connect5_with("s", CLEAN, &[&two(0x22, maximum)], &[])).await;
        wire.subscribed("plant/+/temperature", qos).await;
        let mut known = std::collections::HashMap::new();
        let mut saved = 0;
        for round in 0..5u16 {
            for device in 0..3u16 {
                let topic = format!("plant/{device}/temperature");
                let id = 1 + round * 3 + device;
                publisher.send(&publish5(0x30 | qos << 1, &topic, id, &[], "21")).await;
                publisher.send(&ack(0x62, id)).await;
                let got = wire.message().await;
                let topic_of = match (got.topic_alias, got.topic.is_empty()) {
                    (Some(alias), true) => {
                        saved += 1;
                        known[&alias]
                    }
                    (Some(alias), false) => {
                        known.insert(alias, device);
                        device
                    }
                    (None, empty) => {
                        assert!(!empty);
                        device
                    }
                };
                assert_eq!(topic_of, device);
                assert!(got.topic_alias.is_none_or(|alias| (1..=maximum.min(16)).contains(&alias)));
                match qos {
                    1 => wire.send(&ack(0x40, got.packet_id)).await,
                    2 => {
                        wire.answers(&ack(0x50, got.packet_id), &ack(0x62, got.packet_id)).await;
                        wire.send(&ack(0x70, got.packet_id)).await;
                    }
                    _ => {}
                }
            }
        }
        assert!(saved >= 4, "{saved} of 15 with {maximum}");
    }
}

#[tokio::test]
async fn a_client_that_takes_no_alias_gets_none_and_a_new_connection_knows_none() {
    let server = serve().await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for list in [vec![], two(0x22, 0)] {
        let (mut wire, _) = Wire::open(&server, &connect5_with("s", CLEAN, &[&list], &[])).await;
        wire.subscribed("a/long/topic", 0).await;
        for _ in 0..4 {
            publisher.send(&publish5(0x30, "a/long/topic", 0, &[], "x")).await;
            let got = wire.message().await;
            assert_eq!((&*got.topic, got.topic_alias), ("a/long/topic", None));
        }
    }
    let (mut wire, _) = Wire::open(&server, &lasting5("s", &[&two(0x22, 5)])).await;
    wire.subscribed("a/long/topic", 1).await;
    publisher.send(&publish5(0x32, "a/long/topic", 1, &[], "x")).await;
    let first = wire.message().await;
    assert!(first.topic_alias.is_some());
    for _ in 0..2 {
        drop(wire);
        let session = lasting5("s", &[&two(0x22, 5)]);
        wire = Wire::accepted(&server, &session).await;
        let again = wire.message().await;
        assert_eq!((&*again.topic, again.dup, again.packet_id), ("a/long/topic", true, first.packet_id));
    }
}

#[tokio::test]
async fn an_alias_is_no_reason_for_a_packet_to_be_too_large() {
    let server = serve().await;
    let (mut wire, _) = Wire::open(&server, &connect5_with("s", CLEAN, &[&two(0x22, 5), &four(0x27, 60)], &[])).await;
    wire.subscribed("a/long/topic", 0).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    // 2 + 2 + 12 + 1 + payload.
    for (len, has_topic) in [(43, true), (41, true), (40, true), (52, false), (43, false)] {
        publisher.send(&publish5(0x30, "a/long/topic", 0, &[], "x".repeat(len))).await;
        let got = wire.message().await;
        assert_eq!((got.payload.len(), !got.topic.is_empty()), (len, has_topic));
    }
    publisher.send(&publish5(0x30, "a/long/topic", 0, &[], "x".repeat(100))).await;
    wire.nothing().await;
}

#[tokio::test]
async fn a_message_that_has_expired_is_not_sent_and_the_time_it_waited_is_taken_off() {
    let server = serve().await;
    let mut wire = Wire::accepted(&server, &lasting5("s", &[])).await;
    wire.subscribed("t", 1).await;
    drop(wire);
    let mut publisher = Wire::hello5(&server, "p").await;
    for (id, expiry) in [(1, 1), (2, 100), (3, u32::MAX)] {
        let sent = publish5(0x33, "t", id, &[&four(0x02, expiry)], id.to_string());
        publisher.answers(&sent, &ack(0x40, id)).await;
        publisher.answers(&publish5(0x33, &format!("r/{id}"), id, &[&four(0x02, expiry)], "r"), &ack(0x40, id)).await;
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut wire = Wire::accepted(&server, &lasting5("s", &[])).await;
    for (payload, at_most) in [("2", 99), ("3", u32::MAX - 1)] {
        let got = wire.message().await;
        assert_eq!(got.payload, payload);
        let left = got.properties.expiry_s.unwrap();
        assert!(left <= at_most && left >= at_most - 10, "{left}");
    }
    wire.nothing().await;
    // Retained messages grow old too.
    wire.send(&subscribe5(1, &[], &[("r/+", 0)])).await;
    let mut left = Vec::new();
    for _ in 0..3 {
        match wire.read().await {
            Packet::Publish(publish) => left.push(publish.properties.expiry_s.unwrap()),
            other => assert!(matches!(other, Packet::SubAck(_)), "{other:?}"),
        }
    }
    wire.nothing().await;
    left.sort_unstable();
    assert!(left[0] <= 99 && left[1] < u32::MAX);
}

#[tokio::test]
async fn a_live_message_expires_while_its_reader_does_not_read() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "s").await;
    wire.subscribed("t", 0).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    // What fills the sockets and the buffers, so that the next ones wait in the queue.
    for _ in 0..250 {
        publisher.send(&publish5(0x30, "t", 0, &[], "x".repeat(50_000))).await;
    }
    publisher.send(&publish5(0x30, "t", 0, &[&four(0x02, 1)], "expires")).await;
    publisher.send(&publish5(0x30, "t", 0, &[&four(0x02, 1000)], "stays")).await;
    publisher.answers(&PINGREQ, &PINGRESP).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    loop {
        let got = wire.message().await;
        assert_ne!(got.payload, "expires");
        if got.payload == "stays" {
            let left = got.properties.expiry_s.unwrap();
            assert!((900..=998).contains(&left), "{left}");
            return;
        }
    }
}

#[tokio::test]
async fn each_level_has_its_answer() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    wire.send(&publish5(0x30, "t", 0, &[], "x")).await;
    wire.nothing().await;
    wire.answers(&publish5(0x32, "t", 1, &[], "x"), &ack(0x40, 1)).await;
    wire.answers(&publish5(0x34, "t", 1, &[], "x"), &ack(0x50, 1)).await;
    wire.nothing().await;
}
