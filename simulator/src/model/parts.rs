//! What the model knows of filters, sessions and read positions.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use forebay_engine::Lsn;
use forebay_engine::event::{Event, SubscriptionOptions, Will};

/// What governs a filter or a topic, by the rules that all schedules use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ordinary MQTT.
    Plain,
    /// One-to-one.
    Queue,
    /// A read position over all stored messages.
    Pubsub,
    /// A read position over the newest message of each topic.
    Latest,
    /// A shared subscription.
    Shared,
}

impl Kind {
    /// Of a filter or topic.
    #[must_use]
    pub fn of(name: &str) -> Kind {
        match name.split('/').next() {
            Some("queue") => Kind::Queue,
            Some("pubsub") => Kind::Pubsub,
            Some("latest") => Kind::Latest,
            Some("$share") => Kind::Shared,
            _ => Kind::Plain,
        }
    }

    /// True for a read position that outlives its session.
    #[must_use]
    pub fn is_rule(self) -> bool {
        matches!(self, Kind::Pubsub | Kind::Latest)
    }
}

/// A record that the simulator appended.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its time.
    pub time_us: u64,
    /// What it says.
    pub event: Event,
}

/// A message on its way with QoS 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnItsWay {
    /// The message's record.
    pub lsn: Lsn,
    /// Its PUBREC came.
    pub received: bool,
    /// The shared subscription whose group gave it.
    pub share: Option<ByteString>,
}

/// A session, as the log says.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Its newest connection.
    pub epoch: u64,
    /// That connection is open.
    pub connected: bool,
    /// It outlives its connections by so many seconds.
    pub expiry_s: u32,
    /// When it ends, while nobody is connected.
    pub ends_at_us: Option<u64>,
    /// The will that is neither published nor cancelled.
    pub will: Option<Will>,
    /// When that is due, while nobody is connected.
    pub will_due_us: Option<u64>,
    /// Its subscriptions.
    pub subscriptions: BTreeMap<ByteString, SubscriptionOptions>,
    /// QoS 2 on its way to it, by packet id.
    pub outbound: BTreeMap<u16, OnItsWay>,
    /// QoS 2 packet ids from it, not released.
    pub received: BTreeSet<u16>,
}

/// A subscription's claim, from the record that made it until what wipes its position.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The record that made it.
    pub made: Lsn,
    /// Messages from here on are for it.
    pub since: Lsn,
    /// What the log says is done for it.
    pub done: BTreeSet<Lsn>,
    /// It asked for its own messages to be left out at some time.
    pub no_local: bool,
}
