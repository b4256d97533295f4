//! The clauses. Each begins with an empty database.

use std::time::Duration;

use forebay_engine::event::{DropOwner, DropReason, Dropped, DroppedRange};
use forebay_engine::state::Gap;
use forebay_engine::{Event, Lsn, QoS};

use super::{Bench, Fault, Subject, caught_up, rule, until};
use crate::rule::{Action, Hook};
use crate::runtime::{ResetTo, SinkState};
use crate::source::Source;

const DEADLINE: Duration = Duration::from_secs(20);

fn publish(bench: &Bench, count: usize) -> Lsn {
    let mut last = Lsn::NONE;
    for n in 0..count {
        let next = bench.log.events().len() + 1;
        last = bench.log.publish(&format!("t/{}", n % 7), format!("m{next}").as_bytes(), QoS::AtLeastOnce);
    }
    last
}

/// Every message published is stored, and none twice.
async fn exactly_what_was_published<T: Subject>(subject: &T, bench: &Bench) {
    let stored = subject.stored().await;
    let published: Vec<Vec<u8>> = bench
        .log
        .events()
        .into_iter()
        .filter_map(|e| match e {
            forebay_engine::Event::Published(p) => Some(p.message.payload.to_vec()),
            _ => None,
        })
        .collect();
    let missing: Vec<_> = published.iter().filter(|p| !stored.contains_key(*p)).collect();
    assert!(missing.is_empty(), "{} of {} missing: {missing:?}", missing.len(), published.len());
    let twice: Vec<_> = stored.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "stored twice: {twice:?}");
    assert_eq!(stored.len(), published.len(), "rows that nobody published");
}

/// The link breaks between batches: the sink reconnects and goes on.
pub async fn reconnects<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let sink = bench.start(subject);
    let last = publish(&bench, 50);
    caught_up(&bench, &sink, last).await;
    subject.fault(Fault::Down);
    let last = publish(&bench, 50);
    until("a failure is shown", || sink.status().last_error.is_some()).await;
    assert!(sink.status().position <= last, "a position moved over records that were not stored");
    subject.fault(Fault::None);
    caught_up(&bench, &sink, last).await;
    exactly_what_was_published(subject, &bench).await;
    sink.shutdown(DEADLINE).await;
}

/// A write dies in the middle, again and again: nothing is missing or twice.
pub async fn survives_dying_in_mid_batch<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let sink = bench.start(subject);
    for fault in [Fault::DieInBatch, Fault::DieAfterCommit, Fault::DieInBatch] {
        subject.fault(fault);
        let last = publish(&bench, 100);
        caught_up(&bench, &sink, last).await;
    }
    exactly_what_was_published(subject, &bench).await;
    sink.shutdown(DEADLINE).await;
}

/// A worker is killed at any moment and another takes over: the same rows.
pub async fn survives_being_killed<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let mut last = publish(&bench, 300);
    for round in 0..20 {
        let sink = bench.start(subject);
        tokio::time::sleep(Duration::from_millis(round)).await;
        last = publish(&bench, 20);
        drop(sink);
    }
    let sink = bench.start(subject);
    caught_up(&bench, &sink, last).await;
    exactly_what_was_published(subject, &bench).await;
    sink.shutdown(DEADLINE).await;
}

/// The whole log is stored a second time: the same rows.
pub async fn replaying_the_log_gives_the_same_rows<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let sink = bench.start(subject);
    let last = publish(&bench, 200);
    caught_up(&bench, &sink, last).await;
    let before = subject.stored().await;
    let stored = sink.status().stored;
    assert_eq!(sink.reset(ResetTo::Earliest, DEADLINE).await, Ok(Lsn::FIRST));
    until("the log is stored again", || sink.status().stored >= stored + 200).await;
    caught_up(&bench, &sink, last).await;
    assert_eq!(subject.stored().await, before);
    exactly_what_was_published(subject, &bench).await;
    sink.shutdown(DEADLINE).await;
}

/// Rows of a topic are in the order of the log.
pub async fn keeps_the_order_of_each_key<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let sink = bench.start(subject);
    publish(&bench, 150);
    subject.fault(Fault::DieInBatch);
    let last = publish(&bench, 150);
    caught_up(&bench, &sink, last).await;
    for n in 0..7 {
        let order = subject.order(&format!("t/{n}")).await;
        let numbers: Vec<u64> =
            order.iter().filter_map(|p| std::str::from_utf8(p).ok()?.strip_prefix('m')?.parse().ok()).collect();
        assert!(numbers.len() > 20, "topic {n} has {} rows", numbers.len());
        assert!(numbers.is_sorted(), "topic {n}: {numbers:?}");
    }
    sink.shutdown(DEADLINE).await;
}

/// A record at fault goes to the dead letters, with all an operator needs; those around it are stored.
pub async fn buries_poison_and_stores_the_rest<T: Subject>(subject: &T) {
    let mut bench = Bench::new(subject.database());
    if let Some(statements) = subject.poison_rule() {
        let action = Action::Statements(statements);
        bench.rules.rules.push(rule(subject.database(), Hook::MessagePublish, 9, Some("t/#"), action));
    }
    publish(&bench, 40);
    let bad = bench.log.publish("t/1", b"poison", QoS::AtLeastOnce);
    let last = publish(&bench, 40);
    let sink = bench.start(subject);
    caught_up(&bench, &sink, last).await;
    let letters = sink.dead_letters().ls(0, 10).unwrap_or_default();
    assert_eq!(letters.len(), 1, "{letters:?}");
    for letter in &letters {
        assert_eq!(letter.lsn, bad.0);
        assert_eq!(letter.sink, super::SINK);
        assert_eq!(letter.hook, "message.publish");
        assert!(!letter.reason.is_empty() && !letter.statement.is_empty() && !letter.rule_at.is_empty());
        assert!(letter.attempts >= 1 && letter.first_seen_us <= letter.last_seen_us);
        let event = forebay_engine::Event::decode(letter.kind, letter.body.clone());
        assert!(matches!(event, Ok(forebay_engine::Event::Published(p)) if &p.message.payload[..] == b"poison"));
        assert!(sink.replay(letter.id).await.is_err(), "poison was taken");
        assert_eq!(sink.dead_letters().show(letter.id).map(|l| l.attempts).ok(), Some(letter.attempts + 1));
    }
    let stored = subject.stored().await;
    let good = stored.iter().filter(|(p, n)| p.starts_with(b"m") && **n == 1).count();
    assert_eq!(good, 80, "neighbours of the poison");
    sink.shutdown(DEADLINE).await;
    // The same poison after a restart is the same letter.
    let again = bench.start(subject);
    assert_eq!(again.reset(ResetTo::At(Lsn::FIRST), DEADLINE).await, Ok(Lsn::FIRST));
    until("the log is read again", || again.status().stored >= 80).await;
    caught_up(&bench, &again, last).await;
    assert_eq!(again.dead_letters().len(), 1);
    for letter in &letters {
        assert!(again.dead_letters().drop_letter(letter.id).await.is_ok());
    }
    assert!(again.dead_letters().is_empty());
    again.shutdown(DEADLINE).await;
}

/// A database that accepts and never answers is given up after the deadline, and the same is sent again.
pub async fn gives_up_on_silence<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    subject.fault(Fault::Hang);
    let sink = bench.start(subject);
    let last = publish(&bench, 30);
    until("silence is noticed", || sink.status().last_error.is_some_and(|e| e.contains("no answer"))).await;
    subject.fault(Fault::None);
    caught_up(&bench, &sink, last).await;
    exactly_what_was_published(subject, &bench).await;
    sink.shutdown(DEADLINE).await;
}

/// A database that answers small batches only gets such: what is not answered in time is halved before it is sent again.
pub async fn sends_less_at_once_where_more_is_not_answered<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    subject.fault(Fault::HangIfLarge);
    let last = publish(&bench, 40);
    let sink = bench.start(subject);
    caught_up(&bench, &sink, last).await;
    subject.fault(Fault::None);
    exactly_what_was_published(subject, &bench).await;
    sink.shutdown(DEADLINE).await;
}

/// A slow or throttling database loses nothing and buries nothing.
pub async fn waits_for_slow_and_busy<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    for fault in [Fault::Slow, Fault::Busy] {
        subject.fault(fault);
        let sink = bench.start(subject);
        let last = publish(&bench, 100);
        caught_up(&bench, &sink, last).await;
        assert!(sink.dead_letters().is_empty());
        sink.shutdown(DEADLINE).await;
        subject.fault(Fault::None);
    }
    exactly_what_was_published(subject, &bench).await;
}

/// A shutdown in the middle of work ends within its deadline; the next start completes the work.
pub async fn shuts_down_in_mid_batch<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    for fault in [Fault::Slow, Fault::Hang, Fault::Down] {
        subject.fault(fault);
        let sink = bench.start(subject);
        publish(&bench, 500);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let began = std::time::Instant::now();
        sink.shutdown(Duration::from_secs(2)).await;
        assert!(began.elapsed() < Duration::from_secs(10), "a shutdown that hangs under {fault:?}");
        assert_eq!(sink.status().state, SinkState::Stopped);
        subject.fault(Fault::None);
    }
    let sink = bench.start(subject);
    let last = publish(&bench, 1);
    caught_up(&bench, &sink, last).await;
    exactly_what_was_published(subject, &bench).await;
    sink.shutdown(DEADLINE).await;
}

/// A sink that starts again repeats nothing it knows to be done, and reports its position to the log.
pub async fn positions_survive<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let sink = bench.start(subject);
    let last = publish(&bench, 200);
    caught_up(&bench, &sink, last).await;
    sink.shutdown(DEADLINE).await;
    until("the position is in the log", || bench.log.sink_position(super::SINK).is_some_and(|p| p > last)).await;
    let sink = bench.start(subject);
    caught_up(&bench, &sink, last).await;
    let last = publish(&bench, 1);
    caught_up(&bench, &sink, last).await;
    assert_eq!(sink.status().stored, 1, "operations repeated after a clean stop");
    sink.shutdown(DEADLINE).await;
    exactly_what_was_published(subject, &bench).await;
}

/// A database that knows more of the log than the log itself holds the sink until an operator decides.
/// Only for databases that keep positions.
pub async fn a_position_beyond_the_log_is_shown_and_reset<T: Subject>(subject: &T) {
    if !subject.stores_once() {
        return;
    }
    let bench = Bench::new(subject.database());
    let sink = bench.start(subject);
    let last = publish(&bench, 100);
    caught_up(&bench, &sink, last).await;
    sink.shutdown(DEADLINE).await;
    drop(sink);
    bench.log.truncate(Lsn(20));
    let sink = bench.start(subject);
    until("the operator is told", || sink.status().last_error.is_some_and(|e| e.contains("sink reset"))).await;
    assert!(matches!(sink.status().state, SinkState::Waiting { .. } | SinkState::Connecting { .. }));
    // Numbers that the database knows are not given again: what is published meanwhile is not taken for stored.
    let lsn = publish(&bench, 3);
    assert!(lsn > last, "{lsn} was given twice");
    until("it tries again", || sink.status().last_error.is_some_and(|e| e.contains("sink reset"))).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(sink.status().stored, 0, "what was published meanwhile is not stored before the operator decides");
    let end = bench.log.durable_end();
    assert_eq!(sink.reset(ResetTo::Latest, DEADLINE).await, Ok(end));
    let rows = async || subject.stored().await.values().sum::<u64>();
    let before = rows().await;
    let last = publish(&bench, 5);
    caught_up(&bench, &sink, last).await;
    // Not the sink's count: a write that was given up although it was done is not counted.
    assert_eq!(rows().await, before + 5);
    sink.shutdown(DEADLINE).await;
}

/// While paused nothing is stored; afterwards everything is.
pub async fn pauses_and_resumes<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let sink = bench.start(subject);
    let last = publish(&bench, 20);
    caught_up(&bench, &sink, last).await;
    sink.pause();
    let before = subject.stored().await;
    let last = publish(&bench, 20);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(subject.stored().await, before, "stored while paused");
    assert_eq!(sink.status().state, SinkState::Paused);
    assert!(sink.status().lag_records >= 20);
    sink.resume();
    caught_up(&bench, &sink, last).await;
    exactly_what_was_published(subject, &bench).await;
    sink.shutdown(DEADLINE).await;
}

/// An unsubscribe with a wildcard comes after everything before it and before everything after it, over all lanes.
pub async fn a_wildcard_unsubscribe_is_a_barrier<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let mut messages = Vec::new();
    for n in 0..40 {
        let name = format!("t/{n}");
        messages.push((bench.log.publish(&name, format!("m{}", n + 1).as_bytes(), QoS::AtLeastOnce), name));
    }
    for (lsn, name) in &messages {
        bench.log.ack("c", name, *lsn);
    }
    bench.log.unsubscribe("c", "t/#");
    let mut last = Lsn::NONE;
    for (lsn, name) in messages.iter().take(3) {
        last = bench.log.ack("c", name, *lsn);
    }
    let sink = bench.start(subject);
    caught_up(&bench, &sink, last).await;
    assert_eq!(subject.acknowledged("c").await, 3);
    sink.shutdown(DEADLINE).await;
}

/// An outage under load: memory stays bounded, and afterwards the lag is 0 with nothing missing and nothing twice.
pub async fn catches_up_after_an_outage_under_load<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let sink = bench.start(subject);
    publish(&bench, 100);
    subject.fault(Fault::Down);
    let mut last = Lsn::NONE;
    for _ in 0..20 {
        last = publish(&bench, 50);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    subject.fault(Fault::None);
    caught_up(&bench, &sink, last).await;
    exactly_what_was_published(subject, &bench).await;
    until("the lag is 0", || sink.status().lag_records == 0).await;
    sink.shutdown(DEADLINE).await;
}

/// The payloads of all messages, with their numbers.
fn published(bench: &Bench) -> Vec<(Lsn, Vec<u8>)> {
    let events = bench.log.events().into_iter().zip(1..);
    let messages = events.filter_map(|(event, lsn)| match event {
        Event::Published(p) => Some((Lsn(lsn), p.message.payload.to_vec())),
        _ => None,
    });
    messages.collect()
}

/// Every message outside the sink's gap is stored, each once; how many inside are not.
async fn lost_in_the_gap_only<T: Subject>(subject: &T, bench: &Bench, gap: &Gap) -> u64 {
    let stored = subject.stored().await;
    let (mut lost, mut elsewhere) = (0, Vec::new());
    for (lsn, payload) in published(bench) {
        match stored.get(&payload) {
            Some(1) => {}
            None if gap.from <= lsn && lsn < gap.to => lost += 1,
            times => elsewhere.push((lsn, times.copied())),
        }
    }
    assert!(elsewhere.is_empty(), "missing, or there several times, outside {}..{}: {elsewhere:?}", gap.from, gap.to);
    lost
}

/// The log could not wait and has recorded it: the sink goes on behind what is gone. What is gone without a record stays a fault.
pub async fn goes_on_behind_a_recorded_gap<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let sink = bench.start(subject);
    let last = publish(&bench, 50);
    caught_up(&bench, &sink, last).await;
    sink.shutdown(DEADLINE).await;
    until("the position is in the log", || bench.log.sink_position(super::SINK).is_some_and(|p| p > last)).await;
    publish(&bench, 150);
    let begin = bench.log.sink_position(super::SINK).unwrap_or_default();
    // Passed twice while it was away: the database knows the place before the first.
    for (from, to) in [(begin, Lsn(100)), (Lsn(100), Lsn(130))] {
        let owner = DropOwner::Sink(super::SINK.into());
        let count = published(&bench).iter().filter(|(lsn, _)| from <= *lsn && *lsn < to).count() as u64;
        let drops = vec![DroppedRange { owner, from, to, count }];
        bench.log.push(&Event::Dropped(Dropped { reason: DropReason::DiskBudget, drops }));
    }
    bench.log.trim(Lsn(130));
    for _ in 0..2 {
        let sink = bench.start(subject);
        let last = publish(&bench, 20);
        caught_up(&bench, &sink, last).await;
        let gap = sink.status().gap;
        assert_eq!(gap.map(|gap| (gap.from, gap.to)), Some((begin, Lsn(130))));
        if let Some(gap) = gap {
            assert_eq!(lost_in_the_gap_only(subject, &bench, &gap).await, gap.total);
        }
        sink.shutdown(DEADLINE).await;
    }
    let last = publish(&bench, 50);
    bench.log.trim(last);
    let sink = bench.start(subject);
    until("the operator is told", || sink.status().last_error.is_some_and(|e| e.contains("sink reset"))).await;
    assert!(sink.status().position < last);
    sink.shutdown(DEADLINE).await;
}

/// Asked to let go, a sink counts what it loses by what its database holds, and goes on behind.
pub async fn lets_go_when_asked<T: Subject>(subject: &T) {
    let bench = Bench::new(subject.database());
    let sink = bench.start(subject);
    let last = publish(&bench, 30);
    caught_up(&bench, &sink, last).await;
    subject.fault(Fault::Slow);
    publish(&bench, 100);
    sink.pause();
    publish(&bench, 300);
    let to = Lsn(300);
    until("the sink follows", || bench.log.ask(super::SINK, to)).await;
    until("it lets go", || sink.status().gap.is_some()).await;
    bench.log.trim(to);
    subject.fault(Fault::None);
    sink.resume();
    let last = publish(&bench, 20);
    caught_up(&bench, &sink, last).await;
    if let Some(gap) = sink.status().gap {
        assert_eq!(gap.to, to);
        let lost = lost_in_the_gap_only(subject, &bench, &gap).await;
        if subject.stores_once() {
            assert_eq!(lost, gap.total);
        } else {
            // What was under way is stored perhaps, and nobody can tell.
            assert!(lost <= gap.total, "{lost} lost, {} counted", gap.total);
        }
    }
    // Where the sink has come further by itself, nothing is to be let go of.
    assert!(bench.log.ask(super::SINK, last));
    until("the position is reported", || bench.log.sink_position(super::SINK).is_some_and(|p| p >= last)).await;
    assert_eq!(sink.status().gap.map(|gap| gap.to), Some(to));
    sink.shutdown(DEADLINE).await;
}
