//! Where a sink goes on that the log could not wait for (`log.when_full = "drop_oldest"`).
//!
//! What it loses is in the log as one record, [`Dropped`], made by the sink itself where it has a connection: only its database knows
//! what is stored. The database's own position stays where it is until something is stored behind the gap; so a position that lies in
//! the recorded gap is as good as the gap's end. A position before records that are gone without such a record remains a fault.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_engine::event::{DropOwner, DropReason, Dropped, DroppedRange};
use forebay_engine::{Event, Lsn};

use super::Shared;
use super::plan::{Lane, lane};
use crate::sink::Sink;
use crate::source::Source;

/// How often, and how long, a record that was appended is waited for in state.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const LOOKS: u32 = 400;

/// How long a batch under way, and then a connection, may take when the log has asked, and how often it is looked at.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// Records read at a time to be counted.
const PAGE_RECORDS: usize = 4096;
const PAGE_BYTES: usize = 1 << 20;

/// Where a sink that stands at `at` goes on: behind the recorded gap, where it stands in one.
pub(crate) fn behind_gap(source: &dyn Source, sink: &str, at: Lsn) -> Lsn {
    source.sink_gap(sink).filter(|gap| gap.from <= at && at < gap.to).map_or(at, |gap| gap.to)
}

/// The place to begin at for a database that stands at `at` and holds `lanes`. Where the log asks for it, what is below is let go of
/// and recorded.
pub(crate) async fn begin_at<S: Sink>(shared: &Arc<Shared<S>>, at: Lsn, lanes: &[(u16, Lsn)]) -> Result<Lsn, String> {
    let source = &shared.source;
    let start = behind_gap(&**source, &shared.name, at);
    if start < source.first() {
        return Ok(start); // What is missing is not recorded: that comes first.
    }
    source.follows(&shared.name, true);
    let Some(to) = source.asked(&shared.name).filter(|to| start < *to && *to <= source.durable_end()) else {
        return Ok(start);
    };
    let (counting, stored) = (shared.clone(), lanes.to_vec());
    let count = tokio::task::spawn_blocking(move || messages(&counting, start, to, &stored)).await;
    let count = count.map_err(|e| e.to_string())?.map_err(|e| format!("counting what is let go of: {e}"))?;
    let range = DroppedRange { owner: DropOwner::Sink(shared.name.as_str().into()), from: start, to, count };
    let dropped = Dropped { reason: DropReason::DiskBudget, drops: vec![range] };
    source.append(Event::Dropped(dropped)).await.map_err(|e| e.to_string())?;
    for _ in 0..LOOKS {
        if behind_gap(&**source, &shared.name, start) >= to {
            return Ok(to);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(format!("the log's own state has not come to the record that lets go of {start} to {to}"))
}

/// Answers the log for as long as there is no connection.
pub(crate) async fn answer_unseen<S: Sink>(shared: &Arc<Shared<S>>) {
    loop {
        let known = shared.control.tracker.lock().clone().map(|tracker| tracker.known());
        if let (Some((at, lanes)), Some(_)) = (known, shared.source.asked(&shared.name))
            && let Err(why) = begin_at(shared, at, &lanes).await
        {
            tracing::warn!(sink = shared.name, why, "what the log can't wait for is not let go of yet");
        }
        tokio::time::sleep(ASKED_EVERY).await;
    }
}

/// Resolves when the log has asked for so long that it can't wait for a connection.
pub(crate) async fn unanswered<S: Sink>(shared: &Shared<S>) {
    let mut since = None;
    loop {
        since = shared.source.asked(&shared.name).map(|_| since.unwrap_or_else(Instant::now));
        if since.is_some_and(|since| since.elapsed() >= ANSWER_WITHIN) {
            return;
        }
        tokio::time::sleep(ASKED_EVERY).await;
    }
}

/// Messages of the records from `from` to `to` that the rules would have stored and the database does not hold.
fn messages<S: Sink>(shared: &Shared<S>, from: Lsn, to: Lsn, lanes: &[(u16, Lsn)]) -> Result<u64, String> {
    let held = |event: &Event| match lane(event) {
        Lane::One(lane) => lanes.iter().find(|(l, _)| *l == lane).map_or(Lsn::NONE, |(_, lsn)| *lsn),
        Lane::Barrier => Lsn::NONE,
    };
    let lost = |lsn: Lsn, event: &Event| {
        matches!(event, Event::Published(_)) && lsn >= held(event) && shared.plan.matching(event).next().is_some()
    };
    let mut reader = shared.source.reader(from).map_err(|e| e.to_string())?;
    let (mut count, mut page) = (0, Vec::new());
    while reader.read(PAGE_RECORDS, PAGE_BYTES, &mut page).map_err(|e| e.to_string())? > 0 {
        let mut beyond = false;
        for record in page.drain(..) {
            beyond = record.lsn >= to;
            if beyond {
                break;
            }
            // The log's own records are no events.
            if Event::decode(record.kind, record.body).is_ok_and(|event| lost(record.lsn, &event)) {
                count += 1;
            }
        }
        if beyond {
            break;
        }
    }
    Ok(count)
}
