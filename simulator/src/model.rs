//! What the engine promises, told a second time and as simply as possible: state as a function of the records that became durable,
//! and what each client was given and settled.

mod drops;
mod groups;
mod parts;

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use forebay_engine::engine::WhenFull;
use forebay_engine::event::{
    ClientDisconnected, DropOwner, Event, Origin, Published, QoS, SessionOpened, Subscribed, SubscriptionOptions,
};
use forebay_engine::{Bounds, Lsn, Message, topic};

pub use groups::{Group, Shared};
pub use parts::{Claim, Kind, Known, OnItsWay, Session};

/// See the module.
#[derive(Debug, Default)]
pub struct Model {
    /// Appended, and not known to be lost.
    pub records: BTreeMap<Lsn, Known>,
    /// Every record below is promised to be there.
    pub acknowledged: Lsn,
    /// Every record below is reflected here.
    pub applied: Lsn,
    /// The log's first record when these were applied.
    pub first: Lsn,
    /// Published messages, with their times.
    pub messages: BTreeMap<Lsn, (u64, Message)>,
    /// Sessions by client.
    pub sessions: BTreeMap<ByteString, Session>,
    /// Claims by client and filter.
    pub claims: BTreeMap<(ByteString, ByteString), Claim>,
    /// Clients and filters that have asked for the client's own messages to be left out.
    pub left_out: BTreeSet<(ByteString, ByteString)>,
    /// What policies took from a client's cursors.
    pub lost: BTreeSet<(ByteString, Lsn)>,
    /// Newest retained message by topic.
    pub retained: BTreeMap<ByteString, Lsn>,
    /// What queues owe.
    pub queue: BTreeSet<Lsn>,
    /// Newest message of each keep-latest topic.
    pub latest: BTreeMap<ByteString, Lsn>,
    /// What each client settled, ever.
    pub settled: BTreeMap<ByteString, BTreeSet<Lsn>>,
    /// The sink's position as the log knows it.
    pub sink: Option<Lsn>,
    /// The sink was passed by up to here.
    pub passed: Lsn,
    /// Messages that bounds took from queues. One that was on its way to a client may still come to it.
    pub let_go: BTreeSet<Lsn>,
    /// The groups of shared subscriptions, by these.
    pub groups: BTreeMap<ByteString, Group>,
    /// What each client settled of what groups gave it, ever.
    pub settled_shared: BTreeSet<(ByteString, Shared)>,
    /// As `let_go`, from groups.
    pub let_go_shared: BTreeSet<Shared>,
    /// Entered as sent to a client when its group did not owe it any more.
    pub sent_late: BTreeSet<(ByteString, Shared)>,
    /// How many messages named policies have taken from each owner.
    pub gaps: BTreeMap<DropOwner, u64>,
    /// How much queues and sessions may be owed.
    pub bounds: Bounds,
    /// What becomes of a sink that lags while there is no room.
    pub when_full: WhenFull,
    /// Sessions whose end was applied since the world looked last.
    pub ended: Vec<ByteString>,
    /// Subscriptions applied since the world looked last: client, filter, options, whether it was new, its record.
    pub subscribed: Vec<(ByteString, ByteString, SubscriptionOptions, bool, Lsn)>,
    /// Subscriptions removed since the world looked last.
    pub unsubscribed: Vec<(ByteString, ByteString)>,
    /// What is rare and has happened since the world looked last.
    pub notes: Vec<&'static str>,
}

impl Model {
    /// A model of an empty log.
    #[must_use]
    pub fn new(bounds: Bounds, when_full: WhenFull) -> Model {
        Model { acknowledged: Lsn::FIRST, applied: Lsn::FIRST, bounds, when_full, ..Model::default() }
    }

    /// Clients whose session's end or will is due.
    #[must_use]
    pub fn due(&self, now_us: u64) -> BTreeSet<ByteString> {
        let is_due = |session: &Session| {
            let times = [session.ends_at_us, session.will_due_us];
            !session.connected && times.iter().flatten().any(|at| *at <= now_us)
        };
        self.sessions.iter().filter(|(_, session)| is_due(session)).map(|(client, _)| client.clone()).collect()
    }

    /// The client has settled this record at some time.
    #[must_use]
    pub fn has_settled(&self, client: &str, lsn: Lsn) -> bool {
        self.settled.get(client).is_some_and(|all| all.contains(&lsn))
    }

    /// Takes in a durable record that the engine has applied.
    ///
    /// # Errors
    /// Where it is one that nobody asked for.
    pub fn apply(&mut self, lsn: Lsn, time_us: u64, event: &Event) -> Result<(), String> {
        self.applied = lsn.next();
        match event {
            Event::SessionOpened(e) => self.opened(e),
            Event::ClientDisconnected(e) => self.disconnected(time_us, e),
            Event::SessionClosed(e) => {
                if self.sessions.get(&e.client).is_some_and(|session| session.epoch == e.epoch) {
                    self.discard(&e.client);
                }
            }
            Event::Subscribed(e) => self.subscribed(lsn, e),
            Event::Unsubscribed(e) => {
                self.unclaim(&e.client, &e.filter);
                let session = self.sessions.get_mut(&e.client);
                if session.is_some_and(|session| session.subscriptions.remove(&e.filter).is_some()) {
                    self.leave(&e.filter, &e.client);
                    self.unsubscribed.push((e.client.clone(), e.filter.clone()));
                }
            }
            Event::Published(e) => self.published(lsn, time_us, e),
            Event::Acked(e) => {
                let share = e.cursors.iter().map(|at| &at.filter).find(|filter| Kind::of(filter) == Kind::Shared);
                if let Some(share) = share {
                    self.shared_acked(lsn, share, e)?;
                } else if !self.has_settled(&e.client, e.lsn) {
                    return Err(format!("record {lsn} says that {} settled {}, and it did not", e.client, e.lsn));
                }
                for at in &e.cursors {
                    if let Some(claim) = self.claims.get_mut(&(e.client.clone(), at.filter.clone())) {
                        claim.done.insert(e.lsn);
                    }
                }
                if let (Some(id), Some(session)) = (e.packet_id, self.sessions.get_mut(&e.client)) {
                    session.outbound.remove(&id);
                }
                if e.queue {
                    self.queue.remove(&e.lsn);
                }
            }
            Event::Released(e) => {
                if let Some(session) = self.sessions.get_mut(&e.client) {
                    session.received.remove(&e.packet_id);
                }
            }
            Event::Sent(e) => {
                if let Some(session) = self.sessions.get_mut(&e.client) {
                    session.outbound.insert(e.packet_id, OnItsWay { lsn: e.lsn, received: false, share: None });
                }
            }
            Event::SharedSent(e) => self.shared_sent(e),
            Event::Received(e) => {
                let session = self.sessions.get_mut(&e.client);
                if let Some(out) = session.and_then(|s| s.outbound.get_mut(&e.packet_id)) {
                    out.received = true;
                }
            }
            Event::SinkPosition(e) => self.sink = Some(e.next),
            // Whether they stand too far is seen at the cursors.
            Event::Positions(_) => {}
            Event::Dropped(e) => self.dropped(lsn, e).map_err(|what| format!("record {lsn}: {what}"))?,
            other => return Err(format!("record {lsn} is one that nobody appended: {other:?}")),
        }
        Ok(())
    }

    fn opened(&mut self, e: &SessionOpened) {
        if !e.resumed {
            self.discard(&e.client);
        }
        let session = self.sessions.entry(e.client.clone()).or_default();
        session.epoch = e.epoch;
        session.connected = true;
        session.expiry_s = e.expiry_s;
        session.will = e.will.clone();
        (session.ends_at_us, session.will_due_us) = (None, None);
    }

    fn disconnected(&mut self, time_us: u64, e: &ClientDisconnected) {
        let Some(session) = self.sessions.get_mut(&e.client).filter(|s| s.epoch == e.epoch && s.connected) else {
            return;
        };
        session.connected = false;
        if e.cancel_will {
            session.will = None;
        }
        let after = |seconds: u32| time_us + u64::from(seconds) * 1_000_000;
        let end = after(session.expiry_s);
        session.ends_at_us = Some(end);
        // A will is published at the latest when its session ends.
        session.will_due_us = session.will.as_ref().map(|will| after(will.delay_s).min(end));
        if session.expiry_s > 0 {
            return;
        }
        let left = session.clone();
        self.discard(&e.client);
        if left.will.is_some() {
            // Nothing is left of it but its will, until that is published.
            let (subscriptions, outbound, received) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
            self.sessions.insert(e.client.clone(), Session { subscriptions, outbound, received, ..left });
        }
    }

    fn discard(&mut self, client: &ByteString) {
        let Some(session) = self.sessions.remove(client) else { return };
        self.lose_sent(session.outbound.into_values());
        for filter in session.subscriptions.keys().filter(|filter| Kind::of(filter) == Kind::Shared) {
            self.leave(filter, client);
        }
        for filter in session.subscriptions.keys().filter(|filter| !Kind::of(filter).is_rule()) {
            self.unclaim(client, filter);
        }
        self.ended.push(client.clone());
    }

    fn unclaim(&mut self, client: &ByteString, filter: &ByteString) {
        self.claims.remove(&(client.clone(), filter.clone()));
        self.gaps.remove(&DropOwner::Cursor { client: client.clone(), filter: filter.clone() });
    }

    fn subscribed(&mut self, lsn: Lsn, e: &Subscribed) {
        let Some(session) = self.sessions.get_mut(&e.client).filter(|s| s.epoch == e.epoch) else { return };
        let new = session.subscriptions.insert(e.filter.clone(), e.options).is_none();
        self.subscribed.push((e.client.clone(), e.filter.clone(), e.options, new, lsn));
        let since = match Kind::of(&e.filter) {
            Kind::Queue => return,
            Kind::Shared => return self.join(&e.filter, &e.client),
            Kind::Plain => lsn.next(),
            Kind::Pubsub | Kind::Latest => Lsn::FIRST,
        };
        let claim = Claim { made: lsn, since, done: BTreeSet::new(), no_local: false };
        let claim = self.claims.entry((e.client.clone(), e.filter.clone())).or_insert(claim);
        claim.no_local |= e.options.no_local;
        if e.options.no_local {
            self.left_out.insert((e.client.clone(), e.filter.clone()));
        }
    }

    fn published(&mut self, lsn: Lsn, time_us: u64, e: &Published) {
        let message = &e.message;
        if let (Some(id), Some(session)) = (e.packet_id, self.sessions.get_mut(&message.publisher)) {
            session.received.insert(id);
        }
        if message.origin == Origin::Will
            && let Some(session) = self.sessions.get_mut(&message.publisher).filter(|s| s.epoch == e.epoch)
        {
            (session.will, session.will_due_us) = (None, None);
            if !session.connected && session.expiry_s == 0 {
                self.sessions.remove(&message.publisher);
            }
        }
        if message.retain {
            match message.payload.is_empty() {
                true => self.retained.remove(&message.topic),
                false => self.retained.insert(message.topic.clone(), lsn),
            };
        }
        match Kind::of(&message.topic) {
            Kind::Queue => drop(self.queue.insert(lsn)),
            Kind::Latest => drop(self.latest.insert(message.topic.clone(), lsn)),
            Kind::Plain | Kind::Pubsub | Kind::Shared => {}
        }
        self.share(lsn, message);
        self.messages.insert(lsn, (time_us, message.clone()));
    }

    /// The filters by which this client may be given the message now.
    pub fn reasons<'a>(&'a self, client: &'a ByteString, lsn: Lsn) -> impl Iterator<Item = &'a ByteString> + 'a {
        let message = self.messages.get(&lsn).map(|(_, message)| message);
        let filters = self.sessions.get(client).into_iter().flat_map(|session| session.subscriptions.keys());
        filters.filter(move |filter| {
            if !message.is_some_and(|m| topic::matches(filter, &m.topic)) {
                return false;
            }
            match Kind::of(filter) {
                Kind::Queue => self.queue.contains(&lsn) || self.let_go.contains(&lsn),
                _ => self
                    .claims
                    .get(&(client.clone(), (*filter).clone()))
                    .is_some_and(|claim| lsn >= claim.since && !claim.done.contains(&lsn)),
            }
        })
    }

    /// The message was retained once and is not any more.
    #[must_use]
    pub fn was_retained(&self, lsn: Lsn) -> bool {
        let message = self.messages.get(&lsn).map(|(_, message)| message);
        message.is_some_and(|m| m.retain && !m.payload.is_empty() && self.retained.get(&m.topic) != Some(&lsn))
    }

    /// True when a message that was given to a connection when everything below `given` was applied, and is not in flight any more, may be
    /// given to it again: a read position that was made since begins with the history, whatever an earlier subscription has brought of it.
    /// Not while one that it was given for is still there: a message goes to a client once however many subscriptions match at a time.
    #[must_use]
    pub fn may_come_again(&self, client: &ByteString, lsn: Lsn, given: Lsn) -> bool {
        let Some((_, message)) = self.messages.get(&lsn) else { return false };
        let claim = |filter: &ByteString| self.claims.get(&(client.clone(), filter.clone()));
        let newer =
            |filter: &ByteString| Kind::of(filter).is_rule() && claim(filter).is_some_and(|claim| claim.made >= given);
        let had = |filter: &ByteString| match Kind::of(filter) {
            Kind::Queue | Kind::Latest => false,
            // These never get what was published with QoS 0 from the log.
            Kind::Plain if message.qos == QoS::AtMostOnce => false,
            _ => claim(filter).is_some_and(|claim| {
                let own = claim.no_local && message.publisher == *client;
                claim.made < given && claim.since <= lsn && !own && topic::matches(filter, &message.topic)
            }),
        };
        let subscriptions = self.sessions.get(client).map(|session| &session.subscriptions);
        self.reasons(client, lsn).any(newer) && !subscriptions.into_iter().flat_map(|s| s.keys()).any(had)
    }

    /// What the client must still be given for its subscriptions, where the log begins at `first`.
    #[must_use]
    pub fn owed(&self, client: &ByteString, first: Lsn) -> BTreeSet<Lsn> {
        let mut owed = BTreeSet::new();
        let Some(session) = self.sessions.get(client) else { return owed };
        for filter in session.subscriptions.keys() {
            let Some(claim) = self.claims.get(&(client.clone(), filter.clone())) else { continue };
            owed.extend(self.wanted(client, filter, claim, first).filter(|lsn| !self.has_settled(client, *lsn)));
        }
        owed
    }

    /// The messages that a claim covers and must bring.
    fn wanted<'a>(
        &'a self,
        client: &'a ByteString,
        filter: &'a ByteString,
        claim: &'a Claim,
        first: Lsn,
    ) -> impl Iterator<Item = Lsn> + 'a {
        let kind = Kind::of(filter);
        let from = if kind.is_rule() { claim.since.max(first) } else { claim.since };
        self.messages.range(from..).filter_map(move |(lsn, (_, message))| {
            let own = message.publisher == *client && self.leaves_own_out(client, &message.topic);
            let newest = kind != Kind::Latest || self.latest.get(&message.topic) == Some(lsn);
            let wanted = message.qos > QoS::AtMostOnce && !own && newest && topic::matches(filter, &message.topic);
            wanted.then_some(*lsn)
        })
    }

    /// One of the client's subscriptions to the topic has asked at some time for its own messages to be left out: its position has
    /// passed them, and they do not come by another. Also when it is gone: the other's position has passed them too by then.
    fn leaves_own_out(&self, client: &ByteString, topic: &str) -> bool {
        self.left_out.iter().any(|(of, filter)| of == client && topic::matches(filter, topic))
    }

    /// A message below `next` that the cursor has passed though its client never settled it.
    #[must_use]
    pub fn passed_over(&self, client: &ByteString, filter: &ByteString, next: Lsn, first: Lsn) -> Option<Lsn> {
        let claim = self.claims.get(&(client.clone(), filter.clone()))?;
        let mut passed = self.wanted(client, filter, claim, first).take_while(|lsn| *lsn < next);
        passed.find(|lsn| !self.has_settled(client, *lsn))
    }
}
