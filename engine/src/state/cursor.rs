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
    /// Records at or above `next` that are done.
    pub acked: BTreeSet<Lsn>,
}

impl Cursor {
    /// A cursor that begins at `start`.
    #[must_use]
    pub fn at(start: Lsn) -> Cursor {
        Cursor { start, next: start, acked: BTreeSet::new() }
    }

    /// Takes in that `lsn` is done, and that everything below `low` is. True when something changed.
    pub fn ack(&mut self, lsn: Lsn, low: Lsn) -> bool {
        let added = lsn >= self.next.max(low) && self.acked.insert(lsn);
        self.advance(low) || added
    }

    /// Takes in that everything below `low` is done. True when something changed.
    pub fn advance(&mut self, low: Lsn) -> bool {
        let before = self.next;
        if low > self.next {
            self.next = low;
            self.acked = self.acked.split_off(&low);
        }
        while self.acked.remove(&self.next) {
            self.next = self.next.next();
        }
        self.next != before
    }

    /// True when the record is done.
    #[must_use]
    pub fn done(&self, lsn: Lsn) -> bool {
        lsn < self.next || self.acked.contains(&lsn)
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
            prop_assert_eq!(cursor, Cursor { start: Lsn(1), next: Lsn(40), acked: BTreeSet::new() });
        }
    }
}
