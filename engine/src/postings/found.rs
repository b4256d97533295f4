//! What a search has found so far: the lowest positions of a range, at most so many.

use std::ops::Range;

use super::Position;
use crate::ids::Lsn;

/// Positions gathered from several topics or filters. Once there are more than `limit`, the highest are let go and the range ends
/// before them: everything below [`until`](Found::until) is here.
#[derive(Debug)]
pub(crate) struct Found {
    positions: Vec<Position>,
    until: Lsn,
    limit: usize,
    /// Records that match, also those that were let go.
    pub matched: u64,
}

impl Found {
    /// For records below `to`.
    pub(crate) fn new(to: Lsn, limit: usize) -> Found {
        Found { positions: Vec::new(), until: to, limit: limit.max(1), matched: 0 }
    }

    /// Every matching record below is among the positions.
    pub(crate) fn until(&self) -> Lsn {
        self.until
    }

    /// Takes a position. False when it, and so every higher one of its topic, is beyond what is kept.
    pub(crate) fn push(&mut self, position: Position) -> bool {
        if position.lsn >= self.until {
            return false;
        }
        self.positions.push(position);
        if self.positions.len() >= 2 * self.limit {
            self.settle();
        }
        true
    }

    /// Puts the positions in order and keeps the lowest.
    fn settle(&mut self) {
        self.positions.sort_unstable();
        self.positions.dedup_by_key(|p| p.lsn);
        if self.positions.len() > self.limit {
            self.positions.truncate(self.limit);
            self.until = self.positions.last().map_or(self.until, |last| last.lsn.next());
        }
    }

    /// The positions in order, each once, and the number below which they are all.
    pub(crate) fn finish(mut self) -> (Vec<Position>, Lsn) {
        self.settle();
        let until = self.until;
        self.positions.retain(|p| p.lsn < until);
        (self.positions, until)
    }

    /// The part of `range` that is still of interest.
    pub(super) fn wanted(&self, range: &Range<Lsn>) -> Range<Lsn> {
        range.start..range.end.min(self.until)
    }
}
