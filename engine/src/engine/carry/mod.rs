//! Carrying forward: what somebody is still owed of segments that retention gives up is copied into residue files before they go.
//!
//! ```text
//!   scan the segments -> ask state who is owed what -> bounds, gaps -> residue file: written, synced, named
//!        -> Dropped records -> (durable, applied) -> trim
//! ```
//!
//! Only what lies in the segments that go is looked at, so the cost is that of the segments and of one look at each cursor, whatever
//! the log holds. What can't be read because it is damaged is named, counted, and recorded as a gap of the queues and groups it belonged to; the
//! damaged segment's file is set aside as `*.damaged` and not destroyed.

mod bounds;
mod owed;
mod scan;
mod tidy;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;

use self::bounds::{Drops, Quiet, bound_sessions, gaps_of_rules};
use self::owed::Owed;
use self::scan::{Scan, each_in_log};
use super::Bounds;
use crate::clock::Clock;
use crate::delivery::Hub;
use crate::event::{DropOwner, DropReason, Dropped, DroppedRange, Event};
use crate::ids::Lsn;
use crate::log::{AppendError, Log, ReadError, TrimError};
use crate::state::State;

/// Ranges that go into one record.
const DROPS_PER_RECORD: usize = 1000;
/// Bytes at which a residue file is ended and the next begun.
const FILE_BYTES: u64 = 64 << 20;

/// Why segments can't be given up yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum CarryError {
    /// A segment or a residue file can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A residue file can't be written.
    #[error("writing a residue file: {0}")]
    Write(#[from] io::Error),
    /// Files of segments can't be removed.
    #[error(transparent)]
    Trim(#[from] TrimError),
    /// The log takes no records.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Carrier {
    log: Log,
    state: Arc<RwLock<State>>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    bounds: Bounds,
    /// The residue file that is looked at next by [`Carrier::tidy`].
    tidied: Lsn,
}

impl Carrier {
    pub(super) fn new(
        log: Log,
        state: Arc<RwLock<State>>,
        hub: Arc<Hub>,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
    ) -> Carrier {
        Carrier { log, state, hub, clock, bounds, tidied: Lsn::NONE }
    }

    /// Makes ready for the segments of `range`, the log's first ones, to go: what is owed of them is durable in residue files when it
    /// returns. The answer is the last of the records that say what is dropped, not durable yet; the trim has to wait for it.
    ///
    /// # Errors
    /// See [`CarryError`]: nothing may be trimmed then.
    pub(super) fn carry(&self, range: &Range<Lsn>) -> Result<Option<Lsn>, CarryError> {
        let residue = self.log.residue();
        let mut scan = Scan::of_log(&self.log, range)?;
        let mut owed = Owed::of(&self.state, &self.hub, range, &mut scan);
        let mut drops = Drops::new();
        gaps_of_rules(&owed, range, &mut drops);
        bound_sessions(&mut owed, Quiet::new(residue, range.start, &self.hub.rules), &self.bounds, &mut drops);
        self.cap_idle(&owed, &mut drops);
        self.name_unreadable(&scan.unreadable, &mut drops);
        self.write(range, &owed.numbers())?;
        self.tell(drops)
    }

    /// Copies these records of the log.
    fn write(&self, range: &Range<Lsn>, numbers: &BTreeSet<Lsn>) -> Result<(), CarryError> {
        if numbers.is_empty() {
            return Ok(());
        }
        let residue = self.log.residue();
        let now_us = self.clock.now_us();
        let mut writer = residue.begin(range.start, now_us)?;
        let mut failed: Option<io::Error> = None;
        let mut copied = 0u64;
        let read = each_in_log(&self.log, range, |record| {
            if failed.is_some() || !numbers.contains(&record.lsn) {
                return;
            }
            copied += 1;
            let mut push = || -> io::Result<()> {
                if writer.bytes() >= FILE_BYTES {
                    let next = residue.begin(record.lsn, now_us)?;
                    residue.add(&std::mem::replace(&mut writer, next).finish(record.lsn)?)?;
                }
                writer.push(&record)
            };
            failed = push().err();
        });
        if let Some(error) = failed {
            writer.discard();
            return Err(error.into());
        }
        if let Err(error) = read {
            writer.discard();
            return Err(error.into());
        }
        residue.add(&writer.finish(range.end)?)?;
        metrics::counter!(crate::metrics::CARRIED_RECORDS).increment(copied);
        tracing::debug!(
            from = range.start.0,
            to = range.end.0,
            records = copied,
            "carried what is still owed out of old segments"
        );
        Ok(())
    }

    /// More clients than allowed keep a read position of one filter and are away: those furthest behind lose it.
    fn cap_idle(&self, owed: &Owed, drops: &mut Drops) {
        let max = self.bounds.idle_cursors_max;
        if max == 0 {
            return;
        }
        for (filter, count) in owed.idle.iter().filter(|(_, count)| **count > max) {
            let state = self.state.read();
            let away = |client: &str| !state.sessions.get(client).is_some_and(|s| s.connected);
            let mut idle: Vec<(Lsn, _)> = state
                .cursors
                .iter()
                .filter(|(client, _)| away(client))
                .filter_map(|(client, cursors)| cursors.get(filter).map(|cursor| (cursor.next, client.clone())))
                .collect();
            idle.sort_unstable();
            let over = usize::try_from(count.saturating_sub(max)).unwrap_or(usize::MAX);
            for (next, client) in idle.into_iter().take(over) {
                let owner = DropOwner::Cursor { client: client.to_byte_string(), filter: filter.clone() };
                let range = DroppedRange { owner, from: next, to: next, count: 0 };
                drops.entry(DropReason::IdleCursors).or_default().push(range);
            }
        }
    }

    /// What could not be carried because its bytes are damaged.
    fn name_unreadable(&self, unreadable: &[Range<Lsn>], drops: &mut Drops) {
        for range in unreadable {
            let records = range.end.0.saturating_sub(range.start.0);
            metrics::counter!(crate::metrics::CARRY_UNREADABLE).increment(records);
            self.log.set_aside(range.start);
            let (queues, groups) = {
                let state = self.state.read();
                (state.queue.topics_in(range), state.groups.in_range(range))
            };
            tracing::error!(
                from = range.start.0,
                to = range.end.0,
                records,
                queues = queues.len(),
                groups = groups.len(),
                "records of a segment that retention gives up are damaged: what clients are still owed of them can't be carried; \
                 the file is set aside as *.damaged"
            );
            let queues = queues.into_iter().map(|(topic, count)| (DropOwner::Queue(topic), count));
            let groups = groups.into_iter().map(|(share, count)| (DropOwner::Group(share), count));
            for (owner, count) in queues.chain(groups) {
                let range = DroppedRange { owner, from: range.start, to: range.end, count };
                drops.entry(DropReason::Damaged).or_default().push(range);
            }
        }
    }

    /// Appends what is dropped.
    fn tell(&self, drops: Drops) -> Result<Option<Lsn>, CarryError> {
        let mut last = None;
        for (reason, drops) in drops {
            for drops in drops.chunks(DROPS_PER_RECORD) {
                let event = Event::Dropped(Dropped { reason, drops: drops.to_vec() });
                last = Some(super::append(&self.log, &[event])?.last);
            }
        }
        Ok(last)
    }
}
