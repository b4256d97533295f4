//! Chapters 3.12 to 3.14: PINGREQ and DISCONNECT.

use std::time::Duration;

use crate::support::{PATIENCE, serve};
use crate::wire::*;

#[tokio::test]
async fn each_ping_is_answered() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    wire.answers(&[PINGREQ; 5].concat(), &[PINGRESP; 5].concat()).await;
    let mut wire = Wire::hello3(&server, "c").await;
    wire.answers(&PINGREQ, &PINGRESP).await;
    let mut wire = Wire::hello5(&server, "c").await;
    wire.send(&[0xc0, 1, 0]).await;
    wire.ends_with(0x81).await;
}

#[tokio::test]
async fn after_a_client_s_disconnect_nothing_is_read_and_the_connection_ends() {
    let server = serve().await;
    for goodbye in [&GOODBYE[..], &[0xe0, 1, 0], &[0xe0, 2, 4, 0]] {
        let mut wire = Wire::hello5(&server, "c").await;
        let rest = [publish5(0x33, "t", 1, &[], "x"), PINGREQ.to_vec()].concat();
        wire.send(&[goodbye, &rest].concat()).await;
        wire.ends().await;
    }
    assert!(server.engine.retained("t").is_none());
}

#[tokio::test]
async fn a_session_s_expiry_can_be_changed_at_its_end_but_not_begun() {
    let server = serve().await;
    let expiry = |s: u32| packet(0xe0, &[&[0], &properties(&[&four(0x11, s)])]);
    for (at_connect, at_end, kept) in [(100, 0, false), (100, 200, true), (0, 0, false), (100, 100, true)] {
        let mut wire = Wire::accepted(&server, &connect5_with("c", CLEAN, &[&four(0x11, at_connect)], &[])).await;
        wire.send(&expiry(at_end)).await;
        wire.ends().await;
        let (mut wire, ack) = Wire::open(&server, &connect5_with("c", 0, &[], &[])).await;
        assert_eq!(ack.session_present, kept, "{at_connect} {at_end}");
        wire.send(&GOODBYE).await;
        wire.ends().await;
    }
    let mut wire = Wire::hello5(&server, "c").await;
    wire.send(&expiry(1)).await;
    wire.ends_with(0x82).await;
    assert!(!Wire::open(&server, &connect5_with("c", 0, &[], &[])).await.1.session_present);
}

#[tokio::test]
async fn what_only_a_server_says_is_not_taken_from_a_client() {
    let server = serve().await;
    for sent in [
        packet(0xe0, &[&[0], &properties(&[&long(0x1c, "elsewhere:1883")])]),
        vec![0x20, 3, 0, 0, 0],
        vec![0x90, 4, 0, 1, 0, 0],
        vec![0xb0, 4, 0, 1, 0, 0],
        PINGRESP.to_vec(),
    ] {
        let mut wire = Wire::hello5(&server, "c").await;
        wire.send(&sent).await;
        assert!(wire.ends_with(0x82).await.is_empty(), "{sent:02x?}");
    }
    let mut wire = Wire::hello5(&server, "c").await;
    wire.send(&packet(0xe0, &[&[0], &properties(&[&long(0x15, "method")])])).await;
    wire.ends_with(0x81).await;
}

#[tokio::test]
async fn a_server_that_stops_says_so_last_and_before_connack_says_nothing() {
    let server = serve().await;
    let mut waiting = Wire::dial(&server).await;
    waiting.send(&[0x10]).await;
    let (mut wire, mut old) = (Wire::hello5(&server, "c").await, Wire::hello3(&server, "d").await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(server.broker.shutdown(PATIENCE).await);
    let bytes = wire.bytes().await;
    assert_eq!((bytes[0], bytes[2]), (0xe0, 0x8b));
    assert!(!bytes[3..].windows(5).any(|w| w[0] == 0x11), "no session expiry");
    wire.ends().await;
    old.ends().await;
    waiting.ends().await;
}

#[tokio::test]
async fn a_kicked_client_is_told() {
    let server = serve().await;
    let (mut wire, mut old) = (Wire::hello5(&server, "c").await, Wire::hello3(&server, "d").await);
    assert!(server.broker.kick("c") && server.broker.kick("d"));
    wire.ends_with(0x98).await;
    old.ends().await;
}
