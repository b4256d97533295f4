//! What subscribers are owed: read positions, queue leases, sessions. One mechanism for all of them.
//!
//! ```text
//!   log --durable--> applier --offers--> inbox (live) ----take----> connection
//!    ^                                     ^                            |
//!    |              worker --reads--> inbox (behind), queue leases      |
//!    +---------------------------- Acked ---------- settle <------------+
//! ```
//!
//! A connection *takes* deliveries and *settles* them; settling moves cursors, removes queue messages and frees the window.

mod catch_up;
mod groups;
mod hub;
mod inbox;
mod interest;
mod queue;
mod retry;
mod shared;
#[cfg(test)]
mod tests;
mod worker;

use std::future::poll_fn;
use std::sync::Arc;

use bytestring::ByteString;

use crate::event::{AckOutcome, Acked, CursorAt, Epoch, Event, Message, QoS};
use crate::ids::Lsn;
use crate::log::AppendError;
use crate::topic;
use hub::Attached;
pub(crate) use hub::Hub;
pub(crate) use inbox::Inbox;
pub(crate) use worker::{Work, Worker, load, run};

/// How a connection wants its mailbox.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// Client id.
    pub client: ByteString,
    /// Its connection.
    pub epoch: Epoch,
    /// Most QoS 1/2 messages handed out and not settled at a time (the client's Receive Maximum); at least 1.
    pub window: u16,
    /// Records that the session has in flight already (it sends them again itself) and that are not to be given out.
    /// They count against the window and are settled like others.
    pub in_flight: Vec<Lsn>,
}

/// A stored message for one subscriber.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message's record.
    pub lsn: Lsn,
    /// Its time, us since 1970.
    pub time_us: u64,
    /// The message.
    pub message: Arc<Message>,
    /// min(published, granted).
    pub qos: QoS,
    /// The retain flag to send.
    pub retain: bool,
    /// Subscription identifiers of all matching subscriptions.
    pub identifiers: Vec<u32>,
    /// The shared subscription (`$share/<name>/<filter>`) whose group gave it: it is to be settled with [`Mailbox::settle_shared`], and
    /// recorded with [`Event::SharedSent`] before it is sent with QoS 2, also to a clean session. `None` for all else. A record may be
    /// on its way to a client more than once, with different values of this.
    pub share: Option<ByteString>,
}

/// A delivery from a group that ends: record, shared subscription, QoS 2 packet id, outcome.
pub type SettledShared = (Lsn, ByteString, Option<u16>, AckOutcome);

/// A connection's stored messages: queue leases, read positions, persistent and clean sessions, all of them by LSN.
///
/// Dropping it gives leases back. Take [`Mailbox::positions`] before, and append them with `ClientDisconnected` after. A mailbox
/// that outlives its engine delivers what it holds already; its acknowledgements are not remembered then.
#[derive(Debug)]
pub struct Mailbox {
    hub: Arc<Hub>,
    inbox: Arc<Inbox>,
    revoked: Vec<Lsn>,
    revoked_shared: Vec<(Lsn, ByteString)>,
    /// Acknowledgements that the log had no room for; sent with the next ones.
    unsent: Vec<Event>,
}

impl Mailbox {
    pub(crate) fn new(hub: Arc<Hub>, options: &AttachOptions, shared: &[(Lsn, ByteString)]) -> Mailbox {
        let Attached { inbox, revoked, revoked_shared } = hub.attach(options, shared);
        Mailbox { hub, inbox, revoked, revoked_shared, unsent: Vec::new() }
    }

    /// Records of [`AttachOptions::in_flight`] that were given to another client of their queue in the meantime: they have left
    /// this client's in-flight window and must not be sent again.
    #[must_use]
    pub fn revoked(&self) -> &[Lsn] {
        &self.revoked
    }

    /// As [`Mailbox::revoked`], of what groups of shared subscriptions had given: record and subscription.
    #[must_use]
    pub fn revoked_shared(&self) -> &[(Lsn, ByteString)] {
        &self.revoked_shared
    }

    /// Hands out what is ready, oldest first, into `out`; at most `max` messages. QoS 1/2 deliveries count against the
    /// window until settled; QoS 0 deliveries are to be settled too (with [`AckOutcome::Sent`]) once written. Never waits, never
    /// reads the disk.
    pub fn take(&mut self, max: usize, out: &mut Vec<Delivery>) {
        let before = out.len();
        let wants_more = self.inbox.take(max, out);
        let taken = out.len() - before;
        if taken > 0 {
            self.hub.handed_out.increment(taken as u64);
        }
        if wants_more {
            self.hub.after_change(&self.inbox);
        }
    }

    /// Resolves when `take` may have something (may be early). Cancellation safe; one task at a time may wait. It does not resolve
    /// when the engine closes or a newer connection attaches: race it with what ends the connection.
    pub async fn ready(&self) {
        poll_fn(|cx| self.inbox.poll_ready(cx)).await;
    }

    /// As [`Mailbox::ready`], blocking the thread up to `timeout` ([`std::time::Duration::MAX`]: for ever): `false` when that has
    /// passed. Not for a thread that runs async tasks.
    pub fn ready_within(&self, timeout: std::time::Duration) -> bool {
        crate::blocking::within(timeout, self.ready()).is_some()
    }

    /// Ends deliveries: (record, QoS 2 packet id, outcome). Moves cursors, removes queue messages, frees the window and
    /// appends the `Acked` events that the rules or cursors need. Nothing has to be waited for.
    ///
    /// Where the log has no room the acknowledgements are kept and go with the next ones; where it has stopped they are not
    /// remembered, and the messages come again.
    pub fn settle(&mut self, settled: &[(Lsn, Option<u16>, AckOutcome)]) {
        let offered = self.hub.offered_end();
        let client = self.inbox.client.clone();
        let mut wanted = false;
        {
            let mut state = self.inbox.state.lock();
            for (lsn, packet_id, outcome) in settled {
                let Some(done) = state.settle(*lsn, offered) else {
                    drop(state);
                    self.settle_unmet(*lsn, *packet_id, *outcome);
                    state = self.inbox.state.lock();
                    wanted = true;
                    continue;
                };
                let needed = done.queue || !done.cursors.is_empty() || packet_id.is_some();
                if needed || self.hub.rules.wants_acked(&done.topic) {
                    self.unsent.push(Event::Acked(Acked {
                        client: client.clone(),
                        lsn: *lsn,
                        time_us: done.time_us,
                        topic: done.topic,
                        packet_id: *packet_id,
                        outcome: *outcome,
                        queue: done.queue,
                        cursors: done.cursors,
                    }));
                }
                wanted = true;
            }
        }
        self.flush();
        if wanted {
            self.hub.after_change(&self.inbox);
        }
    }

    /// As [`Mailbox::settle`], of deliveries that groups of shared subscriptions gave: whatever the outcome, the message is done for its
    /// group [MQTT-4.8.2-6].
    pub fn settle_shared(&mut self, settled: &[SettledShared]) {
        for (lsn, share, packet_id, outcome) in settled {
            let entry = self.inbox.state.lock().settle_shared(*lsn, share);
            let (time_us, topic) = entry.map(|e| (e.time_us, e.message.topic.clone())).unwrap_or_default();
            if *outcome == AckOutcome::Refused {
                metrics::counter!(crate::metrics::SHARED_REFUSED).increment(1);
            }
            self.unsent.push(Event::Acked(Acked {
                client: self.inbox.client.clone(),
                lsn: *lsn,
                time_us,
                topic,
                packet_id: *packet_id,
                outcome: *outcome,
                queue: false,
                cursors: vec![CursorAt { filter: share.clone(), low: Lsn::NONE }],
            }));
        }
        self.flush();
        if !settled.is_empty() {
            self.hub.after_change(&self.inbox);
        }
    }

    /// A message in flight from an earlier connection was acknowledged before the reader came to it: its cursors are found by
    /// its topic, for a crash must not bring it again once its packet id is free.
    fn settle_unmet(&mut self, lsn: Lsn, packet_id: Option<u16>, outcome: AckOutcome) {
        let stored = load(&self.hub.log, lsn).unwrap_or_else(|error| {
            tracing::warn!(client = %self.inbox.client, lsn = lsn.0, %error, "an acknowledged message can't be read; it may come again");
            None
        });
        let (time_us, topic) = stored.map(|s| (s.time_us, s.message.topic.clone())).unwrap_or_default();
        let cursors = self.inbox.state.lock().durable_matching(&topic);
        let queue = self.hub.queue.lock().holds(lsn, &self.inbox.client);
        if packet_id.is_some() || queue || !cursors.is_empty() {
            self.unsent.push(Event::Acked(Acked {
                client: self.inbox.client.clone(),
                lsn,
                time_us,
                topic,
                packet_id,
                outcome,
                queue,
                cursors,
            }));
        }
    }

    fn flush(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        match crate::engine::append(&self.hub.log, &self.unsent) {
            Ok(_) => {
                // Before they are applied this connection may end: its leases go back, and these must not be among them.
                let settled = |event: &Event| match event {
                    Event::Acked(acked) if acked.queue => Some(acked.lsn),
                    _ => None,
                };
                let settled: Vec<Lsn> = self.unsent.iter().filter_map(settled).collect();
                if !settled.is_empty() {
                    self.hub.queue.lock().settled(&self.inbox.client, &settled);
                }
                for acked in self.unsent.iter().filter_map(shared_ack) {
                    self.hub.groups.lock().settled(acked.1, &self.inbox.client, acked.0);
                }
                self.unsent.clear();
            }
            Err(AppendError::Full { .. } | AppendError::NoSpace { .. }) => {}
            Err(error) => {
                tracing::warn!(client = %self.inbox.client, %error, "acknowledgements are not remembered; their messages come again");
                self.unsent.clear();
            }
        }
    }

    /// Where this client's durable cursors stand now (for `ClientDisconnected::positions`).
    #[must_use]
    pub fn positions(&self) -> Vec<CursorAt> {
        let offered = self.hub.offered_end();
        self.inbox.state.lock().positions(offered)
    }
}

/// The record and the shared subscription of an acknowledgement, where a group gave the message.
fn shared_ack(event: &Event) -> Option<(Lsn, &str)> {
    let Event::Acked(Acked { lsn, cursors, .. }) = event else { return None };
    let share = cursors.iter().map(|at| &*at.filter).find(|filter| topic::shared(filter).is_some());
    share.map(|share| (*lsn, share))
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.flush();
        self.hub.detach(&self.inbox);
    }
}
