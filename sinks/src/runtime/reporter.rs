//! Tells the engine how far the sink is, so that the log can be trimmed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use forebay_engine::event::SinkPosition;
use forebay_engine::{Event, Lsn};
use tokio::sync::mpsc::WeakSender;

use super::Shared;
use super::generation::Generation;
use super::passed::ANSWER_WITHIN;
use super::worker::Work;
use crate::metrics::{LAG_RECORDS, LAG_SECONDS};
use crate::sink::Sink;

/// How often it looks while there is something to do.
const TICK: Duration = Duration::from_millis(50);

/// How often it looks while there is nothing to do and no record comes.
const IDLE: Duration = Duration::from_secs(5);

pub(crate) async fn run<S: Sink>(
    shared: Arc<Shared<S>>,
    generation: Arc<Generation>,
    queue: Option<WeakSender<Work<S::Op>>>,
) {
    let mut reported = shared.source.sink_position(&shared.name).unwrap_or(Lsn::NONE);
    let mut last = Instant::now();
    let mut asked_at = None;
    let mut idle = false;
    loop {
        if idle {
            tokio::select! {
                () = generation.tracker.changed() => {}
                () = tokio::time::sleep(IDLE) => {}
            }
        }
        tokio::time::sleep(TICK).await;
        let lag = shared.source.durable_end().0.saturating_sub(generation.tracker.prefix().0);
        gauges(&shared, lag, generation.tracker.oldest_us());
        let prefix = generation.tracker.noteworthy_prefix();
        let behind = generation.keeps && generation.tracker.stored_prefix() < prefix;
        let asked = shared.source.asked(&shared.name);
        idle = lag == 0 && prefix == reported && !behind && asked.is_none();
        let due = last.elapsed() >= shared.options.report_every
            || prefix.0.saturating_sub(reported.0) >= shared.options.report_records;
        if asked.is_none() && (!due || prefix == reported && !behind) {
            continue;
        }
        if behind {
            // The database's own position moves first: it is the one that counts at the next connect.
            flush(&generation, queue.as_ref());
        }
        let next = reportable(&generation);
        if next != reported && report(&shared, next).await {
            reported = next;
            last = Instant::now();
        }
        // What is done and only its position not stored yet needs no more than the flush, where that goes through.
        asked_at = asked.map(|_| asked_at.unwrap_or_else(Instant::now));
        let early = asked_at.is_some_and(|at| at.elapsed() < ANSWER_WITHIN);
        let flushing = |to: Lsn| early && behind && prefix >= to && !*shared.paused.borrow();
        if asked.is_some_and(|to| reported < to && !flushing(to)) {
            generation.restart.notify_one();
            return;
        }
    }
}

/// What is done, and stored so that the next connect finds it. Not before the place that was agreed on: the database's position may
/// still lie in a gap that was passed.
fn reportable(generation: &Generation) -> Lsn {
    let prefix = generation.tracker.noteworthy_prefix();
    let done = if generation.keeps { generation.tracker.stored_prefix().min(prefix) } else { prefix };
    done.max(generation.start)
}

fn flush<Op>(generation: &Generation, queue: Option<&WeakSender<Work<Op>>>) {
    let Some(queue) = queue.and_then(WeakSender::upgrade) else { return };
    if !generation.flush_asked.swap(true, Ordering::AcqRel) && queue.try_send(Work::flush()).is_err() {
        // A full queue means batches are on their way, and each of them stores the position too.
        generation.flush_asked.store(false, Ordering::Release);
    }
}

/// The last report before the end.
pub(crate) async fn last<S: Sink>(shared: &Shared<S>, generation: &Generation) {
    let next = reportable(generation);
    if shared.source.sink_position(&shared.name).unwrap_or(Lsn::NONE) < next {
        report(shared, next).await;
    }
}

async fn report<S: Sink>(shared: &Shared<S>, next: Lsn) -> bool {
    let event = Event::SinkPosition(SinkPosition { sink: ByteString::from(shared.name.as_str()), next });
    match shared.source.append(event).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(sink = shared.name, %error, "position not reported");
            false
        }
    }
}

/// How far behind the sink is: records, and the time of the oldest one that is not done.
pub(crate) fn gauges<S: Sink>(shared: &Shared<S>, records: u64, oldest_us: Option<u64>) {
    metrics::gauge!(LAG_RECORDS, "sink" => shared.name.clone()).set(records as f64);
    let age = oldest_us.map_or(0, |t| shared.source.now_us().saturating_sub(t));
    metrics::gauge!(LAG_SECONDS, "sink" => shared.name.clone()).set(age as f64 / 1e6);
}
