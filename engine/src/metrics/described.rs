//! What each metric means, for recorders that show it.

use metrics::{SharedString, Unit};

use super::*;

/// A kind of metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; begins at 0 with each process.
    Counter,
    /// A value as it stands.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A metric of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// What it means.
    pub what: &'static str,
}

const fn counter(name: &'static str, unit: Unit, what: &'static str) -> Described {
    Described { name, kind: Kind::Counter, unit, what }
}

const fn gauge(name: &'static str, unit: Unit, what: &'static str) -> Described {
    Described { name, kind: Kind::Gauge, unit, what }
}

const fn histogram(name: &'static str, unit: Unit, what: &'static str) -> Described {
    Described { name, kind: Kind::Histogram, unit, what }
}

/// Every metric of the engine.
pub const ALL: &[Described] = &[
    histogram(
        LOG_QUEUE_SECONDS,
        Unit::Seconds,
        "How long the oldest record of a group waited in the queue for its leader",
    ),
    histogram(LOG_WRITE_SECONDS, Unit::Seconds, "The write of a group"),
    histogram(LOG_SYNC_SECONDS, Unit::Seconds, "The sync of a group"),
    histogram(LOG_GROUP_RECORDS, Unit::Count, "Records in a group"),
    counter(LOG_RECORDS_TOTAL, Unit::Count, "Records written, by durability level"),
    counter(LOG_BYTES_TOTAL, Unit::Bytes, "Bytes written to segments"),
    counter(LOG_SYNCS_TOTAL, Unit::Count, "Syncs of segments"),
    gauge(LOG_SEGMENTS, Unit::Count, "Segments of the log"),
    gauge(LOG_RECOVERY_CUT_BYTES, Unit::Bytes, "Bytes that recovery cut off a torn tail at the last opening"),
    gauge(LOG_RECOVERY_SECONDS, Unit::Seconds, "How long the last opening took"),
    counter(LOG_TRIMMED_SEGMENTS_TOTAL, Unit::Count, "Segments removed or recycled by trimming"),
    gauge(
        LOG_NO_SPACE,
        Unit::Count,
        "1 while there is no room for more log segments, else 0, by reason (the device is full, disk budget)",
    ),
    counter(LOG_REFUSED_TOTAL, Unit::Count, "Appends refused because there was no room"),
    counter(LOG_HELD_BACK_TOTAL, Unit::Count, "Appends that had to wait because state was too far behind the log"),
    counter(DROPPED_RECORDS, Unit::Count, "Messages that a sink was passed by and did not store, by sink and reason"),
    counter(
        LOG_DAMAGE_GAP_RECORDS_TOTAL,
        Unit::Count,
        "Records lost to damage that readers passed, once for each reader",
    ),
    counter(LOG_READ_BYTES, Unit::Bytes, "Bytes that readers asked of the disk"),
    counter(INDEX_WRITTEN, Unit::Count, "Indexes of segments written"),
    counter(INDEX_UNUSABLE, Unit::Count, "Indexes of segments that were damaged or did not fit, and are built anew"),
    counter(INDEX_POSTPONED, Unit::Count, "Times an index could not be written (no room) and is tried again later"),
    counter(
        CARRIED_RECORDS,
        Unit::Count,
        "Records copied out of segments before they were trimmed: somebody is still owed them",
    ),
    counter(CARRY_UNREADABLE, Unit::Count, "Damaged records in trimmed segments: nobody can tell who was owed them"),
    counter(DROPPED, Unit::Count, "Messages let go of by a named policy, by reason"),
    gauge(RESIDUE_BYTES, Unit::Bytes, "Bytes of residue files"),
    gauge(RESIDUE_FILES, Unit::Count, "Residue files"),
    counter(RESIDUE_REWRITES, Unit::Count, "Residue files written anew"),
    counter(TRIM_FAILURES, Unit::Count, "Attempts to give up old segments that failed and are made again"),
    counter(STATE_REBUILDS, Unit::Count, "Times the state index was unusable and rebuilt from checkpoint and log"),
    counter(CHECKPOINTS, Unit::Count, "Checkpoints written"),
    histogram(CHECKPOINT_PAUSE, Unit::Seconds, "How long copying state for a checkpoint held up delivery"),
    gauge(STATE_LAG, Unit::Count, "Records that are durable and not yet in state"),
    counter(DELIVERIES, Unit::Count, "Stored messages handed to connections"),
    counter(
        INBOX_OVERFLOWS,
        Unit::Count,
        "Times an inbox was full and its connection went back to reading from its cursor",
    ),
    counter(CATCH_UP_RECORDS, Unit::Count, "Records read from the log for connections that were away or behind"),
    counter(OFFLINE_SKIPPED, Unit::Count, "Stored messages not given to a new read position because of offline_opts"),
    counter(
        SUPERSEDED,
        Unit::Count,
        "Messages not given to a keep-latest subscriber because a newer one of the topic exists",
    ),
    counter(REQUEUED, Unit::Count, "Messages of queues and groups that are free again because their holder left"),
    counter(
        SHARED_REFUSED,
        Unit::Count,
        "Messages of shared subscriptions that a member refused; no other member is given them",
    ),
];

/// Tells the installed recorder of the `metrics` facade what each metric of the engine means. Call it once, after installing the
/// recorder and before opening an engine. Without a recorder it does nothing, and so do the metrics.
pub fn describe() {
    for Described { name, kind, unit, what } in ALL {
        let what = SharedString::const_str(what);
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *unit, what),
            Kind::Gauge => metrics::describe_gauge!(*name, *unit, what),
            Kind::Histogram => metrics::describe_histogram!(*name, *unit, what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described_and_in_the_document() {
        let source = include_str!("../metrics.rs");
        let names: Vec<&str> = source
            .lines()
            .filter(|line| line.starts_with("pub const") || line.starts_with("    \"forebay_"))
            .filter_map(|line| line.split('"').nth(1))
            .collect();
        assert!(names.len() > 20, "{names:?}");
        for name in &names {
            assert!(ALL.iter().any(|metric| metric.name == *name), "{name} is not in `ALL` of metrics/described.rs");
        }
        assert_eq!(names.len(), ALL.len());
        let Ok(document) = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md")) else {
            return; // The crate alone, without the repository.
        };
        for Described { name, kind, .. } in ALL {
            let row = document.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_else(|| panic!("{name} is not in docs/METRICS.md"));
            let kind = format!("{kind:?}").to_lowercase();
            assert_eq!(row.split('|').nth(2).map(str::trim), Some(kind.as_str()), "{row}");
        }
    }

    #[test]
    fn names_are_unique_and_end_in_what_they_count() {
        for (n, metric) in ALL.iter().enumerate() {
            assert!(ALL.iter().skip(n + 1).all(|other| other.name != metric.name), "{}", metric.name);
            assert_eq!(metric.unit == Unit::Seconds, metric.name.ends_with("_seconds"), "{}", metric.name);
        }
    }
}
