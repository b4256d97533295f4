//! MQTT 3.1.1 (and 3.1) where they differ from MQTT 5.

use forebay_broker_adapter::codec::Packet;

use crate::support::serve;
use crate::wire::*;

#[tokio::test]
async fn a_session_that_is_not_clean_is_kept_with_what_comes_for_it() {
    let server = serve().await;
    let mut wire = Wire::accepted(&server, &connect3("s", 0)).await;
    wire.subscribed("t", 2).await;
    drop(wire);
    let mut publisher = Wire::hello3(&server, "p").await;
    publisher.answers(&publish3(0x32, "t", 1, "one"), &ack(0x40, 1)).await;
    publisher.answers(&publish3(0x34, "t", 2, "two"), &ack(0x50, 2)).await;
    let server = server.crash().await;
    let mut wire = Wire::dial(&server).await;
    wire.send(&connect3("s", 0)).await;
    assert_eq!(wire.bytes().await, [0x20, 2, 1, 0]);
    assert_eq!(wire.bytes().await, publish3(0x32, "t", 1, "one"));
    assert_eq!(wire.bytes().await, publish3(0x34, "t", 2, "two"));
    wire.send(&[ack(0x40, 1), ack(0x50, 2)].concat()).await;
    assert_eq!(wire.bytes().await, ack(0x62, 2));
    drop(wire);
    // A clean one begins with nothing and leaves nothing.
    for _ in 0..2 {
        let mut wire = Wire::dial(&server).await;
        wire.send(&connect3("s", CLEAN)).await;
        assert_eq!(wire.bytes().await, [0x20, 2, 0, 0]);
        wire.answers(&PINGREQ, &PINGRESP).await;
        wire.send(&subscribe3(1, &[("t", 1)])).await;
        assert_eq!(wire.bytes().await, [0x90, 3, 0, 1, 1]);
        wire.send(&GOODBYE).await;
        wire.ends().await;
    }
}

#[tokio::test]
async fn what_is_unacknowledged_comes_again_as_it_was_with_dup() {
    let server = serve().await;
    let mut wire = Wire::accepted(&server, &connect3("s", 0)).await;
    wire.subscribed("t", 2).await;
    let mut publisher = Wire::hello3(&server, "p").await;
    publisher
        .send(&[publish3(0x32, "t", 1, "a"), publish3(0x34, "t", 2, "b"), publish3(0x34, "t", 3, "c")].concat())
        .await;
    for (first, id, payload) in [(0x32, 1, "a"), (0x34, 2, "b"), (0x34, 3, "c")] {
        assert_eq!(wire.bytes().await, publish3(first, "t", id, payload));
    }
    wire.answers(&ack(0x50, 2), &ack(0x62, 2)).await;
    drop(wire);
    let mut wire = Wire::accepted(&server, &connect3("s", 0)).await;
    assert_eq!(wire.bytes().await, publish3(0x3a, "t", 1, "a"));
    assert_eq!(wire.bytes().await, ack(0x62, 2));
    assert_eq!(wire.bytes().await, publish3(0x3c, "t", 3, "c"));
}

#[tokio::test]
async fn an_empty_client_id_needs_a_clean_session() {
    let server = serve().await;
    let mut wire = Wire::dial(&server).await;
    wire.send(&connect3("", 0)).await;
    assert_eq!(wire.bytes().await, [0x20, 2, 0, 2]);
    wire.ends().await;
    Wire::accepted(&server, &connect3("", CLEAN)).await.answers(&PINGREQ, &PINGRESP).await;
    // MQTT 3.1 knows no empty one.
    let mut wire = Wire::dial(&server).await;
    wire.send(&packet(0x10, &[&field("MQIsdp"), &[3, CLEAN, 0, 0], &field("")])).await;
    assert_eq!(wire.bytes().await, [0x20, 2, 0, 2]);
    wire.ends().await;
}

#[tokio::test]
async fn mqtt_3_1_is_spoken_and_never_says_session_present() {
    let server = serve().await;
    for _ in 0..2 {
        let mut wire = Wire::dial(&server).await;
        wire.send(&packet(0x10, &[&field("MQIsdp"), &[3, 0, 0, 0], &field("old")])).await;
        assert_eq!(wire.bytes().await, [0x20, 2, 0, 0]);
        wire.answers(&subscribe3(1, &[("t", 1)]), &[0x90, 3, 0, 1, 1]).await;
        // DUP is allowed on these in 3.1.
        let mut again = subscribe3(2, &[("t", 1)]);
        again[0] = 0x8a;
        wire.answers(&again, &[0x90, 3, 0, 2, 1]).await;
    }
}

#[tokio::test]
async fn codes_are_the_four_there_are_and_unsuback_has_none() {
    let server = serve().await;
    let mut wire = Wire::hello3(&server, "c").await;
    let filters = [("a", 0), ("b", 1), ("a/#/b", 2), ("c", 2), ("", 0)];
    wire.answers(&subscribe3(1, &filters), &[0x90, 7, 0, 1, 0, 1, 0x80, 2, 0x80]).await;
    let unsubscribe = packet(0xa2, &[&[0, 2], &field("a"), &field("never"), &field("b")]);
    wire.answers(&unsubscribe, &[0xb0, 2, 0, 2]).await;
    wire.answers(&packet(0xa2, &[&[0, 3], &field("never")]), &[0xb0, 2, 0, 3]).await;
    for sent in [subscribe3(1, &[("a", 3)]), subscribe3(1, &[("a", 4)]), subscribe3(1, &[]), packet(0xa2, &[&[0, 1]])] {
        let mut wire = Wire::hello3(&server, "d").await;
        wire.send(&sent).await;
        wire.ends().await;
    }
}

#[tokio::test]
async fn each_subscribe_brings_retained_messages_and_only_those_have_the_flag() {
    let server = serve().await;
    let mut wire = Wire::hello3(&server, "c").await;
    wire.answers(&publish3(0x33, "t", 1, "kept"), &ack(0x40, 1)).await;
    for n in 0..3 {
        wire.send(&subscribe3(9, &[("t", 0)])).await;
        let mut seen = [wire.read().await, wire.read().await];
        seen.sort_by_key(|packet| matches!(packet, Packet::SubAck(_)));
        assert!(matches!(&seen[..], [Packet::Publish(p), Packet::SubAck(_)] if p.retain && p.payload == "kept"), "{n}");
    }
    wire.send(&publish3(0x31, "t", 0, "live")).await;
    assert_eq!(wire.bytes().await, publish3(0x30, "t", 0, "live"));
}

#[tokio::test]
async fn overlapping_filters_give_one_message_of_the_highest_level() {
    let server = serve().await;
    let mut wire = Wire::hello3(&server, "c").await;
    wire.answers(&subscribe3(1, &[("a/#", 0), ("a/b", 2), ("+/b", 1)]), &[0x90, 5, 0, 1, 0, 2, 1]).await;
    let mut publisher = Wire::hello3(&server, "p").await;
    for (first, id) in [(0x34, 1), (0x32, 2), (0x30, 0)] {
        publisher.send(&publish3(first, "a/b", id, "x")).await;
        assert_eq!(wire.bytes().await[0], first);
    }
    wire.nothing().await;
}

#[tokio::test]
async fn a_wildcard_in_a_topic_and_a_will_without_a_topic_end_the_connection() {
    let server = serve().await;
    for topic in ["a/+", "#", ""] {
        let mut wire = Wire::hello3(&server, "c").await;
        wire.send(&publish3(0x32, topic, 1, "x")).await;
        wire.ends().await;
        let mut wire = Wire::dial(&server).await;
        wire.send(&packet(0x10, &[&field("MQTT"), &[4, CLEAN | 4, 0, 0], &field("c"), &field(topic), &field("x")]))
            .await;
        wire.ends().await;
    }
}

#[tokio::test]
async fn auth_does_not_exist() {
    let server = serve().await;
    for sent in [[0xf0, 0], [0x00, 0]] {
        let mut wire = Wire::hello3(&server, "c").await;
        wire.send(&sent).await;
        wire.ends().await;
    }
}
