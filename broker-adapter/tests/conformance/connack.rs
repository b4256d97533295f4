//! Chapter 3.2: CONNACK.

use forebay_broker_adapter::BrokerOptions;
use tempfile::tempdir;

use crate::support::{serve, serve_in};
use crate::wire::*;

#[tokio::test]
async fn it_is_the_first_packet_and_comes_once() {
    let server = serve().await;
    let mut wire = Wire::dial(&server).await;
    let pipelined =
        [connect5("c"), subscribe5(1, &[], &[("t", 0)]), publish5(0x30, "t", 0, &[], "x"), PINGREQ.to_vec()];
    wire.send(&pipelined.concat()).await;
    assert_eq!(wire.bytes().await[0], 0x20);
    let mut others = vec![wire.bytes().await[0], wire.bytes().await[0], wire.bytes().await[0]];
    others.sort_unstable();
    assert_eq!(others, [0x30, 0x90, 0xd0]);
    wire.nothing().await;
}

#[tokio::test]
async fn session_present_says_what_the_server_kept() {
    let server = serve().await;
    let first_bytes = |bytes: &[u8]| [bytes[0], bytes[2], bytes[3]];
    let five = |flags: u8, expiry: u32| connect5_with("c", flags, &[&four(0x11, expiry)], &[]);
    for (connect, present) in [
        (five(0, 100), 0),
        (five(0, 100), 1),
        // Clean start discards, and the session that it opens is kept.
        (five(CLEAN, 100), 0),
        (five(0, 0), 1),
        // It ended with its connection.
        (five(0, 0), 0),
        (connect3("c", 0), 0),
        (connect3("c", 0), 1),
        (connect3("c", CLEAN), 0),
        (connect3("c", 0), 0),
        (five(0, 0), 1),
    ] {
        let mut wire = Wire::dial(&server).await;
        wire.send(&connect).await;
        assert_eq!(first_bytes(&wire.bytes().await), [0x20, present, 0], "{connect:02x?}");
        wire.send(&GOODBYE).await;
        wire.ends().await;
    }
}

#[tokio::test]
async fn a_refusal_never_says_session_present_and_ends_the_connection() {
    let server = serve().await;
    Wire::accepted(&server, &lasting5("c", &[])).await;
    let will = |topic: &str, list: &[&[u8]], payload: &str| will5(list, topic, payload);
    for (flags, list, payload, code) in [
        (0, long(0x15, "SCRAM-SHA-1"), vec![], 0x8c),
        (4, vec![], will("a/#", &[], "x"), 0x90),
        (4, vec![], will("", &[], "x"), 0x90),
        (4, vec![], will("t", &[&long(0x08, "+")], "x"), 0x82),
        (4, vec![], will("$SYS/broker/version", &[], "x"), 0x87),
    ] {
        let mut wire = Wire::dial(&server).await;
        wire.send(&connect5_with("c", flags, &[&list], &payload)).await;
        assert_eq!(wire.bytes().await[2..4], [0, code]);
        wire.ends().await;
    }
    let ill_formed = [&properties(&[&[0x01, 1]])[..], &field("t"), &field([0xff])].concat();
    let mut wire = Wire::dial(&server).await;
    wire.send(&connect5_with("c", 4, &[], &ill_formed)).await;
    assert_eq!(wire.bytes().await[2..4], [0, 0x99]);
    wire.ends().await;
    let (_, ack) = Wire::open(&server, &lasting5("c", &[])).await;
    assert!(ack.session_present, "none of them was let in");
}

#[tokio::test]
async fn it_says_what_the_server_takes_and_nothing_that_is_as_usual() {
    let options = BrokerOptions {
        receive_maximum: 7,
        max_packet_bytes: 5000,
        topic_alias_maximum: 9,
        session_expiry_max: 50,
        ..BrokerOptions::default()
    };
    let server = serve_in(tempdir().unwrap(), options).await;
    let (_, ack) = Wire::open(&server, &lasting5("c", &[])).await;
    let p = ack.properties;
    assert_eq!((p.receive_maximum, p.maximum_packet_size, p.topic_alias_maximum), (Some(7), Some(5000), Some(9)));
    assert_eq!(p.session_expiry_s, Some(50), "it asked for more");
    // QoS 2, retained messages, wildcards and identifiers are there, which is what saying nothing means.
    assert_eq!((p.maximum_qos, p.retain_available), (None, None));
    assert_eq!((p.wildcard_subscription_available, p.subscription_identifiers_available), (None, None));
    assert_eq!((p.server_keep_alive_s, p.assigned_client_id, p.server_reference), (None, None, None));
    assert_eq!((p.reason_string, p.authentication_method, p.authentication_data), (None, None, None));
    let (_, ack) = Wire::open(&server, &connect5_with("c", 0, &[&four(0x11, 50)], &[])).await;
    assert_eq!(ack.properties.session_expiry_s, None, "it is as asked");
}
