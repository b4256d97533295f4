//! The durable watermark, and those who wait for it.
//!
//! Tasks register a waker in a map ordered by LSN; as the watermark moves only those it has reached are woken. Threads blocked in an append
//! sleep on the word of their group: groups alternate between two, so that one wake reaches one group and nobody else.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::error::NotDurable;
use super::wake::Word;
use crate::ids::Lsn;

#[derive(Debug)]
pub(crate) struct Watermark {
    end: AtomicU64,
    stopped: OnceLock<Arc<str>>,
    tasks: crate::sync::Mutex<Tasks>,
    groups: [Word; 2],
    watchers: Word,
}

#[derive(Debug, Default)]
struct Tasks {
    waiting: BTreeMap<(Lsn, u64), Waker>,
    next_id: u64,
}

impl Watermark {
    pub fn new(end: Lsn) -> Watermark {
        Watermark {
            end: AtomicU64::new(end.0),
            stopped: OnceLock::new(),
            tasks: crate::sync::Mutex::default(),
            groups: Default::default(),
            watchers: Word::default(),
        }
    }

    pub fn end(&self) -> Lsn {
        Lsn(self.end.load(Ordering::SeqCst))
    }

    pub fn stopped(&self) -> Option<Arc<str>> {
        self.stopped.get().cloned()
    }

    /// Moves the watermark and wakes whom it has reached. `group` numbers the groups taken from the queue.
    pub fn publish(&self, end: Lsn, group: u64) {
        self.end.store(end.0, Ordering::SeqCst);
        self.word_of(group).wake();
        // Who is waiting to be answered comes first, the followers after: a follower that runs on the processor an answer needs delays it.
        for waker in self.reached(end) {
            waker.wake();
        }
        self.watchers.wake();
    }

    /// Takes the tasks out that wait for less than `end`.
    fn reached(&self, end: Lsn) -> impl Iterator<Item = Waker> + use<> {
        let mut tasks = self.tasks.lock();
        let reached = if tasks.waiting.is_empty() {
            BTreeMap::new()
        } else {
            let later = tasks.waiting.split_off(&(end, 0));
            std::mem::replace(&mut tasks.waiting, later)
        };
        reached.into_values()
    }

    /// Wakes everybody for good; the first reason stays.
    pub fn stop(&self, reason: Arc<str>) {
        let _ = self.stopped.set(reason);
        self.groups.iter().for_each(Word::wake);
        self.watchers.wake();
        let all = std::mem::take(&mut self.tasks.lock().waiting);
        all.into_values().for_each(Waker::wake);
    }

    /// What a waiter for `lsn` is to be told now, if anything.
    fn verdict(&self, lsn: Lsn) -> Option<Result<(), NotDurable>> {
        // The reason is read first: a record that became durable before the stop counts as durable.
        let stopped = self.stopped();
        if self.end() > lsn {
            return Some(Ok(()));
        }
        stopped.map(|reason| Err(NotDurable(reason)))
    }

    fn word_of(&self, group: u64) -> &Word {
        let [even, odd] = &self.groups;
        if group & 1 == 0 { even } else { odd }
    }

    /// Blocks the thread of a producer whose records went into the queue while `group` was gathering.
    pub fn wait_in_group(&self, lsn: Lsn, group: u64) -> Result<(), NotDurable> {
        let word = self.word_of(group);
        loop {
            let seen = word.look();
            if let Some(verdict) = self.verdict(lsn) {
                return verdict;
            }
            word.sleep(seen, None);
        }
    }

    /// Blocks the thread until the watermark has passed `lsn` or the log has stopped.
    pub fn wait(&self, lsn: Lsn) -> Result<(), NotDurable> {
        match self.wait_until(lsn, None) {
            Some(verdict) => verdict,
            None => Ok(()),
        }
    }

    /// As `wait`, at most for `timeout`: `None` when that has passed.
    pub fn wait_timeout(&self, lsn: Lsn, timeout: Duration) -> Option<Result<(), NotDurable>> {
        self.wait_until(lsn, Instant::now().checked_add(timeout))
    }

    fn wait_until(&self, lsn: Lsn, deadline: Option<Instant>) -> Option<Result<(), NotDurable>> {
        loop {
            let seen = self.watchers.look();
            if let Some(verdict) = self.verdict(lsn) {
                return Some(verdict);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            self.watchers.sleep(seen, left);
        }
    }
}

/// Resolves when a record is durable, or the log has stopped before it was. Dropping it changes nothing for the record.
#[derive(Debug)]
pub struct WaitDurable {
    watermark: Arc<Watermark>,
    lsn: Lsn,
    /// The place in the map, and the waker that was left there.
    registered: Option<(u64, Waker)>,
}

impl WaitDurable {
    pub(crate) fn new(watermark: Arc<Watermark>, lsn: Lsn) -> WaitDurable {
        WaitDurable { watermark, lsn, registered: None }
    }
}

impl Future for WaitDurable {
    type Output = Result<(), NotDurable>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(verdict) = self.watermark.verdict(self.lsn) {
            // Whoever moved the watermark has taken the waker out of the map, or is about to.
            self.registered = None;
            return Poll::Ready(verdict);
        }
        // A connection polls this with everything else it waits for; only a change of task needs the map's lock again.
        if self.registered.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let watermark = self.watermark.clone();
        let mut tasks = watermark.tasks.lock();
        let id = self.registered.take().map_or_else(
            || {
                tasks.next_id += 1;
                tasks.next_id
            },
            |(id, _)| id,
        );
        tasks.waiting.insert((self.lsn, id), cx.waker().clone());
        // The watermark may have moved between the look and the registration; after this look the mover sees the waker.
        match watermark.verdict(self.lsn) {
            Some(verdict) => {
                tasks.waiting.remove(&(self.lsn, id));
                Poll::Ready(verdict)
            }
            None => {
                self.registered = Some((id, cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for WaitDurable {
    fn drop(&mut self) {
        if let Some((id, _)) = self.registered {
            self.watermark.tasks.lock().waiting.remove(&(self.lsn, id));
        }
    }
}
