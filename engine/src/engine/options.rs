//! Settings of an engine.

use std::path::PathBuf;
use std::sync::Arc;

use super::Retention;
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
    /// A checkpoint of state is written each time the log grew by this many bytes, or by four times the checkpoint's size.
    /// Default 256 MiB.
    pub checkpoint_bytes: u64,
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
            checkpoint_bytes: 256 * 1024 * 1024,
            clock: Arc::new(SystemClock),
        }
    }
}
