//! What an operator sees of a sink.

use std::time::Instant;

use forebay_engine::Lsn;
use forebay_engine::state::Gap;
use parking_lot::Mutex;

/// What a sink is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkState {
    /// Opening a connection for the n-th time in a row.
    Connecting {
        /// From 1.
        attempt: u32,
    },
    /// Storing, or waiting for something to store.
    Running,
    /// Something outside must change first.
    Waiting {
        /// When it tries again.
        until: Instant,
        /// What it waits for, with the remedy.
        why: String,
    },
    /// An operator paused it.
    Paused,
    /// It has ended.
    Stopped,
}

/// A sink as it stands.
#[derive(Clone, Debug)]
pub struct SinkStatus {
    /// `<database>/<pool>`.
    pub name: String,
    /// What it is doing.
    pub state: SinkState,
    /// Records between its position and the log's end.
    pub lag_records: u64,
    /// Age in seconds of the oldest record that is not done, 0 when there is none.
    pub lag_seconds: u64,
    /// Every record below is stored or dead-lettered.
    pub position: Lsn,
    /// Operations stored since the start of the process.
    pub stored: u64,
    /// Open dead letters.
    pub dead_letters: u64,
    /// The last failure, if any since the start of the process.
    pub last_error: Option<String>,
    /// What it was passed by because the log had no room (`log.when_full = "drop_oldest"`): the newest range, and the total of all.
    pub gap: Option<Gap>,
}

#[derive(Debug)]
pub(crate) struct StatusCell(Mutex<Cell>);

#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) state: SinkState,
    pub(crate) stored: u64,
    pub(crate) last_error: Option<String>,
    /// Time of the oldest record that waits while there is no connection.
    pub(crate) waiting_since_us: Option<u64>,
}

impl StatusCell {
    pub(crate) fn new() -> Self {
        let state = SinkState::Connecting { attempt: 1 };
        StatusCell(Mutex::new(Cell { state, stored: 0, last_error: None, waiting_since_us: None }))
    }

    pub(crate) fn set(&self, state: SinkState) {
        self.0.lock().state = state;
    }

    pub(crate) fn error(&self, error: String) {
        self.0.lock().last_error = Some(error);
    }

    pub(crate) fn waiting_since(&self, us: Option<u64>) {
        self.0.lock().waiting_since_us = us;
    }

    pub(crate) fn stored(&self, operations: usize) {
        let mut cell = self.0.lock();
        cell.stored = cell.stored.saturating_add(operations as u64);
        if cell.state != SinkState::Paused {
            cell.state = SinkState::Running;
        }
    }

    pub(crate) fn read<T>(&self, f: impl FnOnce(&Cell) -> T) -> T {
        f(&self.0.lock())
    }
}
