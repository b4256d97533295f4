//! Names of this crate's metrics. Every one carries the label `sink`.

/// Counter: operations stored.
pub const STORED_OPERATIONS: &str = "forebay_sink_stored_operations";
/// Counter: batches written.
pub const BATCHES: &str = "forebay_sink_batches";
/// Histogram: seconds a write took.
pub const WRITE_SECONDS: &str = "forebay_sink_write_seconds";
/// Counter: failed writes and connects, label `kind` = connect, disconnected, busy, timeout, items, whole.
pub const FAILURES: &str = "forebay_sink_failures";
/// Counter: operations that went to the dead letters.
pub const DEAD_LETTERS: &str = "forebay_sink_dead_letters";
/// Gauge: records between the sink's position and the log's end.
pub const LAG_RECORDS: &str = "forebay_sink_lag_records";
/// Gauge: age in seconds of the oldest record not yet done.
pub const LAG_SECONDS: &str = "forebay_sink_lag_seconds";
/// Counter: rows removed by expiry and retention.
pub const EXPIRED_ROWS: &str = "forebay_sink_expired_rows";
/// Counter: lookups asked, label `what` = subscriptions, offline, retained.
pub const LOOKUPS: &str = "forebay_sink_lookups";
/// Counter: lookups answered from local state because the database was late or down, label `what`.
pub const LOOKUPS_STALE: &str = "forebay_sink_lookups_stale";
/// Counter: rows of other programs taken into the log.
pub const IMPORTED_ROWS: &str = "forebay_sink_imported_rows";
/// Counter: orders received on a database's channel, label `what` = subscribe, unsubscribe, offline (the client is not connected
/// here), invalid.
pub const ORDERS: &str = "forebay_sink_orders";
/// Counter: points stored at another time than their record's, because a point of their series had it (`same_time = bump`).
pub const MOVED_POINTS: &str = "forebay_sink_moved_points";
/// Counter: messages of a rule for whose topic the pool has no template: nothing is stored of them. Counted again after a restart.
pub const WITHOUT_TEMPLATE: &str = "forebay_sink_without_template";
