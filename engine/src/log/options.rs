//! Settings of a log.

use std::path::PathBuf;
use std::time::Duration;

use super::error::OpenError;
use super::frame::HEADER;
use super::segment::{SEAL_MIN, SEGMENT_HEADER};

/// What an acknowledged append means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The watermark moves when `fdatasync` has returned. Survives a power failure. The only level that may be called durable.
    #[default]
    Synced,
    /// The watermark moves when the bytes were handed to the operating system, which survives the death of the process but not of the
    /// machine; they are synced once in this time.
    Every(Duration),
    /// As `Every`, but synced only when a segment is full and at shutdown.
    Buffered,
}

impl Durability {
    /// The name shown to people and in metrics: `synced`, `every`, `buffered`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Durability::Synced => "synced",
            Durability::Every(_) => "every",
            Durability::Buffered => "buffered",
        }
    }

    pub(crate) fn is_weak(self) -> bool {
        self != Durability::Synced
    }
}

/// What to do at opening when bytes are damaged that had been synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// Do not open; the error names the place.
    #[default]
    Refuse,
    /// Keep a copy of the damaged last segment as `*.damaged`, cut the log at the damage and go on behind the last number given out.
    Quarantine,
}

/// What a record may count on when there is no room for more segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// The room of the active segment; refused with `NoSpace` when it is full.
    #[default]
    Ordinary,
    /// That, and the reserve: for records that let the log shrink again (acknowledgements, positions, ends).
    Essential,
}

/// Settings of a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Folder of the segments. Created when missing.
    pub dir: PathBuf,
    /// Size of a segment in bytes; at least 64 KiB, default 64 MiB.
    pub segment_bytes: u64,
    /// Largest body of a record in bytes; default 1 MiB + 64 KiB, and never more than fits into a segment.
    pub record_bytes_max: usize,
    /// Bytes that may wait for the disk before appends answer `Full`; default 64 MiB.
    pub queue_bytes_max: usize,
    /// Bytes of the newest records kept in memory; default 32 MiB.
    pub tail_cache_bytes: usize,
    /// Bytes that segments, spares and what is kept beside them may take; `None` (the default) leaves it to the disk. At least four segments.
    /// At the budget the log does as on a full disk.
    pub disk_budget: Option<u64>,
    /// What an acknowledged append means.
    pub durability: Durability,
    /// What to do when synced bytes are damaged.
    pub on_damage: OnDamage,
    /// Prepare the next segment in the background, default true. Without it whoever appends prepares a segment when it is needed, and
    /// the log does nothing but what its callers make it do: for simulations that have to repeat exactly.
    pub prepare_ahead: bool,
    /// Identity for a log that is created; `None` takes a random one. Tests that want the same bytes each time set it.
    pub log_id: Option<[u8; 16]>,
}

impl LogOptions {
    /// The defaults, for a folder.
    pub fn new(dir: impl Into<PathBuf>) -> LogOptions {
        LogOptions {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            record_bytes_max: (1 << 20) + (64 << 10),
            queue_bytes_max: 64 << 20,
            tail_cache_bytes: 32 << 20,
            disk_budget: None,
            durability: Durability::Synced,
            on_damage: OnDamage::Refuse,
            prepare_ahead: true,
            log_id: None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        let fault = |setting, what: &str| Err(OpenError::Setting { setting, what: what.to_owned() });
        if self.segment_bytes < 64 << 10 || self.segment_bytes > 1 << 30 {
            return fault("segment_bytes", "must be between 64 KiB and 1 GiB");
        }
        if self.record_bytes_max == 0 {
            return fault("record_bytes_max", "must be at least 1");
        }
        if self.queue_bytes_max == 0 {
            return fault("queue_bytes_max", "must be at least 1");
        }
        if self.disk_budget.is_some_and(|budget| budget < 4 * self.segment_bytes) {
            return fault("disk_budget", "must be at least four segments");
        }
        if self.durability == Durability::Every(Duration::ZERO) {
            return fault("durability", "every(0) would never rest; use synced");
        }
        Ok(())
    }

    /// The largest body taken: the setting, or what fits into an empty segment.
    pub(crate) fn record_limit(&self) -> usize {
        self.record_bytes_max.min(self.segment_bytes as usize - SEGMENT_HEADER - HEADER - SEAL_MIN)
    }
}
