//! Events by which the engine itself keeps the log trimmable: positions of connected cursors, and what a named policy let go.

use bytestring::ByteString;

use super::{CursorAt, Epoch};
use crate::ids::Lsn;

/// See [`Event::Positions`](super::Event::Positions).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Every record below was offered to these connections when the positions were taken. A subscription made later is not meant.
    pub seen: Lsn,
    /// The connections, each with its cursors.
    pub sessions: Vec<SessionPositions>,
}

/// A connection and where its durable cursors stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPositions {
    /// The client.
    pub client: ByteString,
    /// Its connection; a newer one makes these positions void.
    pub epoch: Epoch,
    /// Its cursors.
    pub cursors: Vec<CursorAt>,
}

/// See [`Event::Dropped`](super::Event::Dropped).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The policy.
    pub reason: DropReason,
    /// Who lost what.
    pub drops: Vec<DroppedRange>,
}

/// Records that their owner is not given any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedRange {
    /// Whose they were.
    pub owner: DropOwner,
    /// The first of the range.
    pub from: Lsn,
    /// The first behind the range.
    pub to: Lsn,
    /// How many messages in `from..to` were owed to the owner. For a sink: records that it had not stored.
    pub count: u64,
}

/// Whose records were dropped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropOwner {
    /// The one-to-one queue of this topic: its messages in the range are owed to nobody any more.
    Queue(ByteString),
    /// The cursor of a client's subscription: it stands at the range's end now. With [`DropReason::IdleCursors`] it is removed.
    Cursor {
        /// The client.
        client: ByteString,
        /// The filter.
        filter: ByteString,
    },
    /// A database sink: its position is the range's end at least.
    Sink(ByteString),
    /// The group of a shared subscription (`$share/<name>/<filter>`): its messages in the range are owed to none of its members any more.
    Group(ByteString),
}

/// Which policy let records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Retention by age or size passed the read position of a rule, which holds nothing.
    Retention = 0,
    /// A queue, or the group of a shared subscription, had more messages than `queue.messages_max`; the oldest went.
    QueueMessages = 1,
    /// A queue, or the group of a shared subscription, had more bytes than `queue.bytes_max`; the oldest messages went.
    QueueBytes = 2,
    // 3 is free: it was set aside for the age of a queue's messages, and never written.
    /// A session's backlog had more messages than `session.backlog_messages_max`; the oldest went.
    SessionMessages = 4,
    /// A session's backlog had more bytes than `session.backlog_bytes_max`; the oldest messages went.
    SessionBytes = 5,
    /// A filter had more idle read positions than `session.idle_cursors_max`; the one furthest behind was removed.
    IdleCursors = 6,
    /// The log reached its disk budget and a sink that lagged was passed (`drop_oldest`).
    DiskBudget = 7,
    /// The bytes on disk were damaged and could not be carried out of a segment that retention gave up.
    Damaged = 8,
    /// A message of a shared subscription was sent to a member with QoS 2, and the member's session ended before it was acknowledged: no
    /// other member may be given it [MQTT-4.8.2-5]. State notes it at the session's end; no `Dropped` record says so.
    SessionEndedQos2 = 9,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [DropReason; 9] = [
        DropReason::Retention,
        DropReason::QueueMessages,
        DropReason::QueueBytes,
        DropReason::SessionMessages,
        DropReason::SessionBytes,
        DropReason::IdleCursors,
        DropReason::DiskBudget,
        DropReason::Damaged,
        DropReason::SessionEndedQos2,
    ];

    /// The word used in metrics, messages and `--json`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            DropReason::Retention => "retention",
            DropReason::QueueMessages => "queue_messages",
            DropReason::QueueBytes => "queue_bytes",
            DropReason::SessionMessages => "session_messages",
            DropReason::SessionBytes => "session_bytes",
            DropReason::IdleCursors => "idle_cursors",
            DropReason::DiskBudget => "disk_budget",
            DropReason::Damaged => "damaged",
            DropReason::SessionEndedQos2 => "session_ended_qos2",
        }
    }

    /// The reason with this number in the log.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<DropReason> {
        DropReason::ALL.into_iter().find(|reason| *reason as u8 == n)
    }
}
