//! The flat form of state: rows of key and value, shared by the derived index and the checkpoint.
//!
//! ```text
//! key    tag u8, then the parts below as (int length, bytes); numbers as int, LSNs as 8 bytes big-endian
//!  'S' client            epoch int, flags u8 (1 connected, 2 ends, 4 will, 8 will due), expiry_s int, [ends_at_us int],
//!                        username, peer, [delay_s int, message], [will_due_us int]
//!  'U' client filter     options (u8 and int), since int
//!  'R' client packet id  (empty)
//!  'O' client packet id  lsn int, received u8, [share]
//!  'C' client filter     start int, next int, count int, then that many acknowledged LSNs as int
//!  'T' topic             lsn int, time_us int, message          (retained)
//!  'Q' lsn               topic, [bytes int]                     (owed by a queue)
//!  'H' share lsn         bytes int                              (owed by the group of a shared subscription)
//!  'L' topic             lsn int                                (newest of a keep-latest topic)
//!  'K' sink              next int
//!  'G' owner             from int, to int, count int, reason u8, time_us int, total int    (what a policy dropped)
//!  'E'                   largest epoch seen, int
//! ```
//! `int`, `options`, `message` and `owner` are those of [`crate::event::codec`].

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use super::name::Recent;
use super::{Cursor, Gap, Name, Outbound, Session, State, StoredMessage, Subscription};
use crate::event::codec::{CodecError, Fields, put_bytes, put_int, put_message, put_options, put_owner, take_owner};
use crate::event::{DropOwner, DropReason, Message, Will};
use crate::ids::Lsn;

/// Names a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RowKey {
    /// A session without its parts.
    Session(ByteString),
    /// A subscription of a session.
    Subscription(ByteString, ByteString),
    /// A QoS 2 packet id received from a client.
    Received(ByteString, u16),
    /// A QoS 2 message under way to a client.
    Outbound(ByteString, u16),
    /// A cursor.
    Cursor(ByteString, ByteString),
    /// A retained message.
    Retained(ByteString),
    /// A message owed by a queue.
    Queue(Lsn),
    /// A message owed by the group of a shared subscription.
    Shared(ByteString, Lsn),
    /// The newest record of a keep-latest topic.
    Latest(ByteString),
    /// A sink's position.
    Sink(ByteString),
    /// What an owner lost.
    Gap(DropOwner),
    /// The largest epoch seen.
    Epoch,
}

impl RowKey {
    /// The key's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        let (tag, first): (u8, Option<&ByteString>) = match self {
            RowKey::Session(client) => (b'S', Some(client)),
            RowKey::Subscription(client, _) => (b'U', Some(client)),
            RowKey::Received(client, _) => (b'R', Some(client)),
            RowKey::Outbound(client, _) => (b'O', Some(client)),
            RowKey::Cursor(client, _) => (b'C', Some(client)),
            RowKey::Retained(topic) => (b'T', Some(topic)),
            RowKey::Queue(_) => (b'Q', None),
            RowKey::Shared(share, _) => (b'H', Some(share)),
            RowKey::Latest(topic) => (b'L', Some(topic)),
            RowKey::Sink(sink) => (b'K', Some(sink)),
            RowKey::Gap(_) => (b'G', None),
            RowKey::Epoch => (b'E', None),
        };
        put_key(&mut out, tag, [first.map(|text| &**text), None]);
        match self {
            RowKey::Subscription(_, filter) | RowKey::Cursor(_, filter) => put_bytes(&mut out, filter.as_bytes()),
            RowKey::Received(_, id) | RowKey::Outbound(_, id) => put_int(&mut out, u64::from(*id)),
            RowKey::Queue(lsn) | RowKey::Shared(_, lsn) => out.extend_from_slice(&lsn.0.to_be_bytes()),
            RowKey::Gap(owner) => put_owner(&mut out, owner),
            _ => {}
        }
        out
    }

    fn decode(bytes: Bytes) -> Result<RowKey, CodecError> {
        let mut r = Fields(bytes);
        let key = match r.u8("row tag")? {
            b'S' => RowKey::Session(r.text("client")?),
            b'U' => RowKey::Subscription(r.text("client")?, r.text("filter")?),
            b'R' => RowKey::Received(r.text("client")?, r.int16("packet id")?),
            b'O' => RowKey::Outbound(r.text("client")?, r.int16("packet id")?),
            b'C' => RowKey::Cursor(r.text("client")?, r.text("filter")?),
            b'T' => RowKey::Retained(r.text("topic")?),
            b'Q' => RowKey::Queue(take_lsn(&mut r)?),
            b'H' => RowKey::Shared(r.text("share")?, take_lsn(&mut r)?),
            b'L' => RowKey::Latest(r.text("topic")?),
            b'K' => RowKey::Sink(r.text("sink")?),
            b'G' => RowKey::Gap(take_owner(&mut r)?),
            b'E' => RowKey::Epoch,
            _ => return Err(CodecError::Value("row tag")),
        };
        finish(&r).map(|()| key)
    }
}

fn take_lsn(r: &mut Fields) -> Result<Lsn, CodecError> {
    let mut lsn = 0u64;
    for _ in 0..8 {
        lsn = (lsn << 8) | u64::from(r.u8("lsn")?);
    }
    Ok(Lsn(lsn))
}

fn finish(r: &Fields) -> Result<(), CodecError> {
    if r.0.is_empty() { Ok(()) } else { Err(CodecError::Trailing(r.0.len())) }
}

impl State {
    /// The value of a row as it stands; `None` where there is no such row (any more).
    #[must_use]
    pub fn row(&self, key: &RowKey) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(32);
        match key {
            RowKey::Session(client) => put_session(&mut out, self.sessions.get(client)?),
            RowKey::Subscription(client, filter) => {
                put_subscription(&mut out, self.sessions.get(client)?.subscriptions.get(filter)?);
            }
            RowKey::Received(client, id) => {
                self.sessions.get(client)?.received.get(id)?;
            }
            RowKey::Outbound(client, id) => {
                let outbound = self.sessions.get(client)?.outbound.get(id)?;
                put_int(&mut out, outbound.lsn.0);
                out.push(u8::from(outbound.received));
                if let Some(share) = &outbound.share {
                    put_bytes(&mut out, share.as_bytes());
                }
            }
            RowKey::Cursor(client, filter) => put_cursor(&mut out, self.cursors.get(client)?.get(filter)?),
            RowKey::Retained(topic) => put_retained(&mut out, self.retained.get(topic)?),
            RowKey::Queue(lsn) => {
                let queued = self.queue.get(*lsn)?;
                put_bytes(&mut out, queued.topic.as_bytes());
                put_int(&mut out, queued.bytes);
            }
            RowKey::Shared(share, lsn) => put_int(&mut out, self.groups.row(share, *lsn)?),
            RowKey::Gap(owner) => {
                let gap = self.gaps.get(owner)?;
                put_int(&mut out, gap.from.0);
                put_int(&mut out, gap.to.0);
                put_int(&mut out, gap.count);
                out.push(gap.reason as u8);
                put_int(&mut out, gap.time_us);
                put_int(&mut out, gap.total);
            }
            RowKey::Latest(topic) => put_int(&mut out, self.latest.get(topic)?.0),
            RowKey::Sink(sink) => put_int(&mut out, self.sinks.get(sink)?.0),
            RowKey::Epoch if self.epoch == 0 => return None,
            RowKey::Epoch => put_int(&mut out, self.epoch),
        }
        Some(out)
    }

    /// Takes in a row. Rows may come in any order; call [`State::loaded`] after the last.
    ///
    /// # Errors
    /// Where the bytes are no row.
    pub fn load_row(&mut self, key: Bytes, value: Bytes) -> Result<(), CodecError> {
        let mut r = Fields(value);
        match RowKey::decode(key)? {
            RowKey::Session(client) => {
                let name = self.client_name(&client);
                let recent = &mut self.recent;
                self.sessions.update(name, |session| take_session(&mut r, session, recent))?;
            }
            RowKey::Subscription(client, filter) => {
                let subscription = Subscription { options: r.options()?, since: Lsn(r.int("since")?) };
                let filter = self.recent.name(&filter);
                self.sessions.update(self.client_name(&client), |s| s.subscriptions.insert(filter, subscription));
            }
            RowKey::Received(client, id) => {
                self.sessions.update(self.client_name(&client), |s| s.received.insert(id));
            }
            RowKey::Outbound(client, packet_id) => {
                let (lsn, received) = (Lsn(r.int("lsn")?), r.bool("received")?);
                let share = if r.0.is_empty() { None } else { Some(copy(&r.text("share")?)) };
                let out = Outbound { packet_id, lsn, received, share };
                self.sessions.update(self.client_name(&client), |s| s.outbound.insert(packet_id, out));
            }
            RowKey::Cursor(client, filter) => {
                let (start, next) = (Lsn(r.int("start")?), Lsn(r.int("next")?));
                let mut acked = BTreeSet::new();
                for _ in 0..r.int("count")? {
                    acked.insert(Lsn(r.int("acknowledged")?));
                }
                let filter = self.recent.name(&filter);
                let cursor = Cursor::stored(start, next, acked);
                self.cursors.update(self.client_name(&client), |cursors| cursors.insert(filter, cursor));
            }
            RowKey::Retained(topic) => {
                let (lsn, time_us) = (Lsn(r.int("lsn")?), r.int("time")?);
                self.retained.insert(topic, StoredMessage { lsn, time_us, message: Arc::new(own(&r.message()?)) });
            }
            RowKey::Queue(lsn) => {
                let topic = r.text("topic")?;
                let bytes = if r.0.is_empty() { 0 } else { r.int("bytes")? };
                self.queue.insert(lsn, topic, bytes);
            }
            RowKey::Shared(share, lsn) => self.groups.insert(lsn, &share, r.int("bytes")?),
            RowKey::Latest(topic) => {
                self.latest.insert(Name::from(&*topic), Lsn(r.int("lsn")?));
            }
            RowKey::Sink(sink) => {
                self.sinks.insert(sink, Lsn(r.int("next")?));
            }
            RowKey::Gap(owner) => {
                let gap = Gap {
                    from: Lsn(r.int("from")?),
                    to: Lsn(r.int("to")?),
                    count: r.int("count")?,
                    reason: DropReason::from_u8(r.u8("reason")?).ok_or(CodecError::Value("reason"))?,
                    time_us: r.int("time")?,
                    total: r.int("total")?,
                };
                self.gaps.insert(owner, gap);
            }
            RowKey::Epoch => self.epoch = r.int("epoch")?,
        }
        finish(&r)
    }

    /// Rebuilds what is derived from the rows, and takes `applied` as the state's place in the log.
    pub fn loaded(&mut self, applied: Lsn) {
        self.applied = applied;
        self.indexed = applied;
        self.deadlines =
            self.sessions.iter().filter_map(|(client, s)| s.deadline().map(|at| (at, client.clone()))).collect();
        self.gather_groups();
        self.dirty.clear();
    }
}

/// A message that shares nothing with a larger buffer it was read from.
pub(super) fn own(message: &Message) -> Message {
    let mut bytes = Vec::new();
    put_message(&mut bytes, message);
    Fields(Bytes::from(bytes)).message().unwrap_or_else(|_| message.clone())
}

/// A text that shares nothing with a larger buffer it was read from.
pub(super) fn copy(text: &ByteString) -> ByteString {
    ByteString::from(AsRef::<str>::as_ref(text))
}

/// A row's tag and the names it begins with.
pub(super) fn put_key(out: &mut Vec<u8>, tag: u8, names: [Option<&str>; 2]) {
    out.push(tag);
    for name in names.into_iter().flatten() {
        put_bytes(out, name.as_bytes());
    }
}

pub(super) fn put_subscription(out: &mut Vec<u8>, subscription: &Subscription) {
    put_options(out, subscription.options);
    put_int(out, subscription.since.0);
}

pub(super) fn put_cursor(out: &mut Vec<u8>, cursor: &Cursor) {
    put_int(out, cursor.start.0);
    put_int(out, cursor.next.0);
    put_int(out, cursor.acked().count() as u64);
    for lsn in cursor.acked() {
        put_int(out, lsn.0);
    }
}

pub(super) fn put_retained(out: &mut Vec<u8>, stored: &StoredMessage) {
    put_int(out, stored.lsn.0);
    put_int(out, stored.time_us);
    put_message(out, &stored.message);
}

pub(super) fn put_session(out: &mut Vec<u8>, s: &Session) {
    put_int(out, s.epoch);
    out.push(
        u8::from(s.connected)
            | (u8::from(s.ends_at_us.is_some()) << 1)
            | (u8::from(s.will.is_some()) << 2)
            | (u8::from(s.will_due_us.is_some()) << 3),
    );
    put_int(out, u64::from(s.expiry_s));
    if let Some(at) = s.ends_at_us {
        put_int(out, at);
    }
    put_bytes(out, s.username.as_bytes());
    put_bytes(out, s.peer.as_bytes());
    if let Some(will) = &s.will {
        put_int(out, u64::from(will.delay_s));
        put_message(out, &will.message);
    }
    if let Some(at) = s.will_due_us {
        put_int(out, at);
    }
}

fn take_session(r: &mut Fields, s: &mut Session, recent: &mut Recent) -> Result<(), CodecError> {
    s.epoch = r.int("epoch")?;
    let flags = r.u8("session flags")?;
    s.connected = flags & 1 != 0;
    s.expiry_s = r.int32("expiry")?;
    if flags & 2 != 0 {
        s.ends_at_us = Some(r.int("end")?);
    }
    s.username = recent.name(&r.text("username")?);
    s.peer = Name::from(&*r.text("peer")?);
    if flags & 4 != 0 {
        s.will = Some(Arc::new(Will { delay_s: r.int32("will delay")?, message: own(&r.message()?) }));
    }
    if flags & 8 != 0 {
        s.will_due_us = Some(r.int("will due")?);
    }
    Ok(())
}
