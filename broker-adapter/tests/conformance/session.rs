//! Chapters 3.1.2.4, 3.1.2.11, 4.1, 4.4 and 4.5: sessions.

use std::time::Duration;

use crate::support::{serve, until};
use crate::wire::*;

#[tokio::test]
async fn clean_start_discards_and_without_it_a_session_goes_on_or_begins() {
    let server = serve().await;
    let (mut wire, ack_) = Wire::open(&server, &lasting5("s", &[])).await;
    assert!(!ack_.session_present);
    wire.subscribed("t", 1).await;
    drop(wire);
    let mut publisher = Wire::hello5(&server, "p").await;
    publisher.answers(&publish5(0x32, "t", 1, &[], "one"), &ack(0x40, 1)).await;
    let (mut wire, connack) = Wire::open(&server, &lasting5("s", &[])).await;
    assert!(connack.session_present);
    assert_eq!(wire.message().await.payload, "one");
    drop(wire);
    let expiry = four(0x11, 3600);
    let (mut wire, connack) = Wire::open(&server, &connect5_with("s", CLEAN, &[&expiry], &[])).await;
    assert!(!connack.session_present);
    wire.nothing().await;
    publisher.answers(&publish5(0x32, "t", 1, &[], "two"), &ack(0x40, 1)).await;
    wire.nothing().await;
}

#[tokio::test]
async fn a_session_ends_when_its_expiry_has_passed_and_not_while_it_is_connected() {
    let server = serve().await;
    let connect = connect5_with("s", 0, &[&four(0x11, 3)], &[]);
    let mut wire = Wire::accepted(&server, &connect).await;
    wire.subscribed("t", 1).await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    wire.nothing().await;
    drop(wire);
    let (wire, ack) = Wire::open(&server, &connect).await;
    assert!(ack.session_present, "it was away for less than three seconds");
    drop(wire);
    until(|| server.engine.session("s").is_none()).await;
    assert!(!Wire::open(&server, &connect).await.1.session_present);
    // 0 ends with the connection, and never is never.
    let wire = Wire::accepted(&server, &connect5_with("zero", 0, &[], &[])).await;
    drop(wire);
    until(|| server.engine.session("zero").is_none()).await;
    let wire = Wire::accepted(&server, &connect5_with("never", 0, &[&four(0x11, u32::MAX)], &[])).await;
    drop(wire);
    until(|| server.engine.session("never").is_some_and(|view| !view.connected)).await;
    assert_eq!(server.engine.session("never").unwrap().ends_at_us, None);
}

#[tokio::test]
async fn what_the_server_has_taken_is_in_the_sessions_of_all_who_match_over_a_crash() {
    let server = serve().await;
    for (client, filter) in [("a", "t/#"), ("b", "t/+"), ("c", "other")] {
        let mut wire = Wire::accepted(&server, &lasting5(client, &[])).await;
        wire.subscribed(filter, 2).await;
    }
    let mut publisher = Wire::hello5(&server, "p").await;
    publisher.answers(&publish5(0x32, "t/1", 1, &[], "one"), &ack(0x40, 1)).await;
    publisher.answers(&publish5(0x34, "t/2", 2, &[], "two"), &ack(0x50, 2)).await;
    let server = server.crash().await;
    for client in ["a", "b"] {
        let (mut wire, ack_) = Wire::open(&server, &lasting5(client, &[])).await;
        assert!(ack_.session_present);
        let mut got = [wire.message().await.payload, wire.message().await.payload];
        got.sort();
        assert_eq!(got, ["one", "two"]);
        wire.nothing().await;
    }
    Wire::accepted(&server, &lasting5("c", &[])).await.nothing().await;
}

#[tokio::test]
async fn sessions_of_different_ids_have_nothing_of_each_other() {
    let server = serve().await;
    let (mut a, mut b) =
        (Wire::accepted(&server, &lasting5("a", &[])).await, Wire::accepted(&server, &lasting5("A", &[])).await);
    a.subscribed("t", 1).await;
    let mut publisher = Wire::hello5(&server, "p").await;
    publisher.answers(&publish5(0x32, "t", 1, &[], "x"), &ack(0x40, 1)).await;
    a.message().await;
    b.nothing().await;
    b.answers(&unsubscribe5(1, &["t"]), &[0xb0, 4, 0, 1, 0, 0x11]).await;
}
