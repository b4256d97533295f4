//! Settings of an engine.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Retention, WhenFull};
use crate::clock::{Clock, SystemClock};
use crate::log::LogOptions;
use crate::rules::Rules;

/// Settings of an engine. [`EngineOptions::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Data folder: `LOCK`, `log/`, `state/`.
    pub dir: PathBuf,
    /// Log settings; its folder is always `log/` in `dir`.
    pub log: LogOptions,
    /// Number of this node in msgids.
    pub node: u16,
    /// What the rules ask of the engine.
    pub rules: Rules,
    /// How long records nobody needs any more are kept.
    pub retention: Retention,
    /// How much queues and sessions may be owed.
    pub bounds: Bounds,
    /// What happens to sinks that lag while the log has no room. The log's own [`disk_budget`](LogOptions::disk_budget) says when that is,
    /// or the disk. Default: the log waits for them.
    pub when_full: WhenFull,
    /// A checkpoint of state is written each time the log grew by this many bytes, or by four times the checkpoint's size.
    /// Default 256 MiB.
    pub checkpoint_bytes: u64,
    /// Bytes of records that may be appended and not yet in state, before ordinary appends answer `Full` and wait: what an opening after a
    /// crash has to replay is bounded by it. Acknowledgements and ends of sessions go on. At least 1 MiB is granted. Default 24 MiB: far above
    /// what state lags behind unless records come faster than it can apply them for a while.
    pub apply_lag_bytes: u64,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

impl EngineOptions {
    /// Defaults for a data folder.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> EngineOptions {
        let dir = dir.into();
        EngineOptions {
            log: LogOptions::new(dir.join("log")),
            dir,
            node: 0,
            rules: Rules::default(),
            retention: Retention::default(),
            bounds: Bounds::default(),
            when_full: WhenFull::default(),
            checkpoint_bytes: 256 * 1024 * 1024,
            apply_lag_bytes: 24 << 20,
            clock: Arc::new(SystemClock),
        }
    }
}

/// How much may be owed to those who do not take it: beyond it the oldest goes (`drop_oldest`), by a record that names and counts it.
/// 0 = no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Messages owed by the queue of one topic, or by the group of one shared subscription. Default 1,000,000.
    pub queue_messages_max: u64,
    /// Bytes (topics and payloads) owed by the queue of one topic, or by the group of one shared subscription. Default 1 GiB.
    pub queue_bytes_max: u64,
    /// Messages of a session's backlog that are kept beyond retention. What retention still keeps does not count. Default 100,000.
    pub session_messages_max: u64,
    /// Bytes of records of a session's backlog that are kept beyond retention. Default 256 MiB.
    pub session_bytes_max: u64,
    /// Read positions of one rule filter whose clients are away. Looked at when a segment is trimmed. Default 1,000,000.
    pub idle_cursors_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            queue_messages_max: 1_000_000,
            queue_bytes_max: 1 << 30,
            session_messages_max: 100_000,
            session_bytes_max: 256 << 20,
            idle_cursors_max: 1_000_000,
        }
    }
}
