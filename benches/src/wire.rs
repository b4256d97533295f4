//! The few packets of MQTT 3.1.1 that the generator speaks, written and read with as little work as possible: it shares its
//! processors with the server it measures.

use bytes::{Buf, BufMut, BytesMut};

/// Bytes that a payload begins with: time of sending (ns since the run's start), publisher, sequence number.
pub(crate) const STAMP: usize = 8 + 4 + 8;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_QOS_1: u8 = 0x32;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;

/// What came from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// CONNACK or SUBACK with its (last) return code.
    Answer(u8),
    /// PUBACK of a packet id.
    PubAck(u16),
    /// PINGRESP.
    PingResp,
    /// PUBLISH: packet id (0 where it has QoS 0) and stamp.
    Publish { id: u16, sent_ns: u64, publisher: u32, sequence: u64 },
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

/// CONNECT of a clean session without keep alive.
pub(crate) fn connect(out: &mut BytesMut, client: &str) {
    connect_as(out, client, 0, None);
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

/// SUBSCRIBE with QoS 1.
pub(crate) fn subscribe(out: &mut BytesMut, filter: &str) {
    out.put_u8(SUBSCRIBE);
    put_length(out, 2 + 2 + filter.len() + 1);
    out.put_u16(1);
    put_text(out, filter);
    out.put_u8(1);
}

/// PUBACK.
pub(crate) fn puback(out: &mut BytesMut, id: u16) {
    out.put_slice(&[PUBACK, 2, (id >> 8) as u8, id as u8]);
}

/// PUBLISH with QoS 1 and a payload of `size` bytes (at least [`STAMP`]).
pub(crate) fn publish(out: &mut BytesMut, topic: &str, id: u16, stamp: (u64, u32, u64), size: usize) {
    let size = size.max(STAMP);
    out.put_u8(PUBLISH_QOS_1);
    put_length(out, 2 + topic.len() + 2 + size);
    put_text(out, topic);
    out.put_u16(id);
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
        CONNACK | SUBACK if length >= 1 => {
            input.advance(length - 1);
            Packet::Answer(input.get_u8())
        }
        PUBACK if length == 2 => Packet::PubAck(input.get_u16()),
        PINGRESP if length == 0 => Packet::PingResp,
        0x30..=0x3f => {
            anyhow::ensure!(length >= 2, "the server sent a PUBLISH without a topic");
            let topic = usize::from(input.get_u16());
            let with_id = usize::from(kind & 0x06 != 0) * 2;
            anyhow::ensure!(length >= 2 + topic + with_id + STAMP, "the server sent a PUBLISH that is not of this run");
            input.advance(topic);
            let id = if with_id > 0 { input.get_u16() } else { 0 };
            Packet::Publish { id, sent_ns: input.get_u64(), publisher: input.get_u32(), sequence: input.get_u64() }
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
        let tail = bytes.split_off(200);
        assert_eq!(take(&mut bytes)?, None, "half a packet");
        bytes.unsplit(tail);
        assert_eq!(take(&mut bytes)?, Some(Packet::Publish { id: 513, sent_ns: 7, publisher: 1, sequence: 42 }));
        assert_eq!(take(&mut bytes)?, Some(Packet::PubAck(9)));
        assert_eq!(take(&mut bytes)?, None);
        Ok(())
    }
}
