//! One runtime for all databases: reads the log, batches, keeps the order, retries, buries, and knows how far the sink has come.
//!
//! ```text
//! reader ──records──> rules ──operations──> worker 0..n (one per connection, one batch in flight) ──> database
//!                                              └── done ──> tracker ──> reporter ──> Event::SinkPosition
//! ```
//!
//! A sink lives in *generations*. A generation begins with a connection and the position the database has, and ends when the sink
//! stops or when the database turns out to be behind what it had confirmed (restored, deleted): then everything in memory is
//! thrown away and the next generation begins at the database's position again. So it ends when the log has no room to wait for the
//! sink (`passed`).

pub mod backoff;
mod generation;
mod pace;
mod passed;
pub mod plan;
mod reader;
mod replay;
mod reporter;
mod settle;
pub mod status;
mod tracker;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use forebay_engine::{Event, Lsn};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::dead_letter::{DeadLetterError, DeadLetters, Settled};
use crate::sink::Sink;
use crate::source::Source;
use backoff::Backoff;
use plan::Plan;
use status::StatusCell;
pub use status::{SinkState, SinkStatus};
use tracker::Tracker;

/// Settings of a runtime.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeOptions {
    /// Waits after failures.
    pub backoff: Backoff,
    /// A request without an answer for this long counts as disconnected.
    pub request_deadline: Duration,
    /// How long the first record of a batch waits for company.
    pub linger: Duration,
    /// A write of fresh records should not take longer: batches shrink and grow towards it, but do not shrink where that does not help.
    /// Of records that have waited for long it may take a tenth of their age, and an eighth of the deadline at most.
    pub target_latency: Duration,
    /// Operations in memory, in bytes, for the whole sink.
    pub memory_bytes: usize,
    /// Attempts for an operation that the database calls retryable, before it is buried.
    pub attempts_max: u32,
    /// Positions are reported at most this often,
    pub report_every: Duration,
    /// or whenever they have moved by this many records.
    pub report_records: u64,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        RuntimeOptions {
            backoff: Backoff::default(),
            request_deadline: Duration::from_secs(30),
            linger: Duration::from_millis(5),
            target_latency: Duration::from_millis(250),
            memory_bytes: 32 << 20,
            attempts_max: 10,
            report_every: Duration::from_secs(1),
            report_records: 10_000,
        }
    }
}

/// How a sink is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    No,
    /// Finish what is in memory while the database takes it, then end.
    Drain,
}

/// What all tasks of a sink share.
pub(crate) struct Shared<S: Sink> {
    pub(crate) name: String,
    pub(crate) sink: Arc<S>,
    pub(crate) plan: Plan,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) options: RuntimeOptions,
    pub(crate) letters: DeadLetters,
    pub(crate) status: Arc<StatusCell>,
    pub(crate) paused: watch::Receiver<bool>,
    pub(crate) stop: watch::Receiver<Stop>,
    pub(crate) replays: Arc<tokio::sync::Mutex<mpsc::Receiver<Replay>>>,
    pub(crate) control: Arc<Control>,
}

/// What the outside sets and the generation loop reads.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) reset_to: Mutex<Option<Lsn>>,
    pub(crate) reset: Notify,
    pub(crate) reset_done: Notify,
    pub(crate) tracker: Mutex<Option<Arc<Tracker>>>,
}

/// Where a sink is to begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// At the log's first record.
    Earliest,
    /// At the log's end: what is there is left out.
    Latest,
    /// At this record.
    At(Lsn),
}

/// Why a sink's position was not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResetError {
    /// The log does not have it.
    #[error("the log has records from {first} up to {end}, not {to}")]
    OutOfRange {
        /// What was asked for.
        to: Lsn,
        /// The log's first record.
        first: Lsn,
        /// The log's end.
        end: Lsn,
    },
    /// The database did not answer.
    #[error("the database of {sink} has not taken the position ({why}): nothing is changed, try again when it answers")]
    NotTaken {
        /// The sink.
        sink: String,
        /// Its last failure.
        why: String,
    },
}

/// A dead letter on its way back in.
pub(crate) struct Replay {
    pub(crate) id: u64,
    pub(crate) answer: oneshot::Sender<Result<(), String>>,
}

/// A running sink.
#[derive(Debug)]
pub struct SinkHandle {
    name: String,
    source: Arc<dyn Source>,
    letters: DeadLetters,
    status: Arc<StatusCell>,
    control: Arc<Control>,
    paused: watch::Sender<bool>,
    stop: watch::Sender<Stop>,
    replays: mpsc::Sender<Replay>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Starts a sink on the current tokio runtime.
pub fn spawn<S: Sink>(
    name: &str,
    sink: Arc<S>,
    plan: Plan,
    source: Arc<dyn Source>,
    letters: DeadLetters,
    options: RuntimeOptions,
) -> SinkHandle {
    let (paused, paused_rx) = watch::channel(false);
    let (stop, stop_rx) = watch::channel(Stop::No);
    let (replays, replays_rx) = mpsc::channel(16);
    let status = Arc::new(StatusCell::new());
    let control = Arc::new(Control::default());
    let shared = Arc::new(Shared {
        name: name.to_owned(),
        sink,
        plan,
        source: source.clone(),
        options,
        letters: letters.clone(),
        status: status.clone(),
        paused: paused_rx,
        stop: stop_rx,
        replays: Arc::new(tokio::sync::Mutex::new(replays_rx)),
        control: control.clone(),
    });
    let task = tokio::spawn(generation::run(shared));
    let task = Mutex::new(Some(task));
    SinkHandle { name: name.to_owned(), source, letters, status, control, paused, stop, replays, task }
}

impl SinkHandle {
    /// The sink's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sink as it stands.
    #[must_use]
    pub fn status(&self) -> SinkStatus {
        let tracker = self.control.tracker.lock().clone();
        let end = self.source.durable_end();
        let position = tracker
            .as_ref()
            .map(|t| t.prefix())
            .or_else(|| self.source.sink_position(&self.name))
            .unwrap_or_else(|| self.source.first());
        let position = passed::behind_gap(&*self.source, &self.name, position);
        let (mut state, stored, last_error, waiting) =
            self.status.read(|c| (c.state.clone(), c.stored, c.last_error.clone(), c.waiting_since_us));
        let oldest = waiting.or_else(|| tracker.and_then(|t| t.oldest_us()));
        let lag_seconds = oldest.map_or(0, |t| self.source.now_us().saturating_sub(t) / 1_000_000);
        if *self.paused.borrow() && state != SinkState::Stopped {
            state = SinkState::Paused;
        }
        SinkStatus {
            name: self.name.clone(),
            state,
            lag_records: end.0.saturating_sub(position.0),
            lag_seconds,
            position,
            stored,
            dead_letters: self.letters.len() as u64,
            last_error,
            gap: self.source.sink_gap(&self.name),
        }
    }

    /// Holds the sink back; a batch under way is finished. The log keeps what comes.
    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.paused.send_replace(false);
        self.status.set(SinkState::Running);
    }

    /// The sink's dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> &DeadLetters {
        &self.letters
    }

    /// Sets the position, in the database and in the log: records from there on are stored (again), those before it no more.
    /// Returns it once both have it, so that it outlives a restart. What is under way is given up; a pause goes on.
    ///
    /// # Errors
    /// Where the log does not have the position, or the database has not taken it within the deadline; the sink then goes on
    /// from where it is.
    pub async fn reset(&self, to: ResetTo, deadline: Duration) -> Result<Lsn, ResetError> {
        let (first, end) = (self.source.first(), self.source.durable_end());
        let to = match to {
            ResetTo::Earliest => first,
            ResetTo::Latest => end,
            ResetTo::At(lsn) if (first..=end).contains(&lsn) => lsn,
            ResetTo::At(to) => return Err(ResetError::OutOfRange { to, first, end }),
        };
        *self.control.reset_to.lock() = Some(to);
        self.control.reset.notify_one();
        let done = async {
            loop {
                let done = self.control.reset_done.notified();
                tokio::pin!(done);
                done.as_mut().enable();
                if self.control.reset_to.lock().is_none() {
                    return;
                }
                done.await;
            }
        };
        if tokio::time::timeout(deadline, done).await.is_err() && self.control.reset_to.lock().take().is_some() {
            let why = self.status.read(|c| c.last_error.clone()).unwrap_or_else(|| "no answer".to_owned());
            return Err(ResetError::NotTaken { sink: self.name.clone(), why });
        }
        Ok(to)
    }

    /// Sends a dead letter to the database again, by the rule of that number as it is now. Resolves once it is stored and the
    /// letter is settled.
    ///
    /// # Errors
    /// Where it is refused again (the letter stays and counts the attempt), or the rule is gone.
    pub async fn replay(&self, id: u64) -> Result<(), DeadLetterError> {
        let (answer, result) = oneshot::channel();
        let failed = |reason: String| DeadLetterError::Replay { id, reason };
        let stopped = || failed(format!("the sink {} has stopped", self.name));
        self.replays.send(Replay { id, answer }).await.map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?.map_err(failed)?;
        self.letters.settle(id, Settled::Replayed).await
    }

    /// Stores what is in memory while the database takes it, reports the position, and ends; at the deadline it ends as it is.
    /// Nothing is lost either way: the log has it.
    pub async fn shutdown(&self, deadline: Duration) {
        self.stop.send_replace(Stop::Drain);
        let task = self.task.lock().take();
        if let Some(mut task) = task
            && tokio::time::timeout(deadline, &mut task).await.is_err()
        {
            tracing::warn!(sink = self.name, "not everything read was stored within the deadline; it is in the log");
            task.abort();
            let _ended = task.await;
        }
        self.status.set(SinkState::Stopped);
    }
}

impl Drop for SinkHandle {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

/// True for a record that only tells how far a sink is: it is no reason to report again.
pub(crate) fn is_report(event: &Event) -> bool {
    matches!(event, Event::SinkPosition(_))
}
