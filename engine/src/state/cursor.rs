//! A read position: the lowest unacknowledged record and the later ones that are done already.

use std::collections::BTreeSet;

use crate::ids::Lsn;

/// How far a subscriber has come. Acknowledgements arrive out of order, bounded by the in-flight window; the position never moves
/// backwards but by an operator's command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Records before this one were never for this cursor.
    pub start: Lsn,
    /// Every record below is done.
    pub next: Lsn,
    /// Records at or above `next` that are done; nothing while there are none, as with most cursors at most times.
    #[allow(clippy::box_collection, reason = "a third of the set's size, for a million cursors that have none")]
    acked: Option<Box<BTreeSet<Lsn>>>,
}

impl Cursor {
    /// A cursor that begins at `start`.
    #[must_use]
    pub fn at(start: Lsn) -> Cursor {
        Cursor { start, next: start, acked: None }
    }

    /// A cursor as it was stored.
    pub(crate) fn stored(start: Lsn, next: Lsn, acked: BTreeSet<Lsn>) -> Cursor {
        Cursor { start, next, acked: (!acked.is_empty()).then(|| Box::new(acked)) }
    }

    /// Records at or above `next` that are done, in order.
    pub fn acked(&self) -> impl Iterator<Item = Lsn> + '_ {
        self.acked.iter().flat_map(|acked| acked.iter().copied())
    }

    /// Takes in that `lsn` is done, and that everything below `low` is. True when something changed.
    pub fn ack(&mut self, lsn: Lsn, low: Lsn) -> bool {
        if lsn == self.next.max(low) {
            // In order: nothing has to be remembered.
            return self.advance(lsn.next());
        }
        let added = lsn >= self.next.max(low) && self.acked.get_or_insert_default().insert(lsn);
        self.advance(low) || added
    }

    /// Takes in that everything below `low` is done. True when something changed.
    pub fn advance(&mut self, low: Lsn) -> bool {
        let before = self.next;
        self.next = self.next.max(low);
        if let Some(acked) = &mut self.acked {
            if self.next != before {
                **acked = acked.split_off(&self.next);
            }
            while acked.remove(&self.next) {
                self.next = self.next.next();
            }
            if acked.is_empty() {
                self.acked = None;
            }
        }
        self.next != before
    }

    /// True when the record is done.
    #[must_use]
    pub fn done(&self, lsn: Lsn) -> bool {
        lsn < self.next || self.acked.as_ref().is_some_and(|acked| acked.contains(&lsn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn acknowledgements_in_any_order_end_at_the_same_place_and_never_go_back(
            order in Just((1u64..40).collect::<Vec<_>>()).prop_shuffle(), step in 1usize..39,
        ) {
            let mut cursor = Cursor::at(Lsn(1));
            for (i, lsn) in order.iter().enumerate() {
                let before = cursor.clone();
                cursor.ack(Lsn(*lsn), Lsn::NONE);
                prop_assert!(cursor.next >= before.next);
                for done in &order[..=i] {
                    prop_assert!(cursor.done(Lsn(*done)));
                }
                for open in &order[i + 1..] {
                    prop_assert!(!cursor.done(Lsn(*open)));
                }
                if i == step {
                    prop_assert!(!cursor.clone().ack(Lsn(*lsn), Lsn::NONE), "a repeat changes nothing");
                }
            }
            prop_assert_eq!(cursor, Cursor { start: Lsn(1), next: Lsn(40), acked: None });
        }
    }
}
