//! What a range costs its cursors when its segments go: gaps of read positions, and sessions whose backlog is beyond its bounds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytestring::ByteString;

use super::owed::{Owed, Sleeper};
use super::scan::{Match, message_of};
use crate::engine::Bounds;
use crate::event::{DropOwner, DropReason, DroppedRange, QoS};
use crate::ids::Lsn;
use crate::log::{Record, Residue};
use crate::rules::RuleIndex;

/// What is dropped, by the policy that says so.
pub(super) type Drops = BTreeMap<DropReason, Vec<DroppedRange>>;

/// Read positions of rules hold nothing: what they lose with `range` is counted for each of them.
pub(super) fn gaps_of_rules(owed: &Owed, range: &Range<Lsn>, drops: &mut Drops) {
    for sleeper in owed.sleepers.iter().filter(|s| s.rule) {
        let lost = DroppedRange {
            owner: owner(sleeper),
            from: sleeper.next,
            to: range.end,
            count: sleeper.owed().count() as u64,
        };
        drops.entry(DropReason::Retention).or_default().push(lost);
    }
}

fn owner(sleeper: &Sleeper) -> DropOwner {
    DropOwner::Cursor { client: sleeper.client.clone(), filter: sleeper.filter.clone() }
}

/// Numbers and bytes of what a filter matches, in the residue and in the range that is carried, in order.
type Backlog = Arc<[(Lsn, u64)]>;

/// What the residue holds that was published with QoS 0: queues and keep-latest subscriptions are owed it, sessions are not.
pub(super) struct Quiet<'a> {
    residue: &'a Residue,
    /// The log's first record; the residue is what lies before it.
    first: Lsn,
    rules: &'a RuleIndex,
    /// Carried records of topics that can hold such messages, once somebody asked.
    candidates: Option<HashSet<Lsn>>,
    known: HashMap<Lsn, bool>,
}

impl<'a> Quiet<'a> {
    pub(super) fn new(residue: &'a Residue, first: Lsn, rules: &'a RuleIndex) -> Quiet<'a> {
        Quiet { residue, first, rules, candidates: None, known: HashMap::new() }
    }

    /// Reads a record of such a topic, each once. One that does not read counts as owed.
    fn is_quiet(&mut self, lsn: Lsn) -> bool {
        let Quiet { residue, first, rules, .. } = *self;
        let all =
            || rules.kept_filters().flat_map(|filter| sizes(residue, filter, first)).map(|(lsn, _)| lsn).collect();
        if !self.candidates.get_or_insert_with(all).contains(&lsn) {
            return false;
        }
        let read = || matches!(residue.read(lsn), Ok(Some(record)) if is_unacknowledged(&record));
        *self.known.entry(lsn).or_insert_with(read)
    }
}

fn is_unacknowledged(record: &Record) -> bool {
    message_of(record).is_some_and(|message| message.qos == QoS::AtMostOnce)
}

/// Moves cursors of sessions whose backlog would be larger than allowed to the oldest message that may stay.
pub(super) fn bound_sessions(owed: &mut Owed, mut quiet: Quiet<'_>, bounds: &Bounds, drops: &mut Drops) {
    let (residue, first) = (quiet.residue, quiet.first);
    if bounds.session_messages_max == 0 && bounds.session_bytes_max == 0 {
        return;
    }
    // In the order of clients: the same log is to be trimmed by the same records whenever it is simulated.
    let mut sessions: BTreeMap<ByteString, Vec<usize>> = BTreeMap::new();
    for (n, sleeper) in owed.sleepers.iter().enumerate().filter(|(_, s)| !s.rule && !s.volatile) {
        sessions.entry(sleeper.client.clone()).or_default().push(n);
    }
    let mut backlogs: HashMap<ByteString, Backlog> = HashMap::new();
    for sleepers in sessions.values() {
        let mut all: Vec<(Lsn, u64)> = Vec::new();
        for sleeper in sleepers.iter().filter_map(|n| owed.sleepers.get(*n)) {
            let backlog = backlogs.entry(sleeper.filter.clone()).or_insert_with(|| backlog(sleeper, residue, first));
            let begin = backlog.partition_point(|(lsn, _)| *lsn < sleeper.next);
            all.extend_from_slice(backlog.get(begin..).unwrap_or_default());
        }
        if sleepers.len() > 1 {
            all.sort_unstable();
            all.dedup_by_key(|(lsn, _)| *lsn);
        }
        // Most are within their bounds whatever the residue holds.
        if cut(&all, bounds).is_none() {
            continue;
        }
        all.retain(|(lsn, _)| *lsn >= first || !quiet.is_quiet(*lsn));
        let Some((keep_from, reason)) = cut(&all, bounds) else { continue };
        for n in sleepers {
            let Some(sleeper) = owed.sleepers.get_mut(*n).filter(|s| s.next < keep_from) else { continue };
            let lost = |(lsn, _): &&(Lsn, u64)| *lsn >= sleeper.next && *lsn < keep_from;
            let backlog = backlogs.get(&sleeper.filter).map(|b| &**b).unwrap_or_default();
            let matches = &sleeper.matches;
            // Of what lies in this range it is known who published it and what was acknowledged; the residue holds what was owed.
            let mut is_owed = |lsn: Lsn| match matches.binary_search_by_key(&lsn, |m| m.lsn) {
                Ok(n) => matches.get(n).is_some_and(|m| sleeper.wants(m)),
                Err(_) => !quiet.is_quiet(lsn),
            };
            let count = backlog.iter().filter(lost).filter(|(lsn, _)| is_owed(*lsn)).count() as u64;
            let range = DroppedRange { owner: owner(sleeper), from: sleeper.next, to: keep_from, count };
            sleeper.next = keep_from;
            drops.entry(reason).or_default().push(range);
        }
    }
}

fn backlog(sleeper: &Sleeper, residue: &Residue, first: Lsn) -> Backlog {
    let carried = sizes(residue, &sleeper.filter, first);
    let new = sleeper.matches.iter().filter(|m| m.lsn >= first && m.qos > QoS::AtMostOnce);
    carried.into_iter().chain(new.map(|m: &Match| (m.lsn, u64::from(m.bytes)))).collect()
}

fn sizes(residue: &Residue, filter: &str, first: Lsn) -> Vec<(Lsn, u64)> {
    residue.sizes(filter, &(Lsn::NONE..first)).unwrap_or_else(|error| {
        tracing::error!(%error, filter, "a residue file can't be read; what it holds is not counted against the bounds of sessions");
        Vec::new()
    })
}

/// The first message that may stay, where not all may, and which bound says so.
fn cut(all: &[(Lsn, u64)], bounds: &Bounds) -> Option<(Lsn, DropReason)> {
    let (mut messages, mut bytes) = (0, 0u64);
    for (lsn, size) in all.iter().rev() {
        messages += 1;
        bytes = bytes.saturating_add(*size);
        if bounds.session_messages_max > 0 && messages > bounds.session_messages_max {
            return Some((lsn.next(), DropReason::SessionMessages));
        }
        // One message is kept however large it is.
        if bounds.session_bytes_max > 0 && bytes > bounds.session_bytes_max && messages > 1 {
            return Some((lsn.next(), DropReason::SessionBytes));
        }
    }
    None
}
