//! Chapters 3.4 to 3.7 and 4.3: the three levels of service, both ways.

use forebay_broker_adapter::codec::Packet;

use crate::support::serve;
use crate::wire::*;

#[tokio::test]
async fn after_puback_the_same_id_is_a_new_message_whatever_dup_says() {
    let server = serve().await;
    let mut subscriber = Wire::hello5(&server, "s").await;
    subscriber.subscribed("t", 0).await;
    let mut wire = Wire::hello5(&server, "c").await;
    for (first, payload) in [(0x32, "one"), (0x32, "two"), (0x3a, "three")] {
        wire.answers(&publish5(first, "t", 5, &[], payload), &ack(0x40, 5)).await;
        assert_eq!(subscriber.message().await.payload, payload);
    }
}

#[tokio::test]
async fn a_qos_2_id_is_one_message_until_pubrel_and_a_new_one_after_pubcomp() {
    let server = serve().await;
    let mut subscriber = Wire::hello5(&server, "s").await;
    subscriber.subscribed("t", 0).await;
    let mut wire = Wire::hello5(&server, "c").await;
    // Again, with and without DUP, and even with another payload: an id is all there is to tell them apart.
    for (first, payload) in [(0x34, "one"), (0x3c, "one"), (0x34, "one"), (0x34, "other")] {
        wire.answers(&publish5(first, "t", 5, &[], payload), &ack(0x50, 5)).await;
    }
    wire.answers(&publish5(0x34, "t", 6, &[], "two"), &ack(0x50, 6)).await;
    wire.answers(&ack(0x62, 5), &ack(0x70, 5)).await;
    wire.answers(&publish5(0x34, "t", 5, &[], "three"), &ack(0x50, 5)).await;
    for payload in ["one", "two", "three"] {
        assert_eq!(subscriber.message().await.payload, payload);
    }
    subscriber.nothing().await;
    // PUBREL again, and of an id that was never used.
    wire.answers(
        &[ack(0x62, 5), ack(0x62, 5), ack(0x62, 77)].concat(),
        &[&ack(0x70, 5)[..], &[0x70, 3, 0, 5, 0x92], &[0x70, 3, 0, 77, 0x92]].concat(),
    )
    .await;
}

#[tokio::test]
async fn answers_come_in_the_order_of_what_they_answer() {
    let server = serve().await;
    let mut subscriber = Wire::hello5(&server, "s").await;
    subscriber.subscribed("wanted", 1).await;
    let mut wire = Wire::accepted(&server, &lasting5("c", &[])).await;
    let (mut sent, mut expected) = (Vec::new(), Vec::new());
    for id in 1..=60u16 {
        // Some wait for the disk and some do not, some are refused.
        let topic = if id % 3 == 0 { "wanted" } else { "nobody" };
        match id % 4 {
            0 => {
                sent.extend(publish5(0x34, topic, id, &[], "x"));
                expected.extend(ack(0x50, id));
            }
            1 => {
                sent.extend(ack(0x62, 1000 + id));
                let [high, low] = (1000 + id).to_be_bytes();
                expected.extend([0x70, 3, high, low, 0x92]);
            }
            _ => {
                sent.extend(publish5(0x32, topic, id, &[], "x"));
                expected.extend(ack(0x40, id));
            }
        }
    }
    wire.answers(&sent, &expected).await;
}

#[tokio::test]
async fn pubrels_go_out_in_the_order_of_their_pubrecs() {
    let server = serve().await;
    for connect in [connect5("s"), lasting5("s", &[])] {
        let mut subscriber = Wire::accepted(&server, &connect).await;
        subscriber.subscribed("t", 2).await;
        let mut publisher = Wire::hello5(&server, "p").await;
        let mut ids = Vec::new();
        for n in 1..=20 {
            publisher.send(&publish5(0x32, "t", n, &[], "x")).await;
            publisher.send(&publish5(0x34, "t", n, &[], "x")).await;
            for _ in 0..2 {
                let got = subscriber.message().await;
                if got.qos.as_u8() == 2 {
                    ids.push(got.packet_id);
                } else {
                    subscriber.send(&ack(0x40, got.packet_id)).await;
                }
            }
        }
        ids.reverse();
        let sent: Vec<u8> = ids.iter().flat_map(|id| ack(0x50, *id)).collect();
        let expected: Vec<u8> = ids.iter().flat_map(|id| ack(0x62, *id)).collect();
        subscriber.answers(&sent, &expected).await;
        let done: Vec<u8> = ids.iter().flat_map(|id| ack(0x70, *id)).collect();
        subscriber.send(&done).await;
        subscriber.nothing().await;
    }
}

#[tokio::test]
async fn ids_to_a_subscriber_are_not_zero_and_in_use_once() {
    let server = serve().await;
    let mut subscriber = Wire::hello5(&server, "s").await;
    subscriber.subscribed("t", 2).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    let mut ids = std::collections::HashSet::new();
    for n in 1..=50u16 {
        publisher.send(&publish5(if n % 2 == 0 { 0x32 } else { 0x34 }, "t", n, &[], "x")).await;
        let bytes = subscriber.bytes().await;
        assert!(matches!(bytes[0], 0x32 | 0x34), "DUP is not set the first time");
        let id = u16::from_be_bytes([bytes[5], bytes[6]]);
        assert!(id != 0 && ids.insert(id), "{id}");
    }
}

#[tokio::test]
async fn a_refusal_is_an_acknowledgement_and_ends_the_delivery() {
    let server = serve().await;
    let mut wire = Wire::accepted(&server, &lasting5("s", &[&two(0x21, 1)])).await;
    wire.subscribed("t", 2).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for (id, first, refusal) in [(1, 0x32, 0x40), (2, 0x34, 0x50), (3, 0x32, 0x40)] {
        publisher.send(&publish5(first, "t", id, &[], id.to_string())).await;
        let got = wire.message().await;
        assert_eq!(got.payload, id.to_string(), "the quota was given back");
        let [high, low] = got.packet_id.to_be_bytes();
        wire.send(&[refusal, 3, high, low, 0x80]).await;
        wire.nothing().await;
    }
    drop(wire);
    let mut wire = Wire::accepted(&server, &lasting5("s", &[])).await;
    wire.nothing().await;
}

/// 3.7.2.1: that an id is not found is no error during recovery, but libraries report it as one.
#[tokio::test]
async fn a_pubrel_whose_pubcomp_was_lost_is_answered_with_success_in_the_resumed_session() {
    let server = serve().await;
    let mut wire = Wire::accepted(&server, &lasting5("p", &[])).await;
    wire.answers(&publish5(0x34, "t", 9, &[], "once"), &ack(0x50, 9)).await;
    wire.answers(&ack(0x62, 9), &ack(0x70, 9)).await;
    drop(wire);
    let mut wire = Wire::accepted(&server, &lasting5("p", &[])).await;
    wire.answers(&ack(0x62, 9), &ack(0x70, 9)).await;
    drop(wire);
    let mut wire = Wire::hello5(&server, "p").await;
    wire.answers(&ack(0x62, 9), &[0x70, 3, 0, 9, 0x92]).await;
}

#[tokio::test]
async fn pubrec_of_an_unknown_id_is_answered_and_other_unknown_ones_are_not() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    wire.answers(&ack(0x50, 9), &[0x62, 3, 0, 9, 0x92]).await;
    for first in [0x40, 0x70] {
        wire.send(&ack(first, 9)).await;
    }
    wire.nothing().await;
}

#[tokio::test]
async fn acknowledgements_with_codes_and_properties_are_read() {
    let server = serve().await;
    let mut subscriber = Wire::hello5(&server, "s").await;
    subscriber.subscribed("t", 2).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    let why = properties(&[&long(0x1f, "because"), &user("n", "v")]);
    for (n, code) in [0, 0x10].into_iter().enumerate() {
        let id = 1 + n as u16;
        publisher.send(&publish5(0x34, "t", id, &[], "x")).await;
        publisher.bytes().await;
        publisher.answers(&packet(0x62, &[&id.to_be_bytes(), &[0], &why]), &ack(0x70, id)).await;
        let got = subscriber.message().await.packet_id;
        let received = packet(0x50, &[&got.to_be_bytes(), &[code], &why]);
        subscriber.answers(&received, &ack(0x62, got)).await;
        subscriber.send(&packet(0x70, &[&got.to_be_bytes(), &[0], &[0]])).await;
        subscriber.nothing().await;
    }
    // Properties of another packet.
    subscriber.send(&packet(0x40, &[&[0, 1, 0], &properties(&[&two(0x23, 1)])])).await;
    subscriber.ends_with(0x81).await;
}

#[tokio::test]
async fn expiry_does_not_stop_a_qos_2_exchange_that_has_begun() {
    let server = serve().await;
    let mut wire = Wire::accepted(&server, &lasting5("s", &[])).await;
    wire.subscribed("t", 2).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for id in [1, 2] {
        publisher.answers(&publish5(0x34, "t", id, &[&four(0x02, 1)], "x"), &ack(0x50, id)).await;
    }
    let (first, second) = (wire.message().await.packet_id, wire.message().await.packet_id);
    wire.answers(&ack(0x50, first), &ack(0x62, first)).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    // Neither the publisher's part nor the subscriber's, here or on the next connection.
    publisher.answers(&ack(0x62, 1), &ack(0x70, 1)).await;
    drop(wire);
    let mut wire = Wire::accepted(&server, &lasting5("s", &[])).await;
    let mut seen = [wire.bytes().await, wire.bytes().await];
    seen.sort_by_key(|bytes| bytes[0]);
    assert_eq!((seen[0][0], &seen[0][5..7]), (0x3c, &second.to_be_bytes()[..]));
    assert_eq!(seen[1], ack(0x62, first));
    wire.send(&ack(0x70, first)).await;
    wire.answers(&ack(0x50, second), &ack(0x62, second)).await;
    wire.send(&ack(0x70, second)).await;
    wire.nothing().await;
}

#[tokio::test]
async fn what_is_unacknowledged_comes_again_on_the_next_connection_and_never_before() {
    let server = serve().await;
    let mut wire = Wire::accepted(&server, &lasting5("s", &[])).await;
    wire.subscribed("t", 2).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    let mut ids = Vec::new();
    for n in 1..=6u16 {
        publisher.send(&publish5(if n % 2 == 0 { 0x32 } else { 0x34 }, "t", n, &[], n.to_string())).await;
        ids.push(wire.message().await.packet_id);
    }
    // 1 has its PUBREC, 2 is done, 3 is done, the others wait.
    wire.answers(&ack(0x50, ids[0]), &ack(0x62, ids[0])).await;
    wire.send(&ack(0x40, ids[1])).await;
    wire.answers(&ack(0x50, ids[2]), &ack(0x62, ids[2])).await;
    wire.send(&ack(0x70, ids[2])).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    wire.nothing().await;
    for _ in 0..2 {
        drop(wire);
        wire = Wire::accepted(&server, &lasting5("s", &[])).await;
        assert_eq!(wire.bytes().await, ack(0x62, ids[0]), "not its PUBLISH: it was received");
        for n in [4, 5, 6usize] {
            let got = wire.message().await;
            assert!(got.dup);
            assert_eq!((got.packet_id, &got.payload[..]), (ids[n - 1], n.to_string().as_bytes()));
        }
        wire.nothing().await;
    }
    // A clean start has nothing of it.
    drop(wire);
    let mut wire = Wire::hello5(&server, "s").await;
    assert!(!wire.quiet().await.iter().any(|packet| matches!(packet, Packet::Publish(_) | Packet::PubRel(_))));
}
