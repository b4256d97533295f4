//! How many subscriptions with QoS > 0 each filter has, connected or not: what decides whether a publish that no rule wants is logged.

use crate::state::{Dense, Name};
use crate::topic;
use crate::trie::Trie;

/// Filters without wildcards, which sleeping devices have by the hundred thousand, are looked up whole; a tree of levels would take
/// several times the memory for each of them.
#[derive(Debug, Default)]
pub(super) struct Interest {
    exact: Dense<usize>,
    wild: Trie<usize>,
}

impl Interest {
    /// One subscription more.
    pub(super) fn add(&mut self, filter: &str) {
        if !topic::has_wildcard(filter) {
            match self.exact.get_mut(filter) {
                Some(n) => *n += 1,
                None => drop(self.exact.insert(Name::from(filter), 1)),
            }
            return;
        }
        let count = self.wild.values_mut(filter);
        match count.first_mut() {
            Some(n) => *n += 1,
            None => count.push(1),
        }
    }

    /// One subscription less.
    pub(super) fn remove(&mut self, filter: &str) {
        if !topic::has_wildcard(filter) {
            match self.exact.get_mut(filter) {
                Some(n) if *n > 1 => *n -= 1,
                _ => drop(self.exact.remove(filter)),
            }
            return;
        }
        if let Some(n) = self.wild.values_mut(filter).first_mut() {
            *n = n.saturating_sub(1);
        }
        self.wild.remove(filter, |n| *n == 0);
    }

    /// True when a filter matches the topic name.
    pub(super) fn any(&self, topic: &str) -> bool {
        self.exact.contains_key(topic) || self.wild.any_match(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_of_interest_until_the_last_subscription_that_matches_it_is_gone() {
        let mut interest = Interest::default();
        for filter in ["a/b", "a/b", "a/+", "$s/x", "#"] {
            interest.add(filter);
        }
        assert!(interest.any("a/b") && interest.any("$s/x") && interest.any("other") && !interest.any("$s/y"));
        interest.remove("#");
        assert!(!interest.any("other") && interest.any("a/c"));
        interest.remove("a/+");
        interest.remove("a/b");
        assert!(interest.any("a/b") && !interest.any("a/c"));
        interest.remove("a/b");
        interest.remove("a/b");
        interest.remove("never/there");
        assert!(!interest.any("a/b"));
        assert!(interest.wild.is_empty());
    }
}
