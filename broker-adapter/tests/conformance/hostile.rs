//! Clients that mean harm, or are broken: answered or cut as the standard says, and nobody else notices.

use std::time::Duration;

use forebay_broker_adapter::codec::Packet;
use forebay_broker_adapter::{BrokerOptions, LiveBusKind};
use tempfile::tempdir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{PATIENCE, Server, serve, serve_in, until};
use crate::wire::*;

/// A client that is well-behaved, and whose messages to itself must arrive whatever others do.
struct Witness(Wire, u16);

impl Witness {
    async fn new(server: &Server) -> Witness {
        let mut wire = Wire::hello5(server, "witness").await;
        wire.subscribed("witness", 1).await;
        Witness(wire, 0)
    }

    async fn lives(&mut self) {
        self.1 += 1;
        self.0.send(&publish5(0x32, "witness", self.1, &[], self.1.to_string())).await;
        let (mut acked, mut got) = (false, false);
        while !(acked && got) {
            match self.0.read().await {
                Packet::PubAck(ack) => acked = ack.packet_id == self.1,
                Packet::Publish(publish) => {
                    assert_eq!(publish.payload, self.1.to_string());
                    self.0.send(&ack(0x40, publish.packet_id)).await;
                    got = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Everyone but the witness is gone, and what they held too.
async fn only_the_witness(server: &Server) {
    until(|| server.broker.stats().connections == 1 && server.broker.listeners()[0].connections == 1).await;
}

#[tokio::test]
async fn any_packet_may_come_in_any_pieces() {
    let server = serve().await;
    let mut subscriber = Wire::hello5(&server, "s").await;
    subscriber.subscribed("état/#", 2).await;
    let list: [&[u8]; 2] = [&user("name", "value"), &long(0x09, [0; 40])];
    let sent = [
        connect5_with("c", CLEAN | 4, &[&two(0x21, 5)], &will5(&[&four(0x18, 5)], "w", "x")),
        publish5(0x34, "état/1", 7, &list, "x".repeat(300)),
        ack(0x62, 7),
        PINGREQ.to_vec(),
    ]
    .concat();
    for piece in [1, 2, 3, 7, 64, sent.len()] {
        let mut wire = Wire::dial(&server).await;
        for bytes in sent.chunks(piece) {
            wire.send(bytes).await;
            if piece < 64 {
                tokio::task::yield_now().await;
            }
        }
        let mut firsts = Vec::new();
        for _ in 0..4 {
            firsts.push(wire.bytes().await[0]);
        }
        firsts.sort_unstable();
        assert_eq!(firsts, [0x20, 0x50, 0x70, 0xd0], "in pieces of {piece}");
        let got = subscriber.message().await;
        assert_eq!((got.payload.len(), got.properties.user.len()), (300, 1));
        subscriber.answers(&ack(0x50, got.packet_id), &ack(0x62, got.packet_id)).await;
        subscriber.send(&ack(0x70, got.packet_id)).await;
    }
}

#[tokio::test]
async fn lengths_that_are_too_large_are_refused_by_their_first_bytes() {
    let server = serve().await;
    let mut witness = Witness::new(&server).await;
    for first in [0x30, 0x82, 0x40] {
        let mut wire = Wire::hello5(&server, "c").await;
        wire.send(&[first, 0xff, 0xff, 0xff, 0x7f]).await;
        assert!(wire.ends_with(0x95).await.is_empty());
        let mut wire = Wire::hello3(&server, "c").await;
        wire.send(&[first, 0xff, 0xff, 0xff, 0x7f]).await;
        wire.ends().await;
    }
    let mut wire = Wire::dial(&server).await;
    wire.send(&[0x10, 0xff, 0xff, 0xff, 0x7f]).await;
    wire.ends().await;
    // Many who promise the largest packet there is and never send it.
    let mut waiting = Vec::new();
    for n in 0..50 {
        let mut wire = Wire::hello5(&server, &format!("waits {n}")).await;
        wire.send(&[0x30, 0xfb, 0xff, 0x3f, 0, 1, b't']).await;
        waiting.push(wire);
    }
    witness.lives().await;
    drop(waiting);
    only_the_witness(&server).await;
    witness.lives().await;
}

#[tokio::test]
async fn a_packet_that_is_cut_off_is_no_packet() {
    let server = serve().await;
    let mut witness = Witness::new(&server).await;
    witness.0.subscribed("will/#", 0).await;
    let publish = publish5(0x33, "t", 1, &[&user("a", "b")], "payload");
    for (n, len) in (1..publish.len()).enumerate() {
        let will = will5(&[], "will/t", "x");
        let mut wire = Wire::accepted(&server, &connect5_with("c", CLEAN | 4, &[], &will)).await;
        wire.send(&publish[..len]).await;
        if n % 2 == 0 {
            // A reset in mid packet.
            wire.stream.set_zero_linger().unwrap();
        }
        drop(wire);
        assert_eq!(&*witness.0.message().await.topic, "will/t");
    }
    assert!(server.engine.retained("t").is_none());
    only_the_witness(&server).await;
    witness.lives().await;
}

#[tokio::test]
async fn storms_of_acknowledgements_are_answered_and_change_nothing() {
    let server = serve().await;
    let mut witness = Witness::new(&server).await;
    let wire = Wire::accepted(&server, &lasting5("c", &[])).await;
    let mut storm = Vec::new();
    for n in 1..=20_000u16 {
        storm.extend(ack([0x62, 0x40, 0x70, 0x50][usize::from(n % 4)], n));
    }
    storm.extend(PINGREQ);
    let (mut reader, mut writer) = wire.stream.into_split();
    let sending = tokio::spawn(async move {
        writer.write_all(&storm).await.unwrap();
        writer
    });
    let (mut completed, mut released, mut input) = (0, 0, Vec::new());
    let mut at = 0;
    'all: loop {
        while input.len() < at + 2 || input.len() < at + 2 + usize::from(input[at + 1]) {
            assert!(reader.read_buf(&mut input).await.unwrap() > 0);
        }
        match input[at] {
            0x70 => completed += 1,
            0x62 => released += 1,
            // Its turn is not that of the answers which wait for the disk.
            0xd0 if completed == 5000 => break 'all,
            0xd0 => {}
            other => panic!("{other:#04x}"),
        }
        at += 2 + usize::from(input[at + 1]);
        if completed == 5000 && released == 5000 {
            break;
        }
    }
    witness.lives().await;
    drop((reader, sending.await.unwrap()));
    only_the_witness(&server).await;
    witness.lives().await;
}

#[tokio::test]
async fn a_flood_of_subscriptions_is_granted_in_order_and_ends_with_its_client() {
    let server = serve().await;
    let mut witness = Witness::new(&server).await;
    let mut wire = Wire::hello5(&server, "c").await;
    let flood: Vec<u8> = (1..=500u16)
        .flat_map(|id| {
            let (one, two) = (format!("{id}/+/#"), format!("+/{id}"));
            subscribe5(id, &[], &[(&one, 1), (&two, 2), ("#", 0)])
        })
        .collect();
    wire.send(&flood).await;
    witness.lives().await;
    let mut expected = 1..=500u16;
    while let Some(next) = expected.next() {
        match wire.read().await {
            Packet::SubAck(ack) => assert_eq!((ack.packet_id, &ack.codes[..]), (next, &[1, 2, 0][..])),
            // The witness lives, and `#` sees it.
            Packet::Publish(_) => expected = next..=500,
            other => panic!("{other:?}"),
        }
    }
    drop(wire);
    only_the_witness(&server).await;
    until(|| server.engine.subscription_count() == 1).await;
    witness.lives().await;
}

#[tokio::test]
async fn ids_that_are_used_again_are_what_the_standard_makes_of_them() {
    let server = serve().await;
    let mut witness = Witness::new(&server).await;
    let mut subscriber = Wire::hello5(&server, "s").await;
    subscriber.subscribed("t", 0).await;
    let mut wire = Wire::hello5(&server, "c").await;
    let (mut sent, mut expected) = (Vec::new(), Vec::new());
    for n in 0..100u16 {
        // The same id for every exchange, before earlier ones are answered.
        sent.extend(publish5(0x32, "t", 1, &[], format!("one {n}")));
        expected.extend(ack(0x40, 1));
        sent.extend(publish5(0x34, "t", 1, &[], "two"));
        expected.extend(ack(0x50, 1));
    }
    sent.extend(ack(0x62, 1));
    expected.extend(ack(0x70, 1));
    wire.answers(&sent, &expected).await;
    let mut twos = 0;
    for _ in 0..101 {
        twos += usize::from(subscriber.message().await.payload == "two");
    }
    assert_eq!(twos, 1);
    subscriber.nothing().await;
    witness.lives().await;
}

#[tokio::test]
async fn who_does_not_read_keeps_nobody_waiting() {
    let server = serve().await;
    let mut witness = Witness::new(&server).await;
    let mut deaf = Vec::new();
    for n in 0..5 {
        let mut wire = Wire::hello5(&server, &format!("deaf {n}")).await;
        wire.subscribed("t", n % 3).await;
        deaf.push(wire);
    }
    let mut publisher = Wire::hello5(&server, "p").await;
    for n in 1..=200u16 {
        publisher.answers(&publish5(0x32, "t", n, &[], "x".repeat(60_000)), &ack(0x40, n)).await;
        if n % 50 == 0 {
            witness.lives().await;
        }
    }
    drop((deaf, publisher));
    only_the_witness(&server).await;
    witness.lives().await;
}

#[tokio::test]
async fn garbage_of_every_kind_harms_nobody() {
    let server = serve().await;
    let mut witness = Witness::new(&server).await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut dice = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let good: [Vec<u8>; 8] = [
        publish5(0x34, "t", 3, &[&user("a", "b"), &two(0x23, 1)], "payload"),
        subscribe5(1, &[&[0x0b, 5]], &[("t", 2), ("+/#", 1)]),
        unsubscribe5(2, &["t"]),
        ack(0x62, 3),
        ack(0x50, 1),
        packet(0xe0, &[&[4], &properties(&[&four(0x11, 1)])]),
        packet(0xf0, &[&[0x18], &properties(&[&long(0x15, "m")])]),
        connect5("again"),
    ];
    for n in 0..300u32 {
        let mut wire = Wire::dial(&server).await;
        let mut sent = if n % 10 == 0 { Vec::new() } else { connect5(&format!("garbage {}", n % 7)) };
        for _ in 0..1 + dice() % 4 {
            let mut bytes = good[(dice() % 8) as usize].clone();
            for _ in 0..dice() % 3 {
                let at = (dice() % bytes.len() as u64) as usize;
                match dice() % 3 {
                    0 => bytes[at] = dice() as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, dice() as u8),
                }
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            sent.extend(bytes);
        }
        let _ = wire.stream.write_all(&sent).await;
        let _ = wire.stream.shutdown().await;
        // Whatever comes back is packets, the first of them CONNACK, nothing after DISCONNECT.
        let (mut first, mut over) = (true, false);
        while let Some(bytes) = wire.next().await {
            assert!(!over, "after DISCONNECT: {bytes:02x?}");
            assert_eq!(first, bytes[0] == 0x20, "{bytes:02x?}");
            (first, over) = (false, bytes[0] == 0xe0);
        }
        if n % 50 == 0 {
            witness.lives().await;
        }
    }
    only_the_witness(&server).await;
    witness.lives().await;
}

#[tokio::test]
async fn connections_that_come_and_go_leave_nothing() {
    let server = serve().await;
    let mut witness = Witness::new(&server).await;
    for n in 0..200 {
        let mut wire = Wire::dial(&server).await;
        match n % 5 {
            0 => {}
            1 => wire.send(&connect5("x")[..7]).await,
            2 => wire.send(&connect5("x")).await,
            3 => {
                wire.send(&[connect5("x"), subscribe5(1, &[], &[("#", 2)])].concat()).await;
                wire.stream.set_zero_linger().unwrap();
            }
            _ => wire.send(&[connect5(""), GOODBYE.to_vec()].concat()).await,
        }
    }
    only_the_witness(&server).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    witness.lives().await;
    until(|| server.engine.session_count() == 1).await;
}

/// What ends the router's thread of a rumqttd that listens itself: a topic that begins with a letter of two bytes, and clients that
/// are dropped, or acknowledge what they never got, while messages wait for them.
#[tokio::test]
async fn what_kills_rumqttd_s_router_reaches_neither_it_nor_ours() {
    for live_bus in [LiveBusKind::Rumqttd, LiveBusKind::Trie] {
        let server = serve_in(tempdir().unwrap(), BrokerOptions { live_bus, ..BrokerOptions::default() }).await;
        let mut subscriber = Wire::hello5(&server, "s").await;
        for filter in ["+/1", "état/#", "$own/#"] {
            subscriber.subscribed(filter, 0).await;
        }
        let mut publisher = Wire::hello5(&server, "p").await;
        for round in 0..20 {
            let mut victim = Wire::accepted(&server, &lasting5("victim", &[&two(0x21, 1)])).await;
            victim.subscribed("état/#", 1).await;
            for n in 0..50u16 {
                publisher.send(&publish5(0x32, "état/1", 1 + n, &[], "backlog")).await;
                publisher.send(&publish5(0x30, "état/1", 0, &[], "live")).await;
            }
            victim.send(&[ack(0x40, 999), ack(0x70, 998), ack(0x62, 997)].concat()).await;
            if round % 2 == 0 {
                victim.stream.set_zero_linger().unwrap();
            }
            drop(victim);
        }
        // A bus may shed what comes too fast for it, and then it goes on.
        let arrives = async {
            loop {
                publisher.send(&publish5(0x30, "$own/last", 0, &[], "last")).await;
                while let Ok(got) = tokio::time::timeout(Duration::from_millis(200), subscriber.message()).await {
                    if got.payload == "last" {
                        return;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, arrives).await.expect("the bus lives");
    }
}
