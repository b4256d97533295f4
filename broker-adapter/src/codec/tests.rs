//! Round trips, arbitrary bytes, byte-at-a-time, and the refusals the standard asks for.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use forebay_engine::QoS;
use forebay_engine::event::{Properties, SubscriptionOptions};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = ByteString> {
    "[a-zé/+# ]{0,12}".prop_map(ByteString::from)
}
fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}
fn user() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..3)
}
fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}
fn message_properties() -> impl Strategy<Value = Properties> {
    (option::of(0u8..2), option::of(any::<u32>()), option::of(text()), option::of(text()), option::of(bytes()), user())
        .prop_map(|(payload_format, expiry_s, content_type, response_topic, correlation_data, user)| Properties {
            payload_format,
            expiry_s,
            content_type,
            response_topic,
            correlation_data,
            user,
        })
}
fn publish() -> impl Strategy<Value = Packet> {
    let ids = vec(1u32..VARINT_MAX, 0..3);
    let payload = prop_oneof![bytes(), vec(any::<u8>(), 100..20_000).prop_map(Bytes::from)];
    (any::<bool>(), qos(), any::<bool>(), text(), 1u16.., payload, option::of(1u16..), ids, message_properties())
        .prop_map(|(dup, qos, retain, topic, id, payload, topic_alias, subscription_ids, properties)| {
            let qos0 = qos == QoS::AtMostOnce;
            Packet::Publish(Publish {
                dup: dup && !qos0,
                qos,
                retain,
                topic,
                packet_id: if qos0 { 0 } else { id },
                payload,
                topic_alias,
                subscription_ids,
                properties,
            })
        })
}
fn connect() -> impl Strategy<Value = Packet> {
    let will = (text(), bytes(), qos(), any::<bool>(), any::<u32>(), message_properties()).prop_map(
        |(topic, payload, qos, retain, delay_s, properties)| ConnectWill {
            topic,
            payload,
            qos,
            retain,
            delay_s,
            properties,
        },
    );
    let properties = (
        option::of(any::<u32>()),
        option::of(1u16..),
        option::of(1u32..),
        option::of(any::<u16>()),
        option::of(any::<bool>()),
        option::of((text(), bytes())),
        user(),
    )
        .prop_map(|(expiry, receive, size, alias, problem, auth, user)| ConnectProperties {
            session_expiry_s: expiry,
            receive_maximum: receive,
            maximum_packet_size: size,
            topic_alias_maximum: alias,
            request_response_information: problem,
            request_problem_information: problem,
            authentication_method: auth.as_ref().map(|a| a.0.clone()),
            authentication_data: auth.map(|a| a.1),
            user,
        });
    (text(), any::<bool>(), any::<u16>(), option::of(will), option::of(text()), option::of(bytes()), properties)
        .prop_map(|(client_id, clean_start, keep_alive_s, will, username, password, properties)| {
            Packet::Connect(Box::new(Connect {
                version: Version::V5,
                client_id,
                clean_start,
                keep_alive_s,
                will,
                username,
                password,
                properties,
            }))
        })
}
fn acks() -> impl Strategy<Value = Packet> {
    let properties = (option::of(text()), user())
        .prop_map(|(reason_string, user)| AckProperties { reason_string, user })
        .prop_map(|p| (p != AckProperties::default()).then(|| Box::new(p)));
    (1u16.., any::<u8>(), properties, 0..6u8).prop_map(|(packet_id, reason, properties, which)| {
        let plain = properties.clone().map(|p| *p).unwrap_or_default();
        let ack = Ack { packet_id, reason, properties };
        match which {
            0 => Packet::PubAck(ack),
            1 => Packet::PubRec(ack),
            2 => Packet::PubRel(ack),
            3 => Packet::PubComp(ack),
            4 => Packet::SubAck(SubAck { packet_id, codes: vec![reason], properties: plain }),
            _ => Packet::UnsubAck(SubAck { packet_id, codes: vec![reason, 0], properties: plain }),
        }
    })
}
fn others() -> impl Strategy<Value = Packet> {
    let filter = (text(), qos(), any::<bool>(), any::<bool>(), 0u8..3).prop_map(|(filter, qos, no_local, rap, rh)| {
        let options =
            SubscriptionOptions { qos, no_local, retain_as_published: rap, retain_handling: rh, identifier: 0 };
        RequestedFilter { filter, options }
    });
    let subscribe = (1u16.., vec(filter, 1..4), user(), 0u32..300).prop_map(|(packet_id, mut filters, user, id)| {
        filters.iter_mut().for_each(|f| f.options.identifier = id);
        Packet::Subscribe(Subscribe { packet_id, filters, user })
    });
    let unsubscribe = (1u16.., vec(text(), 1..4), user())
        .prop_map(|(packet_id, filters, user)| Packet::Unsubscribe(Unsubscribe { packet_id, filters, user }));
    let disconnect = (any::<u8>(), option::of(any::<u32>()), option::of(text()), user()).prop_map(
        |(reason, session_expiry_s, reason_string, user)| {
            let properties = DisconnectProperties { session_expiry_s, reason_string, user, ..Default::default() };
            Packet::Disconnect(Disconnect { reason, properties })
        },
    );
    let connack = (any::<bool>(), any::<u8>(), option::of(any::<u32>()), option::of(text()), option::of(any::<bool>()))
        .prop_map(|(session_present, code, session_expiry_s, assigned_client_id, flag)| {
            let properties = ConnAckProperties {
                session_expiry_s,
                assigned_client_id,
                shared_subscription_available: flag,
                retain_available: flag,
                ..Default::default()
            };
            Packet::ConnAck(Box::new(ConnAck { session_present, code, properties }))
        });
    prop_oneof![subscribe, unsubscribe, disconnect, connack, Just(Packet::PingReq), Just(Packet::PingResp)]
}
fn packet() -> impl Strategy<Value = Packet> {
    prop_oneof![publish(), connect(), acks(), others()]
}

/// What MQTT 3.1.1 can carry of a packet.
fn as_v311(packet: Packet) -> Packet {
    match packet {
        Packet::Connect(mut c) => {
            c.version = Version::V311;
            c.properties = ConnectProperties::default();
            if let Some(will) = &mut c.will {
                will.delay_s = 0;
                will.properties = Properties::default();
            }
            c.password = c.password.filter(|_| c.username.is_some());
            Packet::Connect(c)
        }
        Packet::ConnAck(mut a) => {
            a.properties = ConnAckProperties::default();
            Packet::ConnAck(a)
        }
        Packet::Publish(p) => Packet::Publish(Publish {
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: Properties::default(),
            ..p
        }),
        Packet::PubAck(a) => Packet::PubAck(Ack::new(a.packet_id, 0)),
        Packet::PubRec(a) => Packet::PubRec(Ack::new(a.packet_id, 0)),
        Packet::PubRel(a) => Packet::PubRel(Ack::new(a.packet_id, 0)),
        Packet::PubComp(a) => Packet::PubComp(Ack::new(a.packet_id, 0)),
        Packet::SubAck(a) => Packet::SubAck(SubAck { properties: AckProperties::default(), ..a }),
        Packet::UnsubAck(a) => Packet::UnsubAck(SubAck { packet_id: a.packet_id, ..SubAck::default() }),
        Packet::Subscribe(mut s) => {
            s.user.clear();
            s.filters.iter_mut().for_each(|f| f.options = SubscriptionOptions::of_qos(f.options.qos));
            Packet::Subscribe(s)
        }
        Packet::Unsubscribe(u) => Packet::Unsubscribe(Unsubscribe { user: Vec::new(), ..u }),
        Packet::Disconnect(_) => Packet::Disconnect(Disconnect::default()),
        other => other,
    }
}

fn encoded(packet: &Packet, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    out
}

fn decoded(mut input: BytesMut, version: Version) -> Result<Option<Packet>, DecodeError> {
    Decoder::client(version, PACKET_BYTES_MAX).decode(&mut input)
}

proptest! {
    #[test]
    fn mqtt_5_packets_round_trip(packet in packet()) {
        prop_assert_eq!(decoded(encoded(&packet, Version::V5), Version::V5), Ok(Some(packet)));
    }

    #[test]
    fn mqtt_3_packets_round_trip(packet in packet().prop_map(as_v311)) {
        prop_assert_eq!(decoded(encoded(&packet, Version::V311), Version::V311), Ok(Some(packet)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(input in vec(any::<u8>(), 0..200), kind in 1u8..16) {
        for version in [Version::V31, Version::V311, Version::V5] {
            let mut raw = BytesMut::from(input.as_slice());
            let mut decoder = Decoder::client(version, 1 << 20);
            while let Ok(Some(_)) = decoder.decode(&mut raw) {}
            // The same bytes as the body of a packet with a good header, so that the body parsers are reached.
            let mut framed = BytesMut::from([kind << 4 | if matches!(kind, 6 | 8 | 10) { 2 } else { 0 }].as_slice());
            with_body(&mut framed, &input);
            let _ = Decoder::client(version, 1 << 20).decode(&mut framed);
        }
        let _ = Decoder::server(1 << 20).decode(&mut BytesMut::from(input.as_slice()));
    }

    #[test]
    fn one_byte_at_a_time_gives_the_same_as_at_once(packets in vec(packet(), 1..4)) {
        let mut all = BytesMut::new();
        for packet in &packets {
            encode(packet, Version::V5, &mut all).unwrap();
        }
        let mut decoder = Decoder::client(Version::V5, PACKET_BYTES_MAX);
        let (mut input, mut seen) = (BytesMut::new(), Vec::new());
        for byte in all {
            input.extend_from_slice(&[byte]);
            while let Some(packet) = decoder.decode(&mut input).unwrap() {
                seen.push(packet);
            }
        }
        prop_assert_eq!(seen, packets);
    }
}

fn with_body(out: &mut BytesMut, body: &[u8]) {
    super::encode::with_length(out, 0, |out| {
        out.extend_from_slice(body);
        Ok(())
    })
    .unwrap();
}

fn error(version: Version, bytes: &[u8]) -> DecodeError {
    decoded(BytesMut::from(bytes), version).unwrap_err()
}

#[test]
fn malformed_packets_are_refused_with_their_reason() {
    use DecodeError as E;
    use Version::{V5, V311};
    for (version, bytes, expected) in [
        (V311, &[0x3a, 3, 0, 1, b'a'][..], E::Truncated),
        (V311, &[0x38, 3, 0, 1, b'a'], E::DupWithQos0),
        (V311, &[0x36, 5, 0, 1, b'a', 0, 1], E::InvalidQoS),
        (V311, &[0x32, 5, 0, 1, b'a', 0, 0], E::PacketIdZero),
        (V311, &[0x30, 3, 0, 1, 0], E::InvalidString),
        (V311, &[0x30, 3, 0, 1, 0xff], E::InvalidString),
        (V311, &[0x60, 2, 0, 1], E::ReservedBits),
        (V311, &[0x80, 6, 0, 1, 0, 1, b'a', 0], E::ReservedBits),
        (V311, &[0x82, 2, 0, 1], E::NoFilters),
        (V311, &[0x82, 6, 0, 1, 0, 1, b'a', 4], E::SubscriptionOptions),
        (V311, &[0x82, 6, 0, 1, 0, 1, b'a', 3], E::InvalidQoS),
        (V311, &[0xc0, 1, 0], E::Trailing),
        (V311, &[0xf0, 0], E::UnknownType(15)),
        (V311, &[0x00, 0], E::UnknownType(0)),
        (V311, &[0x30, 0xff, 0xff, 0xff, 0xff], E::VarintTooLong),
        (V311, &[0x30, 0x80, 0x00], E::VarintTooLong),
        (V5, &[0x30, 6, 0, 1, b'a', 2, 1, 2], E::PropertyValue(1)),
        (V5, &[0x30, 8, 0, 1, b'a', 4, 1, 1, 1, 1], E::DuplicateProperty(1)),
        (V5, &[0x30, 9, 0, 1, b'a', 5, 0x11, 0, 0, 0, 1], E::MisplacedProperty(0x11)),
        (V5, &[0x30, 6, 0, 1, b'a', 2, 0x7e, 0], E::UnknownProperty(0x7e)),
        (V5, &[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 0], E::TopicAliasZero),
        (V5, &[0x82, 11, 0, 1, 4, 0x0b, 1, 0x0b, 2, 0, 1, b'a', 0], E::DuplicateProperty(0x0b)),
        (V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30], E::SubscriptionValue),
        (V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 3], E::SubscriptionValue),
        (V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x40], E::SubscriptionOptions),
    ] {
        assert_eq!(error(version, bytes), expected, "{bytes:02x?}");
    }
}

fn connect_bytes(name: &str, level: u8, flags: u8, tail: &[u8]) -> BytesMut {
    let mut body = vec![0, u8::try_from(name.len()).unwrap()];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&[level, flags, 0, 0]);
    body.extend_from_slice(tail);
    let mut out = BytesMut::from(&[0x10][..]);
    with_body(&mut out, &body);
    out
}

#[test]
fn connect_flags_and_versions_are_checked() {
    let decode = |mut input: BytesMut| Decoder::server(1024).decode(&mut input);
    assert_eq!(decode(connect_bytes("MQTT", 4, 0x01, &[0, 0])), Err(DecodeError::ConnectFlags), "reserved flag");
    assert_eq!(decode(connect_bytes("MQTT", 4, 0x08, &[0, 0])), Err(DecodeError::ConnectFlags), "will QoS, no will");
    assert_eq!(decode(connect_bytes("MQTT", 4, 0x20, &[0, 0])), Err(DecodeError::ConnectFlags), "will retain, no will");
    assert_eq!(decode(connect_bytes("MQTT", 4, 0x1c, &[0, 0])), Err(DecodeError::InvalidQoS), "will QoS 3");
    assert_eq!(decode(connect_bytes("MQTT", 4, 0x40, &[0, 0, 0, 0])), Err(DecodeError::ConnectFlags), "password alone");
    assert!(decode(connect_bytes("MQTT", 5, 0x40, &[0, 0, 0, 0, 0])).is_ok(), "password alone is fine in MQTT 5");
    assert_eq!(decode(connect_bytes("MQTT", 6, 0, &[0, 0])), Err(DecodeError::UnsupportedVersion(6)));
    assert_eq!(decode(connect_bytes("HTTP", 4, 0, &[0, 0])), Err(DecodeError::ProtocolName));
    assert!(matches!(decode(connect_bytes("MQIsdp", 3, 2, &[0, 1, b'a'])), Ok(Some(Packet::Connect(_)))));
    assert_eq!(decode(BytesMut::from(&b"GET / HTTP/1.1"[..])), Err(DecodeError::ConnectExpected));
}

#[test]
fn a_packet_that_is_too_large_is_refused_before_its_body_is_there() {
    let mut decoder = Decoder::client(Version::V5, 100);
    let result = decoder.decode(&mut BytesMut::from(&[0x30, 0xff, 0x7f][..]));
    assert!(matches!(result, Err(DecodeError::TooLarge { max: 100, .. })));
    assert_eq!(result.unwrap_err().reason_code(), reason::PACKET_TOO_LARGE);
}

#[test]
fn a_payload_format_of_0_and_an_expiry_of_0_are_kept() {
    let properties = Properties { payload_format: Some(0), expiry_s: Some(0), ..Properties::default() };
    let packet = Packet::Publish(Publish { topic: "a".into(), properties, ..Publish::default() });
    assert_eq!(decoded(encoded(&packet, Version::V5), Version::V5), Ok(Some(packet)));
}

#[test]
fn a_failed_encode_leaves_the_output_as_it_was() {
    let packet = Packet::Publish(Publish { topic: "a".repeat(70_000).into(), ..Publish::default() });
    let mut out = BytesMut::from(&b"before"[..]);
    assert_eq!(encode(&packet, Version::V5, &mut out), Err(EncodeError::FieldTooLong(70_000)));
    assert_eq!(&out[..], b"before");
}
