//! Appends of callers who write their own group where that is quick: tasks of an event loop.
//!
//! Through the writer thread a record that comes alone costs two changes of threads: the caller wakes the writer, and the writer the caller's
//! loop. On a disk that answers in less time than they take, the caller is the better leader. How quick the disk is, is what the last
//! groups took; whether a caller is alone is the leader's rule in `core`.

use std::time::Duration;

use super::core::Core;
use super::error::AppendError;
use super::options::Priority;
use super::segment::SEGMENT_HEADER;
use super::{Appended, NewRecord};
use crate::sync::atomic::{AtomicU64, Ordering};

/// What groups may take on average, ns, for a task to write its own: others of its loop notice no more of it than of a few packets.
const QUICK_NS: u64 = 200_000;
/// What a group counts for at most: a single slow one, of a processor that was busy elsewhere for some ms, is no slow disk.
const SLOW_NS: u64 = 4 * QUICK_NS;
/// Most bytes of a batch that its caller writes.
const BATCH_BYTES: usize = 32 << 10;
/// A group's weight in the average is one in so many.
const WEIGHT: u64 = 8;

/// How long groups take to be written and synced. Set by whoever leads.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The moving average, ns.
    average: AtomicU64,
}

impl Default for Pace {
    /// Slow, until a group shows otherwise.
    fn default() -> Pace {
        Pace { average: AtomicU64::new(u64::MAX) }
    }
}

impl Pace {
    /// Takes a group's time into the average.
    pub fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).min(SLOW_NS);
        let average = match self.average.load(Ordering::Relaxed) {
            u64::MAX => took,
            average => average - average / WEIGHT + took / WEIGHT,
        };
        self.average.store(average, Ordering::Relaxed);
    }

    fn is_quick(&self) -> bool {
        self.average.load(Ordering::Relaxed) <= QUICK_NS
    }
}

impl Core {
    /// As `append`; where nobody leads, few append and the disk is quick the caller leads, but not with a batch that begins a segment.
    pub fn append_inline<B: AsRef<[u8]>>(
        &self,
        records: &[NewRecord<B>],
        priority: Priority,
    ) -> Result<Appended, AppendError> {
        let bytes = self.check(records)?;
        let (mut queue, appended) = self.enqueue(records, bytes, priority, false)?;
        let begins_segment = queue.place.at <= (SEGMENT_HEADER + bytes) as u64;
        if !queue.may_lead() || begins_segment || bytes > BATCH_BYTES || !self.pace.is_quick() {
            self.call_writer(&queue);
            return Ok(appended);
        }
        let taken = self.take(&mut queue);
        drop(queue);
        self.lead(taken, false);
        Ok(appended)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{BATCH_BYTES, QUICK_NS};
    use crate::clock::SystemClock;
    use crate::disk::RealDisk;
    use crate::log::{Log, LogOptions, NewRecord, Priority};

    /// A log without a writer thread: what its caller does not write stays in the queue.
    fn log(folder: &tempfile::TempDir) -> Log {
        let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::new(folder.path()) };
        Log::open_manual(Arc::new(RealDisk), Arc::new(SystemClock), options).unwrap().0
    }

    fn append(log: &Log, bytes: usize) -> bool {
        let appended = log.append_inline([NewRecord { kind: 1, body: vec![7; bytes] }], Priority::Ordinary).unwrap();
        log.durable_end() > appended.last
    }

    #[test]
    fn a_caller_writes_its_own_records_once_the_disk_has_shown_that_it_is_quick() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(&folder);
        let pace = &log.core().pace;
        assert!(!append(&log, 10), "nothing is known of the disk, or this record begins the segment");
        assert!(log.write_queued());
        pace.average.store(QUICK_NS, super::Ordering::Relaxed);
        assert!(append(&log, 10));
        pace.average.store(QUICK_NS, super::Ordering::Relaxed);
        assert!(!append(&log, BATCH_BYTES), "a large batch goes to the writer thread");
        assert!(!pace.is_quick() || append(&log, 10), "what gathered before goes along");
        pace.average.store(QUICK_NS + 1, super::Ordering::Relaxed);
        assert!(!append(&log, 10), "the disk has become slow");
    }

    #[test]
    fn a_record_that_begins_a_segment_is_left_to_the_writer_thread() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(&folder);
        let body = 30 << 10;
        let mut left = Vec::new();
        for at in 0..80 {
            log.core().pace.average.store(0, super::Ordering::Relaxed);
            if !append(&log, body) {
                left.push(at);
                assert!(log.write_queued());
            }
        }
        assert_eq!(left, [0, 34, 68], "each segment of 1 MiB holds 34");
    }

    #[test]
    fn one_slow_group_is_none_and_some_in_a_row_make_the_disk_slow_for_as_many() {
        let pace = super::Pace::default();
        assert!(!pace.is_quick(), "nothing is known yet");
        pace.note(Duration::from_micros(50));
        assert!(pace.is_quick());
        pace.note(Duration::from_millis(10));
        assert!(pace.is_quick());
        (0..10).for_each(|_| pace.note(Duration::from_millis(10)));
        assert!(!pace.is_quick());
        let quick = (0..100).position(|_| {
            pace.note(Duration::from_micros(50));
            pace.is_quick()
        });
        assert!(quick.is_some_and(|after| (8..16).contains(&after)), "{quick:?}");
    }
}
