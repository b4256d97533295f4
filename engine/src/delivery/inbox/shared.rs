//! What groups of shared subscriptions have leased to a connection. Such a message is a delivery of its own, whatever other subscriptions
//! of the client it matches, and one for each group.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytestring::ByteString;

use super::{Inbox, InboxState};
use crate::delivery::Delivery;
use crate::delivery::groups::{Member, Shared};
use crate::event::{Message, QoS};
use crate::ids::Lsn;
use crate::state::StoredMessage;

/// The shared part of an inbox. Its messages count against the bounds and the window of the whole.
#[derive(Debug, Default)]
pub(in crate::delivery) struct SharedPart {
    /// The client's shared subscriptions.
    pub(in crate::delivery) shares: Vec<ByteString>,
    /// Ready to be handed out, in the order they came. What is no longer in `entries` is passed over.
    order: VecDeque<Shared>,
    pub(super) entries: BTreeMap<Shared, SharedEntry>,
}

/// A message leased from a group.
#[derive(Debug)]
pub(in crate::delivery) struct SharedEntry {
    pub(in crate::delivery) time_us: u64,
    pub(in crate::delivery) message: Arc<Message>,
    qos: QoS,
    retain: bool,
    identifier: u32,
    handed: bool,
}

impl SharedPart {
    /// The oldest that was not handed out, and its QoS.
    pub(super) fn front(&mut self) -> Option<(Lsn, QoS)> {
        while let Some(first) = self.order.front() {
            match self.entries.get(first) {
                Some(entry) if !entry.handed => return Some((first.0, entry.qos)),
                _ => drop(self.order.pop_front()),
            }
        }
        None
    }

    /// Nobody takes what is here any more.
    pub(super) fn clear(&mut self) {
        self.order.clear();
        self.entries.clear();
    }

    /// What was handed out with QoS 2 and is not settled, in the order of the log.
    pub(in crate::delivery) fn sent(&self) -> Vec<Shared> {
        let sent = self.entries.iter().filter(|(_, entry)| entry.handed && entry.qos == QoS::ExactlyOnce);
        sent.map(|(shared, _)| shared.clone()).collect()
    }
}

impl Inbox {
    /// Puts in a message that a group leases to this connection; false where there is no room for it.
    pub(in crate::delivery) fn lease_shared(&self, lsn: Lsn, stored: &StoredMessage, member: &Member) -> bool {
        let mut state = self.state.lock();
        if !state.has_room(self.window) {
            return false;
        }
        let options = &member.options;
        let entry = SharedEntry {
            time_us: stored.time_us,
            message: Arc::clone(&stored.message),
            qos: stored.message.qos.min(options.qos),
            retain: options.retain_as_published && stored.message.retain,
            identifier: options.identifier,
            handed: false,
        };
        state.put_shared((lsn, member.share.clone()), entry);
        true
    }

    /// Files a message that an earlier connection of the session has in flight; `stored` where it could be read.
    pub(in crate::delivery) fn hold_shared(&self, lsn: Lsn, share: &ByteString, stored: Option<StoredMessage>) {
        let stored = stored.unwrap_or_else(|| StoredMessage { lsn, time_us: 0, message: Arc::default() });
        let mut state = self.state.lock();
        state.handed += 1;
        state.acknowledged += 1;
        let qos = stored.message.qos.max(QoS::AtLeastOnce);
        let entry = SharedEntry {
            time_us: stored.time_us,
            message: stored.message,
            qos,
            retain: false,
            identifier: 0,
            handed: true,
        };
        state.shared.entries.insert((lsn, share.clone()), entry);
    }
}

impl InboxState {
    fn put_shared(&mut self, shared: Shared, entry: SharedEntry) {
        self.queued_bytes += entry.message.payload.len();
        self.acknowledged += usize::from(entry.qos > QoS::AtMostOnce);
        self.shared.order.push_back(shared.clone());
        self.shared.entries.insert(shared, entry);
    }

    /// Hands out the oldest of them.
    pub(super) fn take_shared(&mut self) -> Option<Delivery> {
        let (lsn, share) = self.shared.order.pop_front()?;
        let entry = self.shared.entries.get_mut(&(lsn, share.clone()))?;
        entry.handed = true;
        self.queued_bytes = self.queued_bytes.saturating_sub(entry.message.payload.len());
        self.handed += usize::from(entry.qos > QoS::AtMostOnce);
        Some(Delivery {
            lsn,
            time_us: entry.time_us,
            message: Arc::clone(&entry.message),
            qos: entry.qos,
            retain: entry.retain,
            identifiers: (entry.identifier != 0).then_some(entry.identifier).into_iter().collect(),
            share: Some(share),
        })
    }

    /// Ends a delivery; `None` where it is not on its way here.
    pub(in crate::delivery) fn settle_shared(&mut self, lsn: Lsn, share: &ByteString) -> Option<SharedEntry> {
        let entry = self.shared.entries.remove(&(lsn, share.clone()))?;
        let counts = usize::from(entry.qos > QoS::AtMostOnce);
        self.acknowledged = self.acknowledged.saturating_sub(counts);
        if entry.handed {
            self.handed = self.handed.saturating_sub(counts);
        } else {
            self.queued_bytes = self.queued_bytes.saturating_sub(entry.message.payload.len());
        }
        Some(entry)
    }

    /// Adds a shared subscription.
    pub(in crate::delivery) fn add_share(&mut self, share: &ByteString) {
        if !self.shared.shares.contains(share) {
            self.shared.shares.push(share.clone());
        }
    }

    /// Removes a shared subscription. Returns the leases that go back to the group: what was handed out ends as it would have
    /// (MQTT-3.10.4-3).
    #[must_use]
    pub(in crate::delivery) fn remove_share(&mut self, share: &ByteString) -> Vec<Lsn> {
        self.shared.shares.retain(|known| known != share);
        let queued = self.shared.entries.iter().filter(|((_, of), entry)| of == share && !entry.handed);
        let queued: Vec<Lsn> = queued.map(|((lsn, _), _)| *lsn).collect();
        for lsn in &queued {
            self.settle_shared(*lsn, share);
        }
        queued
    }
}
