//! Trimming, step by step: what retention gives up goes once nobody is hurt by it.
//!
//! ```text
//!   positions of connected cursors -> (durable, applied)
//!        -> what is owed: residue files, durable (`carry`) -> what is dropped -> (durable, applied)
//!        -> trim the log: intent, unlink or recycle, directory sync, intent removed (`log/trim.rs`)
//! ```
//!
//! A step never waits: what has to become durable and applied first is looked for again at the next step. State changes by records
//! only, so that whatever a step decides is the same after a replay. A crash between two of them leaves records that are in the log
//! and in a residue file: the log is read from its first record on, residue below it, so that none is given twice.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::Bounds;
use super::carry::{Carrier, CarryError};
use super::keeper::Retention;
use crate::clock::Clock;
use crate::delivery::Hub;
use crate::event::{Event, Positions, SessionPositions};
use crate::ids::Lsn;
use crate::log::{AppendError, Log};
use crate::state::State;

/// Connections whose positions go into one record.
const SESSIONS_PER_RECORD: usize = 500;
/// Segments that go at once: what is known of their messages while it is decided is in memory.
const SEGMENTS_PER_STEP: usize = 4;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is nothing to trim, or it was trimmed.
    Done,
    /// Records that were appended are to be applied first: come back soon.
    Waiting,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Trimmer {
    log: Log,
    state: Arc<RwLock<State>>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    retention: Retention,
    carrier: Carrier,
    stage: Stage,
    /// Steps that failed since one did not.
    failures: u32,
}

/// How far the trim of the oldest segments has come. What was appended is to be applied before it goes on.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Begin,
    /// The positions of connected cursors were appended, up to `last`.
    Positioned {
        last: Lsn,
    },
    /// What is owed below `to` is in residue files; what is dropped was appended, up to `last`.
    Carried {
        last: Lsn,
        to: Lsn,
    },
}

impl Trimmer {
    pub(super) fn new(
        log: Log,
        state: Arc<RwLock<State>>,
        hub: Arc<Hub>,
        clock: Arc<dyn Clock>,
        retention: Retention,
        bounds: Bounds,
    ) -> Trimmer {
        let carrier = Carrier::new(log.clone(), Arc::clone(&state), Arc::clone(&hub), Arc::clone(&clock), bounds);
        Trimmer { log, state, hub, clock, retention, carrier, stage: Stage::Begin, failures: 0 }
    }

    /// Takes trimming on by one step: removes segments that retention gives up, below `limit`: the newest checkpoint and what sinks have
    /// stored.
    pub(super) fn step(&mut self, limit: Lsn) -> Step {
        match self.go_on(limit) {
            Ok(step) => {
                self.failures = 0;
                step
            }
            // The log's queue is full: soon it is not.
            Err(CarryError::Append(AppendError::Full { .. })) => Step::Waiting,
            Err(error) => {
                self.stage = Stage::Begin;
                // What has to be done is done again from the beginning by the next look at retention.
                if self.failures == 0 {
                    tracing::error!(%error, "old segments can't be given up; it is tried again");
                }
                self.failures = self.failures.saturating_add(1);
                metrics::counter!(crate::metrics::TRIM_FAILURES).increment(1);
                Step::Done
            }
        }
    }

    fn go_on(&mut self, limit: Lsn) -> Result<Step, CarryError> {
        if let Stage::Positioned { last } | Stage::Carried { last, .. } = self.stage
            && self.state.read().applied <= last
        {
            // Where the log has stopped nothing more is applied, and nothing trimmed.
            return Ok(if self.log.stopped_reason().is_some() { Step::Done } else { Step::Waiting });
        }
        if let Stage::Carried { to, .. } = self.stage {
            self.stage = Stage::Begin;
            return self.trim(to.min(limit));
        }
        // What retention keeps is told without a look at state: most steps end here.
        let target = self.boundary(limit.min(self.expired_to()));
        let first = self.log.first();
        if target <= first {
            self.stage = Stage::Begin;
            if self.log.trim_unfinished() {
                self.trim(first)?;
            }
            self.carrier.tidy()?;
            return Ok(Step::Done);
        }
        if let Stage::Begin = self.stage
            && let Some(last) = self.position(target)?
        {
            self.stage = Stage::Positioned { last };
            return Ok(Step::Waiting);
        }
        self.stage = Stage::Begin;
        if let Some(last) = self.carrier.carry(&(first..target))? {
            self.stage = Stage::Carried { last, to: target };
            return Ok(Step::Waiting);
        }
        self.trim(target)
    }

    fn trim(&mut self, to: Lsn) -> Result<Step, CarryError> {
        let before = self.log.first();
        self.log.trim_to(to)?;
        self.carrier.tidy()?;
        // There may be more: a step takes a few segments only. A reader that holds a segment is waited for until the next look.
        Ok(if self.log.first() > before { Step::Waiting } else { Step::Done })
    }

    /// Cursors of connected clients that state knows at a place below `target` only, because nothing was acknowledged on their filters,
    /// are written to the log where they really stand. Cost: one look at each connection when a segment is to go, nothing per record.
    fn position(&self, target: Lsn) -> Result<Option<Lsn>, CarryError> {
        let Positions { seen, sessions } = self.hub.positions();
        let mut last = None;
        for chunk in sessions.chunks(SESSIONS_PER_RECORD) {
            let behind: Vec<SessionPositions> = {
                let state = self.state.read();
                chunk.iter().filter_map(|session| behind(&state, session, target)).collect()
            };
            if !behind.is_empty() {
                let event = Event::Positions(Positions { seen, sessions: behind });
                last = Some(super::append(&self.log, &[event])?.last);
            }
        }
        Ok(last)
    }

    /// The end of the last whole segment below `floor`, a few segments on at most.
    fn boundary(&self, floor: Lsn) -> Lsn {
        let segments = self.log.segments();
        let whole = segments.iter().take(segments.len().saturating_sub(1)).take_while(|s| s.next <= floor);
        // What is owed of them is copied first: where that failed for want of room, less of it may find some.
        let most = if self.failures > 0 { 1 } else { SEGMENTS_PER_STEP };
        whole.take(most).last().map_or(self.log.first(), |segment| segment.next)
    }

    /// The first record that retention keeps. While the log has no room retention keeps nothing: what nobody needs makes way for what is new.
    fn expired_to(&self) -> Lsn {
        if self.log.no_space().is_some() {
            return self.log.durable_end();
        }
        let segments = self.log.segments();
        let age_us = u64::try_from(self.retention.age.as_micros()).unwrap_or(u64::MAX);
        let oldest_us = self.clock.now_us().saturating_sub(age_us);
        let mut bytes: u64 = segments.iter().map(|s| s.bytes).sum();
        let mut keep_from = self.log.first();
        for segment in &segments {
            if segment.newest_us >= oldest_us && bytes <= self.retention.bytes {
                break;
            }
            bytes = bytes.saturating_sub(segment.bytes);
            keep_from = segment.next;
        }
        keep_from
    }
}

/// Those cursors of a connection that have come further than state knows, where state has them below `target`.
fn behind(state: &State, session: &SessionPositions, target: Lsn) -> Option<SessionPositions> {
    let known = state.cursors.get(&session.client)?;
    let is_behind = |filter: &str, low: Lsn| known.get(filter).is_some_and(|c| c.next < target && c.next < low);
    let cursors: Vec<_> = session.cursors.iter().filter(|at| is_behind(&at.filter, at.low)).cloned().collect();
    (!cursors.is_empty()).then(|| SessionPositions { client: session.client.clone(), epoch: session.epoch, cursors })
}

/// How soon a step that waits is taken again.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(20);
