//! What a range costs its cursors when its segments go: gaps of read positions, and sessions whose backlog is beyond its bounds.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytestring::ByteString;

use super::owed::{Owed, Sleeper};
use super::scan::Match;
use crate::engine::Bounds;
use crate::event::{DropOwner, DropReason, DroppedRange};
use crate::ids::Lsn;
use crate::log::Residue;

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

/// Moves cursors of sessions whose backlog would be larger than allowed to the oldest message that may stay.
pub(super) fn bound_sessions(owed: &mut Owed, residue: &Residue, first: Lsn, bounds: &Bounds, drops: &mut Drops) {
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
        let Some((keep_from, reason)) = cut(&all, bounds) else { continue };
        for n in sleepers {
            let Some(sleeper) = owed.sleepers.get_mut(*n).filter(|s| s.next < keep_from) else { continue };
            let lost = |(lsn, _): &&(Lsn, u64)| *lsn >= sleeper.next && *lsn < keep_from;
            let backlog = backlogs.get(&sleeper.filter).map(|b| &**b).unwrap_or_default();
            let matches = &sleeper.matches;
            // Of what lies in this range it is known who published it and what was acknowledged; the residue holds what was owed.
            let is_owed = |lsn: Lsn| match matches.binary_search_by_key(&lsn, |m| m.lsn) {
                Ok(n) => matches.get(n).is_some_and(|m| sleeper.wants(m)),
                Err(_) => true,
            };
            let count = backlog.iter().filter(lost).filter(|(lsn, _)| is_owed(*lsn)).count() as u64;
            let range = DroppedRange { owner: owner(sleeper), from: sleeper.next, to: keep_from, count };
            sleeper.next = keep_from;
            drops.entry(reason).or_default().push(range);
        }
    }
}

fn backlog(sleeper: &Sleeper, residue: &Residue, first: Lsn) -> Backlog {
    let carried = residue.sizes(&sleeper.filter, &(Lsn::NONE..first)).unwrap_or_else(|error| {
        tracing::error!(%error, filter = %sleeper.filter, "a residue file can't be read; what it holds is not counted against the bounds of sessions");
        Vec::new()
    });
    let new = sleeper.matches.iter().filter(|m| m.lsn >= first && m.qos > crate::event::QoS::AtMostOnce);
    carried.into_iter().chain(new.map(|m: &Match| (m.lsn, u64::from(m.bytes)))).collect()
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
