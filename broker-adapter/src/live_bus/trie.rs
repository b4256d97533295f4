//! Our own matcher: a trie of topic levels. A publish looks only at the levels of its topic, however many filters there are.
//!
//! Nodes live in one vector and everything walks it with loops: a filter of 32,768 levels must not exhaust a stack.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_engine::Message;
use forebay_engine::event::SubscriptionOptions;
use parking_lot::RwLock;

use super::{LiveBus, LiveInbox};

/// A [`LiveBus`] over a trie. Reading takes a shared lock; subscribing takes it alone for the length of one filter.
#[derive(Debug, Default)]
pub struct TrieBus {
    trie: RwLock<Trie<Entry>>,
}

#[derive(Debug)]
struct Entry {
    inbox: Arc<LiveInbox>,
    options: SubscriptionOptions,
}

/// What stands under filters: one for each id in a place.
pub(super) trait Entrant {
    /// Tells it from others in its place.
    fn id(&self) -> u64;
}

impl Entrant for Entry {
    fn id(&self) -> u64 {
        self.inbox.id()
    }
}

#[derive(Debug)]
struct Node<E> {
    /// By level; `+` stands here too, because no topic name has such a level.
    children: HashMap<Box<str>, usize>,
    /// Filters that end here.
    here: Vec<E>,
    /// Filters that end here with `/#`.
    below: Vec<E>,
}

impl<E> Default for Node<E> {
    fn default() -> Self {
        Node { children: HashMap::new(), here: Vec::new(), below: Vec::new() }
    }
}

impl<E> Node<E> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_empty() && self.below.is_empty()
    }

    fn entries(&mut self, hash: bool) -> &mut Vec<E> {
        if hash { &mut self.below } else { &mut self.here }
    }
}

const ROOT: usize = 0;

#[derive(Debug)]
pub(super) struct Trie<E> {
    nodes: Vec<Node<E>>,
    free: Vec<usize>,
}

impl<E> Default for Trie<E> {
    fn default() -> Self {
        Trie { nodes: vec![Node::default()], free: Vec::new() }
    }
}

/// A filter's levels without a final `#`, and whether there was one.
fn split(filter: &str) -> (Option<&str>, bool) {
    match filter.strip_suffix('#') {
        Some("") => (None, true),
        Some(rest) => (Some(rest.strip_suffix('/').unwrap_or(rest)), true),
        None => (Some(filter), false),
    }
}

fn levels(path: Option<&str>) -> impl Iterator<Item = &str> {
    path.into_iter().flat_map(|path| path.split('/'))
}

impl<E: Entrant> Trie<E> {
    /// Files an entry under a filter, in the place of the one with its id.
    pub(super) fn insert(&mut self, filter: &str, entry: E) {
        let (path, hash) = split(filter);
        let mut at = ROOT;
        for level in levels(path) {
            at = match self.nodes.get(at).and_then(|node| node.children.get(level)) {
                Some(child) => *child,
                None => {
                    let child = self.free.pop().unwrap_or_else(|| {
                        self.nodes.push(Node::default());
                        self.nodes.len() - 1
                    });
                    if let Some(node) = self.nodes.get_mut(at) {
                        node.children.insert(level.into(), child);
                    }
                    child
                }
            };
        }
        if let Some(node) = self.nodes.get_mut(at) {
            let entries = node.entries(hash);
            match entries.iter_mut().find(|e| e.id() == entry.id()) {
                Some(existing) => *existing = entry,
                None => entries.push(entry),
            }
        }
    }

    /// Removes the entry with this id from under a filter.
    pub(super) fn remove(&mut self, filter: &str, id: u64) {
        let (path, hash) = split(filter);
        let mut steps = Vec::new();
        let mut at = ROOT;
        for level in levels(path) {
            let Some(child) = self.nodes.get(at).and_then(|node| node.children.get(level)) else { return };
            steps.push((at, level));
            at = *child;
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.entries(hash).retain(|e| e.id() != id);
        }
        while let Some((parent, level)) = steps.pop() {
            if !self.nodes.get(at).is_some_and(Node::is_empty) {
                break;
            }
            self.free.push(at);
            if let Some(node) = self.nodes.get_mut(parent) {
                node.children.remove(level);
            }
            at = parent;
        }
    }

    /// Adds the entries whose filters match a topic name.
    pub(super) fn matching<'a>(&'a self, topic: &str, found: &mut Vec<&'a E>) {
        let system = topic.starts_with('$');
        let mut stack = vec![(ROOT, Some(topic))];
        while let Some((at, rest)) = stack.pop() {
            let Some(node) = self.nodes.get(at) else { continue };
            let wildcards = !(system && at == ROOT);
            if wildcards {
                found.extend(&node.below);
            }
            let Some(rest) = rest else {
                found.extend(&node.here);
                continue;
            };
            let (level, rest) = rest.split_once('/').map_or((rest, None), |(level, rest)| (level, Some(rest)));
            if wildcards && let Some(child) = node.children.get("+") {
                stack.push((*child, rest));
            }
            if let Some(child) = node.children.get(level) {
                stack.push((*child, rest));
            }
        }
    }
}

impl LiveBus for TrieBus {
    fn subscribe(&self, filter: &str, inbox: &Arc<LiveInbox>, options: SubscriptionOptions) {
        self.trie.write().insert(filter, Entry { inbox: Arc::clone(inbox), options });
    }

    fn unsubscribe(&self, filter: &str, inbox: &LiveInbox) {
        self.trie.write().remove(filter, inbox.id());
    }

    fn publish(&self, message: &Arc<Message>) {
        let trie = self.trie.read();
        let mut found = Vec::new();
        trie.matching(&message.topic, &mut found);
        if found.len() > 1 {
            found.sort_unstable_by_key(|e| e.inbox.id());
        }
        for same in found.chunk_by(|a, b| a.inbox.id() == b.inbox.id()) {
            if let Some(first) = same.first() {
                first.inbox.push(message, same.iter().map(|e| e.options));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matched(trie: &Trie<Entry>, topic: &str) -> Vec<u64> {
        let mut found = Vec::new();
        trie.matching(topic, &mut found);
        let mut ids: Vec<_> = found.iter().map(|e| e.inbox.id()).collect();
        ids.sort_unstable();
        ids
    }

    fn entry() -> Entry {
        Entry { inbox: LiveInbox::new("c".into(), 1, 1), options: SubscriptionOptions::of_qos(Default::default()) }
    }

    proptest! {
        #[test]
        fn the_trie_matches_exactly_what_the_standard_s_rule_matches(
            filters in proptest::collection::vec("(\\+|a|b|\\$s|)(/(\\+|a|b|)){0,3}(/#)?|#", 1..12),
            name in "(a|b|\\$s|)(/(a|b|)){0,4}",
        ) {
            let mut trie = Trie::default();
            let mut expected = Vec::new();
            let mut ids = Vec::new();
            for filter in filters.iter().filter(|f| !f.is_empty()) {
                let entry = entry();
                let id = entry.inbox.id();
                if forebay_engine::topic::matches(filter, &name) {
                    expected.push(id);
                }
                trie.insert(filter, entry);
                ids.push((filter, id));
            }
            prop_assert_eq!(matched(&trie, &name), expected);
            for (filter, id) in ids {
                trie.remove(filter, id);
            }
            prop_assert!(trie.nodes.iter().all(Node::is_empty));
            prop_assert_eq!(trie.free.len() + 1, trie.nodes.len());
        }
    }

    #[test]
    fn a_filter_of_thirty_two_thousand_levels_is_no_danger() {
        let filter = format!("{}+", "+/".repeat(32_000));
        let (mut trie, entry) = (Trie::default(), entry());
        let id = entry.inbox.id();
        trie.insert(&filter, entry);
        assert_eq!(matched(&trie, &"/".repeat(32_000)), vec![id]);
        trie.remove(&filter, id);
        assert!(matched(&trie, &"/".repeat(32_000)).is_empty());
    }
}
