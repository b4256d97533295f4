//! What operators look through: sessions, subscriptions and retained messages, in order and a part at a time.
//!
//! State is locked for a few thousand names at a time, well under a millisecond, and let go of in between: however long a list is,
//! nobody waits for it. What is there while a list is asked for part by part is met once; what comes or goes meanwhile may be met.

use std::collections::BTreeSet;
use std::ops::Bound;

use bytestring::ByteString;

use super::Engine;
use crate::Listed;
use crate::event::SubscriptionOptions;
use crate::ids::Lsn;
use crate::state::{State, StoredMessage};
use crate::topic;

/// Names of one part of a list, bytes: beyond it the part ends, however many rows were asked for.
const PART_BYTES: usize = 4 * 1024 * 1024;
/// Names looked at, and rows made, under one lock.
const NAMES_AT_ONCE: usize = 4096;
/// Parts of the sessions (1,024 each) looked at under one lock.
const SESSIONS_AT_ONCE: usize = 4;

/// Which subscriptions a list is of.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionsOf {
    /// Of this client; `None` = of all.
    pub client: Option<ByteString>,
    /// Of this topic filter, to the letter.
    pub filter: Option<ByteString>,
    /// Those that match this topic name.
    pub topic: Option<ByteString>,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionView {
    /// Client id.
    pub client: ByteString,
    /// Topic filter.
    pub filter: ByteString,
    /// Its options.
    pub options: SubscriptionOptions,
    /// True while its client is connected.
    pub connected: bool,
}

/// A session in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Client id.
    pub client: ByteString,
    /// True while its connection is open.
    pub connected: bool,
    /// User name.
    pub username: ByteString,
    /// How long it outlives its connection, seconds.
    pub expiry_s: u32,
    /// While not connected: when it ends, us since 1970; `None` = never.
    pub ends_at_us: Option<u64>,
    /// How many subscriptions it has.
    pub subscriptions: usize,
    /// QoS 2 packet ids received from the client and not released.
    pub received: usize,
    /// QoS 2 messages on their way to the client.
    pub outbound: usize,
    /// Topic of the will that is neither published nor cancelled.
    pub will: Option<ByteString>,
    /// The first record that one of its read positions has not passed; `None` where it has none.
    pub behind_from: Option<Lsn>,
}

/// The smallest of the names that are offered, in order: at most `limit` of them, and at most [`PART_BYTES`].
struct Smallest<K> {
    limit: usize,
    bytes: usize,
    names: BTreeSet<K>,
    /// Whether there are more than these.
    more: bool,
}

/// A place in a list.
trait Place: Ord {
    fn bytes(&self) -> usize;
}

impl Place for ByteString {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Place for (ByteString, ByteString) {
    fn bytes(&self) -> usize {
        self.0.len() + self.1.len()
    }
}

impl<K: Place> Smallest<K> {
    /// At least one, so that a list gets on.
    fn new(limit: usize) -> Smallest<K> {
        Smallest { limit: limit.max(1), bytes: 0, names: BTreeSet::new(), more: false }
    }

    /// Whether names as large as this one have no place any more. They are never looked at twice, so they are not copied either.
    fn is_above(&self, is_larger: impl Fn(&K) -> bool) -> bool {
        self.more && self.names.last().is_some_and(is_larger)
    }

    fn offer(&mut self, name: K) {
        let bytes = name.bytes();
        if self.names.insert(name) {
            self.bytes += bytes;
        }
        while self.names.len() > self.limit || (self.bytes > PART_BYTES && self.names.len() > 1) {
            let last = self.names.pop_last();
            self.bytes -= last.map_or(0, |last| last.bytes());
            self.more = true;
        }
    }
}

fn row(state: &State, client: &str) -> Option<SessionRow> {
    let (name, session) = state.sessions.get_name_value(client)?;
    let positions = state.cursors.get(client);
    Some(SessionRow {
        client: name.to_byte_string(),
        connected: session.connected,
        username: session.username.to_byte_string(),
        expiry_s: session.expiry_s,
        ends_at_us: session.ends_at_us,
        subscriptions: session.subscriptions.len(),
        received: session.received.len(),
        outbound: session.outbound.len(),
        will: session.will.as_ref().map(|will| will.message.topic.clone()),
        behind_from: positions.and_then(|cursors| cursors.iter().map(|(_, cursor)| cursor.next).min()),
    })
}

impl Engine {
    /// Looks at every session, a few thousand under one lock.
    fn each_session(&self, mut look: impl FnMut(&str, &crate::state::Session)) {
        let mut part = usize::MAX;
        while part > 0 {
            let state = self.inner.state.read();
            // From the last to the first: see `Dense::part`.
            part = part.min(state.sessions.parts());
            for _ in 0..SESSIONS_AT_ONCE.min(part) {
                part -= 1;
                state.sessions.part(part).for_each(|(client, session)| look(client, session));
            }
        }
    }

    /// Sessions by client id: those behind `after` (empty: from the first), at most `limit`; with `away` only those whose client is
    /// not connected.
    #[must_use]
    pub fn sessions_after(&self, after: &str, limit: usize, away: bool) -> Listed<SessionRow> {
        let mut smallest = Smallest::new(limit);
        self.each_session(|client, session| {
            let wanted = client > after && !(away && session.connected);
            if wanted && !smallest.is_above(|last: &ByteString| client > &**last) {
                smallest.offer(ByteString::from(client));
            }
        });
        let next = smallest.names.last().filter(|_| smallest.more).cloned();
        let mut rows = Vec::with_capacity(smallest.names.len());
        let mut names = smallest.names.iter();
        while names.len() > 0 {
            let state = self.inner.state.read();
            rows.extend(names.by_ref().take(NAMES_AT_ONCE).filter_map(|client| row(&state, client)));
        }
        Listed { rows, next }
    }

    /// A client's session.
    #[must_use]
    pub fn session_row(&self, client: &str) -> Option<SessionRow> {
        row(&self.inner.state.read(), client)
    }

    /// Subscriptions by client id, then filter: those behind `after`, at most `limit`.
    #[must_use]
    pub fn subscriptions_after(
        &self,
        of: &SubscriptionsOf,
        after: (&str, &str),
        limit: usize,
    ) -> Listed<SubscriptionView, (ByteString, ByteString)> {
        let wanted = |filter: &str| {
            of.filter.as_deref().is_none_or(|wanted| filter == wanted)
                && of.topic.as_deref().is_none_or(|topic| topic::matches(topic::unshared(filter), topic))
        };
        let mut smallest = Smallest::new(limit);
        let mut look = |client: &str, session: &crate::state::Session| {
            // A client whose first filter could not be in the part need not be looked at.
            if client < after.0 || smallest.is_above(|(last, _): &(ByteString, ByteString)| client > &**last) {
                return;
            }
            for (filter, _) in session.subscriptions.iter() {
                let is_above = smallest.is_above(|(last, last_filter)| (client, &**filter) > (&**last, &**last_filter));
                if (client, &**filter) > after && !is_above && wanted(filter) {
                    smallest.offer((ByteString::from(client), filter.to_byte_string()));
                }
            }
        };
        match &of.client {
            None => self.each_session(look),
            Some(client) => {
                let state = self.inner.state.read();
                if let Some(session) = state.sessions.get(client) {
                    look(client, session);
                }
            }
        }
        let next = smallest.names.last().filter(|_| smallest.more).cloned();
        let mut rows = Vec::with_capacity(smallest.names.len());
        let mut names = smallest.names.into_iter();
        while names.len() > 0 {
            let state = self.inner.state.read();
            rows.extend(names.by_ref().take(NAMES_AT_ONCE).filter_map(|(client, filter)| {
                let session = state.sessions.get(&client)?;
                let options = session.subscriptions.get(&filter)?.options;
                Some(SubscriptionView { client, filter, options, connected: session.connected })
            }));
        }
        Listed { rows, next }
    }

    /// Retained messages by topic: those behind `after` (empty: from the first) that match `filter` (`None`: all, those of topics
    /// that begin with `$` too), at most `limit`.
    #[must_use]
    pub fn retained_after(&self, filter: Option<&str>, after: &str, limit: usize) -> Listed<StoredMessage> {
        // Topics that match begin with what stands before the first wildcard; `a/#` matches `a` too.
        let prefix = filter.unwrap_or_default().split(['+', '#']).next().unwrap_or_default();
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let mut behind = ByteString::from(after);
        let (mut rows, mut bytes) = (Vec::<StoredMessage>::new(), 0);
        loop {
            let state = self.inner.state.read();
            let begin = if *behind < *prefix { Bound::Included(prefix) } else { Bound::Excluded(&*behind) };
            let mut last = None;
            for (topic, stored) in state.retained.range::<str, _>((begin, Bound::Unbounded)).take(NAMES_AT_ONCE) {
                if !topic.starts_with(prefix) {
                    return Listed { rows, next: None };
                }
                if filter.is_none_or(|filter| topic::matches(filter, topic)) {
                    if rows.len() >= limit.max(1) || bytes > PART_BYTES {
                        let next = rows.last().map(|row| row.message.topic.clone());
                        return Listed { rows, next };
                    }
                    bytes += topic.len();
                    rows.push(stored.clone());
                }
                last = Some(topic);
            }
            match last {
                Some(last) => behind = last.clone(),
                None => return Listed { rows, next: None },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(names: &[String], after: &str, limit: usize) -> Smallest<ByteString> {
        let mut smallest = Smallest::new(limit);
        for name in names.iter().filter(|name| ***name > *after) {
            if !smallest.is_above(|last: &ByteString| **name > **last) {
                smallest.offer(ByteString::from(&**name));
            }
        }
        smallest
    }

    #[test]
    fn parts_are_in_order_and_meet_every_name_once() {
        let names: Vec<String> =
            (0..1000).map(|n: u32| (n.wrapping_mul(2_654_435_761) % 100_000).to_string()).collect();
        let all: BTreeSet<String> = names.iter().cloned().collect();
        for limit in [1, 7, 999, 1000, 1001] {
            let (mut seen, mut after) = (Vec::new(), String::new());
            loop {
                let part = part(&names, &after, limit);
                assert!(part.names.len() <= limit);
                after = part.names.last().map(ToString::to_string).unwrap_or_default();
                seen.extend(part.names.iter().map(ToString::to_string));
                if !part.more {
                    break;
                }
            }
            assert_eq!(seen, all.iter().cloned().collect::<Vec<_>>(), "{limit}");
        }
    }

    #[test]
    fn a_part_ends_where_its_names_are_large() {
        let names: Vec<String> = (0..200).map(|n| format!("{n:03}{}", "x".repeat(60_000))).collect();
        let first = part(&names, "", 10_000);
        assert!(first.more && first.bytes <= PART_BYTES && first.names.len() == PART_BYTES / 60_003);
        let huge = ["x".repeat(2 * PART_BYTES), "y".repeat(2 * PART_BYTES)];
        assert_eq!(part(&huge, "", 10).names.len(), 1, "one at least, so that a list gets on");
        assert!(part(&huge, "", 10).more);
    }
}
