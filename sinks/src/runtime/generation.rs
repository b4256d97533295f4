//! One generation of a sink after the other: connect, agree on the position, run until it ends.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use forebay_engine::event::SinkPosition;
use forebay_engine::{Event, Lsn};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::backoff::Breaker;
use super::passed;
use super::reader::Reader;
use super::reporter;
use super::status::SinkState;
use super::tracker::Tracker;
use super::worker::{Work, Worker};
use super::{Shared, Stop};
use crate::rule::Action;
use crate::sink::{Kept, Sink, WriteError};

/// How often a sink that waits for its operator looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Records on their way to one worker. Their bytes are bounded by [`super::RuntimeOptions::memory_bytes`].
const QUEUE_RECORDS: usize = 8192;

/// What the tasks of a generation share.
pub(crate) struct Generation {
    pub(crate) tracker: Arc<Tracker>,
    /// Where it began: every record below is done, or was let go of.
    pub(crate) start: Lsn,
    pub(crate) breaker: Breaker,
    pub(crate) memory: Arc<Semaphore>,
    /// The database is behind what it had confirmed, or the log can't wait for the sink: begin anew.
    pub(crate) restart: Notify,
    /// True when workers are to finish what is under way and end.
    pub(crate) ending: watch::Sender<bool>,
    /// It keeps positions.
    pub(crate) keeps: bool,
    /// A flush of the position is on its way to a worker.
    pub(crate) flush_asked: AtomicBool,
}

/// Runs a sink until it is told to stop.
pub(crate) async fn run<S: Sink>(shared: Arc<Shared<S>>) {
    let mut stop = shared.stop.clone();
    loop {
        let begun = tokio::select! {
            begun = begin(&shared) => begun,
            _ = stop.wait_for(|s| *s != Stop::No) => break,
        };
        let (conn, start, kept) = begun;
        let again = one(&shared, conn, start, kept).await;
        if !again {
            break;
        }
    }
    shared.source.follows(&shared.name, false);
    shared.status.set(SinkState::Stopped);
}

/// Connects, and returns the connection with the place to begin at.
async fn begin<S: Sink>(shared: &Arc<Shared<S>>) -> (S::Conn, Lsn, Kept) {
    let breaker = Breaker::new(shared.options.backoff);
    let mut attempt = 1;
    loop {
        shared.status.set(SinkState::Connecting { attempt });
        let deadline = shared.options.request_deadline;
        let agreed = tokio::select! {
            agreed = tokio::time::timeout(deadline, agree(shared)) => agreed,
            () = passed::unanswered(shared) => Ok(Err("the log has no room to wait for it any longer".to_owned())),
        };
        let reason = match agreed {
            Ok(Ok(begun)) => {
                shared.status.waiting_since(None);
                shared.status.set(SinkState::Running);
                return begun;
            }
            Ok(Err(reason)) => reason,
            Err(_) => format!("no answer within {} s", deadline.as_secs_f32()),
        };
        if shared.control.tracker.lock().is_none() {
            // Without a connection so far it knows no more than the log does.
            shared.source.follows(&shared.name, false);
        }
        shared.status.error(reason.clone());
        metrics::counter!(crate::metrics::FAILURES, "sink" => shared.name.clone(), "kind" => "connect").increment(1);
        show_lag(shared).await;
        let (until, failures) = breaker.failure(Instant::now(), None);
        if failures == 1 || failures.is_power_of_two() {
            tracing::warn!(sink = shared.name, attempt = failures, reason, "not connected");
        }
        attempt = failures.saturating_add(1);
        shared.status.set(SinkState::Waiting { until, why: reason });
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = shared.control.reset.notified() => {}
            () = passed::answer_unseen(shared) => {}
        }
    }
}

/// What waits while there is no connection, and since when: no generation runs that would know.
async fn show_lag<S: Sink>(shared: &Arc<Shared<S>>) {
    let source = shared.source.clone();
    let next = source.sink_position(&shared.name).unwrap_or(Lsn::NONE).max(source.first());
    let end = source.durable_end();
    let oldest = tokio::task::spawn_blocking(move || {
        let mut page = Vec::new();
        source.reader(next).and_then(|mut reader| reader.read(1, 1, &mut page)).ok()?;
        page.first().map(|record| record.time_us)
    });
    let oldest = if next < end { oldest.await.ok().flatten() } else { None };
    shared.status.waiting_since(oldest);
    reporter::gauges(&**shared, end.0.saturating_sub(next.0), oldest);
}

async fn agree<S: Sink>(shared: &Arc<Shared<S>>) -> Result<(S::Conn, Lsn, Kept), String> {
    let source = &shared.source;
    let text = |e: WriteError| e.to_string();
    let mut conn = shared.sink.connect().await.map_err(text)?;
    let reset = *shared.control.reset_to.lock();
    if let Some(to) = reset {
        shared.sink.reset(&mut conn, source.log_id(), &shared.name, to).await.map_err(text)?;
        // In the log too: a database that keeps no position goes by it, and trimming does for all.
        let event = Event::SinkPosition(SinkPosition { sink: shared.name.as_str().into(), next: to });
        source.append(event).await.map_err(|e| e.to_string())?;
        shared.control.reset_to.lock().take_if(|asked| *asked == to);
        *shared.control.tracker.lock() = None; // What it knows is of another position.
        shared.control.reset_done.notify_waiters();
        tracing::info!(sink = shared.name, to = to.0, "position reset");
    }
    let kept = shared.sink.positions(&mut conn, source.log_id(), &shared.name).await.map_err(text)?;
    let own = || source.sink_position(&shared.name);
    let start = match (&kept, reset) {
        (Kept::Never, Some(to)) => to,
        (Kept::Never, None) => own().unwrap_or_else(|| source.first()),
        // A new or wiped database is filled with all that the log still has.
        (Kept::Nothing, _) => source.first(),
        (Kept::At(p), _) => p.prefix.max(Lsn::FIRST),
    };
    let highest = match &kept {
        Kept::At(p) => p.lanes.iter().map(|(_, lsn)| *lsn).max().unwrap_or(start).max(start),
        _ => start,
    };
    if is_beyond(shared, highest).await? {
        let again = own().unwrap_or(Lsn::FIRST).max(source.first());
        return Err(format!(
            "the database has stored up to record {highest}, which this log has lost: it belongs to a later state of the log. Put the newer \
             log back, or run `forebay sink reset {} --to {again}`: what the log has from its last report of this sink on is stored again",
            shared.name
        ));
    }
    let lanes = if let Kept::At(p) = &kept { p.lanes.as_slice() } else { &[] };
    let start = passed::begin_at(shared, start, lanes).await?;
    if start < source.first() {
        return Err(format!(
            "the database has stored up to record {start}, the log begins at {}: the records between were trimmed. \
             Run `forebay sink reset {} --to {}` to go on without them",
            source.first(),
            shared.name,
            source.first()
        ));
    }
    Ok((conn, start, kept))
}

/// True where the database knows records that the log does not have. The log then goes on behind them, so that no number is given twice
/// and a position that was reached by other records is never taken for this one.
async fn is_beyond<S: Sink>(shared: &Arc<Shared<S>>, highest: Lsn) -> Result<bool, String> {
    let source = shared.source.clone();
    let end = source.durable_end();
    if highest > end {
        tracing::error!(sink = shared.name, %highest, %end, "the database knows records that the log has lost; numbers go on behind them");
        source.skip_past(highest).await.map_err(|e| e.to_string())?;
        return Ok(true);
    }
    tokio::task::spawn_blocking(move || source.is_beyond(highest)).await.map_err(|e| e.to_string())
}

/// Runs one generation; true when another is to follow.
async fn one<S: Sink>(shared: &Arc<Shared<S>>, conn: S::Conn, start: Lsn, kept: Kept) -> bool {
    let keeps = kept != Kept::Never;
    let (stored, stored_prefix) = match kept {
        Kept::At(p) => (p.lanes, Some(p.prefix)),
        Kept::Nothing => (Vec::new(), Some(start)),
        Kept::Never => (Vec::new(), None),
    };
    let tracker = Arc::new(Tracker::new(start, &stored, stored_prefix));
    *shared.control.tracker.lock() = Some(tracker.clone());
    let memory = Arc::new(Semaphore::new(shared.options.memory_bytes.min(Semaphore::MAX_PERMITS)));
    let breaker = Breaker::new(shared.options.backoff);
    let generation = Arc::new(Generation {
        tracker,
        start,
        breaker,
        memory,
        restart: Notify::new(),
        ending: watch::Sender::new(false),
        keeps,
        flush_asked: AtomicBool::new(false),
    });

    let mut tasks = JoinSet::new();
    let mut queues = Vec::new();
    let mut conn = Some(conn);
    let statements = shared.plan.rules().iter().any(|rule| matches!(rule.action, Action::Statements(_)));
    for number in 0..shared.sink.writers(statements).clamp(1, usize::from(crate::sink::LANES)) {
        let (queue, receiver) = mpsc::channel::<Work<S::Op>>(QUEUE_RECORDS);
        queues.push(queue);
        let worker = Worker::new(shared.clone(), generation.clone(), number, receiver, conn.take());
        tasks.spawn(worker.run());
    }
    let reporter_queue = queues.first().map(mpsc::Sender::downgrade);
    tasks.spawn(Reader::new(shared.clone(), generation.clone(), queues, start).run());
    let reporting = tokio::spawn(reporter::run(shared.clone(), generation.clone(), reporter_queue));

    let mut stop = shared.stop.clone();
    let again = tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => *stop.borrow_and_update() == Stop::No,
        () = generation.restart.notified() => true,
        () = reset_asked(shared) => true,
    };
    if shared.source.asked(&shared.name).is_some() {
        // What a database has not answered counts as lost and may be stored all the same: it gets a moment.
        generation.ending.send_replace(true);
        let ended = async { while tasks.join_next().await.is_some() {} };
        let _aborted_else = tokio::time::timeout(passed::ANSWER_WITHIN, ended).await;
    }
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    reporting.abort();
    let _ended = reporting.await;
    if !again || shared.source.asked(&shared.name).is_some() {
        reporter::last(shared, &generation).await;
    }
    if again && *stop.borrow() == Stop::No {
        // A task that ended by itself says why in the status; don't spin on it.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    again && *stop.borrow() == Stop::No
}

/// Resolves when a reset waits to be carried out. (The notification of one that `begin` has carried out may still be there.)
async fn reset_asked<S: Sink>(shared: &Shared<S>) {
    loop {
        shared.control.reset.notified().await;
        if shared.control.reset_to.lock().is_some() {
            return;
        }
    }
}

/// Waits for an operator, without spinning.
pub(crate) async fn hold<S: Sink>(shared: &Shared<S>, why: String) {
    tracing::error!(sink = shared.name, why, "held");
    shared.status.error(why.clone());
    shared.status.set(SinkState::Waiting { until: Instant::now() + LOOK_AGAIN, why });
    tokio::time::sleep(LOOK_AGAIN).await;
}
