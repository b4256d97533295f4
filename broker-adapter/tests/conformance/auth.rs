//! Chapters 3.15 and 4.12: AUTH.

use forebay_broker_adapter::codec::Packet;

use crate::support::serve;
use crate::wire::*;

#[tokio::test]
async fn a_method_of_authentication_is_refused_and_the_connection_ends() {
    let server = serve().await;
    for list in [vec![long(0x15, "SCRAM-SHA-256")], vec![long(0x15, ""), long(0x16, "data")]] {
        let list: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
        let mut wire = Wire::dial(&server).await;
        wire.send(&connect5_with("c", CLEAN, &list, &[])).await;
        match wire.read().await {
            Packet::ConnAck(ack) => {
                assert_eq!((ack.code, ack.session_present), (0x8c, false));
                assert!(ack.properties.authentication_method.is_none());
            }
            other => panic!("{other:?}"),
        }
        wire.ends().await;
    }
}

#[tokio::test]
async fn auth_without_a_method_in_connect_is_a_protocol_error() {
    let server = serve().await;
    for sent in [
        &[0xf0, 0][..],
        &packet(0xf0, &[&[0x19], &properties(&[&long(0x15, "SCRAM-SHA-256")])]),
        &packet(
            0xf0,
            &[&[0x18], &properties(&[&long(0x15, "m"), &long(0x16, "d"), &long(0x1f, "why"), &user("a", "b")])],
        ),
    ] {
        let mut wire = Wire::hello5(&server, "c").await;
        wire.send(sent).await;
        assert!(wire.ends_with(0x82).await.is_empty());
    }
    let mut wire = Wire::hello5(&server, "c").await;
    wire.send(&packet(0xf0, &[&[0x18], &properties(&[&four(0x11, 1)])])).await;
    wire.ends_with(0x81).await;
}
