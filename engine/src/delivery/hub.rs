//! Where records meet subscriptions: the applier tells the hub what became durable, the hub fills inboxes and queues.
//!
//! Lock order: inboxes, state, live tree, queue, groups, inbox; no two of a kind. The wake-ups happen with no lock held.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use bytestring::ByteString;
use metrics::Counter;
use parking_lot::{Mutex, RwLock};

use super::catch_up::Course;
use super::groups::Groups;
use super::inbox::{Begin, Inbox, LiveSubscription, Offer};
use super::interest::Interest;
use super::queue::{Queue, Resumed};
use super::{AttachOptions, Work};
use crate::clock::Clock;
use crate::event::{Message, Positions, QoS, SessionPositions, SubscriptionOptions};
use crate::ids::Lsn;
use crate::log::Log;
use crate::postings::Postings;
use crate::rules::{Kind, RuleIndex, StartAt};
use crate::state::{Cursor, Left, State, StoredMessage, Subscription};
use crate::topic;
use crate::trie::Trie;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) log: Log,
    pub(crate) rules: Arc<RuleIndex>,
    pub(crate) state: Arc<RwLock<State>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) postings: Arc<Postings>,
    /// Subscriptions of connected sessions. Idle sessions cost a publish nothing.
    live: RwLock<Trie<Arc<LiveSubscription>>>,
    /// How many subscriptions with QoS > 0, or shared ones, each filter has, connected or not.
    interest: RwLock<Interest>,
    inboxes: Mutex<HashMap<ByteString, Arc<Inbox>>>,
    pub(super) queue: Mutex<Queue>,
    pub(super) groups: Mutex<Groups>,
    /// Every record that is being offered to inboxes, or was, is below. Set before a record is offered to any inbox.
    delivering: AtomicU64,
    /// Every record below was offered to all live inboxes. Set after a record was offered to the last of them.
    offered: AtomicU64,
    work: Sender<Work>,
    /// What the worker could not do because a read failed.
    failed: Mutex<Vec<Work>>,
    /// [`crate::metrics::DELIVERIES`].
    pub(super) handed_out: Counter,
    /// [`crate::metrics::CATCH_UP_RECORDS`].
    pub(super) caught_up: Counter,
}

impl Hub {
    pub(crate) fn new(
        log: Log,
        rules: Arc<RuleIndex>,
        state: Arc<RwLock<State>>,
        clock: Arc<dyn Clock>,
        postings: Arc<Postings>,
        work: Sender<Work>,
    ) -> Hub {
        let hub = Hub {
            log,
            rules,
            clock,
            postings,
            live: RwLock::default(),
            interest: RwLock::default(),
            inboxes: Mutex::default(),
            queue: Mutex::default(),
            groups: Mutex::default(),
            delivering: AtomicU64::new(0),
            offered: AtomicU64::new(0),
            work,
            failed: Mutex::default(),
            handed_out: metrics::counter!(crate::metrics::DELIVERIES),
            caught_up: metrics::counter!(crate::metrics::CATCH_UP_RECORDS),
            state,
        };
        hub.rebuild();
        hub
    }

    /// Notes work that met a read error, for the worker to try again.
    pub(super) fn try_again(&self, work: Work) {
        self.failed.lock().push(work);
    }

    /// What was noted since the last call.
    pub(super) fn take_failed(&self) -> Vec<Work> {
        std::mem::take(&mut *self.failed.lock())
    }

    /// Derives interest and queues from state.
    fn rebuild(&self) {
        let state = self.state.read();
        let (mut pinned, mut pinned_shared) = (HashMap::new(), HashMap::new());
        for (client, session) in &state.sessions {
            for (filter, subscription) in &session.subscriptions {
                self.count_interest(filter, None, Some(subscription.options));
            }
            for out in session.outbound.values() {
                match &out.share {
                    None => drop(pinned.insert(out.lsn, client.to_byte_string())),
                    Some(share) => drop(pinned_shared.insert((share, out.lsn), client.to_byte_string())),
                }
            }
        }
        let mut queue = self.queue.lock();
        for (lsn, queued) in state.queue.iter() {
            queue.add(lsn, queued.topic.clone(), pinned.remove(&lsn));
        }
        let mut groups = self.groups.lock();
        for (share, group) in state.groups.iter() {
            for lsn in group.owed() {
                groups.owe(share, lsn, pinned_shared.remove(&(share, lsn)));
            }
        }
    }

    /// True when a subscription with QoS > 0, or a shared one, matches.
    pub(crate) fn has_interest(&self, topic: &str) -> bool {
        self.interest.read().any(topic)
    }

    fn count_interest(&self, filter: &str, before: Option<SubscriptionOptions>, after: Option<SubscriptionOptions>) {
        // A group owes what was published with QoS > 0, whatever its members are granted.
        let shared = topic::shared(filter).is_some();
        let filter = topic::unshared(filter);
        let counts = |options: Option<SubscriptionOptions>| options.is_some_and(|o| shared || o.qos > QoS::AtMostOnce);
        match (counts(before), counts(after)) {
            (false, true) => self.interest.write().add(filter),
            (true, false) => self.interest.write().remove(filter),
            _ => {}
        }
    }

    /// From here on no inbox has been offered anything: a connection that has read the log up to here may go live.
    pub(super) fn live_end(&self) -> Lsn {
        Lsn(self.delivering.load(Ordering::Acquire))
    }

    /// Every record below was offered to all live inboxes: what of it is not in an inbox is not owed to that client. Ask before
    /// looking into an inbox.
    pub(super) fn offered_end(&self) -> Lsn {
        Lsn(self.offered.load(Ordering::Acquire))
    }

    pub(crate) fn set_delivering(&self, next: Lsn) {
        self.delivering.store(next.0, Ordering::Release);
    }

    pub(crate) fn set_offered(&self, next: Lsn) {
        self.offered.store(next.0, Ordering::Release);
    }

    pub(super) fn send(&self, work: Work) {
        // The worker ends only when the engine closes; nothing is delivered then.
        let _ = self.work.send(work);
    }

    /// Offers a durable publish to the connected sessions it matches. Inboxes that took it are added to `touched`.
    pub(crate) fn publish(&self, stored: &StoredMessage, touched: &mut Vec<Arc<Inbox>>) {
        if stored.message.qos == QoS::AtMostOnce {
            return; // Fanned out as it was published; read positions find it in the log.
        }
        let mut matched: Vec<Arc<LiveSubscription>> = Vec::new();
        self.live.read().matches(&stored.message.topic, |sub| {
            if sub.kind != Kind::Queue {
                matched.push(Arc::clone(sub));
            }
            true
        });
        matched.sort_unstable_by_key(|sub| rank(&sub.inbox));
        for group in matched.chunk_by(|a, b| Arc::ptr_eq(&a.inbox, &b.inbox)) {
            let Some(first) = group.first() else { continue };
            if self.offer_live(&first.inbox, stored, group) {
                touched.push(Arc::clone(&first.inbox));
            }
        }
    }

    fn offer_live(&self, inbox: &Arc<Inbox>, stored: &StoredMessage, group: &[Arc<LiveSubscription>]) -> bool {
        let mut state = inbox.state.lock();
        if !state.live || state.closed || stored.lsn < state.pos {
            return false;
        }
        let indexes: Vec<usize> = group.iter().filter_map(|sub| state.filters.place(&sub.filter)).collect();
        if state.offer(&inbox.client, stored, &indexes, false) == Offer::Full {
            state.live = false;
            state.pos = stored.lsn;
            metrics::counter!(crate::metrics::INBOX_OVERFLOWS).increment(1);
        }
        true
    }

    pub(crate) fn queued(&self, lsn: Lsn, topic: &ByteString) {
        self.queue.lock().add(lsn, topic.clone(), None);
        self.send(Work::Topic(topic.clone()));
    }

    pub(crate) fn unqueued(&self, lsns: &[Lsn]) {
        let mut queue = self.queue.lock();
        for lsn in lsns {
            queue.remove(*lsn);
        }
    }

    /// Where the durable cursors of connected clients stand, and up to where they have been offered records.
    pub(crate) fn positions(&self) -> Positions {
        // Asked before looking into any inbox.
        let seen = self.offered_end();
        let inboxes: Vec<Arc<Inbox>> = self.inboxes.lock().values().cloned().collect();
        let at = |inbox: Arc<Inbox>| SessionPositions {
            client: inbox.client.clone(),
            epoch: inbox.epoch,
            cursors: inbox.state.lock().positions(seen),
        };
        Positions { seen, sessions: inboxes.into_iter().map(at).collect() }
    }

    /// Plain subscriptions of connected clean sessions that read the log and have not come to `below` yet: client, filter, place.
    /// State does not know them.
    pub(crate) fn volatile_places(&self, below: Lsn) -> Vec<(ByteString, ByteString, Lsn)> {
        let inboxes: Vec<Arc<Inbox>> = self.inboxes.lock().values().cloned().collect();
        let mut places = Vec::new();
        for inbox in inboxes {
            let read = inbox.state.lock().volatile_places(below);
            places.extend(read.into_iter().map(|(filter, at)| (inbox.client.clone(), filter, at)));
        }
        places
    }

    /// Connected subscribers of a queue topic.
    pub(super) fn queue_subscribers(&self, topic: &str) -> Vec<Arc<LiveSubscription>> {
        let mut subscribers: Vec<Arc<LiveSubscription>> = Vec::new();
        self.live.read().matches(topic, |sub| {
            // A client with two matching filters takes part once.
            if sub.kind == Kind::Queue && !subscribers.iter().any(|s| Arc::ptr_eq(&s.inbox, &sub.inbox)) {
                subscribers.push(Arc::clone(sub));
            }
            true
        });
        subscribers
    }

    /// A `Subscribed` record was applied.
    pub(crate) fn subscribed(
        &self,
        client: &ByteString,
        filter: &ByteString,
        lsn: Lsn,
        options: SubscriptionOptions,
        previous: Option<SubscriptionOptions>,
    ) {
        self.count_interest(filter, previous, Some(options));
        let Some(inbox) = self.inboxes.lock().get(client).cloned() else { return };
        if topic::shared(filter).is_some() {
            // It is given no retained messages (MQTT 5, 4.8.2).
            self.register_shared(&inbox, filter, options);
            self.after_change(&inbox);
            return;
        }
        let (cursor, retained) = {
            let state = self.state.read();
            let cursor = state.cursors.get(client).and_then(|c| c.get(filter)).cloned();
            let wanted = match options.retain_handling {
                0 => true,
                1 => previous.is_none(),
                _ => false,
            };
            (cursor, if wanted { state.retained_matching(filter) } else { Vec::new() })
        };
        let sub = self.register(&inbox, filter, options, cursor, lsn.next(), lsn);
        let now_us = self.clock.now_us();
        for stored in retained.iter().filter(|s| s.lsn < lsn && !s.message.expired(s.time_us, now_us)) {
            inbox.put_retained(stored, &sub);
        }
        self.after_change(&inbox);
    }

    fn register(
        &self,
        inbox: &Arc<Inbox>,
        filter: &ByteString,
        options: SubscriptionOptions,
        cursor: Option<Cursor>,
        since: Lsn,
        qos0_until: Lsn,
    ) -> Arc<LiveSubscription> {
        let kind = self.rules.kind_of(filter);
        let durable = cursor.is_some();
        let sub = Arc::new(LiveSubscription {
            inbox: Arc::clone(inbox),
            filter: filter.clone(),
            options,
            kind: kind.clone(),
            durable,
        });
        let mut begin =
            Begin { cursor: cursor.unwrap_or(Cursor::at(since)), qos0_until, newest: None, not_before_us: 0 };
        if let Kind::Pubsub(rule) = &kind
            && rule.start == StartAt::Earliest
            && begin.cursor == Cursor::at(Lsn::FIRST)
        {
            begin.newest = rule.max_returned;
            let range = rule.time_range.map(|range| u64::try_from(range.as_micros()).unwrap_or(u64::MAX));
            begin.not_before_us = range.map_or(0, |range| self.clock.now_us().saturating_sub(range));
        }
        if kind == Kind::Queue {
            begin.cursor = Cursor::at(since.max(self.live_end())); // Its messages come as leases, never by reading.
        }
        enter(&mut self.live.write(), &sub);
        inbox.state.lock().add(Arc::clone(&sub), since, begin);
        sub
    }

    /// An `Unsubscribed` record was applied; `ended` with the last member of a group.
    pub(crate) fn unsubscribed(
        &self,
        client: &ByteString,
        filter: &ByteString,
        previous: Option<SubscriptionOptions>,
        ended: bool,
    ) {
        self.count_interest(filter, previous, None);
        let inbox = self.inboxes.lock().get(client).cloned();
        if topic::shared(filter).is_some() {
            self.left_group(filter, inbox.as_ref(), ended);
        } else if let Some(inbox) = inbox {
            leave(&mut self.live.write(), filter, &inbox);
            let leases = inbox.state.lock().remove(filter);
            let topics = self.queue.lock().release(&inbox.client, inbox.epoch, &leases, false);
            for topic in topics {
                self.send(Work::Topic(topic));
            }
            self.after_change(&inbox);
        }
    }

    /// A session is over.
    pub(crate) fn session_ended(&self, client: &ByteString, subscriptions: &[(ByteString, Subscription)], left: &Left) {
        for (filter, subscription) in subscriptions {
            self.count_interest(filter, Some(subscription.options), None);
        }
        let topics = self.queue.lock().forget(client);
        for topic in topics {
            self.send(Work::Topic(topic));
        }
        self.left_groups(client, left);
    }

    /// Gives a connection its inbox.
    pub(crate) fn attach(&self, options: &AttachOptions, shared: &[(Lsn, ByteString)]) -> Attached {
        let inbox = Arc::new(Inbox::new(options.client.clone(), options.epoch, options.window, &options.in_flight));
        let replaced = {
            let mut inboxes = self.inboxes.lock();
            match inboxes.get(&options.client) {
                // A connection that was replaced already comes too late: its mailbox stays empty.
                Some(newer) if newer.epoch > options.epoch => {
                    inbox.state.lock().closed = true;
                    return Attached { inbox, revoked: Vec::new(), revoked_shared: Vec::new() };
                }
                _ => inboxes.insert(options.client.clone(), Arc::clone(&inbox)),
            }
        };
        if let Some(old) = replaced {
            self.let_go(&old);
        }
        let Resumed { held, lost, free } = self.queue.lock().resume(&options.client, options.epoch, &options.in_flight);
        inbox.forget_in_flight(&lost);
        for lsn in held {
            match super::load(&self.log, lsn) {
                Ok(Some(stored)) => inbox.resume_lease(lsn, &stored),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(client = %options.client, lsn = lsn.0, %error, "a queue message in flight can't be read");
                }
            }
        }
        for topic in free {
            self.send(Work::Topic(topic));
        }
        let revoked_shared = self.resume_shared(&inbox, shared);
        {
            // Held until all is registered: an Unsubscribed is applied before the look, or finds what it has to remove.
            let state = self.state.read();
            let now = self.live_end();
            if let Some(session) = state.sessions.get(&options.client) {
                let cursors = state.cursors.get(&options.client);
                for (filter, subscription) in &session.subscriptions {
                    let cursor = cursors.and_then(|c| c.get(filter)).cloned();
                    let filter = filter.to_byte_string();
                    if topic::shared(&filter).is_some() {
                        self.register_shared(&inbox, &filter, subscription.options);
                        continue;
                    }
                    self.register(&inbox, &filter, subscription.options, cursor, subscription.since, now);
                }
            }
        }
        inbox.begin();
        self.after_change(&inbox);
        Attached { inbox, revoked: lost, revoked_shared }
    }

    /// The connection is gone: its leases go back, its subscriptions leave the live tree.
    pub(crate) fn detach(&self, inbox: &Arc<Inbox>) {
        {
            let mut inboxes = self.inboxes.lock();
            if inboxes.get(&inbox.client).is_some_and(|current| Arc::ptr_eq(current, inbox)) {
                inboxes.remove(&inbox.client);
            }
        }
        self.let_go(inbox);
        inbox.forget();
    }

    fn let_go(&self, inbox: &Arc<Inbox>) {
        let lasting = self.state.read().sessions.get(&inbox.client).is_some_and(|session| session.lasting());
        let (filters, leases, shares, shared) = {
            let mut state = inbox.state.lock();
            if state.closed {
                return;
            }
            state.closed = true;
            state.live = false;
            state.course = Course::Unknown;
            state.newest = None;
            let shares = std::mem::take(&mut state.shared.shares);
            (std::mem::take(&mut state.filters), state.sent_leases(), shares, state.shared.sent())
        };
        let mut live = self.live.write();
        for filter in filters.iter() {
            leave(&mut live, &filter.sub.filter, inbox);
        }
        drop(live);
        let sent: Vec<Lsn> = if lasting { leases } else { Vec::new() };
        let topics = self.queue.lock().release_all(&inbox.client, inbox.epoch, &sent, lasting);
        for topic in topics {
            self.send(Work::Topic(topic));
        }
        self.leave_groups(inbox, &shares, &shared, lasting);
    }

    /// Something about an inbox changed: let the worker read for it and hand out queue messages.
    pub(crate) fn after_change(&self, inbox: &Arc<Inbox>) {
        let (fill, queues) = {
            let mut state = inbox.state.lock();
            let fill = state.wants_fill() && !state.filling;
            state.filling |= fill;
            // One request at a time: the worker looks at all of the inbox's queues when it comes to it.
            let leases = state.filters.has_queue() || !state.shared.shares.is_empty();
            let queues = !state.asking && leases;
            state.asking |= queues;
            (fill, queues)
        };
        if fill {
            self.send(Work::Fill(Arc::clone(inbox)));
        }
        if queues {
            self.send(Work::Room(Arc::clone(inbox)));
        }
        inbox.wake();
    }

    /// True when a newer record of a keep-latest topic exists.
    pub(super) fn superseded(&self, lsn: Lsn, message: &Message) -> bool {
        self.state.read().latest.get(&message.topic).is_some_and(|newest| *newest > lsn)
    }
}

/// What a connection gets when it attaches.
pub(crate) struct Attached {
    pub(crate) inbox: Arc<Inbox>,
    /// What it had in flight and was given to another client of the queue.
    pub(crate) revoked: Vec<Lsn>,
    /// What it had in flight and was given to another member of the group.
    pub(crate) revoked_shared: Vec<(Lsn, ByteString)>,
}

/// The subscribers of a filter stand in the order of their inboxes, so that ten thousand of one filter come and go without
/// looking at each other.
fn place(subscribers: &[Arc<LiveSubscription>], inbox: &Arc<Inbox>) -> Result<usize, usize> {
    subscribers.binary_search_by_key(&rank(inbox), |sub| rank(&sub.inbox))
}

/// Files a subscription in the live tree, in the place of an earlier one of this inbox with this filter.
fn enter(live: &mut Trie<Arc<LiveSubscription>>, sub: &Arc<LiveSubscription>) {
    let subscribers = live.values_mut(&sub.filter);
    match place(subscribers, &sub.inbox) {
        Ok(at) => {
            if let Some(known) = subscribers.get_mut(at) {
                *known = Arc::clone(sub);
            }
        }
        Err(at) => subscribers.insert(at, Arc::clone(sub)),
    }
}

fn leave(live: &mut Trie<Arc<LiveSubscription>>, filter: &str, inbox: &Arc<Inbox>) {
    live.edit(filter, |subscribers| {
        if let Ok(at) = place(subscribers, inbox) {
            subscribers.remove(at);
        }
    });
}

/// The order of inboxes wherever they stand in a row. By the connection first, not by address: the same log is to be delivered in the same
/// order whenever it is simulated.
pub(super) fn rank(inbox: &Arc<Inbox>) -> (u64, usize) {
    (inbox.epoch, Arc::as_ptr(inbox) as usize)
}
