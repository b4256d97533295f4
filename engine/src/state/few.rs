//! A map from names to values for few of them, mostly one: what a client has for each of its filters.

use std::collections::BTreeMap;

use super::name::Name;

/// The standard sorted map takes a block for eleven entries for the first one. One entry lies in the place of the map here, a
/// handful in a list of exactly their number, and only many in a standard map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Few<V> {
    One(Name, V),
    More(Option<Box<More<V>>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum More<V> {
    /// In the order of names.
    List(Vec<(Name, V)>),
    Tree(BTreeMap<Name, V>),
}

/// A list longer than this becomes a tree.
const LIST_MAX: usize = 16;

impl<V> Default for Few<V> {
    fn default() -> Self {
        Few::More(None)
    }
}

fn search<V>(list: &[(Name, V)], name: &str) -> Result<usize, usize> {
    list.binary_search_by(|(known, _)| (**known).cmp(name))
}

impl<V> Few<V> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Few::One(..) => 1,
            Few::More(None) => 0,
            Few::More(Some(more)) => match &**more {
                More::List(list) => list.len(),
                More::Tree(tree) => tree.len(),
            },
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        match self {
            Few::One(known, value) => (**known == *name).then_some(value),
            Few::More(more) => match &**more.as_ref()? {
                More::List(list) => list.get(search(list, name).ok()?).map(|(_, value)| value),
                More::Tree(tree) => tree.get(name),
            },
        }
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        match self {
            Few::One(known, value) => (**known == *name).then_some(value),
            Few::More(more) => match &mut **more.as_mut()? {
                More::List(list) => {
                    let at = search(list, name).ok()?;
                    list.get_mut(at).map(|(_, value)| value)
                }
                More::Tree(tree) => tree.get_mut(name),
            },
        }
    }

    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets the value; answers with the one there was.
    pub(crate) fn insert(&mut self, name: Name, value: V) -> Option<V> {
        if let Some(there) = self.get_mut(&name) {
            return Some(std::mem::replace(there, value));
        }
        *self = match std::mem::take(self) {
            Few::More(None) => Few::One(name, value),
            Few::One(known, before) => {
                let mut list = Vec::with_capacity(2);
                list.push((known, before));
                let at = search(&list, &name).unwrap_or_else(|at| at);
                list.insert(at, (name, value));
                Few::More(Some(Box::new(More::List(list))))
            }
            Few::More(Some(mut more)) => {
                match &mut *more {
                    More::List(list) if list.len() < LIST_MAX => {
                        list.reserve_exact(1);
                        let at = search(list, &name).unwrap_or_else(|at| at);
                        list.insert(at, (name, value));
                    }
                    More::List(list) => {
                        let mut tree: BTreeMap<Name, V> = std::mem::take(list).into_iter().collect();
                        tree.insert(name, value);
                        *more = More::Tree(tree);
                    }
                    More::Tree(tree) => {
                        tree.insert(name, value);
                    }
                }
                Few::More(Some(more))
            }
        };
        None
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<V> {
        let removed = match self {
            Few::One(known, _) if **known != *name => None,
            Few::One(..) => match std::mem::take(self) {
                Few::One(_, value) => Some(value),
                Few::More(_) => None,
            },
            Few::More(more) => match &mut **more.as_mut()? {
                More::List(list) => {
                    let at = search(list, name).ok()?;
                    Some(list.remove(at).1)
                }
                More::Tree(tree) => tree.remove(name),
            },
        };
        if self.is_empty() {
            *self = Few::default();
        }
        removed
    }

    /// In the order of names.
    pub(crate) fn iter(&self) -> Iter<'_, V> {
        match self {
            Few::One(name, value) => Iter::One(Some((name, value))),
            Few::More(None) => Iter::One(None),
            Few::More(Some(more)) => match &**more {
                More::List(list) => Iter::List(list.iter()),
                More::Tree(tree) => Iter::Tree(tree.iter()),
            },
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Name> {
        self.iter().map(|(name, _)| name)
    }
}

/// Names and values in the order of names.
pub(crate) enum Iter<'a, V> {
    One(Option<(&'a Name, &'a V)>),
    List(std::slice::Iter<'a, (Name, V)>),
    Tree(std::collections::btree_map::Iter<'a, Name, V>),
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a Name, &'a V);
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Iter::One(one) => one.take(),
            Iter::List(list) => list.next().map(|(name, value)| (name, value)),
            Iter::Tree(tree) => tree.next(),
        }
    }
}

impl<'a, V> IntoIterator for &'a Few<V> {
    type Item = (&'a Name, &'a V);
    type IntoIter = Iter<'a, V>;
    fn into_iter(self) -> Iter<'a, V> {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_holds_what_a_standard_map_holds(steps in proptest::collection::vec((0u8..30, any::<bool>()), 0..200)) {
            let (mut few, mut model) = (Few::<usize>::default(), BTreeMap::<Name, usize>::new());
            for (step, (n, insert)) in steps.into_iter().enumerate() {
                let name = Name::from(&*n.to_string());
                if insert {
                    prop_assert_eq!(few.insert(name.clone(), step), model.insert(name.clone(), step));
                } else {
                    prop_assert_eq!(few.remove(&name), model.remove(&name));
                }
                prop_assert_eq!(few.get(&name), model.get(&name));
                prop_assert_eq!(few.get_mut(&name), model.get_mut(&name));
                prop_assert_eq!(few.len(), model.len());
                prop_assert!(few.iter().eq(model.iter()));
            }
        }
    }

    #[test]
    fn one_entry_takes_no_more_room_than_its_name_and_value() {
        assert_eq!(size_of::<Few<[u64; 3]>>(), 40);
    }
}
