//! An engine driven by hand: the work of its threads as steps, in whatever order the caller takes them.
//!
//! The steps are the bodies of the threads' loops, so that what a simulation tries is what runs. Nothing here waits, and the only clock
//! is the engine's own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use parking_lot::Mutex;

use super::Engine;
use super::applier::{Applier, Step};
use super::keeper::{Job, Keeper};
use super::open::Parts;
use crate::delivery::{Hub, Work, Worker};
use crate::log::Log;
use crate::postings::Indexer;

/// The engine's threads, as steps. Each step answers whether there was something to do.
pub struct Manual {
    log: Log,
    hub: Arc<Hub>,
    applier: Applier,
    /// The applier has come to its end, by itself or because the log stopped.
    ended: bool,
    keeper: Keeper,
    jobs: Arc<Mutex<VecDeque<Job>>>,
    worker: Worker,
    todo: Receiver<Work>,
    indexer: Indexer,
}

impl std::fmt::Debug for Manual {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manual").field("log", &self.log).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Manual {
    pub(super) fn new(log: Log, hub: Arc<Hub>, parts: Parts, jobs: Arc<Mutex<VecDeque<Job>>>) -> Manual {
        let Parts { applier, keeper, todo, indexer } = parts;
        Manual { log, hub, applier, ended: false, keeper, jobs, worker: Worker::default(), todo, indexer }
    }

    /// The log's writer: writes what has gathered as one group.
    pub fn write(&mut self) -> bool {
        self.log.write_queued()
    }

    /// The preparer: makes a segment ahead of need. False also where there is no room for one.
    pub fn prepare(&mut self) -> bool {
        self.log.prepare_segment()
    }

    /// The applier: takes at most `max_records` durable records into state and delivery.
    ///
    /// # Errors
    /// State can't follow the log, for this reason; told once.
    pub fn apply(&mut self, max_records: usize) -> Result<bool, String> {
        if self.ended {
            return Ok(false);
        }
        match self.applier.step(max_records) {
            Ok(Step::Applied) => Ok(true),
            Ok(Step::Idle) => Ok(false),
            Ok(Step::Ended) => {
                self.ended = true;
                self.applier.end("the engine was closed");
                Ok(false)
            }
            Err(why) => {
                self.ended = true;
                self.applier.end(&why);
                Err(why)
            }
        }
    }

    /// The keeper: does one job (rows for the index, a checkpoint and the trim behind it).
    pub fn keep(&mut self) -> bool {
        let job = self.jobs.lock().pop_front();
        match job {
            None => return false,
            Some(Job::Stop) => self.keeper.end(),
            Some(job) => self.keeper.work(job),
        }
        true
    }

    /// As [`keep`](Manual::keep), with a mistake: the log is trimmed for a checkpoint before that is written. A simulator that does not
    /// find it is of no use.
    pub fn keep_trimming_first(&mut self) -> bool {
        let due = match self.jobs.lock().front() {
            Some(Job::Checkpoint(snapshot)) => Some(snapshot.applied()),
            _ => None,
        };
        if due.is_some_and(|applied| self.keeper.trim_for(applied)) {
            return true;
        }
        self.keep()
    }

    /// The keeper's look at room and retention, which it takes from time to time. True where it waits for records to be applied, to look again soon.
    pub fn trim(&mut self) -> bool {
        self.keeper.look_now();
        self.keeper.trimming
    }

    /// The delivery worker: does what it is asked, and reads one chunk of the log for a connection that is behind.
    pub fn deliver(&mut self) -> bool {
        let next = self.todo.try_recv().ok();
        if next.is_none() && self.worker.is_idle(&self.hub) {
            return false;
        }
        self.worker.step(&self.hub, next);
        true
    }

    /// The indexer: scans a stretch of the log whose topics it does not know, writes the index of a segment, or removes those of
    /// trimmed ones.
    pub fn index(&mut self) -> bool {
        self.indexer.step()
    }

    /// Ends the engine as [`Engine::close`] does, with everything that its threads would still do. At most `steps` of them are taken:
    /// false where that was not enough. `on_applied` is called when records were applied, before the keeper may trim them.
    pub fn close(mut self, engine: &Engine, steps: usize, mut on_applied: impl FnMut()) -> bool {
        engine.close();
        for _ in 0..steps {
            // An error was told to those who wait for the record, and closing goes on.
            let applied = self.apply(usize::MAX).unwrap_or(true);
            on_applied();
            if !(applied | self.keep()) && self.ended {
                return true;
            }
        }
        false
    }
}
