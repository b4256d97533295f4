//! Which filters match a topic: a tree of topic levels, so that a match costs the topic's depth and not the number of filters.

use std::collections::HashMap;

/// Values filed under topic filters.
///
/// Depth is bounded by [`crate::topic::TOPIC_LEVELS_MAX`]: only checked filters may be put in.
#[derive(Debug)]
pub struct Trie<V> {
    root: Node<V>,
}

#[derive(Debug)]
struct Node<V> {
    /// Children by literal level.
    children: HashMap<Box<str>, Node<V>>,
    /// The child for `+`.
    plus: Option<Box<Node<V>>>,
    /// Values of filters that end in `#` here (the filter `a/#` is filed at `a`).
    hash: Vec<V>,
    /// Values of filters that end here.
    here: Vec<V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Node { children: HashMap::new(), plus: None, hash: Vec::new(), here: Vec::new() }
    }
}

impl<V> Node<V> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.hash.is_empty() && self.here.is_empty()
    }
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Trie { root: Node::default() }
    }
}

impl<V> Trie<V> {
    /// Files a value under a filter (beside those that are there already).
    pub fn insert(&mut self, filter: &str, value: V) {
        self.values_mut(filter).push(value);
    }

    /// The values of exactly this filter, to be changed. The place is made where there is none: leave a value in it.
    pub fn values_mut(&mut self, filter: &str) -> &mut Vec<V> {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = match level {
                "#" => return &mut node.hash,
                "+" => node.plus.get_or_insert_default(),
                _ => node.children.entry(level.into()).or_default(),
            };
        }
        &mut node.here
    }

    /// Removes the values of exactly this filter for which `gone` holds, and the branches that are empty afterwards.
    pub fn remove(&mut self, filter: &str, gone: impl Fn(&V) -> bool) {
        self.edit(filter, |values| values.retain(|v| !gone(v)));
    }

    /// Lets `change` at the values of exactly this filter, where there are any, and removes the branches that are empty afterwards.
    pub fn edit(&mut self, filter: &str, change: impl FnOnce(&mut Vec<V>)) {
        fn walk<V>(node: &mut Node<V>, levels: &mut std::str::Split<'_, char>, change: impl FnOnce(&mut Vec<V>)) {
            match levels.next() {
                None => change(&mut node.here),
                Some("#") => change(&mut node.hash),
                Some("+") => {
                    if let Some(plus) = &mut node.plus {
                        walk(plus, levels, change);
                        if plus.is_empty() {
                            node.plus = None;
                        }
                    }
                }
                Some(level) => {
                    if let Some(child) = node.children.get_mut(level) {
                        walk(child, levels, change);
                        if child.is_empty() {
                            node.children.remove(level);
                        }
                    }
                }
            }
        }
        walk(&mut self.root, &mut filter.split('/'), change);
    }

    /// Calls `found` for each value whose filter matches the topic name; stops when it returns false.
    pub fn matches<'a>(&'a self, topic: &str, mut found: impl FnMut(&'a V) -> bool) {
        // Depth first. Literal levels are followed at once; only a `+` beside them has to wait on the stack, which a tree without
        // such a branch never allocates.
        let mut waiting: Vec<(&Node<V>, Option<&str>)> = Vec::new();
        let mut next = Some((&self.root, Some(topic)));
        let mut wild = !topic.starts_with('$');
        while let Some((node, rest)) = next {
            if wild && !node.hash.iter().all(&mut found) {
                return;
            }
            next = match rest {
                None if !node.here.iter().all(&mut found) => return,
                None => None,
                Some(rest) => {
                    let (level, rest) = match rest.split_once('/') {
                        Some((level, rest)) => (level, Some(rest)),
                        None => (rest, None),
                    };
                    let plus = if wild { node.plus.as_deref() } else { None };
                    let child = node.children.get(level);
                    if let (Some(_), Some(plus)) = (child, plus) {
                        waiting.push((plus, rest));
                    }
                    child.or(plus).map(|node| (node, rest))
                }
            };
            next = next.or_else(|| waiting.pop());
            // `$` shuts out wildcards of the first level only.
            wild = true;
        }
    }

    /// True when some filter matches the topic name.
    #[must_use]
    pub fn any_match(&self, topic: &str) -> bool {
        let mut any = false;
        self.matches(topic, |_| {
            any = true;
            false
        });
        any
    }

    /// True when nothing is filed.
    #[cfg(test)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_exactly_what_a_linear_scan_finds_also_after_removals(
            filters in proptest::collection::vec("(\\+|a|b|\\$s|)(/(\\+|a|b|)){0,3}(/#)?|#", 1..12),
            removed in proptest::collection::vec(any::<bool>(), 12),
            name in "(a|b|\\$s|)(/(a|b|)){0,4}",
        ) {
            let mut trie = Trie::default();
            for (i, filter) in filters.iter().enumerate() {
                trie.insert(filter, i);
            }
            for (i, filter) in filters.iter().enumerate().filter(|(i, _)| removed[*i]) {
                trie.remove(filter, |v| *v == i);
            }
            let mut found = Vec::new();
            trie.matches(&name, |v| { found.push(*v); true });
            found.sort_unstable();
            let expected: Vec<usize> = filters.iter().enumerate()
                .filter(|(i, f)| !removed[*i] && topic::matches(f, &name)).map(|(i, _)| i).collect();
            prop_assert_eq!(trie.any_match(&name), !expected.is_empty());
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn removing_everything_leaves_an_empty_tree() {
        let mut trie = Trie::default();
        for filter in ["a/b/c", "a/+/c", "#", "a/#", "+"] {
            trie.insert(filter, ());
        }
        for filter in ["a/b/c", "a/+/c", "#", "a/#", "+"] {
            trie.remove(filter, |()| true);
        }
        assert!(trie.is_empty());
    }
}
