//! What the handles, the writer thread and the readers share: the queue, the leader's rule, and stopping.
//!
//! Locks, in the order they may be taken: `queue` alone; `writer`, then `segments`, `tail`, the watermark's. The queue lock is never held
//! over a disk call.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::sync::{Condvar, Mutex, MutexGuard, RwLock};

use super::error::AppendError;
use super::follower::Follower;
use super::frame::{HEADER, KIND_GAP, NUMBER_MAX};
use super::gathered::{Gathered, Staged};
use super::inline::Pace;
use super::options::{Durability, LogOptions, Priority};
use super::residue::Residue;
use super::segment::Segment;
use super::slice;
use super::spare::{Place, Short, Spares};
use super::tail::TailCache;
use super::watermark::Watermark;
use super::writer::Writer;
use super::{Appended, NewRecord};
use crate::clock::Clock;
use crate::disk::CheckedDisk;
use crate::ids::Lsn;
use crate::metrics::LogMetrics;

/// Groups of a single batch after which a caller leads again. Among many producers, whoever is woken first would sync its one record while
/// the others gather behind it, and need a second sync for them: the writer thread, which has to be woken, takes them all as one group.
const CROWD: u8 = 4;

#[derive(Debug)]
pub(crate) struct Core {
    pub options: LogOptions,
    pub log_id: [u8; 16],
    pub disk: CheckedDisk,
    pub clock: Arc<dyn Clock>,
    pub queue: Mutex<Queue>,
    /// The writer thread waits here for work.
    pub work: Condvar,
    /// A shutdown waits here for the leader to finish.
    pub settled: Condvar,
    pub writer: Mutex<Writer>,
    pub watermark: Arc<Watermark>,
    pub tail: TailCache,
    pub segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    /// Held while trimming: segments that are out of the log and whose files are still there.
    pub trimming: Mutex<Vec<Arc<Segment>>>,
    pub residue: Residue,
    pub spares: Spares,
    /// Who applies the records.
    pub follower: Follower,
    pub metrics: LogMetrics,
    pub groups: AtomicU64,
    pub syncs: AtomicU64,
    pub pace: Pace,
    /// Appends refused for want of room.
    pub refusals: AtomicU64,
    /// Bytes that others keep beside the log and that count against its disk budget.
    pub other_bytes: AtomicU64,
}

/// Records that wait for the leader.
#[derive(Debug)]
pub(crate) struct Queue {
    gathered: Gathered,
    /// What the last group was in, and its memory.
    spare: Gathered,
    /// Bytes queued or being written.
    pub bytes: usize,
    /// Bytes of frames appended since opening.
    pub appended: u64,
    pub next: Lsn,
    last_time_us: u64,
    /// Somebody leads: takes the queue and writes it.
    leading: bool,
    /// Number of the group that is gathering.
    group: u64,
    /// Above 0 where one of the writer thread's last groups had several callers' batches: see [`CROWD`].
    crowd: u8,
    oldest: Option<Instant>,
    /// Where the next record goes.
    pub place: Place,
    /// Those who wait for room in the queue.
    pub room: Vec<Waker>,
    /// Those who wait for room on the disk.
    pub space: Vec<Waker>,
    /// Those who wait for the follower.
    pub behind: Vec<Waker>,
    closing: bool,
    stopped: Option<Arc<str>>,
    idle: bool,
}

impl Queue {
    pub fn new(next: Lsn, last_time_us: u64, place: Place) -> Queue {
        Queue {
            gathered: Gathered::default(),
            spare: Gathered::default(),
            bytes: 0,
            appended: 0,
            next,
            last_time_us,
            leading: false,
            group: 0,
            crowd: 0,
            oldest: None,
            place,
            room: Vec::new(),
            space: Vec::new(),
            behind: Vec::new(),
            closing: false,
            stopped: None,
            idle: false,
        }
    }

    pub fn has_room(&self, limit: usize) -> bool {
        self.bytes < limit || self.is_over()
    }

    /// Nobody leads and few append: a caller that waits may write its group itself.
    pub(super) fn may_lead(&self) -> bool {
        !self.leading && self.crowd == 0
    }

    /// Adds records whose first number is `next`.
    fn push<B: AsRef<[u8]>>(&mut self, first_time_us: u64, records: &[NewRecord<B>], bytes: usize, staged: Staged) {
        self.last_time_us = first_time_us + records.len() as u64 - 1;
        self.bytes += bytes;
        self.oldest.get_or_insert_with(Instant::now);
        self.gathered.push(self.next, first_time_us, records, bytes, staged);
    }

    /// Nothing is appended any more.
    pub fn is_over(&self) -> bool {
        self.stopped.is_some() || self.closing
    }
}

/// Why a batch was not queued.
enum Refused {
    Error(AppendError),
    Short(Short),
}

/// A group that its leader has taken.
pub(crate) struct Taken {
    pub group: u64,
    gathered: Gathered,
}

/// A log whose files name a number near the largest there is (none of its own making does) can be read and not appended to.
fn check_numbers(next: Lsn, time_us: u64) -> Result<(), AppendError> {
    if next.0 > NUMBER_MAX || time_us > NUMBER_MAX {
        return Err(AppendError::Stopped(
            "its numbers or times are used up: a record or a position near 2^62 was given".into(),
        ));
    }
    Ok(())
}

impl Core {
    /// Gives numbers and times to a batch and queues it, once there is room for it; a caller that `leads` where it can also waits
    /// while a segment is being prepared.
    pub(super) fn enqueue<'a, B: AsRef<[u8]>>(
        &'a self,
        records: &[NewRecord<B>],
        bytes: usize,
        priority: Priority,
        leads: bool,
    ) -> Result<(MutexGuard<'a, Queue>, Appended), AppendError> {
        let mut tries = 0;
        let mut staged = Staged::of(records, bytes);
        loop {
            match self.try_enqueue(records, bytes, priority, &mut staged) {
                Ok(queued) => return Ok(queued),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::Short(short)) => self.met_short(short, tries, leads)?,
            }
            tries += 1;
        }
    }

    fn try_enqueue<'a, B: AsRef<[u8]>>(
        &'a self,
        records: &[NewRecord<B>],
        bytes: usize,
        priority: Priority,
        staged: &mut Staged,
    ) -> Result<(MutexGuard<'a, Queue>, Appended), Refused> {
        let now = self.clock.now_us();
        let count = records.len() as u64;
        let mut queue = self.queue.lock();
        self.check_open(&queue).map_err(Refused::Error)?;
        check_numbers(queue.next.plus(count), now.max(queue.last_time_us).saturating_add(count))
            .map_err(Refused::Error)?;
        if queue.bytes >= self.options.queue_bytes_max {
            return Err(Refused::Error(AppendError::Full { queued: queue.bytes }));
        }
        if priority == Priority::Ordinary
            && let Some(behind) = self.follower.behind(queue.appended)
        {
            self.metrics.held_back.increment(1);
            return Err(Refused::Error(AppendError::Full { queued: behind as usize }));
        }
        let place = self.find_place(&queue, records, bytes, priority).map_err(Refused::Short)?;
        queue.place = place;
        let first_time_us = now.max(queue.last_time_us + 1);
        let appended = Appended { first: queue.next, last: Lsn(queue.next.0 + count - 1), first_time_us };
        queue.push(first_time_us, records, bytes, std::mem::take(staged));
        queue.appended += bytes as u64;
        queue.next = appended.last.next();
        Ok((queue, appended))
    }

    fn check_open(&self, queue: &Queue) -> Result<(), AppendError> {
        if let Some(reason) = &queue.stopped {
            return Err(AppendError::Stopped(reason.clone()));
        }
        if queue.closing {
            return Err(AppendError::Stopped("the log is being closed".into()));
        }
        Ok(())
    }

    /// Where the log stands behind these records; segments they need are promised to them.
    fn find_place<B: AsRef<[u8]>>(
        &self,
        queue: &Queue,
        records: &[NewRecord<B>],
        bytes: usize,
        priority: Priority,
    ) -> Result<Place, Short> {
        let (place, segments) = queue.place.after(records, bytes);
        if segments > 0 || self.spares.is_strained() {
            self.spares.promise(segments, &place, priority)?;
        }
        Ok(place)
    }

    pub(super) fn check<B: AsRef<[u8]>>(&self, records: &[NewRecord<B>]) -> Result<usize, AppendError> {
        let max = self.options.record_limit();
        let mut bytes = 0;
        for record in records {
            if record.kind == 0 || record.kind >= KIND_GAP {
                return Err(AppendError::ReservedKind(record.kind));
            }
            let len = record.body.as_ref().len();
            if len > max {
                return Err(AppendError::TooLarge { len, max });
            }
            bytes += HEADER + len;
        }
        if bytes == 0 { Err(AppendError::Empty) } else { Ok(bytes) }
    }

    /// Queues a batch for the writer thread.
    pub fn append<B: AsRef<[u8]>>(
        &self,
        records: &[NewRecord<B>],
        priority: Priority,
    ) -> Result<Appended, AppendError> {
        let bytes = self.check(records)?;
        let (queue, appended) = self.enqueue(records, bytes, priority, false)?;
        self.call_writer(&queue);
        Ok(appended)
    }

    /// Queues a batch; leads when nobody does and few append, else says which group to wait for.
    pub fn append_or_lead<B: AsRef<[u8]>>(
        &self,
        records: &[NewRecord<B>],
    ) -> Result<(Appended, Option<u64>), AppendError> {
        let bytes = self.check(records)?;
        let (mut queue, appended) = self.enqueue(records, bytes, Priority::Ordinary, true)?;
        if !queue.may_lead() {
            self.call_writer(&queue);
            return Ok((appended, Some(queue.group)));
        }
        let taken = self.take(&mut queue);
        drop(queue);
        self.lead(taken, false);
        Ok((appended, None))
    }

    /// Whether a record can still be given a time.
    pub fn has_times(&self) -> bool {
        self.queue.lock().last_time_us < NUMBER_MAX
    }

    /// Queues a gap: the number after it is `to`, and `why` its body's ninth byte. `None` when the log is already there.
    pub fn gap(&self, to: Lsn, why: Option<u8>) -> Result<Option<Appended>, AppendError> {
        let now = self.clock.now_us();
        let body: Vec<u8> = to.0.to_le_bytes().into_iter().chain(why).collect();
        let record = NewRecord { kind: KIND_GAP, body };
        let bytes = HEADER + record.body.len();
        let mut tries = 0;
        let (mut queue, place) = loop {
            let queue = self.queue.lock();
            self.check_open(&queue)?;
            if queue.next >= to {
                return Ok(None);
            }
            check_numbers(to, now.max(queue.last_time_us).saturating_add(1))?;
            match self.find_place(&queue, std::slice::from_ref(&record), bytes, Priority::Essential) {
                Ok(place) => break (queue, place),
                Err(short) => {
                    drop(queue);
                    self.met_short(short, tries, true)?;
                }
            }
            tries += 1;
        };
        queue.place = place;
        let first = queue.next;
        let first_time_us = now.max(queue.last_time_us + 1);
        queue.push(first_time_us, &[record], bytes, Staged::default());
        queue.next = to;
        self.call_writer(&queue);
        Ok(Some(Appended { first, last: first, first_time_us }))
    }

    pub(super) fn call_writer(&self, queue: &Queue) {
        if !queue.leading && queue.idle {
            self.work.notify_one();
        }
    }

    pub(super) fn take(&self, queue: &mut Queue) -> Taken {
        let gathered = std::mem::replace(&mut queue.gathered, std::mem::take(&mut queue.spare));
        queue.leading = true;
        let taken = Taken { group: queue.group, gathered };
        queue.group += 1;
        if let Some(oldest) = queue.oldest.take() {
            self.metrics.queue.record(oldest.elapsed().as_secs_f64());
        }
        taken
    }

    /// Writes a group. With `stay` the caller remains the leader when more has gathered, and is told so.
    pub(super) fn lead(&self, taken: Taken, stay: bool) -> bool {
        let Taken { group, mut gathered } = taken;
        let bytes = gathered.bytes();
        let written = self.writer.lock().write(self, &mut gathered, group);
        gathered.clear();
        if let Err(e) = written {
            let reason = self.disk.latch().reason().unwrap_or_else(|| e.to_string().into());
            self.stop(reason);
        }
        let mut queue = self.queue.lock();
        queue.bytes = queue.bytes.saturating_sub(bytes);
        queue.spare = gathered;
        let more = !queue.gathered.is_empty();
        queue.leading = stay && more;
        if more && !stay {
            self.call_writer(&queue);
        }
        if queue.closing {
            self.settled.notify_all();
        }
        let room =
            if queue.has_room(self.options.queue_bytes_max) { std::mem::take(&mut queue.room) } else { Vec::new() };
        drop(queue);
        room.into_iter().for_each(Waker::wake);
        stay && more
    }

    /// The writer thread: leads whenever there is work that nobody leads.
    pub fn run_writer(&self) {
        slice::shorten();
        let mut queue = self.queue.lock();
        loop {
            while queue.leading || queue.gathered.is_empty() {
                if queue.stopped.is_some() {
                    return;
                }
                queue.idle = true;
                if let Durability::Every(period) = self.options.durability {
                    if self.work.wait_for(&mut queue, period).timed_out() {
                        MutexGuard::unlocked(&mut queue, || self.sync_weak());
                    }
                } else {
                    self.work.wait(&mut queue);
                }
                queue.idle = false;
            }
            loop {
                let taken = self.take(&mut queue);
                let crowd = taken.gathered.batches() > 1;
                // Counted here alone: where there is no writer thread, every caller leads.
                queue.crowd = if crowd { CROWD } else { queue.crowd.saturating_sub(1) };
                drop(queue);
                let more = self.lead(taken, true);
                if crowd {
                    // Those just woken are about to append again: let them, and take all as one group. Else two halves would take turns,
                    // each with a sync of its own.
                    crate::sync::thread::yield_now();
                }
                queue = self.queue.lock();
                if !more && (queue.leading || queue.gathered.is_empty()) {
                    break;
                }
            }
        }
    }

    /// Writes what has gathered as one group. False where there is nothing to write, or another thread leads.
    pub fn write_queued(&self) -> bool {
        let mut queue = self.queue.lock();
        if queue.leading || queue.gathered.is_empty() {
            return false;
        }
        let taken = self.take(&mut queue);
        drop(queue);
        self.lead(taken, false);
        true
    }

    fn sync_weak(&self) {
        if let Err(e) = self.writer.lock().sync(self) {
            let reason = self.disk.latch().reason().unwrap_or_else(|| e.to_string().into());
            self.stop(reason);
        }
    }

    /// Ends everything with a reason; the first one stays.
    pub fn stop(&self, reason: Arc<str>) {
        let mut queue = self.queue.lock();
        if queue.stopped.is_none() {
            queue.stopped = Some(reason.clone());
        }
        queue.bytes = queue.bytes.saturating_sub(queue.gathered.bytes());
        queue.gathered.clear();
        let mut room = std::mem::take(&mut queue.room);
        room.append(&mut queue.space);
        room.append(&mut queue.behind);
        self.work.notify_all();
        self.settled.notify_all();
        drop(queue);
        self.watermark.stop(reason);
        self.spares.stop();
        room.into_iter().for_each(Waker::wake);
    }

    /// Writes what is queued, then stops; with `seal` the segment is sealed first.
    pub fn shut_down(&self, seal: bool, reason: &str) {
        let mut queue = self.queue.lock();
        if queue.closing {
            return;
        }
        queue.closing = true;
        while queue.stopped.is_none() {
            if queue.leading {
                self.settled.wait(&mut queue);
            } else if queue.gathered.is_empty() {
                break;
            } else {
                let taken = self.take(&mut queue);
                MutexGuard::unlocked(&mut queue, || self.lead(taken, false));
            }
        }
        let healthy = queue.stopped.is_none();
        drop(queue);
        let mut last_words: Arc<str> = reason.into();
        if healthy {
            let mut writer = self.writer.lock();
            // A sealed segment needs a new one at the next opening: while there may be no room for it, this one stays open.
            let seal = seal && self.spares.short().is_none() && self.spares.has_reserve();
            let ended = if seal { writer.seal(self) } else { writer.sync(self) };
            if let Err(e) = ended {
                last_words = self.disk.latch().reason().unwrap_or_else(|| e.to_string().into());
                tracing::error!(reason = %last_words, "the log could not be closed cleanly");
            }
        }
        self.stop(last_words);
    }

    pub fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.metrics.syncs.increment(1);
    }

    pub fn count_group(&self, records: u64, bytes: usize) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.metrics.group_records.record(records as f64);
        self.metrics.bytes.increment(bytes as u64);
        self.metrics.records.increment(records);
    }
}
