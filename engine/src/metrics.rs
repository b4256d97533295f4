//! Names of the engine's metrics, and handles to those on the hot path.
//!
//! Install a recorder of the `metrics` facade before opening a log: handles are taken once, at opening.

mod described;

use metrics::{Counter, Gauge, Histogram};

use crate::log::Limit;

pub use described::{ALL, Described, Kind, describe};

/// Histogram, seconds: how long the oldest record of a group waited in the queue for its leader.
pub const LOG_QUEUE_SECONDS: &str = "forebay_log_queue_seconds";
/// Histogram, seconds: the write of a group.
pub const LOG_WRITE_SECONDS: &str = "forebay_log_write_seconds";
/// Histogram, seconds: the sync of a group.
pub const LOG_SYNC_SECONDS: &str = "forebay_log_sync_seconds";
/// Histogram, records: records in a group.
pub const LOG_GROUP_RECORDS: &str = "forebay_log_group_records";
/// Counter, records: records written. Label `durability`: `synced`, `every` or `buffered`.
pub const LOG_RECORDS_TOTAL: &str = "forebay_log_records_total";
/// Counter, bytes: bytes written to segments.
pub const LOG_BYTES_TOTAL: &str = "forebay_log_written_bytes_total";
/// Counter, calls: syncs of segments.
pub const LOG_SYNCS_TOTAL: &str = "forebay_log_syncs_total";
/// Gauge, files: segments of the log.
pub const LOG_SEGMENTS: &str = "forebay_log_segments_count";
/// Gauge, bytes: bytes that recovery cut off a torn tail at the last opening.
pub const LOG_RECOVERY_CUT_BYTES: &str = "forebay_log_recovery_cut_bytes";
/// Gauge, seconds: how long the last opening took.
pub const LOG_RECOVERY_SECONDS: &str = "forebay_log_recovery_seconds";
/// Counter, bytes: bytes that readers asked of the disk: records that are not in memory any more, and the indexes that lead to them.
pub const LOG_READ_BYTES: &str = "forebay_log_read_bytes_total";
/// Counter, files: segments removed or recycled by trimming.
pub const LOG_TRIMMED_SEGMENTS_TOTAL: &str = "forebay_log_trimmed_segments_total";
/// Gauge: 1 while there is no room for more log segments, else 0. Label `reason`: `disk` (the device is full), `budget`.
pub const LOG_NO_SPACE: &str = "forebay_log_no_space_state";
/// Counter, calls: appends refused because there was no room.
pub const LOG_REFUSED_TOTAL: &str = "forebay_log_refused_appends_total";
/// Counter, calls: appends that had to wait because state was too far behind the log.
pub const LOG_HELD_BACK_TOTAL: &str = "forebay_log_held_back_appends_total";
/// Counter, messages: messages that a sink was passed by and did not store, because the log had no room. Labels `sink`, `reason`.
pub const DROPPED_RECORDS: &str = "forebay_sink_dropped_records_total";
/// Counter, records: records lost to damage that readers passed, once for each reader.
pub const LOG_DAMAGE_GAP_RECORDS_TOTAL: &str = "forebay_log_damage_gap_records_total";

/// Counter: times the state index was unusable and rebuilt from checkpoint and log.
pub const STATE_REBUILDS: &str = "forebay_state_rebuilds_total";
/// Counter: checkpoints written.
pub const CHECKPOINTS: &str = "forebay_state_checkpoints_total";
/// Histogram: seconds that copying state for a checkpoint held up delivery.
pub const CHECKPOINT_PAUSE: &str = "forebay_state_checkpoint_pause_seconds";
/// Gauge: records that are durable and not yet in state.
pub const STATE_LAG: &str = "forebay_state_lag_records";
/// Counter: stored messages handed to connections.
pub const DELIVERIES: &str = "forebay_delivery_handed_out_total";
/// Counter: times a connection's inbox was full and it went back to reading from its cursor.
pub const INBOX_OVERFLOWS: &str = "forebay_delivery_inbox_overflows_total";
/// Counter: records read from the log for connections that were away or behind.
pub const CATCH_UP_RECORDS: &str = "forebay_delivery_catch_up_records_total";
/// Counter, files: indexes of segments written.
pub const INDEX_WRITTEN: &str = "forebay_log_indexes_written_total";
/// Counter, files: indexes of segments that were damaged or did not fit, and are built anew.
pub const INDEX_UNUSABLE: &str = "forebay_log_indexes_unusable_total";
/// Counter, times: the index of a segment could not be written (no room) and is tried again later.
pub const INDEX_POSTPONED: &str = "forebay_log_indexes_postponed_total";
/// Counter: stored messages not given to a new read position because of `offline_opts`.
pub const OFFLINE_SKIPPED: &str = "forebay_delivery_offline_opts_skipped_total";
/// Counter: messages not given to a keep-latest subscriber because a newer one of the topic exists.
pub const SUPERSEDED: &str = "forebay_delivery_superseded_total";
/// Counter, messages: let go of by a named policy. Label `reason`: see `DropReason`.
pub const DROPPED: &str = "forebay_dropped_total";
/// Counter, records: copied out of segments before they were trimmed, because somebody is still owed them.
pub const CARRIED_RECORDS: &str = "forebay_residue_carried_records_total";
/// Counter, records: in segments that were trimmed, and damaged, so that nobody can tell who was owed them.
pub const CARRY_UNREADABLE: &str = "forebay_residue_unreadable_records_total";
/// Counter, files: residue files written anew because most of their records were owed no more, or to merge two.
pub const RESIDUE_REWRITES: &str = "forebay_residue_rewrites_total";
/// Counter, attempts: to give up old segments that failed and are made again.
pub const TRIM_FAILURES: &str = "forebay_log_trim_failures_total";
/// Gauge, files: residue files.
pub const RESIDUE_FILES: &str = "forebay_residue_files_count";
/// Gauge, bytes: residue files.
pub const RESIDUE_BYTES: &str = "forebay_residue_bytes";
/// Counter: messages of queues and groups that are free again because their holder left.
pub const REQUEUED: &str = "forebay_delivery_requeued_total";
/// Counter: messages of shared subscriptions that a member refused (PUBACK or PUBREC from 0x80); no other member is given them.
pub const SHARED_REFUSED: &str = "forebay_shared_refused_total";

/// Handles of the log's hot path.
pub(crate) struct LogMetrics {
    pub queue: Histogram,
    pub write: Histogram,
    pub sync: Histogram,
    pub group_records: Histogram,
    pub records: Counter,
    pub bytes: Counter,
    pub syncs: Counter,
    pub read_bytes: Counter,
    pub segments: Gauge,
    no_space: [(Limit, Gauge); 2],
    pub refused: Counter,
    pub held_back: Counter,
}

impl LogMetrics {
    pub fn new(durability: &'static str) -> LogMetrics {
        LogMetrics {
            queue: metrics::histogram!(LOG_QUEUE_SECONDS),
            write: metrics::histogram!(LOG_WRITE_SECONDS),
            sync: metrics::histogram!(LOG_SYNC_SECONDS),
            group_records: metrics::histogram!(LOG_GROUP_RECORDS),
            records: metrics::counter!(LOG_RECORDS_TOTAL, "durability" => durability),
            bytes: metrics::counter!(LOG_BYTES_TOTAL),
            syncs: metrics::counter!(LOG_SYNCS_TOTAL),
            read_bytes: metrics::counter!(LOG_READ_BYTES),
            segments: metrics::gauge!(LOG_SEGMENTS),
            no_space: [Limit::Disk, Limit::Budget]
                .map(|limit| (limit, metrics::gauge!(LOG_NO_SPACE, "reason" => limit.as_str()))),
            refused: metrics::counter!(LOG_REFUSED_TOTAL),
            held_back: metrics::counter!(LOG_HELD_BACK_TOTAL),
        }
    }

    /// Says what there is no more room by.
    pub fn no_space(&self, limit: Option<Limit>) {
        for (of, gauge) in &self.no_space {
            gauge.set(f64::from(u8::from(limit == Some(*of))));
        }
    }
}

impl std::fmt::Debug for LogMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogMetrics")
    }
}
