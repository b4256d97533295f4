//! Chapters 1 and 2: strings, integers, flags, packet ids; chapters 4.2, 4.7 and 4.13: transport, topics and errors.

use crate::support::serve;
use crate::wire::*;

/// Not UTF-8, a surrogate, an overlong form, above U+10FFFF, cut short.
const ILL_FORMED: [&[u8]; 5] = [b"a\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"];

#[tokio::test]
async fn strings_that_are_no_utf_8_or_have_u_0000_end_the_connection() {
    let server = serve().await;
    for bad in ILL_FORMED.into_iter().chain([&b"a\0b"[..]]) {
        let publish = |properties: &[u8]| packet(0x30, &[&field("t"), properties, b"x"]);
        let with = |property: Vec<u8>| publish(&properties(&[&property]));
        for sent in [
            packet(0x30, &[&field(bad), &[0], b"x"]),
            packet(0x82, &[&[0, 1, 0], &field(bad), &[0]]),
            packet(0xa2, &[&[0, 1, 0], &field(bad)]),
            with(long(0x03, bad)),
            with(long(0x08, bad)),
            with([&[0x26][..], &field(bad), &field("v")].concat()),
            with([&[0x26][..], &field("n"), &field(bad)].concat()),
        ] {
            let mut wire = Wire::hello5(&server, "c").await;
            wire.send(&sent).await;
            assert!(wire.ends_with(0x81).await.is_empty(), "{sent:02x?}");
        }
        let mut wire = Wire::hello3(&server, "c").await;
        wire.send(&packet(0x30, &[&field(bad), b"x"])).await;
        wire.ends().await;
    }
}

#[tokio::test]
async fn a_byte_order_mark_and_every_other_character_stay_what_they_are() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    wire.subscribed("#", 0).await;
    // Composed and decomposed, upper and lower case, an unassigned and a control character: none is another's equal.
    for topic in ["\u{feff}a", "état", "e\u{301}tat", "ÉTAT", "a b", "\u{1}", "\u{378}", "/", "a//b", " "] {
        wire.send(&publish5(0x30, topic, 0, &[&user("\u{feff}n", "\u{feff}")], "x")).await;
        let got = wire.message().await;
        assert_eq!(&*got.topic, topic);
        assert_eq!(got.properties.user, [("\u{feff}n".into(), "\u{feff}".into())]);
        let mut exact = Wire::hello5(&server, "e").await;
        exact.subscribed(topic, 0).await;
        wire.send(&publish5(0x30, topic, 0, &[], "y")).await;
        assert_eq!(&*exact.message().await.topic, topic);
        wire.message().await;
    }
}

#[tokio::test]
async fn lengths_take_no_more_bytes_than_they_need_and_at_most_four() {
    let server = serve().await;
    for sent in [
        &[0xc0, 0x80, 0x00][..],
        &[0x30, 0x84, 0x80, 0x00, 0, 1, b't', 0],
        &[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f],
        // The length of properties.
        &[0x30, 6, 0, 1, b't', 0x80, 0x00, b'x'],
        // A subscription identifier.
        &[0x82, 9, 0, 1, 3, 0x0b, 0x81, 0x00, 0, 1, b't', 0],
    ] {
        let mut wire = Wire::hello5(&server, "c").await;
        wire.send(sent).await;
        assert!(wire.ends_with(0x81).await.is_empty(), "{sent:02x?}");
    }
}

#[tokio::test]
async fn reserved_flags_have_the_values_of_the_standard() {
    let server = serve().await;
    let body = |kind: u8| match kind {
        8 => packet(0x82, &[&[0, 1, 0], &field("t"), &[0]]),
        10 => unsubscribe5(1, &["t"]),
        12 => PINGREQ.to_vec(),
        14 => GOODBYE.to_vec(),
        15 => vec![0xf0, 0],
        kind => ack(kind << 4, 1),
    };
    for kind in [4, 5, 6, 7, 8, 10, 12, 14, 15u8] {
        for flags in 0..16 {
            if flags == if matches!(kind, 6 | 8 | 10) { 2 } else { 0 } {
                continue;
            }
            let mut sent = body(kind);
            sent[0] = kind << 4 | flags;
            let mut wire = Wire::hello5(&server, "c").await;
            wire.send(&sent).await;
            assert!(wire.ends_with(0x81).await.is_empty(), "{sent:02x?}");
            if flags == 15 {
                let mut wire = Wire::hello3(&server, "c").await;
                wire.send(&sent).await;
                wire.ends().await;
            }
        }
    }
}

#[tokio::test]
async fn packet_ids_are_never_zero_and_come_back_with_the_answer() {
    let server = serve().await;
    for sent in [
        publish5(0x32, "t", 0, &[], "x"),
        subscribe5(0, &[], &[("t", 0)]),
        unsubscribe5(0, &["t"]),
        ack(0x40, 0),
        ack(0x62, 0),
    ] {
        let mut wire = Wire::hello5(&server, "c").await;
        wire.send(&sent).await;
        wire.ends_with(0x81).await;
    }
    let mut wire = Wire::hello5(&server, "c").await;
    for id in [1, 0x1234, 0xffff_u16] {
        let [high, low] = id.to_be_bytes();
        wire.answers(&publish5(0x32, "nobody", id, &[], "x"), &[0x40, 2, high, low]).await;
        wire.answers(&publish5(0x34, "nobody", id, &[], "x"), &[0x50, 2, high, low]).await;
        wire.answers(&ack(0x62, id), &[0x70, 2, high, low]).await;
        wire.answers(&subscribe5(id, &[], &[("a", 0)]), &[0x90, 4, high, low, 0, 0]).await;
        wire.answers(&unsubscribe5(id, &["a"]), &[0xb0, 4, high, low, 0, 0]).await;
    }
    // With QoS 0 there is none: what would be one is payload, or properties that can't be read.
    wire.subscribed("t", 0).await;
    wire.answers(&[0x30, 6, 0, 1, b't', 0, 0, 7], &[0x30, 6, 0, 1, b't', 0, 0, 7]).await;
}

#[tokio::test]
async fn a_packet_without_properties_says_so_by_a_length_of_zero() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    wire.answers(&subscribe5(1, &[], &[("t", 0)]), &[0x90, 4, 0, 1, 0, 0]).await;
    wire.answers(&publish5(0x30, "t", 0, &[], "x"), &[0x30, 5, 0, 1, b't', 0, b'x']).await;
    wire.answers(&unsubscribe5(2, &["t"]), &[0xb0, 4, 0, 2, 0, 0]).await;
    // Left out where the standard asks for it.
    for sent in [&[0x30, 3, 0, 1, b't'][..], &[0x82, 6, 0, 1, 0, 1, b't', 0]] {
        let mut wire = Wire::hello5(&server, "d").await;
        wire.send(sent).await;
        wire.ends_with(0x81).await;
    }
}

#[tokio::test]
async fn properties_are_known_in_their_place_once_and_with_their_values() {
    let server = serve().await;
    let publish = |list: &[&[u8]]| publish5(0x30, "t", 0, list, "x");
    let subscribe = |list: &[&[u8]]| subscribe5(1, list, &[("t", 0)]);
    for (sent, code) in [
        // Unknown, of another packet, cut short.
        (publish(&[&[0x7e, 0]]), 0x81),
        (publish(&[&four(0x11, 1)]), 0x81),
        (subscribe(&[&[0x01, 1]]), 0x81),
        (packet(0x30, &[&field("t"), &[2, 0x02, 0], b""]), 0x81),
        (packet(0x30, &[&field("t"), &[9, 0x01, 0]]), 0x81),
        // Twice.
        (publish(&[&[0x01, 1], &[0x01, 1]]), 0x82),
        (publish(&[&four(0x02, 1), &four(0x02, 1)]), 0x82),
        (publish(&[&long(0x03, "a"), &long(0x03, "a")]), 0x82),
        (publish(&[&long(0x08, "a"), &long(0x08, "a")]), 0x82),
        (publish(&[&long(0x09, "a"), &long(0x09, "a")]), 0x82),
        (publish(&[&two(0x23, 1), &two(0x23, 1)]), 0x82),
        (subscribe(&[&[0x0b, 1], &[0x0b, 2]]), 0x82),
        // With values there are none of.
        (publish(&[&[0x01, 2]]), 0x82),
        (publish(&[&two(0x23, 0)]), 0x94),
        (publish(&[&[0x0b, 1]]), 0x82),
        (subscribe(&[&[0x0b, 0]]), 0x82),
    ] {
        let mut wire = Wire::hello5(&server, "c").await;
        wire.send(&sent).await;
        assert!(wire.ends_with(code).await.is_empty(), "{sent:02x?}");
    }
}

#[tokio::test]
async fn topic_names_and_filters_follow_the_rules_of_wildcards() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    let filters = [
        ("#", 0),
        ("a/#", 0),
        ("+", 0),
        ("+/b/+", 0),
        ("/", 0),
        ("//", 0),
        ("+/#", 0),
        ("", 0x8f),
        ("a#", 0x8f),
        ("a/#/b", 0x8f),
        ("##", 0x8f),
        ("a+", 0x8f),
        ("a/b+/c", 0x8f),
        ("+a", 0x8f),
        ("#/a", 0x8f),
    ];
    for (filter, code) in filters {
        wire.send(&subscribe5(1, &[], &[(filter, 0)])).await;
        match wire.read().await {
            forebay_broker_adapter::codec::Packet::SubAck(ack) => assert_eq!(ack.codes, [code], "{filter}"),
            other => panic!("{other:?}"),
        }
    }
    for topic in ["+", "a/#", "a+b", "#"] {
        let mut wire = Wire::hello5(&server, "d").await;
        wire.send(&publish5(0x30, topic, 0, &[], "x")).await;
        wire.ends_with(0x90).await;
    }
    let mut wire = Wire::hello5(&server, "d").await;
    wire.send(&publish5(0x30, "", 0, &[], "x")).await;
    wire.ends_with(0x82).await;
}

#[tokio::test]
async fn a_leading_wildcard_matches_no_topic_that_begins_with_a_dollar() {
    let server = serve().await;
    let mut wild = Wire::hello5(&server, "wild").await;
    for filter in ["#", "+/x", "+/#"] {
        wild.subscribed(filter, 1).await;
    }
    let mut named = Wire::hello5(&server, "named").await;
    named.subscribed("$own/#", 1).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for (n, first) in [0x30, 0x32, 0x31].into_iter().enumerate() {
        publisher.send(&publish5(first, "$own/x", n as u16, &[], "x")).await;
        assert_eq!(&*named.message().await.topic, "$own/x");
    }
    wild.nothing().await;
    // Nor does what is retained there.
    let mut late = Wire::hello5(&server, "late").await;
    assert!(late.subscribed("#", 0).await.is_empty());
    late.nothing().await;
}

#[tokio::test]
async fn after_malformed_bytes_nothing_more_is_done_and_only_that_connection_ends() {
    let server = serve().await;
    let mut other = Wire::hello5(&server, "other").await;
    other.subscribed("t", 1).await;
    let mut wire = Wire::hello5(&server, "c").await;
    let sent = [publish5(0x32, "t", 1, &[], "before"), vec![0x36, 0], publish5(0x32, "t", 2, &[], "after")].concat();
    wire.send(&sent).await;
    assert_eq!(wire.ends_with(0x81).await, [ack(0x40, 1)]);
    assert_eq!(other.message().await.payload, "before");
    other.nothing().await;
}
