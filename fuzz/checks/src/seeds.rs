//! Seeds that the program's own encoders make. The others in `fuzz/seeds/` are texts, and inputs that a fuzzer found and kept.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use forebay_broker_adapter::codec::{Packet, Publish, Version, encode};
use forebay_engine::event::{Event, Message, Published, QoS, SessionOpened, Subscribed, SubscriptionOptions, Will};
use forebay_engine::fuzzing::{FuzzedFrame, encode_frame, index_of, residue_of};
use forebay_engine::{Lsn, Record};

use crate::segments::written;
use crate::{derived, proxy_header};

/// Name and bytes of each generated seed of a target.
#[must_use]
pub fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    match target {
        "frame" => frames(),
        "segments" => segments(),
        "trim_intent" => trim_intents(),
        "checkpoint" => checkpoints(),
        "topic_index" => indexes(),
        "residue" => residues(),
        "event_body" => events(),
        "mqtt_packet" => packets(),
        "mqtt_connection" => connections(),
        "proxy_header" => proxy_headers(),
        _ => Vec::new(),
    }
}

/// Schedules of the target `mqtt_connection`; see there. The second client has 0x10 in its actions.
fn connections() -> Vec<(String, Vec<u8>)> {
    let (connect, other) = ([0x40, 0x19], [0x50, 0x1b]);
    let lasting = [0x40, 0x18];
    let subscribe = |who: u8, filter: u8, options: u8| [0x42 | who, filter, options, 0];
    let publish = |who: u8, flags: u8, id: u8| [0x41 | who, flags, id, 0];
    let both = [&connect[..], &other, &subscribe(0, 1, 2), &subscribe(0x10, 3, 1)].concat();
    let levels = [publish(0, 1, 1), publish(0x10, 0x12, 2), publish(0x10, 0x1a, 3)].concat();
    let acks = [[0x4a; 6], [0x5a; 6]].concat();
    let away =
        [&lasting[..], &subscribe(0, 0, 2), &[0x48], &other, &publish(0x10, 2, 1), &publish(0x10, 1, 2)].concat();
    let group = [&lasting[..], &[0x50, 0x1a], &subscribe(0, 8, 2), &subscribe(0x10, 8, 2)].concat();
    let group = [&group[..], &publish(0x10, 2, 1), &publish(0x10, 1, 2), &publish(0, 2, 3), &[0x5a; 2]].concat();
    vec![
        ("levels".into(), [&both[..], &levels, &acks, &[0x44, 2, 2, 0, 0x54, 2, 3, 0, 0x45, 0x55]].concat()),
        ("resumed".into(), [&away[..], &lasting, &[0x4a, 0x4a, 0x48], &lasting, &[0x4a; 4]].concat()),
        ("taken-over".into(), [&away[..], &lasting, &[0x50, 0x18], &[0x5a, 0x5a, 0x55]].concat()),
        ("live".into(), [&both[..], &[0x41, 0, 0, 0x51, 0x10, 0]].concat()),
        ("pieces".into(), in_pieces(&[&both[..], &levels, &acks].concat())),
        ("quota".into(), [&connect[..], &(0..5).flat_map(|id| publish(0, 2, id)).collect::<Vec<_>>()].concat()),
        ("window".into(), [&both[..], &(0..5).flat_map(|id| publish(0x10, 1, id)).collect::<Vec<_>>(), &acks].concat()),
        ("aliases".into(), [&both[..], &[0x51, 0x50, 0x05, 0x51, 0x50, 0x0d, 0x51, 0x50, 0x0d]].concat()),
        (
            "queue".into(),
            [&both[..], &subscribe(0, 4, 1), &subscribe(0x10, 4, 1), &publish(0, 0x21, 1), &acks].concat(),
        ),
        ("garbage".into(), [&both[..], &[0x47, 5, 0x30, 3, 0, 1, b't'], &[0x47, 2, 0x36, 0], &levels].concat()),
        ("goodbye".into(), [&both[..], &[0x46, 1, 0, 0x56, 0, 2, 0x49], &levels].concat()),
        ("shared".into(), [&group[..], &[0x48], &publish(0x10, 2, 4), &lasting, &acks, &[0x58]].concat()),
        ("shared-away".into(), [&group[..], &[0x48, 0x58], &[0x40, 0x18, 0x4a, 0x4a]].concat()),
        (
            "shared-refused".into(),
            [&both[..], &(12..16).flat_map(|filter| subscribe(0, filter, 1)).collect::<Vec<_>>(), &subscribe(0, 8, 5)]
                .concat(),
        ),
        ("old".into(), [&[0x40, 0x81, 0x50, 0xc3][..], &subscribe(0, 1, 1), &publish(0x10, 0x11, 1), &acks].concat()),
    ]
}

/// Each action of a schedule sends what it sends in two pieces.
fn in_pieces(schedule: &[u8]) -> Vec<u8> {
    schedule.iter().map(|byte| if byte & 0xe0 == 0x40 { byte | 0x20 } else { *byte }).collect()
}

fn proxy_headers() -> Vec<(String, Vec<u8>)> {
    let client = |address: &str| address.parse().map(proxy_header::of_client).unwrap_or_default();
    let mut extended = proxy_header::of(0x21, 0x11, &[[7; 12].as_slice(), &[4, 0, 1, 0]].concat());
    extended.extend(b"MQTT");
    vec![
        ("v4".into(), client("192.0.2.7:40001")),
        ("v6".into(), client("[2001:db8::7]:40002")),
        ("local".into(), proxy_header::of(0x20, 0, &[])),
        ("unknown".into(), proxy_header::of(0x21, 0, &[1, 2, 3])),
        ("extended".into(), extended),
    ]
}

fn frames() -> Vec<(String, Vec<u8>)> {
    let frame = |kind, body: &[u8]| FuzzedFrame {
        lsn: Lsn(7),
        time_us: 1_700_000_000_000_000,
        group: Lsn(5),
        kind,
        weak: false,
        body: body.to_vec(),
    };
    let input = |repair: u8, frame: &FuzzedFrame| {
        let mut out = 9u32.to_le_bytes().to_vec();
        out.push(repair);
        out.extend(encode_frame(frame, 9));
        out
    };
    vec![
        ("record".into(), input(0, &frame(1, b"a record"))),
        ("record-repaired".into(), input(1, &frame(1, b"a record"))),
        ("empty".into(), input(1, &frame(127, b""))),
        ("gap".into(), input(1, &frame(128, &12u64.to_le_bytes()))),
        ("zeros".into(), vec![0; 64]),
    ]
}

fn segments() -> Vec<(String, Vec<u8>)> {
    let logs: [(&str, &[usize], bool); 4] =
        [("one", &[3], false), ("one-closed", &[3], true), ("two", &[2, 3], false), ("two-closed", &[2, 2], true)];
    let mut out = Vec::new();
    for (name, runs, close) in logs {
        let segments = written(runs, close);
        let first = segments.first().map_or(0, Vec::len) as u16;
        for (flags, how) in [(0, ""), (1, "-repaired"), (1 | 2, "-weak"), (1 | 8, "-padded"), (1 | 4, "-named")] {
            let mut input = vec![flags];
            input.extend(first.to_le_bytes());
            input.extend(segments.concat());
            out.push((format!("{name}{how}"), input));
        }
    }
    out
}

fn trim_intents() -> Vec<(String, Vec<u8>)> {
    let intent = |floor: u64| {
        let mut out = vec![1];
        out.extend(b"FBAYTRIM");
        out.extend(floor.to_le_bytes());
        out.extend([0; 4]);
        out
    };
    [0, 1, 4, 7, 10, 13].into_iter().map(|floor| (format!("floor-{floor}"), intent(floor))).collect()
}

/// A file without rows, and one with a row of each kind whose first field is a name.
fn checkpoints() -> Vec<(String, Vec<u8>)> {
    let file = |rows: &[(&[u8], &[u8])]| {
        let mut out = vec![3];
        out.extend(b"FBYCKPT\0");
        out.extend(1u32.to_le_bytes());
        out.extend([0; 16]);
        out.extend(9u64.to_le_bytes());
        out.extend((rows.len() as u64).to_le_bytes());
        for (key, value) in rows {
            out.extend((key.len() as u32).to_le_bytes());
            out.extend((value.len() as u32).to_le_bytes());
            out.extend(*key);
            out.extend(*value);
        }
        out.extend([0; 4]);
        out
    };
    let sink: (&[u8], &[u8]) = (b"K\x04sink", &[9, 0, 0, 0, 0, 0, 0, 0]);
    vec![("empty".into(), file(&[])), ("row".into(), file(&[sink]))]
}

/// Records from which an index is made, few and enough for lists in chunks of their own; and the index itself.
fn indexes() -> Vec<(String, Vec<u8>)> {
    let few: Vec<u8> = (0..12u8).flat_map(|i| [i % 3, 0, i * 20, i]).collect();
    let many: Vec<u8> = (0..400u16).flat_map(|i| [0, 0, u8::from(i % 7 == 0) * 150, 5]).collect();
    let mut out = Vec::new();
    for (name, data) in [("few", few), ("many", many)] {
        let records = derived::records(&data);
        let next = records.last().map_or(0, |last| last.1 + 1);
        let index = index_of(derived::LOG_ID, 100, next, &records);
        out.push((name.to_owned(), [&[0][..], &data].concat()));
        out.push((format!("{name}-bytes"), [&[1][..], &index].concat()));
        out.push((format!("{name}-repaired"), [&[3][..], &index].concat()));
    }
    out
}

fn residues() -> Vec<(String, Vec<u8>)> {
    let record = |lsn: u64, topic: &str| {
        let event = Event::Published(Published {
            message: Message { topic: topic.into(), ..message() },
            packet_id: None,
            epoch: 0,
        });
        let mut body = Vec::new();
        event.encode(&mut body);
        Record { lsn: Lsn(lsn), time_us: 1_700_000_000_000_000 + lsn, kind: event.kind(), body: body.into() }
    };
    let records: Vec<Record> = [(7, "a"), (9, "a/b"), (12, "c"), (20, "a/b")].map(|(lsn, t)| record(lsn, t)).to_vec();
    let file = |records: &[Record]| residue_of(derived::LOG_ID, 5, 30, records).unwrap_or_default();
    let input = |flags: u8, records: &[Record]| [&[flags][..], &file(records)].concat();
    vec![
        ("empty".into(), input(0, &[])),
        ("four".into(), input(0, &records)),
        ("four-repaired".into(), input(1, &records)),
    ]
}

fn message() -> Message {
    let mut message = Message {
        topic: "orders/7".into(),
        payload: Bytes::from_static(b"a book"),
        qos: QoS::AtLeastOnce,
        publisher: "shop".into(),
        ..Message::default()
    };
    message.properties.expiry_s = Some(60);
    message.properties.content_type = Some("text/plain".into());
    message.properties.user.push(("trace".into(), "1".into()));
    message
}

fn events() -> Vec<(String, Vec<u8>)> {
    let client = ByteString::from_static("sensor");
    let opened = SessionOpened {
        client: client.clone(),
        epoch: 3,
        resumed: true,
        expiry_s: 3600,
        will: Some(Will { message: message(), delay_s: 5 }),
        username: "u".into(),
        peer: "::1".into(),
    };
    let subscribed = Subscribed {
        client: client.clone(),
        epoch: 3,
        filter: "orders/#".into(),
        options: SubscriptionOptions::of_qos(QoS::ExactlyOnce),
        by_proxy: false,
    };
    let events = [
        ("session-opened", Event::SessionOpened(opened)),
        ("subscribed", Event::Subscribed(subscribed)),
        ("published", Event::Published(Published { message: message(), packet_id: Some(9), epoch: 3 })),
    ];
    let encoded = |(name, event): (&str, Event)| {
        let mut input = vec![event.kind()];
        event.encode(&mut input);
        (name.to_owned(), input)
    };
    events.into_iter().map(encoded).collect()
}

fn packets() -> Vec<(String, Vec<u8>)> {
    let connect = b"\x10\x12\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x05shop1";
    let mut out = vec![
        ("connect-5".into(), [&[0][..], connect].concat()),
        ("connect-311".into(), b"\x00\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05shop1".to_vec()),
        ("connect-31".into(), b"\x00\x10\x13\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x05shop1".to_vec()),
    ];
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "orders/7".into(),
        packet_id: 9,
        payload: Bytes::from_static(b"a book"),
        topic_alias: Some(1),
        subscription_ids: vec![7],
        properties: message().properties,
    };
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut bytes = BytesMut::new();
        for packet in [Packet::Publish(publish.clone()), Packet::PingReq] {
            // Nothing here is too long to be written.
            let _ = encode(&packet, version, &mut bytes);
        }
        out.push((format!("publish-{}", version as u8), [&[version as u8][..], &bytes].concat()));
    }
    out
}
