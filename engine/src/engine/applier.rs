//! The applier: takes durable records in order into state and offers them to delivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytestring::ByteString;
use metrics::Gauge;
use parking_lot::RwLock;

use super::bounds::{self, QueueBounds};
use super::keeper::{Job, Shared};
use crate::clock::Clock;
use crate::delivery::{Hub, Inbox};
use crate::disk::FolderLock;
use crate::event::{ClientDisconnected, Event, SessionClosed, SessionOpened};
use crate::ids::Lsn;
use crate::log::watermark::Watermark;
use crate::log::{self, Log, Reader, Record};
use crate::state::checkpoint::Snapshot;
use crate::state::{Change, State, StoredMessage};

/// Records taken in under one hold of the state's lock.
const BATCH_RECORDS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// Changed rows are handed to the index at the latest after this long, when there are this many, or when the log grew by its share of
/// what the index may lag behind.
const INDEX_AFTER: Duration = Duration::from_secs(1);
const INDEX_ROWS: usize = 16 * 1024;
const INDEX_SHARE: u64 = 4;
/// How long an idle applier sleeps before it looks whether the index is due.
const IDLE: Duration = Duration::from_millis(250);

/// Gives a job to the keeper; may wait while it is behind.
pub(super) type Jobs = Box<dyn Fn(Job) + Send>;

pub(super) struct Applier {
    pub(super) log: Log,
    pub(super) hub: Arc<Hub>,
    pub(super) state: Arc<RwLock<State>>,
    pub(super) applied: Arc<Watermark>,
    pub(super) closing: Arc<AtomicBool>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) jobs: Jobs,
    pub(super) checkpoint_bytes: u64,
    /// Where the keeper asks for a checkpoint.
    pub(super) keeper: Arc<Shared>,
    /// See [`super::keeper::lag_bytes`].
    pub(super) lag_bytes: u64,
    pub(super) queues: QueueBounds,
    pub(super) place: Place,
    /// Other processes are kept out until state is written.
    pub(super) _lock: Arc<FolderLock>,
}

/// Where the applier stands.
pub(super) struct Place {
    reader: Reader,
    records: Vec<(Record, log::Place)>,
    /// When changed rows were handed to the index last, and bytes of the log applied since.
    indexed_us: u64,
    unindexed: u64,
    /// Bytes of the log applied since the last checkpoint, and how many make the next one due.
    bytes: u64,
    threshold: u64,
    lag: Gauge,
}

impl Place {
    /// At the reader's position; the next checkpoint is due after `threshold` bytes of the log.
    pub(super) fn new(reader: Reader, now_us: u64, threshold: u64) -> Place {
        let lag = metrics::gauge!(crate::metrics::STATE_LAG);
        Place { reader, records: Vec::new(), indexed_us: now_us, unindexed: 0, bytes: 0, threshold, lag }
    }
}

/// What a step of the applier came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Records were applied, or appended for the bounds of queues.
    Applied,
    /// Everything durable is applied.
    Idle,
    /// The engine is closed and everything durable is applied.
    Ended,
}

impl Applier {
    pub(super) fn run(mut self) {
        self.begin();
        let why = loop {
            match self.step(BATCH_RECORDS) {
                Ok(Step::Applied) => {}
                Ok(Step::Idle) => drop(self.place.reader.wait(IDLE)), // Both answers lead to another look.
                Ok(Step::Ended) => break "the engine was closed".to_owned(),
                Err(error) => {
                    tracing::error!(%error, "state can't follow the log; nothing more is delivered until a restart");
                    break error;
                }
            }
        };
        self.end(&why);
    }

    /// What opening replayed is not replayed again, should this process be killed before it has done anything else.
    pub(super) fn begin(&self) {
        self.write_index();
    }

    /// Nothing is applied after this.
    pub(super) fn end(&self, why: &str) {
        self.write_index();
        (self.jobs)(Job::Stop);
        self.log.unfollow();
        self.applied.stop(why.into());
    }

    /// Applies at most `max_records` durable records, and hands state to the keeper where the index or a checkpoint is due.
    pub(super) fn step(&mut self, max_records: usize) -> Result<Step, String> {
        // Asked before reading: what became durable until then is still taken in.
        let closing = self.closing.load(Ordering::Acquire);
        let stopped = self.log.stopped_reason();
        let mut records = std::mem::take(&mut self.place.records);
        let from = self.place.reader.position();
        let read = self.place.reader.read_placed(max_records, BATCH_BYTES, &mut records).map_err(|e| e.to_string())?;
        let position = self.place.reader.position();
        self.place.lag.set(self.log.durable_end().0.saturating_sub(position.0) as f64);
        if read == 0 {
            if closing {
                return Ok(Step::Ended);
            }
            // Closing stops the log too: then the next look is the last one.
            if let Some(why) = stopped.filter(|_| !self.closing.load(Ordering::Acquire)) {
                return Err(why.to_string());
            }
            if position > self.applied.end() {
                self.applied.publish(position, 0); // A gap in the numbers, and nothing in it.
            }
        } else {
            let bytes = records.iter().map(|(r, _)| r.body.len() as u64 + 48).sum::<u64>();
            self.place.bytes += bytes;
            self.place.unindexed += bytes;
            let frames = records.iter().map(|(_, place)| u64::from(place.len)).sum();
            self.hub.postings.feed(from, &records, position);
            self.apply_batch(&mut records)?;
            self.applied.publish(position, 0);
            self.log.followed(frames);
        }
        // Also where nothing was applied: a queue may have been beyond its bounds when the last run ended.
        let dropped = self.queues.keep(&self.log, &self.state);
        self.place.records = records;
        let now_us = self.clock.now_us();
        // The wall clock may be set back: then the index is due as well.
        let waited = Duration::from_micros(now_us.abs_diff(self.place.indexed_us));
        let due = waited >= INDEX_AFTER || self.place.unindexed >= self.lag_bytes / INDEX_SHARE;
        if self.keeper.take_whole_wanted() {
            let whole = self.state.write().take_whole();
            if let Some(batch) = whole {
                (self.jobs)(Job::Index(batch));
            }
        }
        if due || self.state.read().dirty.len() >= INDEX_ROWS {
            self.write_index();
            self.place.indexed_us = now_us;
            self.place.unindexed = 0;
        }
        if self.place.bytes >= self.place.threshold || self.keeper.take_wanted() {
            self.place.threshold = self.checkpoint_bytes.max(4 * self.checkpoint());
            self.place.bytes = 0;
        }
        Ok(if read == 0 && !dropped { Step::Idle } else { Step::Applied })
    }

    fn apply_batch(&self, records: &mut Vec<(Record, log::Place)>) -> Result<(), String> {
        let mut applied: Vec<(Lsn, u64, Event, Change)> = Vec::with_capacity(records.len());
        {
            let mut state = self.state.write();
            for (record, _) in records.drain(..) {
                let (lsn, time_us) = (record.lsn, record.time_us);
                let event = super::event_for_state(&record).map_err(|e| format!("record {lsn}: {e}"))?;
                let change = state.apply(&self.hub.rules, lsn, time_us, &event);
                applied.push((lsn, time_us, event, change));
            }
        }
        let mut touched: Vec<Arc<Inbox>> = Vec::new();
        for (lsn, time_us, event, change) in applied {
            self.hub.set_delivering(lsn.next());
            self.deliver(lsn, time_us, event, change, &mut touched);
            self.hub.set_offered(lsn.next());
        }
        // By the connection first: the same log is to be delivered in the same order whenever it is simulated.
        touched.sort_unstable_by_key(|inbox| (inbox.epoch, Arc::as_ptr(inbox) as usize));
        touched.dedup_by(|a, b| Arc::ptr_eq(a, b));
        for inbox in &touched {
            self.hub.after_change(inbox);
        }
        Ok(())
    }

    fn deliver(&self, lsn: Lsn, time_us: u64, event: Event, change: Change, touched: &mut Vec<Arc<Inbox>>) {
        match (event, change) {
            (Event::Published(e), change) => {
                if let Change::Owed { queue, groups } = &change {
                    if *queue {
                        // The queue keeps the name longer than the group's buffer should live.
                        self.hub.queued(lsn, &ByteString::from(AsRef::<str>::as_ref(&e.message.topic)));
                    }
                    self.hub.shared(lsn, groups);
                }
                self.hub.publish(&StoredMessage { lsn, time_us, message: Arc::new(e.message) }, touched);
            }
            (Event::Subscribed(e), Change::Subscribed { previous }) => {
                self.hub.subscribed(&e.client, &e.filter, lsn, e.options, previous);
            }
            (Event::Unsubscribed(e), Change::Unsubscribed { previous, ended }) => {
                self.hub.unsubscribed(&e.client, &e.filter, previous, ended);
            }
            (Event::Acked(_), Change::Done { queues, groups }) => self.done(&queues, &groups),
            (
                Event::SessionOpened(SessionOpened { client, .. })
                | Event::SessionClosed(SessionClosed { client, .. })
                | Event::ClientDisconnected(ClientDisconnected { client, .. }),
                Change::SessionEnded { subscriptions, left },
            ) => {
                self.hub.session_ended(&client, &subscriptions, &left);
                bounds::tell_left(&client, &left);
            }
            (Event::ClientDisconnected(e), _) => self.hub.disconnected(&e.client, e.epoch),
            (Event::Dropped(e), change) => {
                if let Change::Done { queues, groups } = change {
                    self.done(&queues, &groups);
                }
                bounds::tell(&e);
            }
            _ => {}
        }
    }

    fn done(&self, queues: &[Lsn], groups: &[(ByteString, Lsn)]) {
        if !queues.is_empty() {
            self.hub.unqueued(queues);
        }
        if !groups.is_empty() {
            self.hub.unshared(groups);
        }
    }

    fn write_index(&self) {
        let batch = self.state.write().take_batch(self.place.unindexed);
        if let Some(batch) = batch {
            // A keeper that is behind holds up the applier, so that the index never lags further than it can catch up.
            (self.jobs)(Job::Index(batch));
        }
    }

    /// Copies state for a checkpoint; returns its size in bytes.
    fn checkpoint(&self) -> u64 {
        let begun = Instant::now();
        let snapshot = Snapshot::of(&self.state.read());
        metrics::histogram!(crate::metrics::CHECKPOINT_PAUSE).record(begun.elapsed().as_secs_f64());
        let len = snapshot.len();
        (self.jobs)(Job::Checkpoint(snapshot));
        len
    }
}
