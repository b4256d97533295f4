//! Group commit for a store that has none of its own, or for the raw log: one writer thread, one buffer, one call of the store and
//! one wake a group.
//!
//! Producers sleep on one of two futex words, by the parity of their group, so that a group's wake reaches that group alone and
//! nobody has to take a lock again to learn that it is done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow, bail};
use parking_lot::{Condvar, Mutex};
use rustix::thread::futex;

use crate::engines::{Flight, Store};

/// What a record waits for: its number, and the group it went into.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// The number of the record.
    pub number: u64,
    /// The group.
    pub group: u64,
}

/// The front.
pub struct Front {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// Records below this number are on disk.
    durable: AtomicU64,
    failed: AtomicBool,
    words: [AtomicU32; 2],
}

#[derive(Default)]
struct Queue {
    buffer: Vec<u8>,
    given: u64,
    group: u64,
    idle: bool,
    closing: bool,
}

impl Shared {
    fn wake(&self, group: u64) {
        let [even, odd] = &self.words;
        let word = if group & 1 == 0 { even } else { odd };
        word.fetch_add(1, Ordering::SeqCst);
        // It fails for a bad address only.
        let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX as u32);
    }

    fn run(&self, store: &mut dyn Store, size: usize) -> Result<()> {
        let mut buffer = Vec::with_capacity(1 << 20);
        loop {
            let (group, given) = {
                let mut queue = self.queue.lock();
                while queue.buffer.is_empty() {
                    if queue.closing {
                        return Ok(());
                    }
                    queue.idle = true;
                    self.work.wait(&mut queue);
                    queue.idle = false;
                }
                std::mem::swap(&mut queue.buffer, &mut buffer);
                queue.group += 1;
                (queue.group - 1, queue.given)
            };
            store.write(&buffer, size, true)?;
            let crowd = buffer.len() > size;
            buffer.clear();
            self.durable.store(given, Ordering::SeqCst);
            self.wake(group);
            if crowd {
                // Those just woken are about to append again: let them, and take them as one group.
                std::thread::yield_now();
            }
        }
    }
}

impl Front {
    /// Starts the writer thread over a store. Records have `size` bytes each.
    #[must_use]
    pub fn start(mut store: Box<dyn Store>, size: usize) -> Front {
        let shared = Arc::new(Shared::default());
        let writer = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let result = shared.run(&mut *store, size);
                shared.failed.store(result.is_err(), Ordering::SeqCst);
                (0..2).for_each(|group| shared.wake(group));
                result
            }
        });
        Front { shared, writer: Some(writer) }
    }

    /// Writes what is queued and ends the writer.
    ///
    /// # Errors
    /// What the store said.
    pub fn close(mut self) -> Result<()> {
        self.shared.queue.lock().closing = true;
        self.shared.work.notify_one();
        let Some(writer) = self.writer.take() else { return Ok(()) };
        writer.join().map_err(|_| anyhow!("the writer panicked"))?
    }
}

impl Flight for Front {
    fn give(&self, record: &[u8]) -> Result<Ticket> {
        let mut queue = self.shared.queue.lock();
        queue.buffer.extend_from_slice(record);
        queue.given += 1;
        if queue.idle {
            self.shared.work.notify_one();
        }
        Ok(Ticket { number: queue.given - 1, group: queue.group })
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        let [even, odd] = &self.shared.words;
        let word = if ticket.group & 1 == 0 { even } else { odd };
        loop {
            let seen = word.load(Ordering::SeqCst);
            if self.shared.durable.load(Ordering::SeqCst) > ticket.number {
                return Ok(());
            }
            if self.shared.failed.load(Ordering::SeqCst) {
                bail!("the store failed");
            }
            // It returns at once when the word has changed; a signal is another look.
            let _ = futex::wait(word, futex::Flags::PRIVATE, seen, None);
        }
    }
}

/// One caller's records in flight, at most `window` of them.
pub struct Window<'a> {
    flight: &'a dyn Flight,
    waiting: VecDeque<Ticket>,
    window: usize,
}

impl Window<'_> {
    /// An empty window.
    #[must_use]
    pub fn new(flight: &dyn Flight, window: usize) -> Window<'_> {
        Window { flight, waiting: VecDeque::with_capacity(window), window }
    }

    /// Appends a record, and waits for the oldest when the window is full: `true` then.
    ///
    /// # Errors
    /// What the store said.
    pub fn append(&mut self, record: &[u8]) -> Result<bool> {
        self.waiting.push_back(self.flight.give(record)?);
        if self.waiting.len() < self.window {
            return Ok(false);
        }
        if let Some(oldest) = self.waiting.pop_front() {
            self.flight.wait(oldest)?;
        }
        Ok(true)
    }

    /// Waits for all.
    ///
    /// # Errors
    /// What the store said.
    pub fn finish(mut self) -> Result<()> {
        self.waiting.drain(..).try_for_each(|ticket| self.flight.wait(ticket))
    }
}
