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
//! kind 17 SharedSent          client packet_id lsn share
//!
//! cursor  = filter low
//! owner   = u8 0 and a queue's topic, 1 and a cursor's client and filter, 2 and a sink's name, or 3 and a shared subscription
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
mod fields;
mod put;

use bytes::{Buf, BufMut, Bytes};
use bytestring::ByteString;

use super::*;
pub use bounds::{put_owner, take_owner};
pub use fields::Fields;
pub use put::{put_bytes, put_int, put_message, put_options};
use put::{put_cursors, put_opt, put_text};

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
            Event::SharedSent(_) => 17,
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
            Event::SharedSent(_) => "shared_sent",
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
            Event::SharedSent(e) => {
                put_text(out, &e.client);
                put_int(out, u64::from(e.packet_id));
                put_int(out, e.lsn.0);
                put_text(out, &e.share);
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
            17 => Event::SharedSent(SharedSent {
                client: r.text("client")?,
                packet_id: r.int16("packet_id")?,
                lsn: Lsn(r.int("lsn")?),
                share: r.text("share")?,
            }),
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

#[cfg(test)]
mod tests;
