//! Packets to bytes.

use bytes::{BufMut, BytesMut};

use super::packet::{Ack, ConnAck, Connect, Disconnect, Packet, PacketKind, Publish, SubAck, Subscribe, Unsubscribe};
use super::{VARINT_MAX, Version, property};

/// Why a packet can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string or binary field is longer than MQTT's length prefix can say.
    #[error("a field of {0} bytes is longer than 65535")]
    FieldTooLong(usize),
    /// The packet is larger than MQTT allows.
    #[error("packet of {0} bytes is larger than MQTT allows (268435455)")]
    PacketTooLarge(usize),
}

/// Appends a packet to `out` in the byte form of `version`.
///
/// # Errors
/// A field or the packet is longer than MQTT can express; `out` is then as it was.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    let before = out.len();
    let result = write(packet, version, out);
    if result.is_err() {
        out.truncate(before);
    }
    result
}

/// Appends the first of `packets` that is not larger than `max_bytes`; false where none is.
pub(crate) fn encode_fitting(packets: &[Packet], version: Version, max_bytes: usize, out: &mut BytesMut) -> bool {
    let before = out.len();
    packets.iter().any(|packet| {
        let fits = encode(packet, version, out).is_ok() && out.len() - before <= max_bytes;
        if !fits {
            out.truncate(before);
        }
        fits
    })
}

fn write(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    match packet {
        Packet::Connect(connect) => framed(out, PacketKind::Connect, 0, |out| put_connect(out, connect)),
        Packet::ConnAck(ack) => framed(out, PacketKind::ConnAck, 0, |out| put_connack(out, ack, version)),
        Packet::Publish(publish) => put_publish(out, publish, version),
        Packet::PubAck(ack) => put_ack(out, PacketKind::PubAck, 0, ack, version),
        Packet::PubRec(ack) => put_ack(out, PacketKind::PubRec, 0, ack, version),
        Packet::PubRel(ack) => put_ack(out, PacketKind::PubRel, 2, ack, version),
        Packet::PubComp(ack) => put_ack(out, PacketKind::PubComp, 0, ack, version),
        Packet::Subscribe(s) => framed(out, PacketKind::Subscribe, 2, |out| put_subscribe(out, s, version)),
        Packet::SubAck(ack) => framed(out, PacketKind::SubAck, 0, |out| put_suback(out, ack, version)),
        Packet::Unsubscribe(u) => framed(out, PacketKind::Unsubscribe, 2, |out| put_unsubscribe(out, u, version)),
        Packet::UnsubAck(ack) => framed(out, PacketKind::UnsubAck, 0, |out| {
            if version.is_v5() {
                return put_suback(out, ack, version);
            }
            out.put_u16(ack.packet_id);
            Ok(())
        }),
        Packet::PingReq => empty(out, PacketKind::PingReq),
        Packet::PingResp => empty(out, PacketKind::PingResp),
        Packet::Disconnect(_) if !version.is_v5() => empty(out, PacketKind::Disconnect),
        Packet::Disconnect(d) => framed(out, PacketKind::Disconnect, 0, |out| put_disconnect(out, d)),
        Packet::Auth(d) => framed(out, PacketKind::Auth, 0, |out| put_disconnect(out, d)),
    }
}

fn empty(out: &mut BytesMut, kind: PacketKind) -> Result<(), EncodeError> {
    out.put_u8((kind as u8) << 4);
    out.put_u8(0);
    Ok(())
}

fn framed(
    out: &mut BytesMut,
    kind: PacketKind,
    flags: u8,
    body: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    out.put_u8((kind as u8) << 4 | flags);
    with_length(out, 0, body)
}

/// Writes a length and then what `body` writes. `guess` is the expected length: a good guess saves moving the bytes.
pub(super) fn with_length(
    out: &mut BytesMut,
    guess: usize,
    body: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    let reserved = varint_len(guess);
    out.put_bytes(0, reserved);
    body(out)?;
    let len = out.len() - start - reserved;
    let value = u32::try_from(len).ok().filter(|n| *n <= VARINT_MAX).ok_or(EncodeError::PacketTooLarge(len))?;
    let needed = varint_len(len);
    if needed != reserved {
        let body_at = start + reserved;
        if needed > reserved {
            out.put_bytes(0, needed - reserved);
        }
        out.copy_within(body_at..body_at + len, start + needed);
        out.truncate(start + needed + len);
    }
    let mut rest = value;
    for slot in out.iter_mut().skip(start).take(needed) {
        *slot = (rest & 0x7f) as u8 | if rest > 0x7f { 0x80 } else { 0 };
        rest >>= 7;
    }
    Ok(())
}

const fn varint_len(n: usize) -> usize {
    match n {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

pub(super) fn put_varint(out: &mut BytesMut, mut n: u32) {
    while n > 0x7f {
        out.put_u8((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

pub(super) fn put_binary(out: &mut BytesMut, bytes: &[u8]) -> Result<(), EncodeError> {
    let len = u16::try_from(bytes.len()).map_err(|_| EncodeError::FieldTooLong(bytes.len()))?;
    out.put_u16(len);
    out.put_slice(bytes);
    Ok(())
}

pub(super) fn put_string(out: &mut BytesMut, text: &str) -> Result<(), EncodeError> {
    put_binary(out, text.as_bytes())
}

fn put_connect(out: &mut BytesMut, c: &Connect) -> Result<(), EncodeError> {
    put_string(out, if c.version == Version::V31 { "MQIsdp" } else { "MQTT" })?;
    out.put_u8(c.version as u8);
    let will_flags = c.will.as_ref().map_or(0, |w| 0x04 | w.qos.as_u8() << 3 | u8::from(w.retain) << 5);
    out.put_u8(
        u8::from(c.clean_start) << 1
            | will_flags
            | u8::from(c.password.is_some()) << 6
            | u8::from(c.username.is_some()) << 7,
    );
    out.put_u16(c.keep_alive_s);
    if c.version.is_v5() {
        property::write_connect(out, &c.properties)?;
    }
    put_string(out, &c.client_id)?;
    if let Some(will) = &c.will {
        if c.version.is_v5() {
            property::write_will(out, &will.properties, will.delay_s)?;
        }
        put_string(out, &will.topic)?;
        put_binary(out, &will.payload)?;
    }
    if let Some(username) = &c.username {
        put_string(out, username)?;
    }
    if let Some(password) = &c.password {
        put_binary(out, password)?;
    }
    Ok(())
}

fn put_connack(out: &mut BytesMut, ack: &ConnAck, version: Version) -> Result<(), EncodeError> {
    out.put_u8(u8::from(ack.session_present));
    out.put_u8(ack.code);
    if version.is_v5() { property::write_connack(out, &ack.properties) } else { Ok(()) }
}

fn put_publish(out: &mut BytesMut, p: &Publish, version: Version) -> Result<(), EncodeError> {
    let flags = u8::from(p.dup) << 3 | p.qos.as_u8() << 1 | u8::from(p.retain);
    out.put_u8((PacketKind::Publish as u8) << 4 | flags);
    let guess = p.topic.len() + p.payload.len() + 5;
    out.reserve(guess + 5);
    with_length(out, guess, |out| {
        put_string(out, &p.topic)?;
        if p.qos.as_u8() > 0 {
            out.put_u16(p.packet_id);
        }
        if version.is_v5() {
            property::write_publish(out, &p.properties, p.topic_alias, &p.subscription_ids)?;
        }
        out.put_slice(&p.payload);
        Ok(())
    })
}

fn put_ack(out: &mut BytesMut, kind: PacketKind, flags: u8, ack: &Ack, version: Version) -> Result<(), EncodeError> {
    let properties = ack.properties.as_deref().filter(|_| version.is_v5());
    if properties.is_none() && (ack.reason == 0 || !version.is_v5()) {
        out.put_u8((kind as u8) << 4 | flags);
        out.put_u8(2);
        out.put_u16(ack.packet_id);
        return Ok(());
    }
    framed(out, kind, flags, |out| {
        out.put_u16(ack.packet_id);
        out.put_u8(ack.reason);
        properties.map_or(Ok(()), |p| property::write_ack(out, p))
    })
}

fn put_subscribe(out: &mut BytesMut, s: &Subscribe, version: Version) -> Result<(), EncodeError> {
    out.put_u16(s.packet_id);
    if version.is_v5() {
        let identifier = s.filters.first().map_or(0, |f| f.options.identifier);
        property::write_subscribe(out, identifier, &s.user)?;
    }
    for requested in &s.filters {
        put_string(out, &requested.filter)?;
        let o = requested.options;
        out.put_u8(if version.is_v5() {
            o.qos.as_u8()
                | u8::from(o.no_local) << 2
                | u8::from(o.retain_as_published) << 3
                | (o.retain_handling & 3) << 4
        } else {
            o.qos.as_u8()
        });
    }
    Ok(())
}

fn put_suback(out: &mut BytesMut, ack: &SubAck, version: Version) -> Result<(), EncodeError> {
    out.put_u16(ack.packet_id);
    if version.is_v5() {
        property::write_ack(out, &ack.properties)?;
    }
    out.put_slice(&ack.codes);
    Ok(())
}

fn put_unsubscribe(out: &mut BytesMut, u: &Unsubscribe, version: Version) -> Result<(), EncodeError> {
    out.put_u16(u.packet_id);
    if version.is_v5() {
        property::write_subscribe(out, 0, &u.user)?;
    }
    u.filters.iter().try_for_each(|filter| put_string(out, filter))
}

fn put_disconnect(out: &mut BytesMut, d: &Disconnect) -> Result<(), EncodeError> {
    let plain = d.properties == Default::default();
    if plain && d.reason == 0 {
        return Ok(());
    }
    out.put_u8(d.reason);
    if plain { Ok(()) } else { property::write_disconnect(out, &d.properties) }
}
