//! The subscriptions of one inbox: found by name, and by a topic that they match, without looking at all of them.

use std::collections::HashMap;

use bytestring::ByteString;

use super::FilterState;
use crate::rules::Kind;
use crate::topic;
use crate::trie::Trie;

/// Up to so many filters a topic is compared with each of them; a tree would take more memory than it saves time.
const FEW: usize = 8;

/// See the module. Places in it are stable while nothing is removed.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Filters {
    list: Vec<FilterState>,
    places: HashMap<ByteString, usize>,
    /// Places by filter, once there are more than a few.
    tree: Option<Trie<usize>>,
    /// Subscriptions of one-to-one queues among them.
    queues: usize,
}

impl Filters {
    pub(in crate::delivery) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True when there is a subscription of a one-to-one queue.
    pub(in crate::delivery) fn has_queue(&self) -> bool {
        self.queues > 0
    }

    pub(in crate::delivery) fn iter(&self) -> impl Iterator<Item = &FilterState> {
        self.list.iter()
    }

    pub(in crate::delivery) fn iter_mut(&mut self) -> impl Iterator<Item = &mut FilterState> {
        self.list.iter_mut()
    }

    pub(in crate::delivery) fn at(&self, place: usize) -> Option<&FilterState> {
        self.list.get(place)
    }

    pub(in crate::delivery) fn place(&self, filter: &str) -> Option<usize> {
        self.places.get(filter).copied()
    }

    pub(in crate::delivery) fn get(&self, filter: &str) -> Option<&FilterState> {
        self.place(filter).and_then(|place| self.list.get(place))
    }

    pub(in crate::delivery) fn get_mut(&mut self, filter: &str) -> Option<&mut FilterState> {
        self.place(filter).and_then(|place| self.list.get_mut(place))
    }

    /// Adds one that is not there.
    pub(super) fn push(&mut self, filter: FilterState) {
        let (name, place) = (filter.sub.filter.clone(), self.list.len());
        if let Some(tree) = &mut self.tree {
            tree.insert(&name, place);
        }
        self.places.insert(name, place);
        self.queues += usize::from(filter.sub.kind == Kind::Queue);
        self.list.push(filter);
        if self.tree.is_none() && self.list.len() > FEW {
            let mut tree = Trie::default();
            for (place, filter) in self.list.iter().enumerate() {
                tree.insert(&filter.sub.filter, place);
            }
            self.tree = Some(tree);
        }
    }

    /// Removes one; the last takes its place.
    pub(super) fn remove(&mut self, filter: &str) -> Option<FilterState> {
        let place = self.places.remove(filter)?;
        let gone = self.list.swap_remove(place);
        self.queues -= usize::from(gone.sub.kind == Kind::Queue);
        let moved = self.list.get(place).map(|f| f.sub.filter.clone());
        if let Some(tree) = &mut self.tree {
            tree.remove(filter, |_| true);
            if let Some(moved) = &moved
                && let Some(known) = tree.values_mut(moved).first_mut()
            {
                *known = place;
            }
        }
        if let Some(moved) = moved {
            self.places.insert(moved, place);
        }
        Some(gone)
    }

    /// Places of the filters that match a topic.
    pub(in crate::delivery) fn matching(&self, topic: &str, found: &mut Vec<usize>) {
        match &self.tree {
            Some(tree) => tree.matches(topic, |place| {
                found.push(*place);
                true
            }),
            None => {
                let all = self.list.iter().enumerate();
                found.extend(all.filter(|(_, f)| topic::matches(&f.sub.filter, topic)).map(|(place, _)| place));
            }
        }
    }
}
