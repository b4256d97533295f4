//! State as a function of the log: sessions, subscriptions, cursors, retained messages, queues, sink positions.
//!
//! `State::apply` takes the records in order and is the only thing that changes state, so that the same log always gives the
//! same state: from its first record, from a checkpoint, or from the derived index on disk. What it holds has a flat form too,
//! `rows`, which the index (`store`) and the checkpoint ([`checkpoint`]) share.

mod all_rows;
mod apply;
mod bounds;
pub mod checkpoint;
mod cursor;
mod dense;
mod few;
pub(crate) mod forgetting;
mod groups;
mod name;
mod rows;
pub(crate) mod store;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use bytestring::ByteString;

use crate::event::{DropOwner, Epoch, Message, SubscriptionOptions, Will};
use crate::ids::Lsn;
pub(crate) use apply::Change;
pub use bounds::Gap;
pub(crate) use bounds::Queues;
pub use cursor::Cursor;
pub(crate) use dense::Dense;
pub(crate) use few::Few;
pub(crate) use groups::{Group, Groups, Left};
pub(crate) use name::Name;
use name::Recent;
use rows::RowKey;

/// Everything the log says, up to (not including) the record `applied`.
#[derive(Debug, Default)]
pub struct State {
    /// Every record below is in this state.
    pub(crate) applied: Lsn,
    /// Largest epoch seen.
    pub(crate) epoch: Epoch,
    pub(crate) sessions: Dense<Box<Session>>,
    /// Client -> filter -> cursor: of plain subscriptions of lasting sessions, and of rules.
    pub(crate) cursors: Dense<Few<Cursor>>,
    pub(crate) retained: BTreeMap<ByteString, StoredMessage>,
    /// Messages owed by one-to-one queues.
    pub(crate) queue: Queues,
    /// Groups of shared subscriptions.
    pub(crate) groups: Groups,
    /// Newest record of each topic under a keep-latest rule.
    pub(crate) latest: Dense<Lsn>,
    pub(crate) sinks: BTreeMap<ByteString, Lsn>,
    /// What owners lost by a named policy.
    pub(crate) gaps: BTreeMap<DropOwner, Gap>,
    /// When something is due: (us since 1970, client). A session's end or its will.
    pub(crate) deadlines: BTreeSet<(u64, Name)>,
    /// Rows changed since they were last collected for the index.
    pub(crate) dirty: HashSet<RowKey>,
    /// The place in the log that was collected for the index last.
    pub(crate) indexed: Lsn,
    /// Filters and user names that come again and again.
    pub(crate) recent: Recent,
}

/// A client's session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) epoch: Epoch,
    pub(crate) connected: bool,
    pub(crate) expiry_s: u32,
    /// While not connected: when it ends, us since 1970; `None` = never.
    pub(crate) ends_at_us: Option<u64>,
    pub(crate) username: Name,
    pub(crate) peer: Name,
    pub(crate) will: Option<Arc<Will>>,
    pub(crate) will_due_us: Option<u64>,
    pub(crate) subscriptions: Few<Subscription>,
    pub(crate) received: BTreeSet<u16>,
    pub(crate) outbound: BTreeMap<u16, Outbound>,
}

/// A subscription of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) options: SubscriptionOptions,
    /// The record that made it; messages from here on are for it.
    pub(crate) since: Lsn,
}

impl Session {
    /// True when the session outlives its connection.
    pub(crate) fn lasting(&self) -> bool {
        self.expiry_s > 0
    }

    /// The earliest moment at which something is due.
    fn deadline(&self) -> Option<u64> {
        if self.connected {
            return None;
        }
        match (self.ends_at_us, self.will.as_ref().and(self.will_due_us)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn view(&self, client: &Name) -> SessionView {
        SessionView {
            client: client.to_byte_string(),
            epoch: self.epoch,
            connected: self.connected,
            expiry_s: self.expiry_s,
            ends_at_us: self.ends_at_us,
            username: self.username.to_byte_string(),
            will: self.will.clone(),
            will_due_us: self.will_due_us,
            subscriptions: self.subscriptions.iter().map(|(f, s)| (f.to_byte_string(), s.options)).collect(),
            received: self.received.iter().copied().collect(),
            outbound: self.outbound.values().cloned().collect(),
        }
    }
}

impl State {
    /// A client's session, copied.
    #[must_use]
    pub fn session(&self, client: &str) -> Option<SessionView> {
        self.sessions.get_name_value(client).map(|(client, session)| session.view(client))
    }

    /// All sessions, copied.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionView> {
        self.sessions.iter().map(|(client, session)| session.view(client)).collect()
    }

    /// Sessions whose end or will is due at `now_us`.
    #[must_use]
    pub fn due(&self, now_us: u64) -> Vec<SessionView> {
        self.deadlines
            .iter()
            .take_while(|(at, _)| *at <= now_us)
            .filter_map(|(_, client)| self.session(client))
            .collect()
    }

    /// The retained messages whose topic matches, in the order of topics.
    #[must_use]
    pub fn retained_matching(&self, filter: &str) -> Vec<StoredMessage> {
        if !crate::topic::has_wildcard(filter) {
            return self.retained.get(filter).cloned().into_iter().collect();
        }
        // Everything before the first wildcard is a literal prefix; `a/#` also matches `a` itself, which sorts before `a/`.
        let prefix = filter.split(['+', '#']).next().unwrap_or_default();
        let from = prefix.strip_suffix('/').unwrap_or(prefix);
        self.retained
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(topic, _)| topic.starts_with(from))
            .filter(|(topic, _)| crate::topic::matches(filter, topic))
            .map(|(_, stored)| stored.clone())
            .collect()
    }
}

/// A client's session as it stands (a copy).
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Client id.
    pub client: ByteString,
    /// Newest connection.
    pub epoch: Epoch,
    /// True while that connection is open.
    pub connected: bool,
    /// How long it outlives its connection, seconds.
    pub expiry_s: u32,
    /// While not connected: when it ends, us since 1970; `None` = never.
    pub ends_at_us: Option<u64>,
    /// User name.
    pub username: ByteString,
    /// Will not yet published or cancelled.
    pub will: Option<Arc<Will>>,
    /// While not connected and a will waits: when it is due, us since 1970.
    pub will_due_us: Option<u64>,
    /// Subscriptions by filter.
    pub subscriptions: BTreeMap<ByteString, SubscriptionOptions>,
    /// QoS 2 packet ids received from the client and not released.
    pub received: Vec<u16>,
    /// QoS 2 messages on their way to the client, by packet id.
    pub outbound: Vec<Outbound>,
}

/// The group of a shared subscription as it stands (a copy).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// The subscription, `$share/<name>/<filter>`.
    pub share: ByteString,
    /// Clients whose sessions subscribe, and whether they are connected.
    pub members: Vec<(ByteString, bool)>,
    /// Messages it owes: published, and not acknowledged by a member.
    pub messages: u64,
    /// Bytes of their topics and payloads.
    pub bytes: u64,
    /// The oldest of them.
    pub oldest: Option<Lsn>,
}

/// A QoS 2 message on its way to a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Packet id.
    pub packet_id: u16,
    /// The message's record.
    pub lsn: Lsn,
    /// True once PUBREC came: PUBREL is to be sent, never PUBLISH.
    pub received: bool,
    /// The shared subscription that gave it, `$share/<name>/<filter>`; `None` for all else.
    pub share: Option<ByteString>,
}

/// A stored message with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Record number.
    pub lsn: Lsn,
    /// Record time, us since 1970.
    pub time_us: u64,
    /// The message.
    pub message: Arc<Message>,
}
