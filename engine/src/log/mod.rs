//! The log: records on disk, numbered without holes, durable before anybody is told.
//!
//! # What it promises
//!
//! - A record is durable when the watermark has passed it ([`Log::wait_durable`], [`Log::durable_end`]): its `fdatasync` has returned. In the weaker levels of
//!   [`Durability`] the watermark means "handed to the operating system", and says so in its name.
//! - Readers see durable records only, in order, none twice, none invented.
//! - After a crash the log opens with every record that was durable. A torn tail is cut and reported; damage to synced bytes is never skipped
//!   silently. The time to open is bounded by one segment.
//! - The first failed write or sync stops the log for good: no further append until it is opened again.
//! - A full disk, or a used up disk budget, is a state and no failure: see [`AppendError::NoSpace`].
//!
//! # How it works
//!
//! ```text
//!   producers              leader                                   readers
//!   append_batch -> queue -> one buffer, one write, one sync -> watermark -> tail cache or segments
//!                   ^ LSNs and times                            ^ wakes whom it has reached
//! ```
//!
//! There is no timer: while one group is being synced, the next one gathers. The leader is the writer thread, or, on an idle
//! log, the caller itself: of a blocking append, and on a quick disk of one by an event loop's task (`inline`). New segments are prepared ahead of need, so that a sync has no metadata to write.
//!
//! # Bytes
//!
//! Segment: header of 64 bytes (`segment`), frames (`frame`), a seal at the end of a full segment or at a clean shutdown. `docs/FORMAT.md` has the tables.
//!
//! # Example
//!
//! ```
//! use forebay_engine::log::{Log, LogOptions, NewRecord};
//!
//! # let dir = tempfile::tempdir()?;
//! # let mut options = LogOptions::new(dir.path().join("log"));
//! # options.segment_bytes = 64 << 10;
//! let (log, report) = Log::open(options)?;
//! assert!(report.created);
//! let done = log.append_durable(vec![NewRecord { kind: 1, body: b"hello".to_vec() }])?;
//! let record = log.read(done.first)?.ok_or("not there")?;
//! assert_eq!(&record.body[..], b"hello");
//! log.close();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod anatomy;
mod aside;
mod core;
mod dump;
mod error;
mod follower;
mod frame;
pub(crate) mod fuzzing;
mod gathered;
mod inline;
mod inspect;
#[cfg(all(test, forebay_interleavings))]
mod interleavings;
mod open;
mod options;
mod placed;
mod plan;
mod reader;
mod recovery;
mod repair;
pub(crate) mod residue;
mod room;
mod run;
mod scan;
mod search;
mod segment;
mod skip;
mod slice;
mod spare;
mod survey;
mod tail;
mod trim;
mod wake;
mod walk;
pub(crate) mod watermark;
mod window;
mod writer;

use crate::sync::atomic::Ordering;
use crate::sync::thread::JoinHandle;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::sync::Mutex;
use bytes::Bytes;

use self::core::Core;
use crate::disk::FolderLock;
use crate::ids::Lsn;

pub(crate) use frame::{u32_at, u64_at};

pub use dump::{FrameItem, HeaderItem, Item, dump, dump_items};
pub use error::{AppendError, DurableError, NotDurable, OpenError, ReadError, TrimError};
pub use inspect::{Damage, Progress, SegmentReport, VerifyReport, verify, verify_with};
pub use options::{Durability, LogOptions, OnDamage, Priority};
pub(crate) use placed::{Extent, Place};
pub use plan::{Decision, Facts, Head, Joint, Place as SegmentPlace, Reason, Tail, plan};
pub use reader::Reader;
pub use recovery::RecoveryReport;
pub use repair::{Action, Kept, RepairReport, RepairStep, repair};
pub(crate) use residue::{Residue, ResidueFile};
pub use residue::{ResidueReport, verify_residue};
pub use room::{Limit, Shortage};
pub use skip::{Skip, SkipReason};
pub(crate) use spare::fill;
pub use trim::Trimmed;
pub use watermark::WaitDurable;

/// A record to append. Its body is whatever gives bytes: the log copies it once, into what it writes, and frees nothing of the caller's.
#[derive(Clone, Debug)]
pub struct NewRecord<B = Vec<u8>> {
    /// Kind, 1..=127 for the embedder's events (128.. are the log's own).
    pub kind: u8,
    /// Body: `Vec<u8>`, `&[u8]`, `Bytes`, ...
    pub body: B,
}

/// A record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub lsn: Lsn,
    /// Its time, us since 1970, strictly increasing in a log.
    pub time_us: u64,
    /// Its kind.
    pub kind: u8,
    /// Its body, a slice of a larger shared buffer: copy what you keep for long.
    pub body: Bytes,
}

/// A record as visited: see [`Reader::visit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its number.
    pub lsn: Lsn,
    /// Its time, us since 1970, strictly increasing in a log.
    pub time_us: u64,
    /// Its kind.
    pub kind: u8,
    /// Its body.
    pub body: &'a [u8],
}

/// The LSNs a batch was given. Not durable yet: wait for `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// First record's number.
    pub first: Lsn,
    /// Last record's number.
    pub last: Lsn,
    /// First record's time in us; the n-th record of the batch has `first_time_us + n`.
    pub first_time_us: u64,
}

/// A segment, as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first record.
    pub first: Lsn,
    /// The number after its last record.
    pub next: Lsn,
    /// Bytes of its file.
    pub bytes: u64,
    /// No record in it is younger than this, us since 1970; `u64::MAX` for the segment that is being written.
    pub newest_us: u64,
}

/// Where a log stands.
#[derive(Clone, Debug)]
pub struct LogStats {
    /// Segments.
    pub segments: usize,
    /// Bytes of the segments' files.
    pub bytes: u64,
    /// First record there is.
    pub first: Lsn,
    /// The durable watermark.
    pub durable_end: Lsn,
    /// The next number to be given out.
    pub end: Lsn,
    /// Bytes that wait for the disk or are being written.
    pub queue_bytes: usize,
    /// Groups written since opening.
    pub groups: u64,
    /// Syncs of segments since opening.
    pub syncs: u64,
    /// Name of the durability level.
    pub durability: &'static str,
    /// Bytes of segments, spares and what is kept beside them.
    pub used_bytes: u64,
    /// Why there is no room for more segments, if so.
    pub no_space: Option<Arc<str>>,
    /// Appends refused for want of room since opening.
    pub refused: u64,
}

/// The log. Cheap to clone. When the last clone is dropped without [`close`](Log::close), what is queued is still written, but the segment is
/// not sealed.
#[derive(Clone, Debug)]
pub struct Log {
    handle: Arc<Handle>,
}

/// Ends the threads when the last `Log` goes.
#[derive(Debug)]
struct Handle {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The folder's, where the log has one of its own.
    lock: Mutex<Option<FolderLock>>,
}

impl Handle {
    fn shut_down(&self, seal: bool, reason: &str) {
        self.core.shut_down(seal, reason);
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A waker run by the writer thread may drop the last handle: a thread can't wait for itself.
            if thread.thread().id() != crate::sync::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
        drop(self.lock.lock().take());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shut_down(false, "the log was dropped");
    }
}

impl Log {
    fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// Enqueues records: LSNs and times are given out at once, in one contiguous range. Not durable when it returns.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the batch is in the log then. After `Full` or `NoSpace`, [`wait_room`](Log::wait_room) and try again.
    pub fn append_batch<B: AsRef<[u8]>>(&self, records: impl AsRef<[NewRecord<B>]>) -> Result<Appended, AppendError> {
        self.core().append(records.as_ref(), Priority::Ordinary)
    }

    /// As [`append_batch`](Log::append_batch), for records of this priority: essential ones have a reserve on a full disk.
    ///
    /// # Errors
    /// As there.
    pub fn append_with<B: AsRef<[u8]>>(
        &self,
        records: impl AsRef<[NewRecord<B>]>,
        priority: Priority,
    ) -> Result<Appended, AppendError> {
        self.core().append(records.as_ref(), priority)
    }

    /// As [`append_with`](Log::append_with), for a task of an event loop that may be held up for a moment: where nobody else appends and the disk
    /// has answered within 0.2 ms on average lately, the caller writes and syncs up to 32 KiB itself, which is sooner than to wake the writer
    /// thread and to be woken by it. The records may then be durable when it returns: look at [`durable_end`](Log::durable_end) before waiting.
    ///
    /// # Errors
    /// As there. A write or sync that failed stops the log, which whoever waits for the records is told.
    pub fn append_inline<B: AsRef<[u8]>>(
        &self,
        records: impl AsRef<[NewRecord<B>]>,
        priority: Priority,
    ) -> Result<Appended, AppendError> {
        self.core().append_inline(records.as_ref(), priority)
    }

    /// Appends records and blocks the thread until they are durable. On an idle log the caller writes and syncs itself. Not for async callers.
    ///
    /// # Errors
    /// See [`DurableError`].
    pub fn append_durable<B: AsRef<[u8]>>(
        &self,
        records: impl AsRef<[NewRecord<B>]>,
    ) -> Result<Appended, DurableError> {
        let (appended, group) = self.core().append_or_lead(records.as_ref())?;
        match group {
            Some(group) => self.core().watermark.wait_in_group(appended.last, group)?,
            None => self.core().watermark.wait(appended.last)?,
        }
        Ok(appended)
    }

    /// Makes the next number at least `lsn`, by a gap record: for when state knows a higher position of this log than the log itself. Where a
    /// reader does, see [`skip_past`](Log::skip_past).
    /// `None` when the log is already there; else the gap record's own number, not durable yet.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn advance_to(&self, lsn: Lsn) -> Result<Option<Appended>, AppendError> {
        self.core().gap(lsn, None)
    }

    /// Resolves when every record up to and including `lsn` is durable. Cancellation safe: dropping it changes nothing.
    #[must_use]
    pub fn wait_durable(&self, lsn: Lsn) -> WaitDurable {
        WaitDurable::new(self.core().watermark.clone(), lsn)
    }

    /// Blocks the thread until every record up to and including `lsn` is durable.
    ///
    /// # Errors
    /// The log stopped before.
    pub fn wait_durable_blocking(&self, lsn: Lsn) -> Result<(), NotDurable> {
        self.core().watermark.wait(lsn)
    }

    /// Blocks the thread until every record up to and including `lsn` is durable: `false` when `timeout` has passed first
    /// ([`Duration::MAX`]: for ever).
    ///
    /// # Errors
    /// The log stopped before.
    pub fn wait_durable_within(&self, lsn: Lsn, timeout: Duration) -> Result<bool, NotDurable> {
        self.core().watermark.wait_timeout(lsn, timeout).map_or(Ok(false), |verdict| verdict.map(|()| true))
    }

    /// As [`wait_room`](Log::wait_room), blocking the thread: `false` when `timeout` has passed first ([`Duration::MAX`]: for ever).
    pub fn wait_room_within(&self, timeout: Duration) -> bool {
        crate::blocking::within(timeout, self.wait_room()).is_some()
    }

    /// Resolves when an ordinary append that was refused with `Full` or `NoSpace` is worth trying again (or the log has stopped, which the
    /// next append tells).
    #[must_use]
    pub fn wait_room(&self) -> WaitRoom {
        self.wait_room_for(Priority::Ordinary)
    }

    /// As [`wait_room`](Log::wait_room), for appends of this priority.
    #[must_use]
    pub fn wait_room_for(&self, priority: Priority) -> WaitRoom {
        WaitRoom { core: self.core().clone(), priority }
    }

    /// Why there is no room for more segments, if so: ordinary records are refused once the active segment is full.
    #[must_use]
    pub fn no_space(&self) -> Option<Arc<str>> {
        self.core().spares.short()
    }

    /// As [`no_space`](Log::no_space), with what there is no more of and since when.
    #[must_use]
    pub fn shortage(&self) -> Option<Shortage> {
        self.core().spares.shortage()
    }

    /// Tells the log how many bytes are kept beside it that count against [`LogOptions::disk_budget`].
    pub fn set_other_bytes(&self, bytes: u64) {
        self.core().other_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The durable watermark: every record below is on disk.
    #[must_use]
    pub fn durable_end(&self) -> Lsn {
        self.core().watermark.end()
    }

    /// The next number to be given out.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.core().queue.lock().next
    }

    /// The first record there is (what was before is trimmed).
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.core().first()
    }

    /// The log's identity: random, the same in every segment.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.core().log_id
    }

    /// A reader that starts at `from`. It sees durable records only.
    ///
    /// # Errors
    /// `Trimmed`.
    pub fn reader(&self, from: Lsn) -> Result<Reader, ReadError> {
        Reader::new(self.core().clone(), from)
    }

    /// One record; `None` when it is not durable yet or its number was skipped by a gap. What was carried out of a segment that was
    /// trimmed is found as well.
    ///
    /// # Errors
    /// `Trimmed`, `Corrupt`, `Io`.
    pub fn read(&self, lsn: Lsn) -> Result<Option<Record>, ReadError> {
        let mut found = Vec::with_capacity(1);
        if lsn < self.durable_end() {
            let read = self.reader(lsn).and_then(|mut reader| reader.read_batch(1, 1, &mut found));
            match read {
                Ok(_) => {}
                Err(trimmed @ ReadError::Trimmed { .. }) => {
                    return self.residue().read(lsn)?.map(Some).ok_or(trimmed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found.pop().filter(|record| record.lsn == lsn))
    }

    /// Ordinary appends wait from here on while records of more than `limit` bytes are appended and not [`followed`](Log::followed).
    pub(crate) fn follow(&self, limit: u64) {
        let core = self.core();
        core.follower.begin(core.queue.lock().appended, limit);
    }

    /// Records whose frames have so many bytes were taken into state.
    pub(crate) fn followed(&self, bytes: u64) {
        self.core().followed(bytes);
    }

    /// State follows no more: nobody waits for it.
    pub(crate) fn unfollow(&self) {
        self.core().follower.end();
        self.core().wake_behind();
    }

    /// The records that were carried out of segments before they were trimmed.
    pub(crate) fn residue(&self) -> &Residue {
        &self.core().residue
    }

    /// The segment of this record is not destroyed when it is trimmed, but set aside as `*.damaged`.
    pub(crate) fn set_aside(&self, lsn: Lsn) {
        let segments = self.core().segments.read();
        if let Some((_, segment)) = segments.range(..=lsn.0).next_back() {
            segment.damaged.store(true, Ordering::Relaxed);
        }
    }

    /// True when an earlier trim has files left that could not be removed; the next one tries again.
    pub(crate) fn trim_unfinished(&self) -> bool {
        !self.core().trimming.lock().is_empty()
    }

    /// Removes the segments whose records are all below `floor`, up to the first that a reader holds. Durable when it returns.
    ///
    /// # Errors
    /// The disk failed. The log goes on without these segments; their files are removed by the next trim, or at the next opening.
    pub fn trim_to(&self, floor: Lsn) -> Result<Trimmed, TrimError> {
        trim::trim_to(self.core(), floor)
    }

    /// Why the log takes no more records, if so.
    #[must_use]
    pub fn stopped_reason(&self) -> Option<Arc<str>> {
        self.core().watermark.stopped()
    }

    /// The segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let segments = self.core().segments.read();
        // A segment ends where the next was begun, in numbers and in time.
        let begun_after = segments.values().skip(1).map(|next| Some((next.first(), next.header.created_us)));
        segments
            .values()
            .zip(begun_after.chain(std::iter::once(None)))
            .map(|(segment, after)| SegmentInfo {
                first: segment.first(),
                next: after.map_or_else(|| segment.next(), |(next, _)| next),
                bytes: segment.file_len.load(Ordering::Relaxed),
                newest_us: after.map_or(u64::MAX, |(_, begun)| begun),
            })
            .collect()
    }

    /// Where the log stands.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let core = self.core();
        let (segments, bytes) = {
            let segments = core.segments.read();
            (segments.len(), segments.values().map(|segment| segment.file_len.load(Ordering::Relaxed)).sum())
        };
        let (end, queue_bytes) = {
            let queue = core.queue.lock();
            (queue.next, queue.bytes)
        };
        LogStats {
            segments,
            bytes,
            first: core.first(),
            durable_end: core.watermark.end(),
            end,
            queue_bytes,
            groups: core.groups.load(Ordering::Relaxed),
            syncs: core.syncs.load(Ordering::Relaxed),
            durability: core.options.durability.name(),
            used_bytes: core.used_bytes(),
            no_space: core.spares.short(),
            refused: core.refusals.load(Ordering::Relaxed),
        }
    }

    /// Writes what has gathered as one group, on the caller's thread. False where there is nothing to write, or another thread writes.
    pub(crate) fn write_queued(&self) -> bool {
        self.core().write_queued()
    }

    /// Prepares a segment ahead of need on the caller's thread, where one is wanted. False where none is.
    pub(crate) fn prepare_segment(&self) -> bool {
        self.core().prepare_segment()
    }

    /// As [`close`](Log::close), without the seal.
    pub(crate) fn stop(&self, reason: &str) {
        self.handle.shut_down(false, reason);
    }

    /// Writes what is queued, syncs it, seals the segment and ends the threads. Appends fail afterwards; reading goes on.
    pub fn close(&self) {
        self.handle.shut_down(true, "the log was closed");
    }
}

/// See [`Log::wait_room`].
#[derive(Debug)]
pub struct WaitRoom {
    core: Arc<Core>,
    priority: Priority,
}

impl Future for WaitRoom {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.core.wait_room(cx.waker(), self.priority) { Poll::Pending } else { Poll::Ready(()) }
    }
}
