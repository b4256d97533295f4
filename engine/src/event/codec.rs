//! The byte form of an event: what stands in a record's body.
//!
//! ```text
//! body   = version u8 (1) , fields in the order below
//! int    = LEB128, at most 10 bytes          bytes = int length, then that many bytes
//! text   = bytes that are UTF-8              opt x = u8 0, or u8 1 and x
//! list x = int count, then that many x       bool  = u8 0 or 1
//!
//! kind  1 SessionOpened       client epoch resumed expiry_s opt(will: delay_s message) username peer
//! kind  2 ClientConnected     client epoch username peer protocol(u8) keep_alive_s clean_start
//! kind  3 ClientDisconnected  client epoch reason(u8) superseded cancel_will opt(expiry_s) list(cursor)
//! kind  4 SessionClosed       client epoch
//! kind  5 Subscribed          client epoch filter options(u8) identifier by_proxy
//! kind  6 Unsubscribed        client epoch filter by_proxy
//! kind  7 Published           message opt(packet_id) epoch
//! kind  8 Released            client packet_id
//! kind  9 Sent                client packet_id lsn
//! kind 10 Received            client packet_id
//! kind 11 Delivered           client lsn time_us topic
//! kind 12 Acked               client lsn time_us topic opt(packet_id) outcome(u8) queue list(cursor)
//! kind 13 SinkPosition        sink next
//! kind 14 CursorMoved         client filter next
//! kind 15 Positions           seen list(client epoch list(cursor))
//! kind 16 Dropped             reason(u8) list(owner from to count)
//!
//! cursor  = filter low
//! owner   = u8 0 and a queue's topic, 1 and a cursor's client and filter, or 2 and a sink's name
//! options = u8: bits 0-1 qos, 2 no local, 3 retain as published, 4-5 retain handling
//! message = u8 flags (bits 0-1 qos, 2 retain, 3 properties follow, 4 username follows, 5 peer follows,
//!           6-7 origin: 0 client, 1 will, 2 operator, 3 import), topic, publisher, username, peer,
//!           import (sink key time_us), properties, payload
//! properties = u8 bits (0 payload format, 1 expiry, 2 content type, 3 response topic, 4 correlation data),
//!           then those present in that order, then list(name value)
//! ```
//!
//! Decoding shares the record's bytes (nothing is copied) and never trusts a length.

mod bounds;

use bytes::{Buf, BufMut, Bytes};
use bytestring::ByteString;

use super::*;
pub use bounds::{put_owner, take_owner};

/// Version of the layout above; other versions are refused, never guessed at.
pub const BODY_VERSION: u8 = 1;

/// Why bytes are not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The body ends inside a field.
    #[error("event body ends inside the field {0}")]
    Truncated(&'static str),
    /// Bytes are left over after the last field.
    #[error("{0} bytes are left over after the event's last field")]
    Trailing(usize),
    /// The layout's version is not known to this program.
    #[error("event layout version {0} is not known to this program (it knows 1): written by a newer Forebay?")]
    Version(u8),
    /// The kind is not known to this program.
    #[error("record kind {0} is not known to this program: written by a newer Forebay?")]
    Kind(u8),
    /// A field holds a value that it can't have.
    #[error("event field {0} holds an impossible value")]
    Value(&'static str),
}

impl Event {
    /// The number that stands in the record's header.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Event::SessionOpened(_) => 1,
            Event::ClientConnected(_) => 2,
            Event::ClientDisconnected(_) => 3,
            Event::SessionClosed(_) => 4,
            Event::Subscribed(_) => 5,
            Event::Unsubscribed(_) => 6,
            Event::Published(_) => KIND_PUBLISHED,
            Event::Released(_) => 8,
            Event::Sent(_) => 9,
            Event::Received(_) => 10,
            Event::Delivered(_) => 11,
            Event::Acked(_) => 12,
            Event::SinkPosition(_) => 13,
            Event::CursorMoved(_) => 14,
            Event::Positions(_) => 15,
            Event::Dropped(_) => 16,
        }
    }

    /// The kind's name as in `forebay log dump`.
    #[must_use]
    pub const fn kind_name(&self) -> &'static str {
        match self {
            Event::SessionOpened(_) => "session_opened",
            Event::ClientConnected(_) => "client_connected",
            Event::ClientDisconnected(_) => "client_disconnected",
            Event::SessionClosed(_) => "session_closed",
            Event::Subscribed(_) => "subscribed",
            Event::Unsubscribed(_) => "unsubscribed",
            Event::Published(_) => "published",
            Event::Released(_) => "released",
            Event::Sent(_) => "sent",
            Event::Received(_) => "received",
            Event::Delivered(_) => "delivered",
            Event::Acked(_) => "acked",
            Event::SinkPosition(_) => "sink_position",
            Event::CursorMoved(_) => "cursor_moved",
            Event::Positions(_) => "positions",
            Event::Dropped(_) => "dropped",
        }
    }

    /// Bytes to set aside for the body: enough for almost every event, and exact nowhere.
    #[must_use]
    pub fn body_len_hint(&self) -> usize {
        match self {
            Event::Published(Published { message: m, .. }) => {
                // Lengths, flags and numbers take less than the constant; properties are rare and may cost a second allocation.
                64 + m.topic.len() + m.publisher.len() + m.username.len() + m.peer.len() + m.payload.len()
            }
            _ => 128,
        }
    }

    /// Appends the body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(BODY_VERSION);
        match self {
            Event::SessionOpened(e) => {
                put_text(out, &e.client);
                put_int(out, e.epoch);
                out.put_u8(u8::from(e.resumed));
                put_int(out, u64::from(e.expiry_s));
                match &e.will {
                    None => out.put_u8(0),
                    Some(will) => {
                        out.put_u8(1);
                        put_int(out, u64::from(will.delay_s));
                        put_message(out, &will.message);
                    }
                }
                put_text(out, &e.username);
                put_text(out, &e.peer);
            }
            Event::ClientConnected(e) => {
                put_text(out, &e.client);
                put_int(out, e.epoch);
                put_text(out, &e.username);
                put_text(out, &e.peer);
                out.put_u8(e.protocol);
                put_int(out, u64::from(e.keep_alive_s));
                out.put_u8(u8::from(e.clean_start));
            }
            Event::ClientDisconnected(e) => {
                put_text(out, &e.client);
                put_int(out, e.epoch);
                out.put_u8(e.reason as u8);
                out.put_u8(u8::from(e.superseded));
                out.put_u8(u8::from(e.cancel_will));
                put_opt(out, e.expiry_s.map(u64::from));
                put_cursors(out, &e.positions);
            }
            Event::SessionClosed(e) => {
                put_text(out, &e.client);
                put_int(out, e.epoch);
            }
            Event::Subscribed(e) => {
                put_text(out, &e.client);
                put_int(out, e.epoch);
                put_text(out, &e.filter);
                put_options(out, e.options);
                out.put_u8(u8::from(e.by_proxy));
            }
            Event::Unsubscribed(e) => {
                put_text(out, &e.client);
                put_int(out, e.epoch);
                put_text(out, &e.filter);
                out.put_u8(u8::from(e.by_proxy));
            }
            Event::Published(e) => {
                put_message(out, &e.message);
                put_opt(out, e.packet_id.map(u64::from));
                put_int(out, e.epoch);
            }
            Event::Released(e) => {
                put_text(out, &e.client);
                put_int(out, u64::from(e.packet_id));
            }
            Event::Sent(e) => {
                put_text(out, &e.client);
                put_int(out, u64::from(e.packet_id));
                put_int(out, e.lsn.0);
            }
            Event::Received(e) => {
                put_text(out, &e.client);
                put_int(out, u64::from(e.packet_id));
            }
            Event::Delivered(e) => {
                put_text(out, &e.client);
                put_int(out, e.lsn.0);
                put_int(out, e.time_us);
                put_text(out, &e.topic);
            }
            Event::Acked(e) => {
                put_text(out, &e.client);
                put_int(out, e.lsn.0);
                put_int(out, e.time_us);
                put_text(out, &e.topic);
                put_opt(out, e.packet_id.map(u64::from));
                out.put_u8(e.outcome as u8);
                out.put_u8(u8::from(e.queue));
                put_cursors(out, &e.cursors);
            }
            Event::SinkPosition(e) => {
                put_text(out, &e.sink);
                put_int(out, e.next.0);
            }
            Event::CursorMoved(e) => {
                put_text(out, &e.client);
                put_text(out, &e.filter);
                put_int(out, e.next.0);
            }
            Event::Positions(e) => bounds::put_positions(out, e),
            Event::Dropped(e) => bounds::put_dropped(out, e),
        }
    }

    /// Reads a record's body.
    ///
    /// # Errors
    /// Where the bytes are not exactly one event of this kind.
    pub fn decode(kind: u8, body: Bytes) -> Result<Event, CodecError> {
        let mut r = Fields(body);
        match r.u8("version")? {
            BODY_VERSION => {}
            other => return Err(CodecError::Version(other)),
        }
        let event = match kind {
            1 => Event::SessionOpened(SessionOpened {
                client: r.text("client")?,
                epoch: r.int("epoch")?,
                resumed: r.bool("resumed")?,
                expiry_s: r.int32("expiry_s")?,
                will: if r.bool("will")? {
                    Some(Will { delay_s: r.int32("will delay")?, message: r.message()? })
                } else {
                    None
                },
                username: r.text("username")?,
                peer: r.text("peer")?,
            }),
            2 => Event::ClientConnected(ClientConnected {
                client: r.text("client")?,
                epoch: r.int("epoch")?,
                username: r.text("username")?,
                peer: r.text("peer")?,
                protocol: r.u8("protocol")?,
                keep_alive_s: r.int16("keep_alive_s")?,
                clean_start: r.bool("clean_start")?,
            }),
            3 => Event::ClientDisconnected(ClientDisconnected {
                client: r.text("client")?,
                epoch: r.int("epoch")?,
                reason: DisconnectReason::from_u8(r.u8("reason")?).ok_or(CodecError::Value("reason"))?,
                superseded: r.bool("superseded")?,
                cancel_will: r.bool("cancel_will")?,
                expiry_s: if r.bool("expiry_s")? { Some(r.int32("expiry_s")?) } else { None },
                positions: r.cursors()?,
            }),
            4 => Event::SessionClosed(SessionClosed { client: r.text("client")?, epoch: r.int("epoch")? }),
            5 => Event::Subscribed(Subscribed {
                client: r.text("client")?,
                epoch: r.int("epoch")?,
                filter: r.text("filter")?,
                options: r.options()?,
                by_proxy: r.bool("by_proxy")?,
            }),
            6 => Event::Unsubscribed(Unsubscribed {
                client: r.text("client")?,
                epoch: r.int("epoch")?,
                filter: r.text("filter")?,
                by_proxy: r.bool("by_proxy")?,
            }),
            KIND_PUBLISHED => Event::Published(Published {
                message: r.message()?,
                packet_id: r.opt16("packet_id")?,
                epoch: r.int("epoch")?,
            }),
            8 => Event::Released(Released { client: r.text("client")?, packet_id: r.int16("packet_id")? }),
            9 => Event::Sent(Sent {
                client: r.text("client")?,
                packet_id: r.int16("packet_id")?,
                lsn: Lsn(r.int("lsn")?),
            }),
            10 => Event::Received(Received { client: r.text("client")?, packet_id: r.int16("packet_id")? }),
            11 => Event::Delivered(Delivered {
                client: r.text("client")?,
                lsn: Lsn(r.int("lsn")?),
                time_us: r.int("time_us")?,
                topic: r.text("topic")?,
            }),
            12 => Event::Acked(Acked {
                client: r.text("client")?,
                lsn: Lsn(r.int("lsn")?),
                time_us: r.int("time_us")?,
                topic: r.text("topic")?,
                packet_id: r.opt16("packet_id")?,
                outcome: AckOutcome::from_u8(r.u8("outcome")?).ok_or(CodecError::Value("outcome"))?,
                queue: r.bool("queue")?,
                cursors: r.cursors()?,
            }),
            13 => Event::SinkPosition(SinkPosition { sink: r.text("sink")?, next: Lsn(r.int("next")?) }),
            14 => Event::CursorMoved(CursorMoved {
                client: r.text("client")?,
                filter: r.text("filter")?,
                next: Lsn(r.int("next")?),
            }),
            15 => Event::Positions(bounds::take_positions(&mut r)?),
            16 => Event::Dropped(bounds::take_dropped(&mut r)?),
            other => return Err(CodecError::Kind(other)),
        };
        match r.0.len() {
            0 => Ok(event),
            left => Err(CodecError::Trailing(left)),
        }
    }
}

/// The record kind of [`Event::Published`], for readers that look at nothing else.
pub const KIND_PUBLISHED: u8 = 7;

/// The topic in the body of a record of kind [`KIND_PUBLISHED`], without decoding the rest; `None` where the bytes are none.
#[must_use]
pub fn published_topic(body: &[u8]) -> Option<&str> {
    let (&version, body) = body.split_first()?;
    let (_flags, mut body) = body.split_first()?;
    let mut len = 0usize;
    for shift in (0..21).step_by(7) {
        let (&byte, rest) = body.split_first()?;
        body = rest;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let topic = body.get(..len).filter(|_| version == BODY_VERSION)?;
            return std::str::from_utf8(topic).ok();
        }
    }
    None
}

/// Appends `n` as LEB128.
pub fn put_int(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_int(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

fn put_opt(out: &mut Vec<u8>, n: Option<u64>) {
    match n {
        None => out.push(0),
        Some(n) => {
            out.push(1);
            put_int(out, n);
        }
    }
}

fn put_cursors(out: &mut Vec<u8>, cursors: &[CursorAt]) {
    put_int(out, cursors.len() as u64);
    for cursor in cursors {
        put_text(out, &cursor.filter);
        put_int(out, cursor.low.0);
    }
}

/// Appends subscription options (one byte and the identifier).
pub fn put_options(out: &mut Vec<u8>, o: SubscriptionOptions) {
    out.push(
        o.qos.as_u8()
            | (u8::from(o.no_local) << 2)
            | (u8::from(o.retain_as_published) << 3)
            | ((o.retain_handling & 3) << 4),
    );
    put_int(out, u64::from(o.identifier));
}

/// Appends a message.
pub fn put_message(out: &mut Vec<u8>, m: &Message) {
    let origin = match m.origin {
        Origin::Client => 0,
        Origin::Will => 1,
        Origin::Operator => 2,
        Origin::Import { .. } => 3,
    };
    let props = !m.properties.is_empty();
    out.push(
        m.qos.as_u8()
            | (u8::from(m.retain) << 2)
            | (u8::from(props) << 3)
            | (u8::from(!m.username.is_empty()) << 4)
            | (u8::from(!m.peer.is_empty()) << 5)
            | (origin << 6),
    );
    put_text(out, &m.topic);
    put_text(out, &m.publisher);
    if !m.username.is_empty() {
        put_text(out, &m.username);
    }
    if !m.peer.is_empty() {
        put_text(out, &m.peer);
    }
    if let Origin::Import { sink, key, time_us } = &m.origin {
        put_text(out, sink);
        put_text(out, key);
        put_int(out, *time_us);
    }
    if props {
        put_properties(out, &m.properties);
    }
    put_bytes(out, &m.payload);
}

fn put_properties(out: &mut Vec<u8>, p: &Properties) {
    out.push(
        u8::from(p.payload_format.is_some())
            | (u8::from(p.expiry_s.is_some()) << 1)
            | (u8::from(p.content_type.is_some()) << 2)
            | (u8::from(p.response_topic.is_some()) << 3)
            | (u8::from(p.correlation_data.is_some()) << 4),
    );
    if let Some(format) = p.payload_format {
        out.push(format);
    }
    if let Some(expiry) = p.expiry_s {
        put_int(out, u64::from(expiry));
    }
    if let Some(text) = &p.content_type {
        put_text(out, text);
    }
    if let Some(text) = &p.response_topic {
        put_text(out, text);
    }
    if let Some(data) = &p.correlation_data {
        put_bytes(out, data);
    }
    put_int(out, p.user.len() as u64);
    for (name, value) in &p.user {
        put_text(out, name);
        put_text(out, value);
    }
}

/// Reads fields off shared bytes; every length is checked against what is there.
pub struct Fields(pub Bytes);

impl Fields {
    /// One byte.
    ///
    /// # Errors
    /// At the end of the bytes; `field` names what was being read (so in all methods here).
    pub fn u8(&mut self, field: &'static str) -> Result<u8, CodecError> {
        if self.0.is_empty() { Err(CodecError::Truncated(field)) } else { Ok(self.0.get_u8()) }
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// Also for any other byte.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, CodecError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Value(field)),
        }
    }

    /// A LEB128 number.
    ///
    /// # Errors
    /// Also for more than 64 bits, and for a form longer than needed (so that one value has one form).
    pub fn int(&mut self, field: &'static str) -> Result<u64, CodecError> {
        let mut n: u64 = 0;
        for i in 0..10 {
            let b = self.u8(field)?;
            if i == 9 && b > 1 || i > 0 && b == 0 {
                return Err(CodecError::Value(field));
            }
            n |= u64::from(b & 0x7f) << (7 * i);
            if b & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(CodecError::Value(field))
    }

    /// A number below 2^32.
    ///
    /// # Errors
    /// Also for larger numbers.
    pub fn int32(&mut self, field: &'static str) -> Result<u32, CodecError> {
        u32::try_from(self.int(field)?).map_err(|_| CodecError::Value(field))
    }

    /// A number below 2^16.
    ///
    /// # Errors
    /// Also for larger numbers.
    pub fn int16(&mut self, field: &'static str) -> Result<u16, CodecError> {
        u16::try_from(self.int(field)?).map_err(|_| CodecError::Value(field))
    }

    fn opt16(&mut self, field: &'static str) -> Result<Option<u16>, CodecError> {
        if self.bool(field)? { self.int16(field).map(Some) } else { Ok(None) }
    }

    /// A length and that many bytes, shared.
    ///
    /// # Errors
    /// Where fewer bytes are left.
    pub fn bytes(&mut self, field: &'static str) -> Result<Bytes, CodecError> {
        let len = usize::try_from(self.int(field)?).map_err(|_| CodecError::Value(field))?;
        if len > self.0.len() { Err(CodecError::Truncated(field)) } else { Ok(self.0.split_to(len)) }
    }

    /// Bytes that are UTF-8.
    ///
    /// # Errors
    /// Also where they are not.
    pub fn text(&mut self, field: &'static str) -> Result<ByteString, CodecError> {
        ByteString::try_from(self.bytes(field)?).map_err(|_| CodecError::Value(field))
    }

    fn cursors(&mut self) -> Result<Vec<CursorAt>, CodecError> {
        let count = self.int("cursor count")?;
        let mut cursors = Vec::new();
        for _ in 0..count {
            cursors.push(CursorAt { filter: self.text("cursor filter")?, low: Lsn(self.int("cursor low")?) });
        }
        Ok(cursors)
    }

    /// What [`put_options`] wrote.
    ///
    /// # Errors
    /// For values that options can't have.
    pub fn options(&mut self) -> Result<SubscriptionOptions, CodecError> {
        let bits = self.u8("options")?;
        let retain_handling = (bits >> 4) & 3;
        if bits & 0xc0 != 0 || retain_handling == 3 {
            return Err(CodecError::Value("options"));
        }
        Ok(SubscriptionOptions {
            qos: QoS::from_u8(bits & 3).ok_or(CodecError::Value("options"))?,
            no_local: bits & 4 != 0,
            retain_as_published: bits & 8 != 0,
            retain_handling,
            identifier: self.int32("subscription identifier")?,
        })
    }

    /// What [`put_message`] wrote.
    ///
    /// # Errors
    /// For values that a message can't have.
    pub fn message(&mut self) -> Result<Message, CodecError> {
        let bits = self.u8("message flags")?;
        let qos = QoS::from_u8(bits & 3).ok_or(CodecError::Value("qos"))?;
        let topic = self.text("topic")?;
        let publisher = self.text("publisher")?;
        let username = if bits & 16 != 0 { self.text("username")? } else { ByteString::new() };
        let peer = if bits & 32 != 0 { self.text("peer")? } else { ByteString::new() };
        let origin = match bits >> 6 {
            0 => Origin::Client,
            1 => Origin::Will,
            2 => Origin::Operator,
            _ => Origin::Import {
                sink: self.text("import sink")?,
                key: self.text("import key")?,
                time_us: self.int("import time")?,
            },
        };
        let properties = if bits & 8 != 0 { self.properties()? } else { Properties::default() };
        let payload = self.bytes("payload")?;
        Ok(Message { topic, payload, qos, retain: bits & 4 != 0, publisher, username, peer, origin, properties })
    }

    fn properties(&mut self) -> Result<Properties, CodecError> {
        let bits = self.u8("property bits")?;
        if bits & 0xe0 != 0 {
            return Err(CodecError::Value("property bits"));
        }
        let mut p = Properties::default();
        if bits & 1 != 0 {
            p.payload_format = Some(self.u8("payload format")?);
        }
        if bits & 2 != 0 {
            p.expiry_s = Some(self.int32("message expiry")?);
        }
        if bits & 4 != 0 {
            p.content_type = Some(self.text("content type")?);
        }
        if bits & 8 != 0 {
            p.response_topic = Some(self.text("response topic")?);
        }
        if bits & 16 != 0 {
            p.correlation_data = Some(self.bytes("correlation data")?);
        }
        for _ in 0..self.int("user property count")? {
            p.user.push((self.text("user property name")?, self.text("user property value")?));
        }
        Ok(p)
    }
}

#[cfg(test)]
mod tests;
