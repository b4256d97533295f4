//! What operators look through: sessions, subscriptions and retained messages, in order and a page at a time.
//!
//! A page looks at all names once and copies only what it gives: state is locked for about a millisecond for each ten thousand names,
//! and for no longer.

use std::collections::BTreeSet;
use std::ops::Bound;

use bytestring::ByteString;

use super::Engine;
use crate::event::SubscriptionOptions;
use crate::ids::Lsn;
use crate::state::{SessionView, State, StoredMessage};
use crate::topic;

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

/// A session, with what its subscriptions have still to look at.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// The session.
    pub session: SessionView,
    /// The first record that one of its read positions has not passed; `None` where it has none.
    pub behind_from: Option<Lsn>,
}

/// The smallest `limit` of what comes behind `after`, in order.
fn page<'a>(names: impl Iterator<Item = &'a str>, after: &str, limit: usize) -> BTreeSet<&'a str> {
    let mut smallest = BTreeSet::new();
    for name in names.filter(|name| *name > after) {
        if smallest.len() < limit {
            smallest.insert(name);
        } else if smallest.last().is_some_and(|last| name < *last) {
            smallest.insert(name);
            smallest.pop_last();
        }
    }
    smallest
}

fn row(state: &State, client: &str) -> Option<SessionRow> {
    let positions = state.cursors.get(client);
    let behind_from = positions.and_then(|cursors| cursors.iter().map(|(_, cursor)| cursor.next).min());
    Some(SessionRow { session: state.session(client)?, behind_from })
}

impl Engine {
    /// Sessions by client id: those behind `after` (empty: from the first), at most `limit`; with `away` only those whose client is
    /// not connected.
    #[must_use]
    pub fn sessions_after(&self, after: &str, limit: usize, away: bool) -> Vec<SessionRow> {
        let state = self.inner.state.read();
        let names = state.sessions.iter().filter(|(_, session)| !away || !session.connected).map(|(name, _)| &**name);
        page(names, after, limit).into_iter().filter_map(|name| row(&state, name)).collect()
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
    ) -> Vec<SubscriptionView> {
        let wanted = |filter: &str| {
            of.filter.as_deref().is_none_or(|wanted| filter == wanted)
                && of.topic.as_deref().is_none_or(|topic| topic::matches(topic::unshared(filter), topic))
        };
        let state = self.inner.state.read();
        let mut smallest = BTreeSet::new();
        for (client, session) in state.sessions.iter() {
            if of.client.as_deref().is_some_and(|wanted| **client != *wanted) || **client < *after.0 {
                continue;
            }
            // A client whose first filter could not be in the page need not be looked at.
            if smallest.len() >= limit && smallest.last().is_some_and(|(last, _): &(&str, &str)| **client > **last) {
                continue;
            }
            for (filter, _) in session.subscriptions.iter().filter(|(filter, _)| wanted(filter)) {
                let place = (&**client, &**filter);
                if place > after {
                    smallest.insert(place);
                    if smallest.len() > limit {
                        smallest.pop_last();
                    }
                }
            }
        }
        smallest
            .into_iter()
            .filter_map(|(client, filter)| {
                let session = state.sessions.get(client)?;
                Some(SubscriptionView {
                    client: client.into(),
                    filter: filter.into(),
                    options: session.subscriptions.get(filter)?.options,
                    connected: session.connected,
                })
            })
            .collect()
    }

    /// Retained messages by topic: those behind `after` (empty: from the first) that match `filter` (`None`: all, those of topics
    /// that begin with `$` too), at most `limit`.
    #[must_use]
    pub fn retained_after(&self, filter: Option<&str>, after: &str, limit: usize) -> Vec<StoredMessage> {
        let state = self.inner.state.read();
        let behind = state.retained.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        let wanted = behind.filter(|(name, _)| filter.is_none_or(|filter| topic::matches(filter, name)));
        wanted.map(|(_, stored)| stored.clone()).take(limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_in_order_and_meet_every_name_once() {
        let names: Vec<String> =
            (0..1000).map(|n: u32| (n.wrapping_mul(2_654_435_761) % 100_000).to_string()).collect();
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = page(names.iter().map(String::as_str), &after, 7);
            assert!(page.len() <= 7);
            let Some(last) = page.last() else { break };
            after = (*last).to_owned();
            seen.extend(page.into_iter().map(str::to_owned));
        }
        let all: BTreeSet<String> = names.into_iter().collect();
        assert_eq!(seen, all.into_iter().collect::<Vec<_>>());
        assert!(page(["a"].into_iter(), "", 0).is_empty());
    }
}
