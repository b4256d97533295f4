//! Bytes to packets.

use bytes::{Buf, Bytes, BytesMut};
use forebay_engine::QoS;
use forebay_engine::event::SubscriptionOptions;

use super::error::DecodeError;
use super::packet::{
    Ack, ConnAck, Connect, ConnectWill, Disconnect, Packet, Publish, RequestedFilter, SubAck, Subscribe, Unsubscribe,
    Version,
};
use super::property::{self, PublishExtras};
use super::reader::Reader;

/// Cuts packets out of a stream of bytes. A server's starts without a version and takes it from CONNECT.
#[derive(Clone, Debug)]
pub struct Decoder {
    version: Option<Version>,
    /// What the first packet said of its version, before the rest of it was looked at.
    asked: Option<Version>,
    max_packet_bytes: usize,
}

impl Decoder {
    /// For a server: the first packet must be CONNECT and tells the version.
    #[must_use]
    pub const fn server(max_packet_bytes: usize) -> Decoder {
        Decoder { version: None, asked: None, max_packet_bytes }
    }

    /// For a client that has asked for `version`.
    #[must_use]
    pub const fn client(version: Version, max_packet_bytes: usize) -> Decoder {
        Decoder { version: Some(version), asked: None, max_packet_bytes }
    }

    /// The connection's version, once known.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// The version that a CONNECT asked for, also where the rest of it was refused: how its sender can be answered.
    #[must_use]
    pub const fn version_asked(&self) -> Option<Version> {
        self.asked
    }

    /// Takes the first packet off `input`; `None` while it is not complete.
    ///
    /// # Errors
    /// The bytes are no packet. The connection can't go on: where the next packet begins is not known.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some((first, header_len, body_len)) = self.header(input)? else { return Ok(None) };
        let total = header_len + body_len;
        if input.len() < total {
            input.reserve(total - input.len());
            return Ok(None);
        }
        let mut frame = input.split_to(total).freeze();
        frame.advance(header_len);
        self.body(first, frame).map(Some)
    }

    /// The fixed header, checked before the body is there: (first byte, header length, body length).
    fn header(&self, input: &[u8]) -> Result<Option<(u8, usize, usize)>, DecodeError> {
        let Some((&first, rest)) = input.split_first() else { return Ok(None) };
        if self.version.is_none() && first >> 4 != 1 {
            return Err(DecodeError::ConnectExpected);
        }
        let mut len = 0usize;
        for index in 0..4usize {
            let Some(&byte) = rest.get(index) else { return Ok(None) };
            len |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                if byte == 0 && index > 0 {
                    return Err(DecodeError::VarintTooLong);
                }
                let header_len = index + 2;
                let size = header_len + len;
                if size > self.max_packet_bytes {
                    return Err(DecodeError::TooLarge { size, max: self.max_packet_bytes });
                }
                return Ok(Some((first, header_len, len)));
            }
        }
        Err(DecodeError::VarintTooLong)
    }

    fn body(&mut self, first: u8, body: Bytes) -> Result<Packet, DecodeError> {
        let (kind, flags) = (first >> 4, first & 0x0f);
        let Some(version) = self.version else {
            no_flags(flags)?;
            let connect = connect(Reader::new(body), &mut self.asked)?;
            self.version = Some(connect.version);
            return Ok(Packet::Connect(Box::new(connect)));
        };
        let reader = Reader::new(body);
        if kind == 3 {
            return publish(reader, flags, version).map(Packet::Publish);
        }
        check_flags(kind, flags, version)?;
        match kind {
            1 => connect(reader, &mut None).map(|c| Packet::Connect(Box::new(c))),
            2 => connack(reader, version).map(|a| Packet::ConnAck(Box::new(a))),
            4 => ack(reader, version).map(Packet::PubAck),
            5 => ack(reader, version).map(Packet::PubRec),
            6 => ack(reader, version).map(Packet::PubRel),
            7 => ack(reader, version).map(Packet::PubComp),
            8 => subscribe(reader, version).map(Packet::Subscribe),
            9 => suback(reader, version, true).map(Packet::SubAck),
            10 => unsubscribe(reader, version).map(Packet::Unsubscribe),
            11 => suback(reader, version, version.is_v5()).map(Packet::UnsubAck),
            12 => reader.finish().map(|()| Packet::PingReq),
            13 => reader.finish().map(|()| Packet::PingResp),
            14 if version.is_v5() => disconnect(reader, false).map(Packet::Disconnect),
            14 => reader.finish().map(|()| Packet::Disconnect(Disconnect::default())),
            15 if version.is_v5() => disconnect(reader, true).map(Packet::Auth),
            _ => Err(DecodeError::UnknownType(kind)),
        }
    }
}

fn no_flags(flags: u8) -> Result<(), DecodeError> {
    if flags == 0 { Ok(()) } else { Err(DecodeError::ReservedBits) }
}

fn check_flags(kind: u8, flags: u8, version: Version) -> Result<(), DecodeError> {
    match kind {
        // MQTT 3.1 marks a repeated PUBREL, SUBSCRIBE or UNSUBSCRIBE with DUP.
        6 | 8 | 10 if version == Version::V31 && flags & 0x07 == 2 => Ok(()),
        6 | 8 | 10 if flags == 2 => Ok(()),
        6 | 8 | 10 => Err(DecodeError::ReservedBits),
        _ => no_flags(flags),
    }
}

fn connect(mut r: Reader, asked: &mut Option<Version>) -> Result<Connect, DecodeError> {
    let name = r.string()?;
    let level = r.u8()?;
    let version = match (&*name, level) {
        ("MQIsdp", 3) => Version::V31,
        ("MQTT", 4) => Version::V311,
        ("MQTT", 5) => Version::V5,
        ("MQTT" | "MQIsdp", level) => return Err(DecodeError::UnsupportedVersion(level)),
        _ => return Err(DecodeError::ProtocolName),
    };
    *asked = Some(version);
    let flags = r.u8()?;
    let (has_will, has_username, has_password) = (flags & 0x04 != 0, flags & 0x80 != 0, flags & 0x40 != 0);
    let will_qos = QoS::from_u8(flags >> 3 & 3).ok_or(DecodeError::InvalidQoS)?;
    let stray_will = !has_will && flags & 0x38 != 0;
    if flags & 1 != 0 || stray_will || has_password && !has_username && !version.is_v5() {
        return Err(DecodeError::ConnectFlags);
    }
    let keep_alive_s = r.u16()?;
    let properties = if version.is_v5() { property::read_connect(&mut r)? } else { Default::default() };
    let client_id = r.string()?;
    let will = if has_will {
        let (properties, delay_s) = if version.is_v5() { property::read_will(&mut r)? } else { Default::default() };
        let (topic, payload) = (r.string()?, r.binary()?);
        Some(ConnectWill { topic, payload, qos: will_qos, retain: flags & 0x20 != 0, delay_s, properties })
    } else {
        None
    };
    let username = if has_username { Some(r.string()?) } else { None };
    let password = if has_password { Some(r.binary()?) } else { None };
    r.finish()?;
    Ok(Connect { version, client_id, clean_start: flags & 2 != 0, keep_alive_s, will, username, password, properties })
}

fn connack(mut r: Reader, version: Version) -> Result<ConnAck, DecodeError> {
    let flags = r.u8()?;
    if flags > 1 {
        return Err(DecodeError::ReservedBits);
    }
    let code = r.u8()?;
    let properties = if version.is_v5() { property::read_connack(&mut r)? } else { Default::default() };
    r.finish()?;
    Ok(ConnAck { session_present: flags == 1, code, properties })
}

fn publish(mut r: Reader, flags: u8, version: Version) -> Result<Publish, DecodeError> {
    let qos = QoS::from_u8(flags >> 1 & 3).ok_or(DecodeError::InvalidQoS)?;
    let dup = flags & 8 != 0;
    if dup && qos == QoS::AtMostOnce {
        return Err(DecodeError::DupWithQos0);
    }
    let topic = r.string()?;
    let packet_id = if qos == QoS::AtMostOnce { 0 } else { r.packet_id()? };
    let mut extras = PublishExtras::default();
    let properties = if version.is_v5() { property::read_publish(&mut r, &mut extras)? } else { Default::default() };
    Ok(Publish {
        dup,
        qos,
        retain: flags & 1 != 0,
        topic,
        packet_id,
        payload: r.rest(),
        topic_alias: extras.topic_alias,
        subscription_ids: extras.subscription_ids,
        properties,
    })
}

fn ack(mut r: Reader, version: Version) -> Result<Ack, DecodeError> {
    let mut ack = Ack::new(r.packet_id()?, 0);
    if version.is_v5() && !r.is_empty() {
        ack.reason = r.u8()?;
        if !r.is_empty() {
            let properties = property::read_ack(&mut r)?;
            ack.properties = (properties != Default::default()).then(|| Box::new(properties));
        }
    }
    r.finish()?;
    Ok(ack)
}

fn subscribe(mut r: Reader, version: Version) -> Result<Subscribe, DecodeError> {
    let packet_id = r.packet_id()?;
    let mut identifier = 0;
    let user = if version.is_v5() { property::read_subscribe(&mut r, Some(&mut identifier))? } else { Vec::new() };
    let mut filters = Vec::new();
    while !r.is_empty() {
        let filter = r.string()?;
        let byte = r.u8()?;
        let three = if version.is_v5() { DecodeError::SubscriptionValue } else { DecodeError::InvalidQoS };
        let qos = QoS::from_u8(byte & 3).ok_or(three)?;
        let mut options = SubscriptionOptions { identifier, ..SubscriptionOptions::of_qos(qos) };
        if version.is_v5() {
            options.no_local = byte & 4 != 0;
            options.retain_as_published = byte & 8 != 0;
            options.retain_handling = byte >> 4 & 3;
            if byte & 0xc0 != 0 {
                return Err(DecodeError::SubscriptionOptions);
            }
            if options.retain_handling == 3 {
                return Err(DecodeError::SubscriptionValue);
            }
        } else if byte & 0xfc != 0 {
            return Err(DecodeError::SubscriptionOptions);
        }
        filters.push(RequestedFilter { filter, options });
    }
    if filters.is_empty() { Err(DecodeError::NoFilters) } else { Ok(Subscribe { packet_id, filters, user }) }
}

fn suback(mut r: Reader, version: Version, with_codes: bool) -> Result<SubAck, DecodeError> {
    let packet_id = r.packet_id()?;
    let properties = if version.is_v5() { property::read_ack(&mut r)? } else { Default::default() };
    if !with_codes {
        r.finish()?;
        return Ok(SubAck { packet_id, codes: Vec::new(), properties });
    }
    let codes = r.rest().to_vec();
    if codes.is_empty() { Err(DecodeError::NoFilters) } else { Ok(SubAck { packet_id, codes, properties }) }
}

fn unsubscribe(mut r: Reader, version: Version) -> Result<Unsubscribe, DecodeError> {
    let packet_id = r.packet_id()?;
    let user = if version.is_v5() { property::read_subscribe(&mut r, None)? } else { Vec::new() };
    let mut filters = Vec::new();
    while !r.is_empty() {
        filters.push(r.string()?);
    }
    if filters.is_empty() { Err(DecodeError::NoFilters) } else { Ok(Unsubscribe { packet_id, filters, user }) }
}

fn disconnect(mut r: Reader, auth: bool) -> Result<Disconnect, DecodeError> {
    let mut disconnect = Disconnect::default();
    if !r.is_empty() {
        disconnect.reason = r.u8()?;
        if !r.is_empty() {
            disconnect.properties = property::read_disconnect(&mut r, auth)?;
        }
    }
    r.finish()?;
    Ok(disconnect)
}
