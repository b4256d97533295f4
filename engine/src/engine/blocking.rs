//! Blocking counterparts of the engine's futures, for embedders without an async runtime. Each takes the longest time to wait;
//! [`Duration::MAX`] waits for ever. None is for a thread that runs async tasks.

use std::time::Duration;

use super::Engine;
use crate::blocking::within;
use crate::event::Event;
use crate::ids::Lsn;
use crate::log::{AppendError, Appended, NotDurable};

impl Engine {
    /// As [`Engine::append_wait`], blocking the thread: enqueues events as one batch, and waits up to `timeout` while the log's queue or
    /// the disk is full. Not durable when it returns: wait with [`Engine::durable_within`].
    ///
    /// # Errors
    /// `Full` or `NoSpace` when there was no room in time; where the log has stopped, or an event is too large. Nothing is appended then.
    pub fn append_within(&self, events: &[Event], timeout: Duration) -> Result<Appended, AppendError> {
        // The last try, when the time has passed, says what there was no room in.
        within(timeout, self.append_wait(events)).unwrap_or_else(|| self.append(events))
    }

    /// As [`Engine::durable`], blocking the thread: `true` when every record up to and including `lsn` is durable, `false` when
    /// `timeout` has passed first (the records may become durable later).
    ///
    /// # Errors
    /// Where the log stopped before.
    pub fn durable_within(&self, lsn: Lsn, timeout: Duration) -> Result<bool, NotDurable> {
        within(timeout, self.durable(lsn)).map_or(Ok(false), |durable| durable.map(|()| true))
    }

    /// As [`Engine::applied`], blocking the thread: `true` when every record up to and including `lsn` is durable and state and
    /// delivery include it, `false` when `timeout` has passed first.
    ///
    /// # Errors
    /// Where the log stopped before.
    pub fn applied_within(&self, lsn: Lsn, timeout: Duration) -> Result<bool, NotDurable> {
        within(timeout, self.applied(lsn)).map_or(Ok(false), |applied| applied.map(|()| true))
    }
}
