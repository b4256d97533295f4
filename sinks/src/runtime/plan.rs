//! Which rules a record concerns, and which lane it has. Pure.

use forebay_engine::event::{AckOutcome, Origin, QoS};
use forebay_engine::{Event, topic};

use crate::rule::{Action, Database, Function, Hook, Rule, RuleSet};
use crate::sink::LANES;

/// Where a record's operations run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// After everything before it of the same lane.
    One(u16),
    /// After everything before it, and before everything after it.
    Barrier,
}

/// The rules of one pool, in the order they run.
#[derive(Clone, Debug)]
pub struct Plan {
    sink: String,
    rules: Vec<Rule>,
}

impl Plan {
    /// The rules of `pool` in a set; `sink` is the name of the pool's sink.
    #[must_use]
    pub fn of_pool(set: &RuleSet, database: Database, pool: &str, sink: &str) -> Plan {
        let mut rules: Vec<Rule> =
            set.rules.iter().filter(|r| r.database == database && r.pool == pool).cloned().collect();
        rules.sort_by_key(|r| (r.hook, r.number));
        Plan { sink: sink.to_owned(), rules }
    }

    /// The rules, in the order they run.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Rules that concern the event, with their index. A database of points in time has one way to store a message, its templates: there
    /// the first of the rules counts.
    pub fn matching<'a>(&'a self, event: &'a Event) -> impl Iterator<Item = (usize, &'a Rule)> + 'a {
        let subject = Subject::of(event);
        let imported = is_import_of(event, &self.sink);
        let mut stored = false;
        self.rules.iter().enumerate().filter(move |(_, rule)| {
            let Some(subject) = &subject else { return false };
            rule.hook == subject.hook
                && !imported
                && topic_fits(rule, subject.topic)
                && match &rule.action {
                    Action::Function(function) => applies(*function, event),
                    Action::Statements(_) => statements_apply(event),
                }
                && !(rule.database.is_time_series() && std::mem::replace(&mut stored, true))
        })
    }

    /// Rules of the event's hook whose topic fits, with their index, also those that have nothing to store for it.
    pub(crate) fn concerned<'a>(&'a self, event: &Event) -> impl Iterator<Item = (usize, &'a Rule)> {
        let subject = Subject::of(event);
        let fits = |rule: &Rule| subject.as_ref().is_some_and(|s| rule.hook == s.hook && topic_fits(rule, s.topic));
        let found: Vec<(usize, &Rule)> = self.rules.iter().enumerate().filter(|(_, rule)| fits(rule)).collect();
        found.into_iter()
    }

    /// True when the event is a row that was imported from this very sink: it is not written back there.
    #[must_use]
    pub fn is_own_import(&self, event: &Event) -> bool {
        is_import_of(event, &self.sink)
    }
}

fn is_import_of(event: &Event, own: &str) -> bool {
    matches!(event, Event::Published(p) if matches!(&p.message.origin, Origin::Import { sink, .. } if *sink == own))
}

struct Subject<'a> {
    hook: Hook,
    topic: Option<&'a str>,
}

impl<'a> Subject<'a> {
    fn of(event: &'a Event) -> Option<Subject<'a>> {
        let (hook, topic) = match event {
            Event::SessionOpened(s) if !s.resumed => (Hook::SessionCreated, None),
            Event::ClientConnected(_) => (Hook::ClientConnected, None),
            Event::ClientDisconnected(_) => (Hook::ClientDisconnected, None),
            // Hooks see a shared subscription by its topic filter, as they do in EMQ X.
            Event::Subscribed(s) => (Hook::SessionSubscribed, Some(topic::unshared(&s.filter))),
            Event::Unsubscribed(u) => (Hook::SessionUnsubscribed, Some(topic::unshared(&u.filter))),
            Event::Published(p) => (Hook::MessagePublish, Some(&*p.message.topic)),
            Event::Delivered(d) => (Hook::MessageDeliver, Some(&*d.topic)),
            Event::Acked(a) => (Hook::MessageAcked, Some(&*a.topic)),
            _ => return None,
        };
        Some(Subject { hook, topic })
    }
}

fn topic_fits(rule: &Rule, subject: Option<&str>) -> bool {
    match (rule.topic.as_deref(), subject) {
        (None, _) | (Some(_), None) => true,
        (Some(filter), Some(subject)) if topic::has_wildcard(subject) => topic::overlaps(filter, subject),
        (Some(filter), Some(subject)) => topic::matches(filter, subject),
    }
}

/// True when a function of the guide has something to store for this event (the same for every database).
#[must_use]
pub fn applies(function: Function, event: &Event) -> bool {
    match (function, event) {
        (Function::ClientConnected, Event::ClientConnected(_)) => true,
        (Function::ClientDisconnected, Event::ClientDisconnected(d)) => !d.superseded,
        (Function::MessagePublish, Event::Published(p)) => p.message.qos > QoS::AtMostOnce,
        (Function::MessageStore | Function::MessageStoreKeepLatest, Event::Published(_)) => true,
        (Function::MessageRetain, Event::Published(p)) => p.message.retain && !p.message.payload.is_empty(),
        (Function::RetainDelete, Event::Published(p)) => p.message.retain && p.message.payload.is_empty(),
        (Function::AckedDelete, Event::Unsubscribed(_)) => true,
        (
            Function::MessageAcked
            | Function::MessageAckedForQueue
            | Function::MessageAckedForPubsub
            | Function::MessageAckedForKeepLatest,
            Event::Acked(_),
        ) => true,
        _ => false,
    }
}

/// A user's statement runs where its hook fired; an acknowledgement that nobody sent is none.
fn statements_apply(event: &Event) -> bool {
    match event {
        Event::Acked(a) => !matches!(a.outcome, AckOutcome::Expired | AckOutcome::TooLarge),
        _ => true,
    }
}

/// The lane of an event.
#[must_use]
pub fn lane(event: &Event) -> Lane {
    match event {
        Event::Published(p) => Lane::One(hash(&p.message.topic)),
        Event::Delivered(d) => Lane::One(hash(&d.topic)),
        Event::Acked(a) => Lane::One(hash(&a.topic)),
        Event::Subscribed(s) => Lane::One(hash(topic::unshared(&s.filter))),
        Event::Unsubscribed(u) if topic::has_wildcard(&u.filter) => Lane::Barrier,
        Event::Unsubscribed(u) => Lane::One(hash(topic::unshared(&u.filter))),
        Event::SessionOpened(s) => Lane::One(hash(&s.client)),
        Event::ClientConnected(c) => Lane::One(hash(&c.client)),
        Event::ClientDisconnected(d) => Lane::One(hash(&d.client)),
        _ => Lane::One(0),
    }
}

/// FNV-1a. Stored positions depend on it: it must never change.
fn hash(key: &str) -> u16 {
    let mut h: u64 = 0xcbf2_9ce4_8422_2325;
    for b in key.bytes() {
        h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    ((h ^ (h >> 32)) % u64::from(LANES)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_engine::event::{Subscribed, SubscriptionOptions, Unsubscribed};

    #[test]
    fn hooks_see_a_shared_subscription_by_its_topic_filter() {
        let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
        let of = |filter: &str| {
            let (client, epoch, by_proxy) = ("c".into(), 1, false);
            let gone = Unsubscribed { client, epoch, filter: filter.into(), by_proxy };
            let made = Subscribed { client: "c".into(), epoch, filter: filter.into(), options, by_proxy };
            (Event::Subscribed(made), Event::Unsubscribed(gone))
        };
        let (shared, plain) = (of("$share/g/queue/a"), of("queue/a"));
        for (shared, plain) in [(&shared.0, &plain.0), (&shared.1, &plain.1)] {
            assert_eq!(lane(shared), lane(plain));
            assert_eq!(Subject::of(shared).unwrap().topic, Some("queue/a"));
        }
    }
}
