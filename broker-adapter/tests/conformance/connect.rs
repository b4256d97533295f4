//! Chapter 3.1: CONNECT.

use std::time::Duration;

use forebay_broker_adapter::BrokerOptions;
use forebay_broker_adapter::codec::Packet;
use tempfile::tempdir;

use crate::support::{serve, serve_in, until};
use crate::wire::*;

#[tokio::test]
async fn the_first_packet_is_connect_or_there_is_no_connection() {
    let server = serve().await;
    for first in [
        publish5(0x30, "t", 0, &[], "x"),
        ack(0x40, 1),
        ack(0x62, 1),
        subscribe5(1, &[], &[("t", 0)]),
        PINGREQ.to_vec(),
        GOODBYE.to_vec(),
        vec![0xf0, 0],
        vec![0x20, 3, 0, 0, 0],
        vec![0, 0],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut wire = Wire::dial(&server).await;
        wire.send(&first).await;
        wire.ends().await;
    }
}

#[tokio::test]
async fn a_second_connect_is_a_protocol_error() {
    let server = serve().await;
    let mut wire = Wire::hello5(&server, "c").await;
    wire.send(&connect5("c")).await;
    assert!(wire.ends_with(0x82).await.is_empty());
    let mut wire = Wire::hello3(&server, "c").await;
    wire.send(&connect3("c", CLEAN)).await;
    wire.ends().await;
}

#[tokio::test]
async fn other_protocols_and_versions_are_refused() {
    let server = serve().await;
    let hello = |name: &str, level: u8| packet(0x10, &[&field(name), &[level, CLEAN, 0, 0, 0], &field("c")]);
    for name in ["MQTX", "mqtt", "", "MQTT2"] {
        let mut wire = Wire::dial(&server).await;
        wire.send(&hello(name, 5)).await;
        wire.ends().await;
    }
    for (level, expected) in [(6, vec![0x20]), (255, vec![0x20]), (0, vec![0x20, 2, 0, 1]), (3, vec![0x20, 2, 0, 1])] {
        let mut wire = Wire::dial(&server).await;
        wire.send(&hello("MQTT", level)).await;
        let answer = wire.bytes().await;
        assert!(answer.starts_with(&expected), "{answer:02x?}");
        if level > 5 {
            assert_eq!(answer[2..4], [0, 0x84]);
        }
        wire.ends().await;
    }
}

/// MQTT 5 is answered with this code, MQTT 3.1.1 with nothing.
async fn refused(flags: u8, payload: &[u8], code: u8) {
    let server = serve().await;
    let mut wire = Wire::dial(&server).await;
    wire.send(&connect5_with("c", flags, &[], payload)).await;
    let answer = wire.bytes().await;
    assert_eq!((answer[0], &answer[2..4]), (0x20, &[0, code][..]), "flags {flags:#04x} {payload:02x?}");
    wire.ends().await;
    let mut wire = Wire::dial(&server).await;
    wire.send(&packet(0x10, &[&field("MQTT"), &[4, flags, 0, 0], &field("c"), payload])).await;
    wire.ends().await;
}

#[tokio::test]
async fn flags_that_contradict_each_other_or_what_follows_are_refused() {
    refused(CLEAN | 1, &[], 0x81).await;
    // A will's QoS and retain without a will, and QoS 3.
    refused(CLEAN | 0x08, &[], 0x81).await;
    refused(CLEAN | 0x20, &[], 0x81).await;
    refused(CLEAN | 0x1c, &will5(&[], "t", "x"), 0x81).await;
    // A will, a user name, a password that is not there.
    refused(CLEAN | 0x04, &[], 0x81).await;
    refused(CLEAN | 0x04, &[0], 0x81).await;
    refused(CLEAN | 0x04, &[&[0][..], &field("t")].concat(), 0x81).await;
    refused(CLEAN | 0x80, &[], 0x81).await;
    refused(CLEAN | 0xc0, &field("user"), 0x81).await;
    // One that no flag promises.
    refused(CLEAN, &field("user"), 0x81).await;
    refused(CLEAN | 0x80, &[field("user"), field("password")].concat(), 0x81).await;
}

#[tokio::test]
async fn all_fields_are_read_in_their_order() {
    let server = serve().await;
    let mut watcher = Wire::hello5(&server, "w").await;
    watcher.subscribed("will/topic", 2).await;
    for qos in 0..3 {
        let payload = [will5(&[], "will/topic", "will"), field("user"), field("password")].concat();
        let flags = CLEAN | 0xc4 | qos << 3;
        let wire = Wire::accepted(&server, &connect5_with("full", flags, &[], &payload)).await;
        let session = server.engine.session("full").unwrap();
        assert_eq!(&*session.username, "user");
        let will = session.will.unwrap();
        assert_eq!((&*will.message.topic, &will.message.payload[..]), ("will/topic", &b"will"[..]));
        assert_eq!(will.message.qos.as_u8(), qos);
        drop(wire);
        watcher.message().await;
        if qos == 2 {
            watcher.send(&ack(0x50, 2)).await;
            watcher.bytes().await;
        }
    }
    // A password alone: in MQTT 5 only.
    Wire::accepted(&server, &connect5_with("p", CLEAN | 0x40, &[], &field("password"))).await;
    let mut wire = Wire::dial(&server).await;
    wire.send(&packet(0x10, &[&field("MQTT"), &[4, CLEAN | 0x40, 0, 0], &field("c"), &field("password")])).await;
    wire.ends().await;
}

#[tokio::test]
async fn strings_of_connect_are_utf_8() {
    for bad in [&b"\xff"[..], b"\xed\xbf\xbf", b"a\0"] {
        let will = [&[0][..], &field(bad), &field("x")].concat();
        refused(CLEAN | 0x04, &will, 0x81).await;
        refused(CLEAN | 0x80, &field(bad), 0x81).await;
        let server = serve().await;
        let mut wire = Wire::dial(&server).await;
        wire.send(&packet(0x10, &[&field("MQTT"), &[5, CLEAN, 0, 0, 0], &field(bad)])).await;
        assert_eq!(wire.bytes().await[2..4], [0, 0x81]);
        wire.ends().await;
    }
}

#[tokio::test]
async fn properties_of_connect_have_their_values() {
    let server = serve().await;
    for (list, code) in [
        (vec![two(0x21, 0)], 0x82),
        (vec![four(0x27, 0)], 0x82),
        (vec![vec![0x17, 2]], 0x82),
        (vec![vec![0x19, 2]], 0x82),
        (vec![four(0x11, 1), four(0x11, 1)], 0x82),
        (vec![two(0x21, 1), two(0x21, 1)], 0x82),
        (vec![long(0x16, "data without a method")], 0x82),
        (vec![four(0x02, 1)], 0x81),
        (vec![two(0x13, 1)], 0x81),
    ] {
        let list: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
        let mut wire = Wire::dial(&server).await;
        wire.send(&connect5_with("c", CLEAN, &list, &[])).await;
        let answer = wire.bytes().await;
        assert_eq!(answer[2..4], [0, code], "{list:02x?}");
        wire.ends().await;
    }
    let will = will5(&[&four(0x18, 1), &four(0x18, 1)], "t", "x");
    let mut wire = Wire::dial(&server).await;
    wire.send(&connect5_with("c", CLEAN | 4, &[], &will)).await;
    assert_eq!(wire.bytes().await[2..4], [0, 0x82]);
}

#[tokio::test]
async fn client_ids_of_the_standard_s_letters_and_longer_ones_are_taken_and_name_the_session() {
    let server = serve().await;
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut ids: Vec<String> = letters.as_bytes().chunks(23).map(|c| String::from_utf8(c.to_vec()).unwrap()).collect();
    ids.extend(["a".to_owned(), "x".repeat(200), "é/+#$ ".to_owned()]);
    for id in ids {
        Wire::accepted(&server, &lasting5(&id, &[])).await;
        let (_, ack) = Wire::open(&server, &lasting5(&id, &[])).await;
        assert!(ack.session_present, "{id}");
        assert!(server.engine.session(&id).is_some());
    }
}

#[tokio::test]
async fn an_empty_client_id_is_given_a_new_one_that_names_the_session() {
    let server = serve().await;
    let mut seen = Vec::new();
    for connect in [connect5(""), lasting5("", &[]), connect5("")] {
        let (wire, ack) = Wire::open(&server, &connect).await;
        let id = ack.properties.assigned_client_id.unwrap();
        assert!(!id.is_empty() && !seen.contains(&id));
        assert!(server.engine.session(&id).is_some());
        seen.push(id);
        drop(wire);
    }
    let (_, ack) = Wire::open(&server, &lasting5(&seen[1], &[])).await;
    assert!(ack.session_present && ack.properties.assigned_client_id.is_none());
}

#[tokio::test]
async fn what_follows_a_refused_connect_is_not_looked_at() {
    let server = serve().await;
    let mut wire = Wire::dial(&server).await;
    let refused = connect5_with("c", CLEAN, &[&long(0x15, "unknown")], &[]);
    wire.send(&[refused, publish5(0x33, "t", 1, &[], "x"), PINGREQ.to_vec()].concat()).await;
    assert_eq!(wire.bytes().await[2..4], [0, 0x8c]);
    wire.ends().await;
    assert!(server.engine.retained("t").is_none());
}

#[tokio::test]
async fn a_client_is_taken_over_by_its_newer_connection() {
    let server = serve().await;
    let mut old = Wire::accepted(&server, &lasting5("c", &[])).await;
    old.subscribed("t", 1).await;
    let (mut new, ack) = Wire::open(&server, &lasting5("c", &[])).await;
    assert!(ack.session_present);
    assert!(old.ends_with(0x8e).await.is_empty());
    let mut third = Wire::accepted(&server, &connect3("c", 0)).await;
    new.ends_with(0x8e).await;
    let _fourth = Wire::accepted(&server, &lasting5("c", &[])).await;
    third.ends().await;
}

#[tokio::test]
async fn who_is_silent_for_one_and_a_half_keep_alives_is_cut_and_bytes_that_trickle_in_are_silence() {
    let server = serve().await;
    let mut watcher = Wire::hello5(&server, "w").await;
    watcher.subscribed("will", 0).await;
    let hello = |client: &str| {
        let head = [&field("MQTT")[..], &[5, CLEAN | 4, 0, 2, 0], &field(client)].concat();
        packet(0x10, &[&head, &will5(&[], "will", client)])
    };
    let mut silent = Wire::accepted(&server, &hello("silent")).await;
    let mut alive = Wire::accepted(&server, &hello("alive")).await;
    let mut slow = Wire::accepted(&server, &hello("slow")).await;
    let begun = tokio::time::Instant::now();
    for n in 0..14u8 {
        alive.answers(&PINGREQ, &PINGRESP).await;
        // A packet of 200 bytes that never comes to its end.
        let piece = if n == 0 { &[0x30, 0xc8, 0x01][..] } else { b"x" };
        let _ = tokio::io::AsyncWriteExt::write_all(&mut slow.stream, piece).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(3));
    silent.ends_with(0x8d).await;
    slow.ends_with(0x8d).await;
    let mut wills = [watcher.message().await.payload, watcher.message().await.payload];
    wills.sort();
    assert_eq!(wills, ["silent", "slow"]);
    alive.answers(&PINGREQ, &PINGRESP).await;
}

#[tokio::test]
async fn a_keep_alive_of_the_server_is_said_in_connack_and_holds() {
    let options = BrokerOptions { max_keep_alive: Some(1), ..BrokerOptions::default() };
    let server = serve_in(tempdir().unwrap(), options).await;
    for asked in [0, 1, 2u8] {
        let head = [&field("MQTT")[..], &[5, CLEAN, 0, asked, 0], &field("c")].concat();
        let (mut wire, ack) = Wire::open(&server, &packet(0x10, &[&head])).await;
        assert_eq!(ack.properties.server_keep_alive_s, (asked != 1).then_some(1));
        wire.ends_with(0x8d).await;
    }
    // Before MQTT 5 nobody could be told: his own holds.
    let mut wire = Wire::hello3(&server, "c").await;
    tokio::time::sleep(Duration::from_millis(1700)).await;
    wire.nothing().await;
}

#[tokio::test]
async fn no_packet_is_larger_than_the_client_takes_and_what_is_counts_as_sent() {
    let server = serve().await;
    let (mut wire, _) = Wire::open(&server, &connect5_with("c", CLEAN, &[&four(0x27, 60), &two(0x21, 1)], &[])).await;
    for qos in 0..3 {
        wire.subscribed(&format!("t/{qos}"), qos).await;
    }
    let mut publisher = Wire::hello5(&server, "p").await;
    for qos in 0..3u8 {
        let topic = format!("t/{qos}");
        for (n, len) in [1000, 100, 10, 100, 10].into_iter().enumerate() {
            publisher.send(&publish5(0x30 | qos << 1, &topic, 10 + n as u16, &[], "x".repeat(len))).await;
        }
        for _ in 0..2 {
            let got = wire.message().await;
            assert_eq!((&*got.topic, got.payload.len()), (&*topic, 10));
            match qos {
                0 => {}
                1 => wire.send(&ack(0x40, got.packet_id)).await,
                _ => {
                    wire.answers(&ack(0x50, got.packet_id), &ack(0x62, got.packet_id)).await;
                    wire.send(&ack(0x70, got.packet_id)).await;
                }
            }
        }
        wire.nothing().await;
    }
}

#[tokio::test]
async fn no_answer_outgrows_what_the_client_takes_for_the_sake_of_its_words() {
    let server = serve().await;
    // A refusal loses its words, an acceptance can't be said at all.
    let mut wire = Wire::dial(&server).await;
    wire.send(&connect5_with("c", CLEAN, &[&four(0x27, 8), &long(0x15, "unknown")], &[])).await;
    assert_eq!(wire.bytes().await, [0x20, 3, 0, 0x8c, 0]);
    wire.ends().await;
    let mut wire = Wire::dial(&server).await;
    wire.send(&connect5_with("c", CLEAN, &[&four(0x27, 8)], &[])).await;
    wire.ends().await;
    // So do SUBACK, PUBACK, PUBREC and DISCONNECT.
    for (max, words) in [(36, false), (1000, true)] {
        let (mut wire, _) = Wire::open(&server, &connect5_with("c", CLEAN, &[&four(0x27, max)], &[])).await;
        wire.send(&subscribe5(1, &[], &[("a/#/b", 0)])).await;
        match wire.read().await {
            Packet::SubAck(ack) => assert_eq!((ack.properties.reason_string.is_some(), ack.codes), (words, vec![0x8f])),
            other => panic!("{other:?}"),
        }
        for (first, answer) in [(0x32, 0x40), (0x34, 0x50)] {
            wire.send(&publish5(first, "t", 7, &[&[0x01, 1]], [0xff])).await;
            let bytes = wire.bytes().await;
            assert_eq!((bytes[0], &bytes[2..5]), (answer, &[0, 7, 0x99][..]));
            assert_eq!(bytes.len() > 5, words, "{bytes:02x?}");
        }
        wire.send(&publish5(0x36, "t", 1, &[], "")).await;
        let bytes = wire.bytes().await;
        assert_eq!((bytes[0], bytes[2], bytes.len() > 4), (0xe0, 0x81, true));
        wire.ends().await;
    }
    let (mut wire, _) = Wire::open(&server, &connect5_with("c", CLEAN, &[&four(0x27, 36)], &[])).await;
    wire.send(&publish5(0x30, "+", 0, &[], "")).await;
    assert_eq!(wire.bytes().await, [0xe0, 1, 0x90]);
    wire.ends().await;
}

#[tokio::test]
async fn words_about_problems_are_for_those_who_asked_for_them() {
    let server = serve().await;
    let (mut wire, _) = Wire::open(&server, &connect5_with("c", CLEAN, &[&[0x17, 0]], &[])).await;
    wire.answers(&subscribe5(1, &[], &[("a/#/b", 0)]), &[0x90, 4, 0, 1, 0, 0x8f]).await;
    wire.answers(&publish5(0x32, "t", 7, &[&[0x01, 1]], [0xff]), &[0x40, 3, 0, 7, 0x99]).await;
    wire.answers(&publish5(0x34, "t", 8, &[&[0x01, 1]], [0xff]), &[0x50, 3, 0, 8, 0x99]).await;
    wire.answers(&ack(0x62, 9), &[0x70, 3, 0, 9, 0x92]).await;
}

#[tokio::test]
async fn response_information_is_given_to_nobody() {
    let server = serve().await;
    for list in [&[][..], &[0x19, 0], &[0x19, 1]] {
        let (_, ack) = Wire::open(&server, &connect5_with("c", CLEAN, &[list], &[])).await;
        assert_eq!(ack.properties.response_information, None);
    }
}

#[tokio::test]
async fn a_connect_that_does_not_come_ends_the_connection_at_the_deadline() {
    let options = BrokerOptions { connect_timeout: Duration::from_millis(300), ..BrokerOptions::default() };
    let server = serve_in(tempdir().unwrap(), options).await;
    let mut nothing = Wire::dial(&server).await;
    let mut half = Wire::dial(&server).await;
    half.send(&connect5("c")[..9]).await;
    let mut slow = Wire::dial(&server).await;
    let trickle = async {
        for byte in connect5("slow").chunks(1).cycle().take(100) {
            if tokio::io::AsyncWriteExt::write_all(&mut slow.stream, byte).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            if server.broker.stats().refused >= 3 {
                break;
            }
        }
    };
    let (_, (), ()) = tokio::join!(trickle, nothing.ends(), half.ends());
    until(|| server.broker.stats().refused >= 3).await;
    assert_eq!(server.broker.stats().connects, 0);
}
