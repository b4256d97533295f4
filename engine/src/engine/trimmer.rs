//! Trimming, step by step: what retention gives up goes once nobody is hurt by it.
//!
//! ```text
//!   positions of connected cursors -> (durable, applied) -> trim the log
//! ```
//!
//! A step never waits: what has to become durable and applied first is looked for again at the next step. State changes by records
//! only, so that whatever a step decides is the same after a replay.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::keeper::Retention;
use crate::clock::Clock;
use crate::delivery::Hub;
use crate::event::{Event, Positions, SessionPositions};
use crate::ids::Lsn;
use crate::log::{AppendError, Log};
use crate::state::State;

/// Connections whose positions go into one record.
const SESSIONS_PER_RECORD: usize = 500;

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
    /// The last record of the positions that were appended for the next trim.
    positioned: Option<Lsn>,
}

impl Trimmer {
    pub(super) fn new(
        log: Log,
        state: Arc<RwLock<State>>,
        hub: Arc<Hub>,
        clock: Arc<dyn Clock>,
        retention: Retention,
    ) -> Trimmer {
        Trimmer { log, state, hub, clock, retention, positioned: None }
    }

    /// Removes segments that retention gives up, below `limit`: the newest checkpoint and what sinks have stored.
    pub(super) fn step(&mut self, limit: Lsn) -> Step {
        // What retention keeps is told without a look at state: most steps end here.
        let target = self.boundary(limit.min(self.expired_to()));
        if target <= self.log.first() {
            self.positioned = None;
            return Step::Done;
        }
        match self.positioned {
            None => match self.position(target) {
                Ok(Some(last)) => {
                    self.positioned = Some(last);
                    return Step::Waiting;
                }
                Ok(None) => {}
                Err(AppendError::Full { .. }) => return Step::Waiting,
                Err(error) => {
                    tracing::warn!(%error, "the log is not trimmed");
                    return Step::Done;
                }
            },
            Some(last) if self.state.read().applied <= last && self.log.stopped_reason().is_none() => {
                return Step::Waiting;
            }
            Some(_) => {}
        }
        self.positioned = None;
        let floor = self.state.read().needed_from(&self.hub.rules, target);
        if floor > self.log.first()
            && let Err(error) = self.log.trim_to(floor)
        {
            tracing::error!(%error, "the log can't be trimmed");
        }
        Step::Done
    }

    /// Cursors of connected clients that state knows at a place below `target` only, because nothing was acknowledged on their filters,
    /// are written to the log where they really stand. Cost: one look at each connection when a segment is to go, nothing per record.
    fn position(&self, target: Lsn) -> Result<Option<Lsn>, AppendError> {
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

    /// The end of the last whole segment below `floor`.
    fn boundary(&self, floor: Lsn) -> Lsn {
        let segments = self.log.segments();
        let whole = segments.iter().take(segments.len().saturating_sub(1)).take_while(|s| s.next <= floor);
        whole.last().map_or(self.log.first(), |segment| segment.next)
    }

    /// The first record that retention keeps.
    fn expired_to(&self) -> Lsn {
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
