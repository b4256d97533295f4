//! How an inbox that is behind gets through the log from where it stands: by its postings, or by reading all of it.
//!
//! The rule: a stretch is read through its postings where the matching records, counted with 4 KiB each (a page), and the blocks of
//! the dictionary that lead to them are fewer bytes than the stretch itself. Otherwise it is read in order.

use std::ops::Range;
use std::sync::Arc;

use bytestring::ByteString;

use super::catalog::{Cover, Postings};
use super::part::Part;
use super::{Found, Position, Search, SegmentIndex};
use crate::ids::Lsn;

/// Positions that a plan holds at most.
const PLAN_POSITIONS: usize = 1024;
/// What reading one record by its place counts for.
const RECORD_BYTES: u64 = 4096;
/// Bytes of dictionaries that are looked through in one turn, about.
const TURN_BYTES: u64 = 1 << 20;

/// How to go on from a place.
#[derive(Debug)]
pub(crate) enum Plan {
    /// These are all records below `until` that match.
    Read {
        /// In order.
        positions: Vec<Position>,
        /// Where to go on afterwards.
        until: Lsn,
    },
    /// Read the log itself up to here.
    Scan(Lsn),
    /// The dictionary is large: ask again.
    Searching(Box<Searching>),
}

/// A filter, and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub filter: ByteString,
    pub from: Lsn,
}

/// A search through a large dictionary that takes several turns.
#[derive(Debug)]
pub(crate) struct Searching {
    index: Arc<SegmentIndex>,
    wanted: Vec<(Wanted, Search)>,
    at: Lsn,
    found: Found,
    /// Bytes that the stretch takes, read in order; bytes of the dictionary that one pass reads.
    bytes: u64,
    dictionary: u64,
}

/// True where reading in order is cheaper.
fn prefers_scan(matched: u64, dictionary: u64, bytes: u64) -> bool {
    let passes = matched.div_ceil(PLAN_POSITIONS as u64).max(1);
    matched.saturating_mul(RECORD_BYTES).saturating_add(dictionary.saturating_mul(passes)) > bytes
}

/// The part of `bytes` that lies from `at` on, as if all records were of one size.
fn share(bytes: u64, of: &Range<Lsn>, at: Lsn) -> u64 {
    let all = of.end.0.saturating_sub(of.start.0).max(1);
    let left = of.end.0.saturating_sub(at.0.max(of.start.0)).min(all);
    u64::try_from(u128::from(bytes) * u128::from(left) / u128::from(all)).unwrap_or(u64::MAX)
}

impl Postings {
    /// How to go on from the record `at` for these filters.
    pub(crate) fn plan(&self, wanted: &[Wanted], at: Lsn) -> Plan {
        match self.cover(at) {
            Cover::Nothing(until) => Plan::Scan(until),
            Cover::Part(part) => look_into(&part, wanted, at),
            Cover::Open => self.with_open(|part| match part.filter(|part| part.covers(at)) {
                Some(part) => look_into(part, wanted, at),
                // It was put aside a moment ago: ask again.
                None => Plan::Read { positions: Vec::new(), until: at },
            }),
            Cover::Index(index) => {
                let next = index.of().next;
                let begun = wanted.iter().filter(|w| w.from < next).map(|w| (w, index.search(&w.filter)));
                // Most filters have nothing in most segments: the membership filter says so.
                let wanted: Vec<(Wanted, Search)> =
                    begun.filter(|(_, search)| index.cost(search) > 0).map(|(w, search)| (w.clone(), search)).collect();
                let dictionary = wanted.iter().map(|(_, search)| index.cost(search)).sum();
                let bytes = share(index.of().end, &(index.of().first..next), at);
                if dictionary > 0 && prefers_scan(0, dictionary, bytes) {
                    return Plan::Scan(next);
                }
                let found = Found::new(next, PLAN_POSITIONS);
                self.go_on(Box::new(Searching { index, wanted, at, found, bytes, dictionary }))
            }
        }
    }

    /// Goes on with a search.
    pub(crate) fn go_on(&self, mut searching: Box<Searching>) -> Plan {
        let Searching { index, wanted, at, found, bytes, dictionary } = &mut *searching;
        let next = index.of().next;
        let mut turn = TURN_BYTES;
        while let Some((w, search)) = wanted.last_mut() {
            let before = index.cost(search);
            match index.find(search, &w.filter, &(w.from.max(*at)..next), found) {
                Ok(more) => {
                    if prefers_scan(found.matched, *dictionary, *bytes) {
                        return Plan::Scan(next);
                    }
                    turn = turn.saturating_sub(before.saturating_sub(index.cost(search)).max(64));
                    if !more {
                        wanted.pop();
                    }
                }
                Err(fault) => {
                    self.distrust(index.of().first, &fault);
                    return Plan::Scan(next);
                }
            }
            if turn == 0 && !wanted.is_empty() {
                return Plan::Searching(searching);
            }
        }
        let (positions, until) = searching.found.finish();
        Plan::Read { positions, until }
    }
}

fn look_into(part: &Part, wanted: &[Wanted], at: Lsn) -> Plan {
    let mut found = Found::new(part.next, PLAN_POSITIONS);
    for w in wanted.iter().filter(|w| w.from < part.next) {
        part.find(&w.filter, &(w.from.max(at)..part.next), &mut found);
    }
    if prefers_scan(found.matched, 0, share(part.bytes, &(part.first..part.next), at)) {
        return Plan::Scan(part.next);
    }
    let (positions, until) = found.finish();
    Plan::Read { positions, until }
}
