//! A map from names to values for very many of them.
//!
//! ```text
//! table   (hash u32, place u32), at most 7/8 full: 9 bytes a slot
//! chunks  name and value side by side, 1,024 to a chunk, without holes: the last one takes the place of one that is removed
//! ```
//!
//! The standard map keeps names and values in its slots, of which up to nine in sixteen are empty, and moves them all when it grows: a
//! pause under the state's lock. Here a slot is small, growing moves slots only, and the values lie without holes.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

use super::name::Name;

const CHUNK: usize = 1024;

#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    place: u32,
}

/// The table wants all 64 bits to differ.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// See the module. Lookups take text; iteration is in no particular order.
pub(crate) struct Dense<V> {
    table: HashTable<Slot>,
    chunks: Vec<Vec<(Name, V)>>,
    len: usize,
    hasher: RandomState,
}

impl<V> Default for Dense<V> {
    fn default() -> Self {
        Dense { table: HashTable::new(), chunks: Vec::new(), len: 0, hasher: RandomState::new() }
    }
}

impl<V: fmt::Debug> fmt::Debug for Dense<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<V> Dense<V> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        self.get_name_value(name).map(|(_, value)| value)
    }

    /// The name as it is kept here, and its value.
    pub(crate) fn get_name_value(&self, name: &str) -> Option<(&Name, &V)> {
        self.at(self.find(name)?).map(|(name, value)| (name, value))
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        let place = self.find(name)?;
        self.at_mut(place).map(|(_, value)| value)
    }

    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Changes the value of the name, made where there is none.
    pub(crate) fn update<R>(&mut self, name: Name, change: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        if let Some(value) = self.get_mut(&name) {
            return change(value);
        }
        let mut value = V::default();
        let result = change(&mut value);
        self.push(name, value);
        result
    }

    /// Sets the value; answers with the one there was.
    pub(crate) fn insert(&mut self, name: Name, value: V) -> Option<V> {
        match self.get_mut(&name) {
            Some(there) => Some(std::mem::replace(there, value)),
            None => {
                self.push(name, value);
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<V> {
        let hash = self.hash(name);
        let Dense { table, chunks, .. } = self;
        let is_it =
            |slot: &Slot| slot.hash == hash && entry(chunks, slot.place as usize).is_some_and(|e| *e.0 == *name);
        let place = table.find_entry(spread(hash), is_it).ok()?.remove().0.place as usize;
        self.len -= 1;
        let last = self.len;
        let (moved_name, moved_value) = self.chunks.last_mut()?.pop()?;
        if self.chunks.last().is_some_and(Vec::is_empty) {
            self.chunks.pop();
        }
        let removed = if place == last {
            moved_value
        } else {
            let moved_hash = self.hash(&moved_name);
            if let Some(slot) = self.table.find_mut(spread(moved_hash), |slot| slot.place as usize == last) {
                slot.place = place as u32;
            }
            std::mem::replace(self.at_mut(place)?, (moved_name, moved_value)).1
        };
        if self.table.capacity() > 64 && self.len < self.table.capacity() / 8 {
            self.table.shrink_to(self.len * 2, |slot| spread(slot.hash));
        }
        Some(removed)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Name, &V)> {
        self.chunks.iter().flatten().map(|(name, value)| (name, value))
    }

    /// How many parts [`Dense::part`] has.
    pub(crate) fn parts(&self) -> usize {
        self.chunks.len()
    }

    /// A part of it, at most 1,024 entries. Who goes through the parts from the last to the first meets every entry that is there all the
    /// while, though others come and go between two parts: what is removed is replaced by the last one, which was met before.
    pub(crate) fn part(&self, n: usize) -> impl Iterator<Item = (&Name, &V)> {
        self.chunks.get(n).into_iter().flatten().map(|(name, value)| (name, value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Name> {
        self.iter().map(|(name, _)| name)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    fn hash(&self, name: &str) -> u32 {
        self.hasher.hash_one(name) as u32
    }

    fn find(&self, name: &str) -> Option<usize> {
        let hash = self.hash(name);
        let is_it = |slot: &Slot| slot.hash == hash && self.at(slot.place as usize).is_some_and(|e| *e.0 == *name);
        self.table.find(spread(hash), is_it).map(|slot| slot.place as usize)
    }

    fn push(&mut self, name: Name, value: V) -> usize {
        let (hash, place) = (self.hash(&name), self.len);
        self.table.insert_unique(spread(hash), Slot { hash, place: place as u32 }, |slot| spread(slot.hash));
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push((name, value)),
            // The first chunk grows as a small map would; those after it are made whole.
            first => {
                let mut chunk = Vec::with_capacity(if first.is_some() { CHUNK } else { 4 });
                chunk.push((name, value));
                self.chunks.push(chunk);
            }
        }
        self.len += 1;
        place
    }

    fn at(&self, place: usize) -> Option<&(Name, V)> {
        entry(&self.chunks, place)
    }

    fn at_mut(&mut self, place: usize) -> Option<&mut (Name, V)> {
        self.chunks.get_mut(place / CHUNK)?.get_mut(place % CHUNK)
    }
}

fn entry<V>(chunks: &[Vec<(Name, V)>], place: usize) -> Option<&(Name, V)> {
    chunks.get(place / CHUNK)?.get(place % CHUNK)
}

impl<'a, V> IntoIterator for &'a Dense<V> {
    type Item = (&'a Name, &'a V);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'a>;
    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn from_the_last_part_to_the_first_everything_that_stays_is_met() {
        let mut dense = Dense::<u32>::default();
        for n in 0..9000 {
            dense.insert(Name::from(&*n.to_string()), n);
        }
        let (mut met, mut part, mut goes) = (HashSet::new(), usize::MAX, (0..9000).step_by(3));
        while part > 0 {
            part = part.min(dense.parts());
            part -= 1;
            met.extend(dense.part(part).map(|(_, n)| *n));
            // The last ones take the places of these, which are among the first.
            for n in goes.by_ref().take(200) {
                dense.remove(&n.to_string());
            }
        }
        assert!((0..9000).filter(|n| n % 3 != 0).all(|n| met.contains(&n)));
    }

    proptest! {
        #[test]
        fn it_holds_what_a_standard_map_holds(steps in proptest::collection::vec((0u16..3000, 0u8..4), 0..9000)) {
            let (mut dense, mut model) = (Dense::<u16>::default(), HashMap::<String, u16>::new());
            // Enough to fill more than one chunk, and to go below it again.
            for n in 0..2500u16 {
                dense.insert(Name::from(&*n.to_string()), n);
                model.insert(n.to_string(), n);
            }
            for (step, (n, what)) in steps.into_iter().enumerate() {
                let name = n.to_string();
                match what {
                    0 => prop_assert_eq!(dense.insert(Name::from(&*name), step as u16), model.insert(name, step as u16)),
                    1 => {
                        dense.update(Name::from(&*name), |v| *v = v.wrapping_add(1));
                        model.entry(name).and_modify(|v| *v = v.wrapping_add(1)).or_insert(1);
                    }
                    _ => prop_assert_eq!(dense.remove(&name), model.remove(&name)),
                }
            }
            prop_assert_eq!(dense.len(), model.len());
            prop_assert_eq!(dense.iter().count(), model.len());
            for (name, value) in &model {
                prop_assert_eq!(dense.get(name), Some(value));
            }
            for name in model.keys() {
                prop_assert!(dense.remove(name).is_some());
            }
            prop_assert!(dense.len() == 0 && dense.chunks.is_empty());
        }
    }
}
