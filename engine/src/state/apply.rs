//! One record's effect on state.

use std::sync::Arc;

use bytestring::ByteString;

use super::rows::{RowKey, copy, own};
use super::{Cursor, Left, Name, Outbound, State, StoredMessage, Subscription};
use crate::event::{
    Acked, ClientDisconnected, CursorAt, CursorMoved, DropOwner, Event, NEVER_EXPIRES, Origin, Published,
    SessionClosed, SessionOpened, Subscribed, SubscriptionOptions, Unsubscribed,
};
use crate::ids::Lsn;
use crate::rules::{Kind, RuleIndex, StartAt};
use crate::topic;

/// What delivery has to know of a record's effect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing that concerns delivery.
    None,
    /// A subscription was made or made anew.
    Subscribed {
        /// What it was before, where it was there.
        previous: Option<SubscriptionOptions>,
    },
    /// The subscription is gone.
    Unsubscribed {
        /// What it was, where it was there.
        previous: Option<SubscriptionOptions>,
        /// It was a shared one, and the last of its group.
        ended: bool,
    },
    /// The session's subscriptions (these) are gone.
    SessionEnded {
        /// Filter and granted QoS of each.
        subscriptions: Vec<(ByteString, Subscription)>,
        /// What that did to groups.
        left: Left,
    },
    /// The message is owed.
    Owed {
        /// By the queue of its topic.
        queue: bool,
        /// By the groups of these shared subscriptions.
        groups: Vec<ByteString>,
    },
    /// These messages are no longer owed.
    Done {
        /// By queues.
        queues: Vec<Lsn>,
        /// By groups.
        groups: Vec<(ByteString, Lsn)>,
    },
    /// An operator moved a cursor.
    CursorMoved,
}

impl Change {
    pub(super) fn done(queues: Vec<Lsn>, groups: Vec<(ByteString, Lsn)>) -> Change {
        if queues.is_empty() && groups.is_empty() { Change::None } else { Change::Done { queues, groups } }
    }
}

impl State {
    /// Takes in one record. Records must come in order; one that is in this state already changes nothing.
    pub(crate) fn apply(&mut self, rules: &RuleIndex, lsn: Lsn, time_us: u64, event: &Event) -> Change {
        if lsn < self.applied {
            return Change::None;
        }
        self.applied = lsn.next();
        match event {
            Event::SessionOpened(e) => self.session_opened(rules, time_us, e),
            Event::ClientDisconnected(e) => self.disconnected(rules, time_us, e),
            Event::SessionClosed(e) => self.session_closed(rules, time_us, e),
            Event::Subscribed(e) => self.subscribed(rules, lsn, e),
            Event::Unsubscribed(e) => self.unsubscribed(e),
            Event::Published(e) => self.published(rules, lsn, time_us, e),
            Event::Acked(e) => self.acked(e),
            Event::CursorMoved(e) => self.cursor_moved(e),
            Event::Positions(e) => self.positions(e),
            Event::Dropped(e) => self.dropped(time_us, e),
            Event::Released(e) => {
                if self.sessions.get_mut(&e.client).is_some_and(|s| s.received.remove(&e.packet_id)) {
                    self.dirty.insert(RowKey::Received(e.client.clone(), e.packet_id));
                }
                Change::None
            }
            Event::Sent(e) => {
                self.sent(&e.client, Outbound { packet_id: e.packet_id, lsn: e.lsn, received: false, share: None });
                Change::None
            }
            Event::SharedSent(e) => {
                let share = Some(e.share.clone());
                self.sent(&e.client, Outbound { packet_id: e.packet_id, lsn: e.lsn, received: false, share });
                Change::None
            }
            Event::Received(e) => {
                let session = self.sessions.get_mut(&e.client);
                if let Some(out) = session.and_then(|s| s.outbound.get_mut(&e.packet_id)) {
                    out.received = true;
                    self.dirty.insert(RowKey::Outbound(e.client.clone(), e.packet_id));
                }
                Change::None
            }
            Event::SinkPosition(e) => {
                self.sinks.insert(e.sink.clone(), e.next);
                self.dirty.insert(RowKey::Sink(e.sink.clone()));
                Change::None
            }
            Event::ClientConnected(_) | Event::Delivered(_) => Change::None,
        }
    }

    fn sent(&mut self, client: &ByteString, out: Outbound) {
        if let Some(session) = self.sessions.get_mut(client) {
            self.dirty.insert(RowKey::Outbound(client.clone(), out.packet_id));
            session.outbound.insert(out.packet_id, out);
        }
    }

    fn session_opened(&mut self, rules: &RuleIndex, time_us: u64, e: &SessionOpened) -> Change {
        if e.epoch > self.epoch {
            self.epoch = e.epoch;
            self.dirty.insert(RowKey::Epoch);
        }
        let change = if e.resumed { Change::None } else { self.discard(rules, time_us, &e.client) };
        let client = self.client_name(&e.client);
        let username = self.recent.name(&e.username);
        let before = self.sessions.update(client.clone(), |session| {
            let before = session.deadline();
            session.epoch = e.epoch;
            session.connected = true;
            session.expiry_s = e.expiry_s;
            session.ends_at_us = None;
            session.username = username;
            session.peer = Name::from(&*e.peer);
            session.will = e.will.clone().map(Arc::new);
            session.will_due_us = None;
            before
        });
        if let Some(at) = before {
            self.deadlines.remove(&(at, client));
        }
        self.dirty.insert(RowKey::Session(e.client.clone()));
        change
    }

    /// The client's name as state keeps it already, or anew.
    pub(super) fn client_name(&self, client: &str) -> Name {
        let session = self.sessions.get_name_value(client).map(|(name, _)| name);
        let known = session.or_else(|| self.cursors.get_name_value(client).map(|(name, _)| name));
        known.cloned().unwrap_or_else(|| client.into())
    }

    fn disconnected(&mut self, rules: &RuleIndex, time_us: u64, e: &ClientDisconnected) -> Change {
        // The positions of a connection that was replaced are void: its successor may have begun the cursors anew.
        if self.sessions.get(&e.client).is_none_or(|session| session.epoch == e.epoch) {
            for CursorAt { filter, low } in &e.positions {
                self.move_cursor(&e.client, filter, |cursor| cursor.advance(*low));
            }
        }
        let Some(session) = self.sessions.get_mut(&e.client) else { return Change::None };
        if session.epoch != e.epoch || !session.connected {
            return Change::None;
        }
        session.connected = false;
        if let Some(expiry_s) = e.expiry_s {
            session.expiry_s = expiry_s;
        }
        if e.cancel_will {
            session.will = None;
        }
        let after = |seconds: u32| time_us.saturating_add(u64::from(seconds) * 1_000_000);
        session.ends_at_us = (session.expiry_s != NEVER_EXPIRES).then(|| after(session.expiry_s));
        // A will is published at the latest when the session ends (MQTT-3.1.3.2.2).
        session.will_due_us = session.will.as_ref().map(|will| {
            let due = after(will.delay_s);
            session.ends_at_us.map_or(due, |end| due.min(end))
        });
        let (lasting, deadline) = (session.lasting(), session.deadline());
        self.dirty.insert(RowKey::Session(e.client.clone()));
        if let Some(at) = deadline {
            self.deadlines.insert((at, self.client_name(&e.client)));
        }
        if lasting {
            return Change::None;
        }
        let (subscriptions, left) = self.empty_session(rules, time_us, &e.client);
        // A session that ends here but still owes a will stays until the will's own record: a crash in between must not lose it.
        if self.sessions.get(&e.client).is_some_and(|s| s.will.is_none()) {
            self.remove_session(&e.client);
        }
        Change::SessionEnded { subscriptions, left }
    }

    fn session_closed(&mut self, rules: &RuleIndex, time_us: u64, e: &SessionClosed) -> Change {
        match self.sessions.get(&e.client) {
            Some(session) if session.epoch == e.epoch => self.discard(rules, time_us, &e.client),
            _ => Change::None,
        }
    }

    /// Removes a session with its plain cursors.
    fn discard(&mut self, rules: &RuleIndex, time_us: u64, client: &ByteString) -> Change {
        if !self.sessions.contains_key(client) {
            return Change::None;
        }
        let (subscriptions, left) = self.empty_session(rules, time_us, client);
        self.remove_session(client);
        Change::SessionEnded { subscriptions, left }
    }

    fn remove_session(&mut self, client: &ByteString) {
        let Some(session) = self.sessions.remove(client) else { return };
        if let Some(at) = session.deadline() {
            self.deadlines.remove(&(at, Name::from(&**client)));
        }
        self.dirty.insert(RowKey::Session(client.clone()));
    }

    /// Takes everything out of a session. The cursors of rules belong to (client, filter) and stay.
    fn empty_session(
        &mut self,
        rules: &RuleIndex,
        time_us: u64,
        client: &ByteString,
    ) -> (Vec<(ByteString, Subscription)>, Left) {
        let mut left = Left::default();
        let Some(session) = self.sessions.get_mut(client) else { return (Vec::new(), left) };
        let subscriptions = std::mem::take(&mut session.subscriptions);
        let received = std::mem::take(&mut session.received);
        let outbound = std::mem::take(&mut session.outbound);
        let subscriptions: Vec<_> = subscriptions.iter().map(|(f, s)| (f.to_byte_string(), *s)).collect();
        self.lose_sent(time_us, outbound.values(), &mut left);
        for (filter, _) in &subscriptions {
            self.dirty.insert(RowKey::Subscription(client.clone(), filter.clone()));
            if topic::shared(filter).is_some() && self.leave_group(filter, client) {
                left.ended.push(filter.clone());
            }
            if !rules.kind_of(filter).is_rule_cursor() {
                self.remove_cursor(client, filter);
            }
        }
        self.dirty.extend(received.iter().map(|id| RowKey::Received(client.clone(), *id)));
        self.dirty.extend(outbound.keys().map(|id| RowKey::Outbound(client.clone(), *id)));
        (subscriptions, left)
    }

    fn subscribed(&mut self, rules: &RuleIndex, lsn: Lsn, e: &Subscribed) -> Change {
        let filter = self.recent.name(&e.filter);
        let Some(session) = self.sessions.get_mut(&e.client) else { return Change::None };
        if session.epoch != e.epoch {
            return Change::None;
        }
        let previous = session.subscriptions.get(&e.filter).copied();
        let subscription = Subscription { options: e.options, since: previous.map_or(lsn.next(), |s| s.since) };
        session.subscriptions.insert(filter.clone(), subscription);
        let kind = rules.kind_of(&e.filter);
        let start = match &kind {
            Kind::Plain if session.lasting() => Some(lsn.next()),
            Kind::Pubsub(rule) if rule.start == StartAt::Latest => Some(lsn.next()),
            Kind::Pubsub(_) | Kind::Latest => Some(Lsn::FIRST),
            Kind::Plain | Kind::Queue | Kind::Shared => None,
        };
        if kind == Kind::Shared {
            let client = self.client_name(&e.client);
            self.groups.join(&e.filter, client);
        }
        self.dirty.insert(RowKey::Subscription(e.client.clone(), e.filter.clone()));
        if let Some(start) = start {
            self.cursors.update(self.client_name(&e.client), |cursors| {
                if !cursors.contains_key(&filter) {
                    cursors.insert(filter, Cursor::at(start));
                }
            });
            self.dirty.insert(RowKey::Cursor(e.client.clone(), e.filter.clone()));
        }
        Change::Subscribed { previous: previous.map(|s| s.options) }
    }

    fn unsubscribed(&mut self, e: &Unsubscribed) -> Change {
        self.remove_cursor(&e.client, &e.filter);
        let Some(session) = self.sessions.get_mut(&e.client) else { return Change::None };
        let Some(previous) = session.subscriptions.remove(&e.filter) else { return Change::None };
        self.dirty.insert(RowKey::Subscription(e.client.clone(), e.filter.clone()));
        let ended = topic::shared(&e.filter).is_some() && self.leave_group(&e.filter, &e.client);
        Change::Unsubscribed { previous: Some(previous.options), ended }
    }

    fn published(&mut self, rules: &RuleIndex, lsn: Lsn, time_us: u64, e: &Published) -> Change {
        let message = &e.message;
        if let Some(packet_id) = e.packet_id
            && let Some(session) = self.sessions.get_mut(&message.publisher)
            && session.received.insert(packet_id)
        {
            self.dirty.insert(RowKey::Received(message.publisher.clone(), packet_id));
        }
        if message.origin == Origin::Will {
            self.will_published(e);
        }
        if message.retain {
            if message.payload.is_empty() {
                self.retained.remove(&message.topic);
            } else {
                let stored = StoredMessage { lsn, time_us, message: Arc::new(own(message)) };
                self.retained.insert(stored.message.topic.clone(), stored);
            }
            self.dirty.insert(RowKey::Retained(message.topic.clone()));
        }
        if rules.is_latest(&message.topic) {
            match self.latest.get_mut(&message.topic) {
                Some(newest) => *newest = lsn,
                None => drop(self.latest.insert(Name::from(&*message.topic), lsn)),
            }
            self.dirty.insert(RowKey::Latest(message.topic.clone()));
        }
        let groups = self.share(lsn, message);
        let queue = rules.is_queue(&message.topic);
        if queue {
            let bytes = (message.topic.len() + message.payload.len()) as u64;
            self.queue.insert(lsn, copy(&message.topic), bytes);
            self.dirty.insert(RowKey::Queue(lsn));
        }
        if queue || !groups.is_empty() { Change::Owed { queue, groups } } else { Change::None }
    }

    /// A will's publication is its removal, in one record.
    fn will_published(&mut self, e: &Published) {
        let client = &e.message.publisher;
        let Some(session) = self.sessions.get_mut(client) else { return };
        if session.epoch != e.epoch {
            return;
        }
        let before = session.deadline();
        session.will = None;
        session.will_due_us = None;
        let (after, over) = (session.deadline(), !session.connected && !session.lasting());
        self.dirty.insert(RowKey::Session(client.clone()));
        if before != after {
            let name = self.client_name(client);
            if let Some(at) = before {
                self.deadlines.remove(&(at, name.clone()));
            }
            if let Some(at) = after {
                self.deadlines.insert((at, name));
            }
        }
        if over {
            // It was emptied when its connection ended; only the will kept it.
            self.remove_session(client);
        }
    }

    fn acked(&mut self, e: &Acked) -> Change {
        let mut groups = Vec::new();
        for CursorAt { filter, low } in &e.cursors {
            if topic::shared(filter).is_none() {
                self.move_cursor(&e.client, filter, |cursor| cursor.ack(e.lsn, *low));
            } else if self.unshare(filter, e.lsn) {
                groups.push((filter.clone(), e.lsn));
            }
        }
        if let Some(packet_id) = e.packet_id
            && self.sessions.get_mut(&e.client).is_some_and(|s| s.outbound.remove(&packet_id).is_some())
        {
            self.dirty.insert(RowKey::Outbound(e.client.clone(), packet_id));
        }
        if e.queue && self.queue.remove(e.lsn).is_some() {
            self.dirty.insert(RowKey::Queue(e.lsn));
            return Change::done(vec![e.lsn], groups);
        }
        Change::done(Vec::new(), groups)
    }

    fn cursor_moved(&mut self, e: &CursorMoved) -> Change {
        if e.next == Lsn::NONE {
            self.remove_cursor(&e.client, &e.filter);
        } else {
            let filter = self.recent.name(&e.filter);
            self.cursors.update(self.client_name(&e.client), |cursors| cursors.insert(filter, Cursor::at(e.next)));
            self.dirty.insert(RowKey::Cursor(e.client.clone(), e.filter.clone()));
        }
        Change::CursorMoved
    }

    pub(super) fn move_cursor(
        &mut self,
        client: &ByteString,
        filter: &ByteString,
        change: impl FnOnce(&mut Cursor) -> bool,
    ) {
        if let Some(cursor) = self.cursors.get_mut(client).and_then(|c| c.get_mut(filter))
            && change(cursor)
        {
            self.dirty.insert(RowKey::Cursor(client.clone(), filter.clone()));
        }
    }

    pub(super) fn remove_cursor(&mut self, client: &ByteString, filter: &ByteString) {
        if let Some(cursors) = self.cursors.get_mut(client)
            && cursors.remove(filter).is_some()
        {
            if cursors.is_empty() {
                self.cursors.remove(client);
            }
            self.dirty.insert(RowKey::Cursor(client.clone(), filter.clone()));
            if !self.gaps.is_empty() {
                self.forget_gap(&DropOwner::Cursor { client: client.clone(), filter: filter.clone() });
            }
        }
    }
}
