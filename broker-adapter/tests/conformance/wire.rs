//! Packets as bytes, written by hand: what is sent does not pass the codec that is tested.

use bytes::BytesMut;
use forebay_broker_adapter::codec::{ConnAck, Decoder, Packet, Publish, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Server};

/// A packet: its first byte, the length of its parts, its parts.
pub fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = vec![first];
    out.extend(varint(body.len()));
    out.extend(body);
    out
}

pub fn varint(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while n > 0x7f {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// Bytes behind their length: strings and binary data.
pub fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

/// Properties behind their length.
pub fn properties(parts: &[&[u8]]) -> Vec<u8> {
    let list = parts.concat();
    let mut out = varint(list.len());
    out.extend(list);
    out
}

/// A property of a number of four bytes.
pub fn four(id: u8, n: u32) -> Vec<u8> {
    [&[id][..], &n.to_be_bytes()].concat()
}

/// A property of a number of two bytes.
pub fn two(id: u8, n: u16) -> Vec<u8> {
    [&[id][..], &n.to_be_bytes()].concat()
}

/// A property of a string or of bytes.
pub fn long(id: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&[id][..], &field(bytes)].concat()
}

/// A user property.
pub fn user(name: &str, value: &str) -> Vec<u8> {
    [&[0x26][..], &field(name), &field(value)].concat()
}

pub const CLEAN: u8 = 2;

/// CONNECT of MQTT 5 with flags, properties and what follows the client id.
pub fn connect5_with(client: &str, flags: u8, properties_list: &[&[u8]], payload: &[u8]) -> Vec<u8> {
    let head = [&field("MQTT")[..], &[5, flags, 0, 0]].concat();
    packet(0x10, &[&head, &properties(properties_list), &field(client), payload])
}

/// CONNECT of MQTT 5: a clean session without anything.
pub fn connect5(client: &str) -> Vec<u8> {
    connect5_with(client, CLEAN, &[], &[])
}

/// CONNECT of MQTT 5 for a session that lasts an hour.
pub fn lasting5(client: &str, more: &[&[u8]]) -> Vec<u8> {
    let expiry = four(0x11, 3600);
    let mut list: Vec<&[u8]> = vec![&expiry];
    list.extend(more);
    connect5_with(client, 0, &list, &[])
}

/// CONNECT of MQTT 3.1.1.
pub fn connect3(client: &str, flags: u8) -> Vec<u8> {
    packet(0x10, &[&field("MQTT"), &[4, flags, 0, 0], &field(client)])
}

/// What follows the client id for a will of MQTT 5. Its flags: 0x04, QoS << 3, 0x20 for retain.
pub fn will5(properties_list: &[&[u8]], topic: &str, payload: &str) -> Vec<u8> {
    [properties(properties_list), field(topic), field(payload)].concat()
}

/// PUBLISH of MQTT 5. `first` has type and flags; the id is written where `first` says QoS 1, 2 or 3.
pub fn publish5(first: u8, topic: &str, id: u16, properties_list: &[&[u8]], payload: impl AsRef<[u8]>) -> Vec<u8> {
    let id = id.to_be_bytes();
    let id = if first & 6 == 0 { &[][..] } else { &id };
    packet(first, &[&field(topic), id, &properties(properties_list), payload.as_ref()])
}

/// PUBLISH of MQTT 3.1.1.
pub fn publish3(first: u8, topic: &str, id: u16, payload: &str) -> Vec<u8> {
    let id = id.to_be_bytes();
    let id = if first & 6 == 0 { &[][..] } else { &id };
    packet(first, &[&field(topic), id, payload.as_bytes()])
}

/// SUBSCRIBE of MQTT 5: filters with their options' byte.
pub fn subscribe5(id: u16, properties_list: &[&[u8]], filters: &[(&str, u8)]) -> Vec<u8> {
    let filters: Vec<u8> = filters.iter().flat_map(|(f, o)| [&field(f)[..], &[*o]].concat()).collect();
    packet(0x82, &[&id.to_be_bytes(), &properties(properties_list), &filters])
}

/// SUBSCRIBE of MQTT 3.1.1.
pub fn subscribe3(id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let filters: Vec<u8> = filters.iter().flat_map(|(f, o)| [&field(f)[..], &[*o]].concat()).collect();
    packet(0x82, &[&id.to_be_bytes(), &filters])
}

/// UNSUBSCRIBE of MQTT 5.
pub fn unsubscribe5(id: u16, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<u8> = filters.iter().flat_map(field).collect();
    packet(0xa2, &[&id.to_be_bytes(), &[0], &filters])
}

/// PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70) in its shortest form.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()])
}

pub const PINGREQ: [u8; 2] = [0xc0, 0];
pub const PINGRESP: [u8; 2] = [0xd0, 0];
pub const GOODBYE: [u8; 2] = [0xe0, 0];

/// A socket.
pub struct Wire {
    pub stream: TcpStream,
    input: BytesMut,
    version: Version,
}

impl Wire {
    pub async fn dial(server: &Server) -> Wire {
        let stream = TcpStream::connect(server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Wire { stream, input: BytesMut::new(), version: Version::V5 }
    }

    /// Sends a CONNECT and takes its CONNACK.
    pub async fn open(server: &Server, connect: &[u8]) -> (Wire, ConnAck) {
        let mut wire = Wire::dial(server).await;
        if connect[8] == 4 {
            wire.version = Version::V311;
        }
        wire.send(connect).await;
        let ack = match wire.read().await {
            Packet::ConnAck(ack) => *ack,
            other => panic!("CONNACK is due, not {other:?}"),
        };
        (wire, ack)
    }

    /// A clean session of MQTT 5.
    pub async fn hello5(server: &Server, client: &str) -> Wire {
        Wire::accepted(server, &connect5(client)).await
    }

    /// A clean session of MQTT 3.1.1.
    pub async fn hello3(server: &Server, client: &str) -> Wire {
        Wire::accepted(server, &connect3(client, CLEAN)).await
    }

    /// A session that this CONNECT opens.
    pub async fn accepted(server: &Server, connect: &[u8]) -> Wire {
        let (wire, ack) = Wire::open(server, connect).await;
        assert_eq!(ack.code, 0, "{ack:?}");
        wire
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet's bytes; none at the end, whether orderly or by a reset.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let read = async {
            loop {
                if let Some(len) = whole(&self.input) {
                    return Some(self.input.split_to(len).to_vec());
                }
                if !self.stream.read_buf(&mut self.input).await.is_ok_and(|n| n > 0) {
                    assert!(self.input.is_empty(), "the connection ends in a packet: {:02x?}", &self.input[..]);
                    return None;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("a packet or the end comes")
    }

    /// The next packet as bytes.
    pub async fn bytes(&mut self) -> Vec<u8> {
        self.next().await.expect("a packet, not the end")
    }

    /// The next packet, read by the codec.
    pub async fn read(&mut self) -> Packet {
        let bytes = self.bytes().await;
        let mut decoder = Decoder::client(self.version, 1 << 28);
        decoder.decode(&mut BytesMut::from(&bytes[..])).unwrap_or_else(|e| panic!("{e}: {bytes:02x?}")).unwrap()
    }

    /// The next PUBLISH.
    pub async fn message(&mut self) -> Publish {
        match self.read().await {
            Packet::Publish(publish) => publish,
            other => panic!("PUBLISH is due, not {other:?}"),
        }
    }

    /// Sends packets that are answered by these.
    pub async fn answers(&mut self, sent: &[u8], expected: &[u8]) {
        self.send(sent).await;
        let mut got = Vec::new();
        while got.len() < expected.len() {
            got.extend(self.bytes().await);
        }
        assert!(got == expected, "{got:02x?} instead of {expected:02x?}");
    }

    /// Subscribes with MQTT 5 to one filter and sees it granted. Messages that come before SUBACK are given back.
    pub async fn subscribed(&mut self, filter: &str, options: u8) -> Vec<Publish> {
        let v5 = self.version == Version::V5;
        let packet = if v5 { subscribe5(99, &[], &[(filter, options)]) } else { subscribe3(99, &[(filter, options)]) };
        self.send(&packet).await;
        let mut before = Vec::new();
        loop {
            match self.read().await {
                Packet::Publish(publish) => before.push(publish),
                Packet::SubAck(ack) => {
                    assert_eq!((ack.packet_id, &ack.codes[..]), (99, &[options & 3][..]));
                    return before;
                }
                other => panic!("SUBACK is due, not {other:?}"),
            }
        }
    }

    /// Everything that comes until a ping is answered: what was sent before has been read by the server.
    pub async fn quiet(&mut self) -> Vec<Packet> {
        self.send(&PINGREQ).await;
        let mut seen = Vec::new();
        loop {
            match self.read().await {
                Packet::PingResp => return seen,
                other => seen.push(other),
            }
        }
    }

    /// Nothing more comes, and the connection is alive.
    pub async fn nothing(&mut self) {
        let seen = self.quiet().await;
        assert!(seen.is_empty(), "{seen:?}");
    }

    /// The connection ends without another byte.
    pub async fn ends(&mut self) {
        let next = self.next().await;
        assert!(next.is_none(), "{next:02x?}");
    }

    /// DISCONNECT with this code comes, and the end. What comes before is given back.
    pub async fn ends_with(&mut self, code: u8) -> Vec<Vec<u8>> {
        let mut before = Vec::new();
        loop {
            let bytes = self.bytes().await;
            if bytes[0] == 0xe0 {
                assert_eq!(bytes.get(2).copied().unwrap_or(0), code, "{bytes:02x?}");
                self.ends().await;
                return before;
            }
            before.push(bytes);
        }
    }
}

/// The length of the first packet, where it is complete.
fn whole(input: &[u8]) -> Option<usize> {
    let mut len = 0;
    for (at, byte) in input.iter().skip(1).take(4).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let total = len + at + 2;
            return (input.len() >= total).then_some(total);
        }
    }
    None
}
