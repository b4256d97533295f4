//! What can happen in a broker, one variant for each kind of record.
//!
//! An *event* is what happened; a *record* is an event in the log. All state (sessions, subscriptions, retained
//! messages, cursors) is a function of the records before it. The byte form is in [`codec`].

mod bounds;
pub mod codec;
mod json;
mod message;

use bytes::Bytes;
use bytestring::ByteString;

use crate::ids::Lsn;
pub use bounds::{DropOwner, DropReason, Dropped, DroppedRange, Positions, SessionPositions};
pub use message::{Message, Origin, Properties, QoS};

/// Number that tells one connection of a client from the next. Larger is later.
pub type Epoch = u64;

/// Session expiry interval, in seconds, that stands for "never".
pub const NEVER_EXPIRES: u32 = u32::MAX;

/// What happened. Names follow the hook points; the doc of each variant says who appends it and what it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Hook `session.created` (when `resumed` is false). Appended before CONNACK; CONNACK waits until it is applied.
    SessionOpened(SessionOpened),
    /// Hook `client.connected`. Appended once CONNACK is written. Changes nothing but what sinks store.
    ClientConnected(ClientConnected),
    /// Hook `client.disconnected`. Ends the connection `epoch`; ends the session too where its expiry is 0.
    ClientDisconnected(ClientDisconnected),
    /// The session's end by expiry, by a clean start or by an operator. Plain cursors go with it, rule cursors stay.
    SessionClosed(SessionClosed),
    /// Hook `session.subscribed`. Appended before SUBACK; SUBACK waits until it is applied.
    Subscribed(Subscribed),
    /// Hook `session.unsubscribed`. Wipes the cursor of (client, filter).
    Unsubscribed(Unsubscribed),
    /// Hook `message.publish`. PUBACK/PUBREC wait until it is durable.
    Published(Published),
    /// A publisher's PUBREL: its packet id may be used anew. PUBCOMP waits until it is durable.
    Released(Released),
    /// A QoS 2 PUBLISH is about to be sent under `packet_id`. The PUBLISH waits until it is durable.
    Sent(Sent),
    /// As `Sent`, of a message that a shared subscription gave the client. From here on it is the client's: no other member of the group
    /// is given it [MQTT-4.8.2-4]. Sent by clean sessions too.
    SharedSent(SharedSent),
    /// A subscriber's PUBREC. The PUBREL waits until it is durable.
    Received(Received),
    /// Hook `message.deliver`. Only appended where a rule asks for it.
    Delivered(Delivered),
    /// Hook `message.acked`: PUBACK or PUBCOMP of a subscriber, or a QoS 0 send of a stored message. Nothing waits.
    Acked(Acked),
    /// How far a sink has stored the log. Frees log space; the database's own position wins over it at connect.
    SinkPosition(SinkPosition),
    /// An operator moved a cursor (`forebay cursor rewind|skip|drop`).
    CursorMoved(CursorMoved),
    /// Where the cursors of connected clients stand. Appended by the engine before it trims, for cursors that would else stay behind
    /// because nothing is acknowledged on their filters.
    Positions(Positions),
    /// Records that their owner is not given any more, and by which policy. Appended by the engine before they go.
    Dropped(Dropped),
}

impl Event {
    /// True for events that let the log shrink again, or that a client needs to drain what is stored for it: acknowledgements, positions,
    /// ends, the return to an existing session. They are appended while the disk is full, from the log's reserve. False for what makes it
    /// grow: messages, new sessions, new subscriptions.
    #[must_use]
    pub const fn is_essential(&self) -> bool {
        match self {
            Event::SessionOpened(opened) => opened.resumed,
            Event::Subscribed(_) | Event::Published(_) => false,
            _ => true,
        }
    }
}

/// See [`Event::SessionOpened`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOpened {
    /// The client.
    pub client: ByteString,
    /// Its new connection.
    pub epoch: Epoch,
    /// True: state of an earlier connection goes on. False: whatever there was of this client's session is discarded.
    pub resumed: bool,
    /// How long the session outlives its connection, in seconds; 0 = not at all, [`NEVER_EXPIRES`] = for ever.
    pub expiry_s: u32,
    /// The will of this connection.
    pub will: Option<Will>,
    /// User name, empty when there was none.
    pub username: ByteString,
    /// The client's address without its port, empty when unknown.
    pub peer: ByteString,
}

/// A will and when it is due after the connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// What is published.
    pub message: Message,
    /// Seconds between the connection's end and the publication.
    pub delay_s: u32,
}

/// See [`Event::ClientConnected`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConnected {
    /// The client.
    pub client: ByteString,
    /// Its connection.
    pub epoch: Epoch,
    /// User name, empty when there was none.
    pub username: ByteString,
    /// The client's address without its port.
    pub peer: ByteString,
    /// MQTT protocol level: 3 (3.1), 4 (3.1.1) or 5.
    pub protocol: u8,
    /// Keep alive in seconds, 0 = off.
    pub keep_alive_s: u16,
    /// CONNECT's clean start (clean session) flag.
    pub clean_start: bool,
}

/// See [`Event::ClientDisconnected`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientDisconnected {
    /// The client.
    pub client: ByteString,
    /// The connection that ended.
    pub epoch: Epoch,
    /// Why.
    pub reason: DisconnectReason,
    /// True when a newer connection of the same client has taken over: sinks then leave the client's status alone.
    pub superseded: bool,
    /// True when the will is not to be published any more (a normal DISCONNECT).
    pub cancel_will: bool,
    /// Session expiry in seconds as changed by DISCONNECT; `None` = as it was opened.
    pub expiry_s: Option<u32>,
    /// Positions of cursors at that moment: everything below is done. Saves reading the log again from an older place.
    pub positions: Vec<CursorAt>,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DisconnectReason {
    /// DISCONNECT by the client, reason 0.
    Normal = 0,
    /// DISCONNECT by the client that asks for its will to be published.
    WithWill = 1,
    /// The link broke.
    ConnectionLost = 2,
    /// Nothing came for one and a half keep alive times.
    KeepAliveTimeout = 3,
    /// Another connection with the same client id.
    TakenOver = 4,
    /// The client broke the protocol.
    ProtocolError = 5,
    /// The server shut down in order.
    ServerShutdown = 6,
    /// The server died; written when it starts again.
    ServerDied = 7,
    /// An operator asked for it.
    Kicked = 8,
}

impl DisconnectReason {
    /// The word used in rules, logs and `--json`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            DisconnectReason::Normal => "normal",
            DisconnectReason::WithWill => "with_will",
            DisconnectReason::ConnectionLost => "connection_lost",
            DisconnectReason::KeepAliveTimeout => "keepalive_timeout",
            DisconnectReason::TakenOver => "takenover",
            DisconnectReason::ProtocolError => "protocol_error",
            DisconnectReason::ServerShutdown => "server_shutdown",
            DisconnectReason::ServerDied => "server_died",
            DisconnectReason::Kicked => "kicked",
        }
    }

    /// The reason with this number in the log.
    #[must_use]
    pub const fn from_u8(n: u8) -> Option<DisconnectReason> {
        Some(match n {
            0 => DisconnectReason::Normal,
            1 => DisconnectReason::WithWill,
            2 => DisconnectReason::ConnectionLost,
            3 => DisconnectReason::KeepAliveTimeout,
            4 => DisconnectReason::TakenOver,
            5 => DisconnectReason::ProtocolError,
            6 => DisconnectReason::ServerShutdown,
            7 => DisconnectReason::ServerDied,
            8 => DisconnectReason::Kicked,
            _ => return None,
        })
    }
}

/// A cursor of a client and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorAt {
    /// The subscription's filter.
    pub filter: ByteString,
    /// Every record below is done for this cursor.
    pub low: Lsn,
}

/// See [`Event::SessionClosed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionClosed {
    /// The client.
    pub client: ByteString,
    /// Its last connection; a newer one makes this event void.
    pub epoch: Epoch,
}

/// What a client asked for with a subscription (MQTT 5 names).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Granted QoS.
    pub qos: QoS,
    /// Own messages are not sent back.
    pub no_local: bool,
    /// The retain flag is passed on as published.
    pub retain_as_published: bool,
    /// 0 retained messages always, 1 only for a new subscription, 2 never.
    pub retain_handling: u8,
    /// Subscription identifier, 0 = none.
    pub identifier: u32,
}

impl SubscriptionOptions {
    /// What a 3.1.1 client gets with this QoS.
    #[must_use]
    pub const fn of_qos(qos: QoS) -> Self {
        SubscriptionOptions { qos, no_local: false, retain_as_published: false, retain_handling: 0, identifier: 0 }
    }
}

/// See [`Event::Subscribed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The client.
    pub client: ByteString,
    /// Its connection.
    pub epoch: Epoch,
    /// The topic filter.
    pub filter: ByteString,
    /// What it asked for.
    pub options: SubscriptionOptions,
    /// True when the store subscribed on the client's behalf (on_subscribe_lookup, the Redis channel).
    pub by_proxy: bool,
}

/// See [`Event::Unsubscribed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The client.
    pub client: ByteString,
    /// Its connection.
    pub epoch: Epoch,
    /// The topic filter.
    pub filter: ByteString,
    /// True when the store unsubscribed on the client's behalf.
    pub by_proxy: bool,
}

/// See [`Event::Published`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The message.
    pub message: Message,
    /// QoS 2 from a session that outlives its connection: the publisher's packet id, to be remembered until released.
    pub packet_id: Option<u16>,
    /// Connection of the publisher (0 = none).
    pub epoch: Epoch,
}

/// See [`Event::Released`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The publisher.
    pub client: ByteString,
    /// The packet id.
    pub packet_id: u16,
}

/// See [`Event::Sent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The subscriber.
    pub client: ByteString,
    /// The packet id the message travels under.
    pub packet_id: u16,
    /// The message's record.
    pub lsn: Lsn,
}

/// See [`Event::SharedSent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSent {
    /// The subscriber.
    pub client: ByteString,
    /// The packet id the message travels under.
    pub packet_id: u16,
    /// The message's record.
    pub lsn: Lsn,
    /// The shared subscription, `$share/<name>/<filter>`.
    pub share: ByteString,
}

/// See [`Event::Received`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The subscriber.
    pub client: ByteString,
    /// The packet id the message travels under.
    pub packet_id: u16,
}

/// See [`Event::Delivered`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The subscriber.
    pub client: ByteString,
    /// The message's record.
    pub lsn: Lsn,
    /// The message's record time in us (with `lsn` it makes the msgid).
    pub time_us: u64,
    /// The message's topic.
    pub topic: ByteString,
}

/// See [`Event::Acked`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The subscriber.
    pub client: ByteString,
    /// The message's record.
    pub lsn: Lsn,
    /// The message's record time in us (with `lsn` it makes the msgid).
    pub time_us: u64,
    /// The message's topic.
    pub topic: ByteString,
    /// QoS 2: the packet id that is free again.
    pub packet_id: Option<u16>,
    /// How it ended.
    pub outcome: AckOutcome,
    /// True when the message was leased to this client from its queue: it is done for everybody.
    pub queue: bool,
    /// The cursors that move, and how far everything below is done for each. A shared subscription (`$share/<name>/<filter>`) among them
    /// means that the message is done for its group; its `low` is [`Lsn::NONE`].
    pub cursors: Vec<CursorAt>,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AckOutcome {
    /// PUBACK or PUBCOMP with success.
    Acknowledged = 0,
    /// A negative PUBACK or PUBREC: counts as acknowledged (MQTT 5, 4.4).
    Refused = 1,
    /// Granted QoS 0: sent, and nothing comes back.
    Sent = 2,
    /// The message's expiry passed before it was sent.
    Expired = 3,
    /// Larger than the client's maximum packet size: dropped as if sent (MQTT-3.1.2-25).
    TooLarge = 4,
}

impl AckOutcome {
    /// The outcome with this number in the log.
    #[must_use]
    pub const fn from_u8(n: u8) -> Option<AckOutcome> {
        Some(match n {
            0 => AckOutcome::Acknowledged,
            1 => AckOutcome::Refused,
            2 => AckOutcome::Sent,
            3 => AckOutcome::Expired,
            4 => AckOutcome::TooLarge,
            _ => return None,
        })
    }
}

/// See [`Event::SinkPosition`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkPosition {
    /// The sink's name.
    pub sink: ByteString,
    /// Every record below is stored or dead-lettered.
    pub next: Lsn,
}

/// See [`Event::CursorMoved`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorMoved {
    /// The client.
    pub client: ByteString,
    /// The filter.
    pub filter: ByteString,
    /// The new position; [`Lsn::NONE`] removes the cursor.
    pub next: Lsn,
}

/// A record's payload bytes as an operator may see them.
pub type Body = Bytes;
