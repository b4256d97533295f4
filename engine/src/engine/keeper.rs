//! The keeper: writes state's index and checkpoints, and trims the log below what anybody needs. The only thread that waits for
//! the index, so that nothing on the publish path ever does.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::sinks::Following;
use super::space::{self, WhenFull};
use super::trimmer::{AGAIN_AFTER, Step, Trimmer};
use crate::clock::Clock;
use crate::disk::{Disk, FolderLock};
use crate::ids::Lsn;
use crate::log::Log;
use crate::postings::Postings;
use crate::state::State;
use crate::state::checkpoint::Snapshot;
use crate::state::store::{Batch, StateStore};

/// The index is made durable at the latest after this long while it is written.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
/// And at the latest when the log grew by so many bytes, or by half a segment where that is less.
const LAG_BYTES: u64 = 16 << 20;

/// How far the durable index may lag behind the applied log, bytes. It bounds what a start after a crash has to replay: this, a quarter
/// of it for the batch under way, and what the applier had not come to.
pub(super) fn lag_bytes(segment_bytes: u64) -> u64 {
    LAG_BYTES.min(segment_bytes / 2)
}

/// An index that could not be written is written anew after this long, twice as long each time it fails again.
const INDEX_RETRY_FIRST: Duration = Duration::from_secs(2);
const INDEX_RETRY_MAX: Duration = Duration::from_secs(300);

/// How often it looks whether the log has room, and what can be done while it has none.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often retention is looked at when nothing else happens.
const RETENTION_EVERY: Duration = Duration::from_secs(30);

/// How long records that nobody needs any more are kept. What a sink, a queue or a lasting session still needs is kept in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Records younger than this are kept. Default 7 days.
    pub age: Duration,
    /// While the log is smaller than this many bytes nothing is removed for its size. Default 10 GiB.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { age: Duration::from_secs(7 * 24 * 3600), bytes: 10 << 30 }
    }
}

/// Work for the keeper.
pub(super) enum Job {
    /// Write changed rows.
    Index(Batch),
    /// Write a checkpoint, then trim.
    Checkpoint(Snapshot),
    /// Make the index durable and end.
    Stop,
}

/// What others may see and set.
#[derive(Debug)]
pub(super) struct Shared {
    /// The newest durable checkpoint's place in the log.
    checkpointed: Mutex<Lsn>,
    /// Sinks whose positions hold the log.
    sinks: Mutex<Vec<String>>,
    /// Those that are asked before they are passed.
    pub(super) following: Following,
    /// All rows of state are wanted, for an index that is written anew.
    whole_wanted: AtomicBool,
    /// The index is given up for now.
    index_off: AtomicBool,
    /// A checkpoint is wanted before it is due by the log's volume.
    wanted: AtomicBool,
}

impl Shared {
    pub(super) fn new(checkpointed: Lsn) -> Shared {
        Shared {
            checkpointed: Mutex::new(checkpointed),
            sinks: Mutex::default(),
            following: Following::default(),
            whole_wanted: AtomicBool::new(false),
            index_off: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
        }
    }

    /// True once for each time a checkpoint was asked for.
    pub(super) fn take_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed)
    }

    /// True once for each time all rows were asked for.
    pub(super) fn take_whole_wanted(&self) -> bool {
        self.whole_wanted.load(Ordering::Relaxed) && self.whole_wanted.swap(false, Ordering::Relaxed)
    }

    pub(super) fn index_off(&self) -> bool {
        self.index_off.load(Ordering::Relaxed)
    }

    pub(super) fn hold_for_sinks(&self, sinks: &[String]) {
        *self.sinks.lock() = sinks.to_vec();
    }

    pub(super) fn held_for(&self) -> Vec<String> {
        self.sinks.lock().clone()
    }
}

pub(super) struct Keeper {
    pub(super) log: Log,
    pub(super) state: Arc<RwLock<State>>,
    pub(super) store: Box<dyn StateStore>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) trimmer: Trimmer,
    /// True while the trimmer waits for records to be applied.
    pub(super) trimming: bool,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) postings: Arc<Postings>,
    pub(super) index: IndexHealth,
    pub(super) when_full: WhenFull,
    pub(super) room: Room,
    /// See [`lag_bytes`].
    pub(super) lag_bytes: u64,
    /// Other processes are kept out until the index is closed.
    pub(super) _lock: Arc<FolderLock>,
}

/// What is being done about room.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// When it was looked at last.
    looked_us: u64,
    /// The record that passes sinks and is to be applied first.
    passing: Option<Lsn>,
}

impl Room {
    /// Looked at now.
    pub(super) fn at(now_us: u64) -> Room {
        Room { looked_us: now_us, passing: None }
    }
}

/// How the index is written.
#[derive(Debug, Default)]
pub(super) struct IndexHealth {
    /// After one failed batch the index must not go on: it would miss rows and not know it. It is written anew when the log has room.
    failed: bool,
    /// When it failed, or all rows were asked for, the last time; how long to wait before that; and whether they are on their way.
    failed_us: u64,
    retry: Duration,
    asked: bool,
    /// When it was made durable last. The first rows of a run are flushed at once: a process that is killed soon after each start would
    /// else replay ever more.
    flushed_us: Option<u64>,
    /// Bytes of the log by which it moved on since.
    unflushed: u64,
}

impl Keeper {
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(if self.trimming { AGAIN_AFTER } else { LOOK_EVERY }) {
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(job) => self.work(job),
                Err(RecvTimeoutError::Timeout) if self.trimming => self.trim(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.look();
        }
        self.end();
    }

    /// Trims now and then, and more often while the log has no room. Keeps the log's disk budget informed of what lies beside it.
    fn look(&mut self) {
        let now_us = self.clock.now_us();
        let full = self.log.no_space().is_some();
        if !full {
            self.shared.following.withdraw();
            self.revive_index(now_us);
        }
        // The wall clock may be set back: then it is time too.
        let waited = Duration::from_micros(now_us.abs_diff(self.room.looked_us));
        if waited < (if full { LOOK_EVERY } else { RETENTION_EVERY }) {
            return;
        }
        self.room.looked_us = now_us;
        self.look_now();
    }

    /// The look itself, whenever it is.
    pub(super) fn look_now(&mut self) {
        self.log.set_other_bytes(space::bytes_beside(&*self.disk, &self.dir, self.log.dir()));
        self.make_room();
        self.trim();
    }

    /// While the log has no room: does what lets the oldest segment go, a checkpoint behind it, and, by policy, passing the sinks that have not stored it.
    fn make_room(&mut self) {
        if self.log.no_space().is_none() {
            return;
        }
        let Some(oldest) = space::oldest(&self.log) else { return };
        let applied = self.state.read().applied;
        if self.room.passing.is_some_and(|last| applied <= last) || self.log.stopped_reason().is_some() {
            return;
        }
        let lagging: Vec<_> = self.stored().into_iter().filter(|(_, position)| *position < oldest.next).collect();
        if !lagging.is_empty() && self.when_full == WhenFull::Block {
            return;
        }
        if *self.shared.checkpointed.lock() < oldest.next {
            self.shared.wanted.store(true, Ordering::Relaxed);
            return;
        }
        let now_us = self.clock.now_us();
        let silent = |(sink, _): &(String, Lsn)| !self.shared.following.ask(sink, oldest.next, now_us);
        let silent: Vec<_> = lagging.into_iter().filter(silent).collect();
        if !silent.is_empty() {
            match space::pass(&self.log, &silent, oldest.next) {
                Ok(last) => self.room.passing = last,
                Err(error) => tracing::warn!(%error, "sinks that lag could not be passed"),
            }
        }
    }

    /// How far each sink has stored the log.
    fn stored(&self) -> Vec<(String, Lsn)> {
        let state = self.state.read();
        let position = |name: &String| state.sinks.get(name.as_str()).copied().unwrap_or(Lsn::FIRST);
        self.shared.sinks.lock().iter().map(|name| (name.clone(), position(name))).collect()
    }

    /// Makes the index durable, unless it has missed something.
    pub(super) fn end(&mut self) {
        if !self.index.failed {
            self.flush();
        }
    }

    /// Does one job.
    pub(super) fn work(&mut self, job: Job) {
        match job {
            Job::Index(batch) if batch.whole || !self.index.failed => {
                let now_us = self.clock.now_us();
                if batch.whole {
                    self.store.clear("it was given up when it could not be written");
                    self.index.asked = false;
                }
                if let Err(error) = self.store.write(&batch) {
                    self.give_index_up("written", &error);
                    return;
                }
                if self.index.failed {
                    self.index.failed = false;
                    self.index.flushed_us = None;
                    tracing::info!(rows = batch.rows.len(), "the state index is written again");
                }
                // The wall clock may be set back: then a flush is due as well.
                let waited = |at_us: u64| Duration::from_micros(now_us.abs_diff(at_us));
                self.index.unflushed = self.index.unflushed.saturating_add(batch.log_bytes);
                let due = self.index.flushed_us.is_none_or(|at_us| waited(at_us) >= FLUSH_EVERY);
                if due || self.index.unflushed >= self.lag_bytes {
                    if !self.flush() {
                        return;
                    }
                    self.index.flushed_us = Some(now_us);
                    self.index.unflushed = 0;
                }
            }
            Job::Index(_) | Job::Stop => {}
            Job::Checkpoint(snapshot) => {
                self.checkpoint(&snapshot);
                self.trim();
            }
        }
    }

    fn flush(&mut self) -> bool {
        match self.store.flush() {
            Ok(()) => {
                self.index.retry = INDEX_RETRY_FIRST;
                self.shared.index_off.store(false, Ordering::Relaxed);
                true
            }
            Err(error) => {
                self.give_index_up("made durable", &error);
                false
            }
        }
    }

    fn give_index_up(&mut self, what: &str, error: &io::Error) {
        tracing::error!(%error, "the state index can't be {what}; the next start replays more of the log, until it is written anew");
        self.index.failed = true;
        self.index.failed_us = self.clock.now_us();
        self.index.retry = (self.index.retry * 2).clamp(INDEX_RETRY_FIRST, INDEX_RETRY_MAX);
        self.shared.index_off.store(true, Ordering::Relaxed);
    }

    /// Asks for all rows when it is time to write the index anew. The log has room: most likely it was the disk's fault.
    fn revive_index(&mut self, now_us: u64) {
        let waited = Duration::from_micros(now_us.abs_diff(self.index.failed_us));
        if self.index.failed && !self.index.asked && waited >= self.index.retry {
            self.index.asked = true;
            self.shared.whole_wanted.store(true, Ordering::Relaxed);
        }
    }

    fn checkpoint(&self, snapshot: &Snapshot) {
        match snapshot.write(&*self.disk, &self.dir, self.log.id()) {
            Ok(file) => {
                metrics::counter!(crate::metrics::CHECKPOINTS).increment(1);
                tracing::debug!(file = %file.display(), bytes = snapshot.len(), "checkpoint written");
                *self.shared.checkpointed.lock() = snapshot.applied();
            }
            Err(error) => {
                tracing::error!(%error, folder = %self.dir.display(), "the checkpoint can't be written; the log is not trimmed until one is");
            }
        }
    }

    /// Takes a step of trimming as if the checkpoint at `checkpointed` were written. True while it waits for records to be applied.
    pub(super) fn trim_for(&mut self, checkpointed: Lsn) -> bool {
        *self.shared.checkpointed.lock() = checkpointed;
        self.trim();
        self.trimming
    }

    /// Takes trimming one step on: removes segments that retention gives up and nobody needs.
    pub(super) fn trim(&mut self) {
        self.trimming = self.trimmer.step(self.limit()) == Step::Waiting;
        // The indexes of what is gone go too.
        self.postings.look();
    }

    /// The log is never trimmed beyond the newest checkpoint, nor beyond what sinks have stored.
    fn limit(&self) -> Lsn {
        let checkpointed = *self.shared.checkpointed.lock();
        let stored = self.stored().into_iter().map(|(_, position)| position).min();
        checkpointed.min(stored.unwrap_or(checkpointed))
    }
}
