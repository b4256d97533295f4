//! Chapters 3.8 to 3.11: SUBSCRIBE and UNSUBSCRIBE.

use forebay_broker_adapter::codec::Packet;

use crate::support::serve;
use crate::wire::*;

#[tokio::test]
async fn each_filter_has_its_code_in_its_place_in_one_suback() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    let filters = [("a", 0), ("b/#/c", 1), ("c", 1), ("", 0), ("d", 2), ("+x", 2)];
    let sent = subscribe5(7, &[&[0x17, 0][..0]], &filters);
    wire.send(&sent).await;
    match wire.read().await {
        Packet::SubAck(ack) => {
            assert_eq!((ack.packet_id, &ack.codes[..]), (7, &[0, 0x8f, 1, 0x8f, 2, 0x8f][..]));
            assert!(ack.properties.reason_string.is_some());
        }
        other => panic!("{other:?}"),
    }
    wire.answers(&unsubscribe5(8, &["b/#/c", "a", "never", "d", "a"]), &[0xb0, 8, 0, 8, 0, 0x11, 0, 0x11, 0, 0x11])
        .await;
    // It was as if they had come one by one: what is left is `c`.
    for topic in ["a", "d", "c"] {
        wire.send(&publish5(0x30, topic, 0, &[], "x")).await;
    }
    assert_eq!(&*wire.message().await.topic, "c");
    wire.nothing().await;
}

#[tokio::test]
async fn a_packet_without_a_filter_or_with_values_there_are_none_of_ends_the_connection() {
    let server = serve().await;
    for (sent, code) in [
        (packet(0x82, &[&[0, 1, 0]]), 0x82),
        (packet(0xa2, &[&[0, 1, 0]]), 0x82),
        (subscribe5(1, &[], &[("a", 0x40)]), 0x81),
        (subscribe5(1, &[], &[("a", 0), ("b", 0x80)]), 0x81),
        (subscribe5(1, &[], &[("a", 3)]), 0x82),
        (subscribe5(1, &[], &[("a", 0x30)]), 0x82),
        (packet(0x82, &[&[0, 1, 0], &field("a")]), 0x81),
        (packet(0x82, &[&[0, 1, 0], &[0, 9, b'a']]), 0x81),
        (packet(0xa2, &[&[0, 1, 0], &[0, 9, b'a']]), 0x81),
    ] {
        let mut wire = Wire::hello5(&server, "c").await;
        wire.send(&sent).await;
        assert!(wire.ends_with(code).await.is_empty(), "{sent:02x?}");
    }
}

#[tokio::test]
async fn the_lower_of_both_levels_is_delivered() {
    let server = serve().await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for granted in 0..3u8 {
        let mut wire = Wire::hello5(&server, "s").await;
        wire.subscribed("t", granted).await;
        for published in 0..3u8 {
            publisher.send(&publish5(0x30 | published << 1, "t", 1, &[], "x")).await;
            publisher.send(&ack(0x62, 1)).await;
            assert_eq!(wire.message().await.qos.as_u8(), published.min(granted));
        }
    }
}

#[tokio::test]
async fn no_local_keeps_a_client_s_own_messages_from_it_and_only_those() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    wire.subscribed("t", 4 | 1).await;
    let mut other = Wire::hello5(&server, "d").await;
    other.subscribed("t", 1).await;
    for (n, first) in [0x30, 0x32, 0x34].into_iter().enumerate() {
        let id = 1 + n as u16;
        wire.send(&publish5(first, "t", id, &[], "own")).await;
        if id > 1 {
            wire.bytes().await;
        }
        assert_eq!(other.message().await.payload, "own");
        other.send(&publish5(first, "t", id, &[], "other")).await;
        assert_eq!(wire.message().await.payload, "other");
        // Its own message comes to itself, and an answer where there is one.
        let mut firsts = vec![other.bytes().await[0]];
        if id > 1 {
            firsts.push(other.bytes().await[0]);
        }
        assert_eq!(firsts.iter().filter(|first| matches!(first, 0x30 | 0x32)).count(), 1, "{firsts:02x?}");
    }
    wire.nothing().await;
}

#[tokio::test]
async fn overlapping_filters_give_one_message_of_the_highest_level_with_all_identifiers() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "s").await;
    wire.answers(&subscribe5(1, &[&[0x0b, 7]], &[("a/#", 0)]), &[0x90, 4, 0, 1, 0, 0]).await;
    wire.answers(&subscribe5(2, &[&[0x0b, 0x80, 0x01]], &[("a/+", 2)]), &[0x90, 4, 0, 2, 0, 2]).await;
    wire.answers(&subscribe5(3, &[], &[("a/b", 1), ("other", 0)]), &[0x90, 5, 0, 3, 0, 1, 0]).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for qos in 0..3u8 {
        publisher.send(&publish5(0x30 | qos << 1, "a/b", 1, &[], "x")).await;
        publisher.send(&ack(0x62, 1)).await;
        let mut got = wire.message().await;
        got.subscription_ids.sort_unstable();
        assert_eq!((got.qos.as_u8(), &got.subscription_ids[..]), (qos, &[7, 128][..]));
    }
    publisher.send(&publish5(0x30, "a", 0, &[], "x")).await;
    assert_eq!(wire.message().await.subscription_ids, [7]);
    publisher.send(&publish5(0x30, "other", 0, &[], "x")).await;
    assert!(wire.message().await.subscription_ids.is_empty());
    wire.nothing().await;
    // An identifier belongs to its subscription: a new one without takes it away.
    wire.answers(&subscribe5(4, &[], &[("a/#", 0)]), &[0x90, 4, 0, 4, 0, 0]).await;
    publisher.send(&publish5(0x30, "a", 0, &[], "x")).await;
    assert!(wire.message().await.subscription_ids.is_empty());
    wire.answers(&subscribe5(5, &[&[0x0b, 0xff, 0xff, 0xff, 0x7f]], &[("a/#", 0)]), &[0x90, 4, 0, 5, 0, 0]).await;
    publisher.send(&publish5(0x30, "a", 0, &[], "x")).await;
    assert_eq!(wire.message().await.subscription_ids, [268_435_455]);
}

#[tokio::test]
async fn the_same_filter_again_replaces_its_subscription_and_loses_nothing() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "s").await;
    wire.subscribed("t", 1).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    let mut expected = Vec::new();
    for n in 1..=60u16 {
        publisher.send(&publish5(0x32, "t", n, &[], n.to_string())).await;
        expected.push(n.to_string());
        if n % 3 == 0 {
            wire.send(&subscribe5(n, &[], &[("t", 1 + (n % 2) as u8)])).await;
        }
    }
    let mut got = Vec::new();
    while got.len() < expected.len() {
        if let Packet::Publish(publish) = wire.read().await {
            wire.send(&ack(0x40, publish.packet_id)).await;
            got.push(String::from_utf8(publish.payload.to_vec()).unwrap());
        }
    }
    assert_eq!(got, expected);
    assert!(!wire.quiet().await.iter().any(|packet| matches!(packet, Packet::Publish(_))), "nothing comes twice");
}

#[tokio::test]
async fn unsubscribing_ends_new_messages_and_finishes_those_under_way() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "s").await;
    for filter in ["t/+", "t/#"] {
        wire.subscribed(filter, 2).await;
    }
    let mut publisher = Wire::hello5(&server, "p").await;
    publisher.answers(&publish5(0x34, "t/1", 1, &[], "x"), &ack(0x50, 1)).await;
    publisher.answers(&publish5(0x32, "t/1", 2, &[], "x"), &ack(0x40, 2)).await;
    let (second, first) = (wire.message().await.packet_id, wire.message().await.packet_id);
    // Filters are compared as they are written, not by what they match.
    wire.answers(&unsubscribe5(3, &["t/1", "T/+", "t/+ "]), &[0xb0, 6, 0, 3, 0, 0x11, 0x11, 0x11]).await;
    wire.answers(&unsubscribe5(4, &["t/+"]), &[0xb0, 4, 0, 4, 0, 0]).await;
    publisher.answers(&publish5(0x32, "t/2", 3, &[], "still"), &ack(0x40, 3)).await;
    let still = wire.message().await;
    assert_eq!(still.payload, "still");
    wire.send(&ack(0x40, still.packet_id)).await;
    wire.answers(&unsubscribe5(5, &["t/#"]), &[0xb0, 4, 0, 5, 0, 0]).await;
    publisher.answers(&publish5(0x32, "t/2", 4, &[], "no more"), &ack(0x40, 4)).await;
    publisher.send(&publish5(0x30, "t/2", 0, &[], "no more")).await;
    wire.nothing().await;
    wire.answers(&ack(0x50, second), &ack(0x62, second)).await;
    wire.send(&ack(0x70, second)).await;
    wire.send(&ack(0x40, first)).await;
    wire.nothing().await;
}

#[tokio::test]
async fn packets_behind_a_subscribe_see_it_done() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    let sent = [
        subscribe5(1, &[], &[("t", 1)]),
        unsubscribe5(2, &["t"]),
        subscribe5(3, &[], &[("t", 0)]),
        publish5(0x30, "t", 0, &[], "x"),
        unsubscribe5(4, &["t"]),
        publish5(0x30, "t", 0, &[], "y"),
    ];
    wire.send(&sent.concat()).await;
    let mut seen = Vec::new();
    for packet in wire.quiet().await {
        seen.push(match packet {
            Packet::SubAck(ack) => format!("suback {:?}", ack.codes),
            Packet::UnsubAck(ack) => format!("unsuback {:?}", ack.codes),
            Packet::Publish(publish) => format!("publish {:?}", publish.payload),
            other => panic!("{other:?}"),
        });
    }
    let publish = seen.iter().position(|s| s == "publish b\"x\"").expect("the message between them");
    seen.remove(publish);
    assert_eq!(seen, ["suback [1]", "unsuback [0]", "suback [0]", "unsuback [0]"]);
}
