//! Chapters 3.3.4 and 4.9: flow control, both ways.

use forebay_broker_adapter::BrokerOptions;
use tempfile::tempdir;
use tokio::io::AsyncWriteExt;

use crate::support::{serve, serve_in};
use crate::wire::*;

#[tokio::test]
async fn a_subscriber_s_quota_holds_for_each_level_and_for_what_comes_again() {
    let server = serve().await;
    let connect = lasting5("s", &[&two(0x21, 2)]);
    let mut wire = Wire::accepted(&server, &connect).await;
    wire.subscribed("t", 2).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    for n in 1..=5u16 {
        publisher.answers(&publish5(0x34, "t", n, &[], n.to_string()), &ack(0x50, n)).await;
    }
    publisher.send(&publish5(0x30, "t", 0, &[], "live")).await;
    // QoS 0 does not count, other packets are answered, and no third comes, not even after PUBREC.
    let mut three = [wire.message().await, wire.message().await, wire.message().await];
    three.sort_by(|a, b| a.payload.cmp(&b.payload));
    let [first, second, live] = three;
    assert_eq!((&first.payload[..], &second.payload[..], &live.payload[..]), (&b"1"[..], &b"2"[..], &b"live"[..]));
    assert_eq!((first.qos.as_u8(), live.qos.as_u8()), (2, 0));
    wire.answers(&ack(0x50, first.packet_id), &ack(0x62, first.packet_id)).await;
    wire.answers(&subscribe5(1, &[], &[("other", 0)]), &[0x90, 4, 0, 1, 0, 0]).await;
    wire.answers(&publish5(0x32, "nobody", 1, &[], "x"), &ack(0x40, 1)).await;
    wire.nothing().await;
    // PUBCOMP gives one back, a refusing PUBREC another.
    wire.send(&ack(0x70, first.packet_id)).await;
    assert_eq!(wire.message().await.payload, "3");
    wire.nothing().await;
    let [high, low] = second.packet_id.to_be_bytes();
    wire.send(&[0x50, 3, high, low, 0x97]).await;
    assert_eq!(wire.message().await.payload, "4");
    wire.nothing().await;
    // The next connection begins with its whole quota, and what comes again takes of it.
    drop(wire);
    let mut wire = Wire::accepted(&server, &connect).await;
    let again = [wire.message().await, wire.message().await];
    assert!(again.iter().all(|publish| publish.dup));
    wire.nothing().await;
    for publish in again {
        wire.answers(&ack(0x50, publish.packet_id), &ack(0x62, publish.packet_id)).await;
        wire.send(&ack(0x70, publish.packet_id)).await;
    }
    let last = wire.message().await;
    assert_eq!((&last.payload[..], last.dup), (&b"5"[..], false));
}

#[tokio::test]
async fn a_publisher_that_breaks_its_quota_is_told_although_it_goes_on_sending() {
    let options = BrokerOptions { receive_maximum: 3, ..BrokerOptions::default() };
    let server = serve_in(tempdir().unwrap(), options).await;
    let mut wire = Wire::hello5(&server, "c").await;
    let mut sent: Vec<u8> = (1..=4).flat_map(|id| publish5(0x34, "t", id, &[], "x")).collect();
    // A close with these unread would be a reset, and the client would lose what it was told.
    sent.extend((0..20_000).flat_map(|_| publish5(0x30, "t", 0, &[], "x".repeat(1000))));
    wire.stream.write_all(&sent).await.expect("the server reads on for a while");
    let before = wire.ends_with(0x93).await;
    assert_eq!(before, [ack(0x50, 1), ack(0x50, 2), ack(0x50, 3)]);
}

#[tokio::test]
async fn a_publisher_s_quota_comes_back_with_each_answer() {
    let options = BrokerOptions { receive_maximum: 2, ..BrokerOptions::default() };
    let server = serve_in(tempdir().unwrap(), options).await;
    let mut wire = Wire::accepted(&server, &lasting5("c", &[])).await;
    for _ in 0..5 {
        wire.answers(&publish5(0x32, "t", 1, &[], "x"), &ack(0x40, 1)).await;
        wire.answers(&publish5(0x34, "t", 2, &[], "x"), &ack(0x50, 2)).await;
        // The same one again does not count twice.
        wire.answers(&publish5(0x3c, "t", 2, &[], "x"), &ack(0x50, 2)).await;
        wire.answers(&publish5(0x34, "t", 3, &[], "x"), &ack(0x50, 3)).await;
        wire.answers(&ack(0x62, 2), &ack(0x70, 2)).await;
        wire.answers(&ack(0x62, 3), &ack(0x70, 3)).await;
        // Nor does one that was refused.
        for first in [0x32, 0x34, 0x32] {
            wire.send(&publish5(first, "t", 4, &[&[0x01, 1]], [0xff])).await;
            assert_eq!(wire.bytes().await[4], 0x99);
        }
    }
    // Before MQTT 5 nobody could know of it.
    let mut wire = Wire::hello3(&server, "d").await;
    for id in 1..=10 {
        wire.answers(&publish3(0x34, "t", id, "x"), &ack(0x50, id)).await;
    }
}
