//! The few packets of MQTT 3.1.1 that the generator speaks, written and read with as little work as possible: it shares its
//! processors with the server it measures.

use bytes::{Buf, BufMut, BytesMut};

/// Bytes that a payload begins with: time of sending (ns since the run's start), publisher, sequence number.
pub(crate) const STAMP: usize = 8 + 4 + 8;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;

/// What came from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// CONNACK with its return code, or SUBACK with the largest of its own (0x80 is a refusal).
    Answer(u8),
    /// PUBACK of a packet id.
    PubAck(u16),
    /// PUBREC of a packet id.
    PubRec(u16),
    /// PUBREL of a packet id.
    PubRel(u16),
    /// PUBCOMP of a packet id.
    PubComp(u16),
    /// PINGRESP.
    PingResp,
    /// PUBLISH: QoS, packet id (0 where it has QoS 0) and stamp.
    Publish { qos: u8, id: u16, sent_ns: u64, publisher: u32, sequence: u64 },
}

fn put_length(out: &mut BytesMut, mut length: usize) {
    while length >= 0x80 {
        out.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

/// CONNECT of a clean session: keep alive in s (0: none), user name and password.
pub(crate) fn connect_as(out: &mut BytesMut, client: &str, keep_alive_s: u16, user: Option<(&str, &str)>) {
    out.put_u8(CONNECT);
    let credentials = user.map_or(0, |(name, password)| 4 + name.len() + password.len());
    put_length(out, 10 + 2 + client.len() + credentials);
    put_text(out, "MQTT");
    out.put_slice(&[4, if user.is_some() { 0xc2 } else { 0x02 }]);
    out.put_u16(keep_alive_s);
    put_text(out, client);
    if let Some((name, password)) = user {
        put_text(out, name);
        put_text(out, password);
    }
}

/// PINGREQ.
pub(crate) fn ping(out: &mut BytesMut) {
    out.put_slice(&[PINGREQ, 0]);
}

/// SUBSCRIBE to all of these filters.
pub(crate) fn subscribe(out: &mut BytesMut, filters: &[String], qos: u8) {
    out.put_u8(SUBSCRIBE);
    put_length(out, 2 + filters.iter().map(|filter| 2 + filter.len() + 1).sum::<usize>());
    out.put_u16(1);
    for filter in filters {
        put_text(out, filter);
        out.put_u8(qos);
    }
}

/// PUBACK.
pub(crate) fn puback(out: &mut BytesMut, id: u16) {
    put_id(out, PUBACK, id);
}

/// PUBREC.
pub(crate) fn pubrec(out: &mut BytesMut, id: u16) {
    put_id(out, PUBREC, id);
}

/// PUBREL.
pub(crate) fn pubrel(out: &mut BytesMut, id: u16) {
    put_id(out, PUBREL, id);
}

/// PUBCOMP.
pub(crate) fn pubcomp(out: &mut BytesMut, id: u16) {
    put_id(out, PUBCOMP, id);
}

fn put_id(out: &mut BytesMut, kind: u8, id: u16) {
    out.put_slice(&[kind, 2, (id >> 8) as u8, id as u8]);
}

/// PUBLISH with QoS 1 and a payload of `size` bytes (at least [`STAMP`]).
pub(crate) fn publish(out: &mut BytesMut, topic: &str, id: u16, stamp: (u64, u32, u64), size: usize) {
    publish_as(out, topic, 1, id, stamp, size);
}

/// PUBLISH with any QoS; with QoS 0 the packet id is not sent.
pub(crate) fn publish_as(out: &mut BytesMut, topic: &str, qos: u8, id: u16, stamp: (u64, u32, u64), size: usize) {
    let size = size.max(STAMP);
    out.put_u8(PUBLISH | qos << 1);
    put_length(out, 2 + topic.len() + usize::from(qos > 0) * 2 + size);
    put_text(out, topic);
    if qos > 0 {
        out.put_u16(id);
    }
    out.put_u64(stamp.0);
    out.put_u32(stamp.1);
    out.put_u64(stamp.2);
    out.put_bytes(b'x', size - STAMP);
}

/// Takes the next whole packet out of the buffer; `None` where more bytes are needed, an error where it is none of those expected.
pub(crate) fn take(input: &mut BytesMut) -> anyhow::Result<Option<Packet>> {
    let Some(&kind) = input.first() else { return Ok(None) };
    let (mut length, mut header) = (0usize, 1usize);
    loop {
        let Some(&byte) = input.get(header) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
        anyhow::ensure!(header <= 4, "the server sent a remaining length of more than four bytes");
    }
    if input.len() < header + length {
        return Ok(None);
    }
    let rest = input.len() - header - length;
    input.advance(header);
    let packet = match kind {
        CONNACK if length == 2 => {
            input.advance(1);
            Packet::Answer(input.get_u8())
        }
        SUBACK if length >= 3 => {
            let codes = input.get(2..length).unwrap_or_default();
            Packet::Answer(codes.iter().copied().max().unwrap_or_default())
        }
        PUBACK if length == 2 => Packet::PubAck(input.get_u16()),
        PUBREC if length == 2 => Packet::PubRec(input.get_u16()),
        PUBREL if length == 2 => Packet::PubRel(input.get_u16()),
        PUBCOMP if length == 2 => Packet::PubComp(input.get_u16()),
        PINGRESP if length == 0 => Packet::PingResp,
        0x30..=0x3f => {
            anyhow::ensure!(length >= 2, "the server sent a PUBLISH without a topic");
            let topic = usize::from(input.get_u16());
            let qos = (kind & 0x06) >> 1;
            let with_id = usize::from(qos > 0) * 2;
            anyhow::ensure!(length >= 2 + topic + with_id + STAMP, "the server sent a PUBLISH that is not of this run");
            input.advance(topic);
            let id = if with_id > 0 { input.get_u16() } else { 0 };
            Packet::Publish { qos, id, sent_ns: input.get_u64(), publisher: input.get_u32(), sequence: input.get_u64() }
        }
        other => anyhow::bail!("the server sent a packet of type {other:#04x}, which nothing here asked for"),
    };
    input.advance(input.len() - rest);
    Ok(Some(packet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_taken_whole_and_in_order() -> anyhow::Result<()> {
        let mut bytes = BytesMut::new();
        publish(&mut bytes, "bench/1", 513, (7, 1, 42), 300);
        puback(&mut bytes, 9);
        publish_as(&mut bytes, "bench/1", 0, 9, (7, 1, 43), 0);
        pubrel(&mut bytes, 10);
        bytes.put_slice(&[SUBACK, 5, 0, 1, 0, 0x80, 1]);
        let tail = bytes.split_off(200);
        assert_eq!(take(&mut bytes)?, None, "half a packet");
        bytes.unsplit(tail);
        assert_eq!(
            take(&mut bytes)?,
            Some(Packet::Publish { qos: 1, id: 513, sent_ns: 7, publisher: 1, sequence: 42 })
        );
        assert_eq!(take(&mut bytes)?, Some(Packet::PubAck(9)));
        assert_eq!(take(&mut bytes)?, Some(Packet::Publish { qos: 0, id: 0, sent_ns: 7, publisher: 1, sequence: 43 }));
        assert_eq!(take(&mut bytes)?, Some(Packet::PubRel(10)));
        assert_eq!(take(&mut bytes)?, Some(Packet::Answer(0x80)), "one of three filters was refused");
        assert_eq!(take(&mut bytes)?, None);
        Ok(())
    }
}
