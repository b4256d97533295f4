//! One worker per connection: gathers a batch, has it settled, begins anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use forebay_engine::Lsn;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::generation::Generation;
use super::pace::Pace;
use super::{Replay, Shared, Stop};
use crate::sink::{Entry, Sink};

/// A record's operations on their way to the database.
pub(crate) struct Work<Op> {
    /// [`Lsn::NONE`] for a flush of the position.
    pub(crate) lsn: Lsn,
    pub(crate) lane: u16,
    pub(crate) entries: Vec<Entry<Op>>,
    pub(crate) weight: usize,
    /// Returns the bytes when dropped.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    pub(crate) kind: u8,
    pub(crate) body: Bytes,
}

impl<Op> Work<Op> {
    /// Asks for the position to be stored though there is nothing else to store.
    pub(crate) fn flush() -> Self {
        Work { lsn: Lsn::NONE, lane: 0, entries: Vec::new(), weight: 0, permit: None, kind: 0, body: Bytes::new() }
    }
}

/// The worker is to end: the sink stops, or the generation is over.
pub(crate) struct End;

/// How often upkeep runs when there is nothing to remove.
const UPKEEP_EVERY: Duration = Duration::from_secs(10);

pub(crate) struct Worker<S: Sink> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) generation: Arc<Generation>,
    pub(crate) conn: Option<S::Conn>,
    number: usize,
    queue: mpsc::Receiver<Work<S::Op>>,
    pub(crate) pace: Pace,
    upkeep_at: Instant,
}

enum Next<Op> {
    Work(Work<Op>),
    Replay(Replay),
    Upkeep,
    Closed,
    Ending,
}

impl<S: Sink> Worker<S> {
    pub(crate) fn new(
        shared: Arc<Shared<S>>,
        generation: Arc<Generation>,
        number: usize,
        queue: mpsc::Receiver<Work<S::Op>>,
        conn: Option<S::Conn>,
    ) -> Self {
        let options = &shared.options;
        let pace = Pace::new(shared.sink.limits().operations, options.target_latency, options.request_deadline);
        Worker { shared, generation, conn, number, queue, pace, upkeep_at: Instant::now() }
    }

    pub(crate) async fn run(mut self) {
        // Dead letters come back through the first worker; the others have no need of the channel.
        let mut replays = if self.number == 0 { Some(self.shared.replays.clone().lock_owned().await) } else { None };
        loop {
            if !self.unpaused().await {
                return;
            }
            let flow = match self.next(replays.as_mut()).await {
                Next::Closed => {
                    let tracker = &self.generation.tracker;
                    if self.generation.keeps && tracker.stored_prefix() < tracker.prefix() {
                        // What the last batches finished; without it the next start would look at them again.
                        let _stopping_anyway = self.settle(Vec::new()).await;
                    }
                    return;
                }
                Next::Ending => return,
                Next::Work(first) => {
                    let batch = self.gather(first).await;
                    // A pause that came meanwhile holds this batch back, too.
                    if !self.unpaused().await {
                        return;
                    }
                    self.settle(batch).await
                }
                Next::Replay(replay) => self.replay(replay).await,
                Next::Upkeep => self.upkeep().await,
            };
            if flow.is_err() {
                return;
            }
        }
    }

    /// Waits out a pause; false when the sink stops meanwhile, or the generation ends.
    async fn unpaused(&mut self) -> bool {
        if *self.generation.ending.borrow() {
            return false;
        }
        let mut paused = self.shared.paused.clone();
        if !*paused.borrow() {
            return true;
        }
        tokio::select! {
            gone = paused.wait_for(|p| !*p) => gone.is_ok(),
            () = self.over() => false,
        }
    }

    /// Resolves when nothing more is to be begun.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + use<S> {
        let (mut stop, mut ending) = (self.shared.stop.clone(), self.generation.ending.subscribe());
        async move {
            // A sender that is gone says the same.
            tokio::select! {
                _ = stop.wait_for(|s| *s != Stop::No) => {}
                _ = ending.wait_for(|ending| *ending) => {}
            }
        }
    }

    /// True when nothing more is to be begun.
    pub(crate) fn is_over(&self) -> bool {
        *self.shared.stop.borrow() != Stop::No || *self.generation.ending.borrow()
    }

    async fn next(&mut self, replays: Option<&mut OwnedMutexGuard<mpsc::Receiver<Replay>>>) -> Next<S::Op> {
        let replay = async {
            match replays {
                Some(replays) => match replays.recv().await {
                    Some(replay) => replay,
                    None => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        let mut ending = self.generation.ending.subscribe();
        let upkeep_at = if self.number == 0 { self.upkeep_at } else { Instant::now() + UPKEEP_EVERY };
        tokio::select! {
            biased;
            _ = ending.wait_for(|ending| *ending) => Next::Ending,
            replay = replay => Next::Replay(replay),
            work = self.queue.recv() => work.map_or(Next::Closed, Next::Work),
            () = tokio::time::sleep_until(upkeep_at), if self.number == 0 => Next::Upkeep,
        }
    }

    /// Adds what is there, or comes within the linger time, up to the limits.
    async fn gather(&mut self, first: Work<S::Op>) -> Vec<Work<S::Op>> {
        let limits = self.shared.sink.limits();
        let until = Instant::now() + self.shared.options.linger;
        let (mut operations, mut bytes) = (first.entries.len(), first.weight);
        let mut batch = vec![first];
        while operations < self.pace.limit() && bytes < limits.bytes {
            let work = match self.queue.try_recv() {
                Ok(work) => work,
                Err(_) => match tokio::time::timeout_at(until, self.queue.recv()).await {
                    Ok(Some(work)) => work,
                    Ok(None) | Err(_) => break,
                },
            };
            operations += work.entries.len();
            bytes += work.weight;
            batch.push(work);
        }
        if batch.iter().any(|w| w.lsn == Lsn::NONE) {
            self.generation.flush_asked.store(false, Ordering::Release);
        }
        batch
    }

    async fn upkeep(&mut self) -> Result<(), End> {
        if self.conn.is_none() {
            // Nothing that is to be stored would open it again. The database's position is looked at as before any batch.
            self.settle(Vec::new()).await?;
        }
        self.upkeep_at = Instant::now() + UPKEEP_EVERY;
        let now = self.shared.source.now_us();
        let Some(conn) = self.conn.as_mut() else { return Ok(()) };
        let deadline = self.shared.options.request_deadline;
        let error = match tokio::time::timeout(deadline, self.shared.sink.maintain(conn, now)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(rows)) => {
                metrics::counter!(crate::metrics::EXPIRED_ROWS, "sink" => self.shared.name.clone()).increment(rows);
                self.upkeep_at = Instant::now();
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", deadline.as_secs_f32()),
        };
        self.conn = None;
        self.shared.status.error(format!("upkeep: {error}"));
        Ok(())
    }
}
