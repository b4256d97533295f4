//! The bounds of queues and of the groups of shared subscriptions: one that grows beyond them lets its oldest messages go, by a record.

use parking_lot::RwLock;

use super::Bounds;
use crate::event::{DropOwner, DropReason, Dropped, Event};
use crate::ids::Lsn;
use crate::log::Log;
use crate::state::{Left, State};

/// Looks after the queues and groups as they grow.
#[derive(Debug)]
pub(super) struct QueueBounds {
    bounds: Bounds,
    /// The last record that was appended for it: until it is applied, state still shows what it takes away.
    pending: Lsn,
}

impl QueueBounds {
    pub(super) fn new(bounds: Bounds) -> QueueBounds {
        QueueBounds { bounds, pending: Lsn::NONE }
    }

    /// Appends what has to go of queues and groups that have grown beyond their bounds; true where there was something. Costs a look at
    /// each that grew.
    pub(super) fn keep(&mut self, log: &Log, state: &RwLock<State>) -> bool {
        let none = self.bounds.queue_messages_max == 0 && self.bounds.queue_bytes_max == 0;
        let grown = |state: &State| state.queue.has_grown() || state.groups.has_grown();
        if none || !grown(&state.read()) || state.read().applied <= self.pending {
            return false;
        }
        let beyond = {
            let mut state = state.write();
            let (messages_max, bytes_max) = (self.bounds.queue_messages_max, self.bounds.queue_bytes_max);
            let mut beyond = state.queue.beyond(messages_max, bytes_max);
            beyond.extend(state.groups.beyond(messages_max, bytes_max));
            beyond
        };
        let mut appended_some = false;
        for (reason, range) in beyond {
            let owner = range.owner.clone();
            match super::append(log, &[Event::Dropped(Dropped { reason, drops: vec![range] })]) {
                Ok(appended) => (self.pending, appended_some) = (appended.last, true),
                Err(error) => {
                    // Looked at again by the applier's next step.
                    tracing::debug!(%error, ?owner, "a queue is beyond its bounds, and the log takes no record of it now");
                    match owner {
                        DropOwner::Queue(topic) => state.write().queue.look_again(topic),
                        DropOwner::Group(share) => state.write().groups.look_again(share),
                        DropOwner::Cursor { .. } | DropOwner::Sink(_) => {}
                    }
                }
            }
        }
        appended_some
    }
}

/// Tells of what was dropped: once, when it is applied, never at a replay.
pub(super) fn tell(dropped: &Dropped) {
    let count: u64 = dropped.drops.iter().map(|range| range.count).sum();
    metrics::counter!(crate::metrics::DROPPED, "reason" => dropped.reason.as_str()).increment(count);
    for range in &dropped.drops {
        if let DropOwner::Sink(sink) = &range.owner {
            let (sink, reason) = (sink.to_string(), dropped.reason.as_str());
            metrics::counter!(crate::metrics::DROPPED_RECORDS, "sink" => sink, "reason" => reason)
                .increment(range.count);
        }
    }
    let owners = dropped.drops.len();
    if let Some(first) = dropped.drops.first() {
        let reason = dropped.reason.as_str();
        let (owner, from, to) = (name(&first.owner), first.from.0, first.to.0);
        match dropped.reason {
            // Bounds of queues act for each message once they are reached.
            DropReason::QueueMessages | DropReason::QueueBytes => {
                tracing::debug!(reason, count, owners, owner, from, to, "messages were dropped");
            }
            DropReason::DiskBudget => {
                tracing::error!(
                    reason,
                    count,
                    owners,
                    owner,
                    from,
                    to,
                    "the log has no room: a sink that lags is passed (log.when_full = drop_oldest)"
                );
            }
            _ => tracing::warn!(reason, count, owners, owner, from, to, "messages were dropped"),
        }
    }
}

/// Tells of what a session's end took from groups: once, when it is applied.
pub(super) fn tell_left(client: &str, left: &Left) {
    if left.unconfirmed > 0 {
        let reason = DropReason::SessionEndedQos2.as_str();
        metrics::counter!(crate::metrics::DROPPED, "reason" => reason).increment(left.unconfirmed);
        tracing::info!(
            client,
            messages = left.unconfirmed,
            "messages of shared subscriptions were sent with QoS 2 to a session that ended before they were acknowledged; nobody else is given them"
        );
    }
}

fn name(owner: &DropOwner) -> String {
    match owner {
        DropOwner::Queue(topic) => format!("queue {topic}"),
        DropOwner::Cursor { client, filter } => format!("cursor of {client} on {filter}"),
        DropOwner::Sink(sink) => format!("sink {sink}"),
        DropOwner::Group(share) => format!("group {share}"),
    }
}
