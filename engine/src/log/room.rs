//! Room on the disk: preparing segments, and what the log does when there is none.
//!
//! Segments are written through before they are used, so a full disk is met when a spare is to be made and not in an append. It is a state and
//! no failure: ordinary records are refused with [`AppendError::NoSpace`] once the active segment is full, essential ones (acknowledgements,
//! ends of sessions, positions) go on into the reserve, reading and trimming go on anyway, and the preparing thread tries again until there is
//! room. The disk budget is a smaller disk: it is looked at in the same place and answered in the same way.
//!
//! A write or sync of the *active* segment that fails for want of room is another thing and stops the log like any other failure. On file
//! systems that overwrite in place it can't happen. Where it can (copy on write, thin volumes), a failed write could be repeated, but a failed
//! sync could not: the kernel may count the lost pages as clean. Nothing tells one such file system from the other, so neither is repeated; the
//! records of that group were acknowledged to nobody, and opening settles what became of them.

use crate::sync::atomic::Ordering;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::core::Core;
use super::error::AppendError;
use super::options::{LogOptions, Priority};
use super::spare::{Short, Spares};
use crate::disk::{Disk, is_no_space};

/// Between attempts to make a spare: the first wait and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A segment of this size is prepared in the time of a sync or two: whoever needs it waits for it on the spot. For larger ones callers are
/// told to come back.
const SMALL: u64 = 4 << 20;
/// Left free for the small files of this program and of others when a segment is prepared.
const SLACK_MAX: u64 = 16 << 20;

/// What there is no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Free bytes on the device.
    Disk,
    /// [`LogOptions::disk_budget`].
    Budget,
}

impl Limit {
    /// The word used in metrics and `--json`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Limit::Disk => "disk",
            Limit::Budget => "budget",
        }
    }
}

/// That the log has no room for more segments.
#[derive(Clone, Debug)]
pub struct Shortage {
    /// What there is no more of.
    pub limit: Limit,
    /// In words, with figures.
    pub why: Arc<str>,
    /// Since when, on this process's clock.
    pub since: Instant,
}

impl Shortage {
    fn now(limit: Limit, why: String) -> Shortage {
        Shortage { limit, why: why.into(), since: Instant::now() }
    }
}

/// Why a spare was not made.
#[derive(Debug)]
pub(crate) enum NotMade {
    NoSpace(Shortage),
    Failed(io::Error),
}

/// Makes a spare unless there is plainly no room for it. `used` are the bytes that count against the budget.
pub(crate) fn make(spares: &Spares, disk: &dyn Disk, options: &LogOptions, used: u64) -> Result<PathBuf, NotMade> {
    let bytes = options.segment_bytes;
    if let Some(budget) = options.disk_budget
        && used.saturating_add(bytes) > budget
    {
        let why = format!(
            "the disk budget of {budget} bytes is used up: {used} bytes are in use and the next segment takes {bytes}"
        );
        return Err(NotMade::NoSpace(Shortage::now(Limit::Budget, why)));
    }
    let dir = options.dir.display();
    // Asked first: an attempt that can't succeed would fill the disk to the last byte for a moment, and others live there too.
    if let Ok(Some(free)) = disk.free_bytes(&options.dir)
        && free < bytes + (bytes / 4).min(SLACK_MAX)
    {
        let why = format!("the disk of {dir} is full: {free} bytes are free and the next segment takes {bytes}");
        return Err(NotMade::NoSpace(Shortage::now(Limit::Disk, why)));
    }
    spares.make(disk).map_err(|error| {
        if is_no_space(&error) {
            let why = format!("the disk of {dir} is full: a segment of {bytes} bytes could not be prepared ({error})");
            NotMade::NoSpace(Shortage::now(Limit::Disk, why))
        } else {
            NotMade::Failed(error)
        }
    })
}

impl Core {
    /// The preparing thread: keeps the reserve and one spare more.
    pub fn run_preparer(&self) {
        let mut backoff = RETRY_FIRST;
        while self.spares.wait_need(backoff) {
            backoff = if self.prepare() { RETRY_FIRST } else { (backoff * 2).min(RETRY_MAX) };
        }
    }

    /// Makes a spare on the caller's thread, where one is needed. False where none is, or where it can't be made.
    pub fn prepare_segment(&self) -> bool {
        self.spares.wants() && self.prepare()
    }

    /// Tries to make one spare. Goes past the latch: that it fails stops nothing.
    fn prepare(&self) -> bool {
        let made = make(&self.spares, &**self.disk.unlatched(), &self.options, self.used_bytes());
        match made {
            Ok(spare) => {
                self.spares.add(spare);
                self.has_room_again();
                self.wake_room();
                true
            }
            Err(NotMade::NoSpace(short)) => {
                self.set_no_space(short);
                self.wake_room();
                false
            }
            Err(NotMade::Failed(error)) => {
                let dir = self.options.dir.display();
                tracing::warn!(%dir, %error, "could not prepare the next log segment");
                self.spares.set_failed(format!("preparing a segment in {dir}: {error}").into());
                self.wake_room();
                false
            }
        }
    }

    /// Begins the state, and says so once.
    pub fn set_no_space(&self, short: Shortage) {
        self.metrics.no_space(Some(short.limit));
        let why = short.why.clone();
        if self.spares.set_short(Some(short)) {
            tracing::error!(%why, "the log has no room: new records are refused until there is, acknowledgements go on");
        }
    }

    fn has_room_again(&self) {
        if self.spares.set_short(None) {
            self.metrics.no_space(None);
            tracing::info!(dir = %self.options.dir.display(), "the log has room again");
        }
    }

    /// Segments were recycled or removed.
    pub fn trimmed_some(&self) {
        if self.spares.has_ordinary() {
            self.has_room_again();
        }
        self.spares.kick();
        self.wake_room();
    }

    /// Bytes that count against the disk budget.
    pub fn used_bytes(&self) -> u64 {
        let segments: u64 = self.segments.read().values().map(|s| s.file_len.load(Ordering::Relaxed)).sum();
        segments + self.spares.bytes() + self.residue.bytes() + self.other_bytes.load(Ordering::Relaxed)
    }

    /// What an append that got no room is to do: `Ok` = try again.
    pub fn met_short(&self, short: Short, tries: usize, block: bool) -> Result<(), AppendError> {
        // Without a thread that prepares, the caller does it.
        let alone = !self.spares.is_ahead();
        let own = alone && tries == 0;
        match short {
            Short::Failed(why) if tries > 0 || !own => {
                self.stop(why.clone());
                Err(AppendError::Stopped(why))
            }
            Short::NoSpace(why) if !own => {
                self.refusals.fetch_add(1, Ordering::Relaxed);
                self.metrics.refused.increment(1);
                Err(AppendError::NoSpace { why })
            }
            Short::Preparing(_) | Short::NoSpace(_) | Short::Failed(_) if alone => {
                self.prepare();
                Ok(())
            }
            Short::Preparing(version) if block || self.options.segment_bytes <= SMALL => {
                self.spares.wait_change(version);
                Ok(())
            }
            _ => Err(AppendError::Full { queued: self.queue.lock().bytes }),
        }
    }

    /// Registers a waker for room; `false` when it is worth trying now.
    pub fn wait_room(&self, waker: &Waker, priority: Priority) -> bool {
        let mut queue = self.queue.lock();
        let list = if !queue.has_room(self.options.queue_bytes_max) {
            &mut queue.room
        } else if priority == Priority::Ordinary && !queue.is_over() && self.is_behind(queue.appended) {
            &mut queue.behind
        } else if !queue.is_over() && self.spares.refused(priority) {
            &mut queue.space
        } else {
            return false;
        };
        if !list.iter().any(|other| other.will_wake(waker)) {
            list.push(waker.clone());
        }
        true
    }

    /// The follower is too far behind, and learns that somebody waits for it.
    fn is_behind(&self, appended: u64) -> bool {
        if self.follower.behind(appended).is_none() {
            return false;
        }
        self.follower.await_it();
        self.follower.behind(appended).is_some()
    }

    /// The follower has taken in records of so many bytes (frames).
    pub fn followed(&self, bytes: u64) {
        if self.follower.advance(bytes) {
            self.wake_behind();
        }
    }

    /// Wakes those who wait for the follower, where it has come near enough.
    pub fn wake_behind(&self) {
        let behind = {
            let mut queue = self.queue.lock();
            if self.follower.behind(queue.appended).is_some() {
                return;
            }
            self.follower.told();
            std::mem::take(&mut queue.behind)
        };
        behind.into_iter().for_each(Waker::wake);
    }

    /// Wakes those who wait for segments.
    fn wake_room(&self) {
        let space = std::mem::take(&mut self.queue.lock().space);
        space.into_iter().for_each(Waker::wake);
    }
}
