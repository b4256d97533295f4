//! Names that state keeps: client ids, filters, topics.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Deref;
use std::sync::Arc;

use bytestring::ByteString;

/// A name in one allocation of exactly its length; clones are the same name. It shares nothing with the record it came from.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// A copy in the form that events and views carry.
    pub(crate) fn to_byte_string(&self) -> ByteString {
        ByteString::from(&*self.0)
    }
}

impl Default for Name {
    fn default() -> Name {
        Name(Arc::from(""))
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Name {
        Name(Arc::from(text))
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Names seen lately, so that those that come again and again (a filter of many clients, a user name) are kept once. It costs
/// nothing for a name that is seen once, unlike a list of all names, and forgets a name when another takes its place.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    places: Vec<Option<Name>>,
    hasher: RandomState,
}

const PLACES: usize = 4096;
/// Longer names are not remembered.
const LENGTH_MAX: usize = 256;

impl Recent {
    /// The name, shared with its last use where that is remembered.
    pub(crate) fn name(&mut self, text: &str) -> Name {
        if text.len() > LENGTH_MAX {
            return text.into();
        }
        if self.places.is_empty() {
            self.places.resize(PLACES, None);
        }
        let place = self.hasher.hash_one(text) as usize % PLACES;
        match self.places.get_mut(place) {
            Some(Some(known)) if **known == *text => known.clone(),
            Some(place) => place.insert(text.into()).clone(),
            None => text.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_comes_again_is_kept_once_and_never_mistaken_for_another() {
        let mut recent = Recent::default();
        let first = recent.name("a/b");
        assert!(Arc::ptr_eq(&first.0, &recent.name("a/b").0));
        for i in 0..3 * PLACES {
            assert_eq!(*recent.name(&i.to_string()), *i.to_string());
        }
        let long = "x".repeat(LENGTH_MAX + 1);
        assert!(!Arc::ptr_eq(&recent.name(&long).0, &recent.name(&long).0));
    }
}
