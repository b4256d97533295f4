//! The delivery worker: reads the log for connections that are behind, and hands out queue messages. The only reader of the disk
//! in delivery, so that neither the applier nor a connection ever waits for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use bytes::Bytes;
use bytestring::ByteString;

use super::hub::Hub;
use super::inbox::{Inbox, Offer};
use crate::event::codec::KIND_PUBLISHED;
use crate::event::{Event, Published};
use crate::ids::Lsn;
use crate::log::{Log, ReadError, Record};
use crate::rules::Kind;
use crate::state::StoredMessage;
use crate::topic;

/// Records and bytes read for one inbox before the next has its turn.
const CHUNK_RECORDS: usize = 512;
const CHUNK_BYTES: usize = 512 * 1024;

/// What the worker is asked to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// Read the log for this inbox until it is full or has caught up.
    Fill(Arc<Inbox>),
    /// This topic's queue may have something to hand out.
    Topic(ByteString),
    /// This inbox may have room for queue messages.
    Room(Arc<Inbox>),
    /// End the worker.
    Stop,
}

/// Runs until told to stop.
pub(crate) fn run(hub: &Hub, work: &Receiver<Work>) {
    let mut worker = Worker::default();
    loop {
        // While inboxes are behind, new work is taken in between their turns.
        let next = if worker.is_idle() { work.recv().ok() } else { work.try_recv().ok() };
        if next.is_none() && worker.is_idle() || !worker.step(hub, next) {
            return;
        }
    }
}

/// The connections that are behind, in the order of their turns.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    filling: VecDeque<Arc<Inbox>>,
}

impl Worker {
    /// True when no connection is behind.
    pub(crate) fn is_idle(&self) -> bool {
        self.filling.is_empty()
    }

    /// Does what is asked, then gives the connection whose turn it is one chunk of the log. False once told to stop.
    pub(crate) fn step(&mut self, hub: &Hub, next: Option<Work>) -> bool {
        match next {
            Some(Work::Stop) => return false,
            Some(Work::Fill(inbox)) => self.filling.push_back(inbox),
            Some(Work::Topic(topic)) => hand_out(hub, &topic),
            Some(Work::Room(inbox)) => hand_out_to(hub, &inbox),
            None => {}
        }
        if let Some(inbox) = self.filling.pop_front() {
            if fill(hub, &inbox) {
                self.filling.push_back(Arc::clone(&inbox));
            }
            inbox.wake();
        }
        true
    }
}

/// A stored message by its number.
pub(crate) fn load(log: &Log, lsn: Lsn) -> Result<Option<StoredMessage>, ReadError> {
    Ok(log.read(lsn)?.and_then(|record| stored(&record)))
}

/// The message of a publish record; `None` for other records and for bytes that are none (reported).
fn stored(record: &Record) -> Option<StoredMessage> {
    if record.kind != KIND_PUBLISHED {
        return None;
    }
    match Event::decode(record.kind, Bytes::clone(&record.body)) {
        Ok(Event::Published(Published { message, .. })) => {
            Some(StoredMessage { lsn: record.lsn, time_us: record.time_us, message: Arc::new(message) })
        }
        Ok(_) => None,
        Err(error) => {
            tracing::error!(lsn = record.lsn.0, %error, "a record can't be read as a message and is passed over");
            None
        }
    }
}

/// Looks through the queues of an inbox that may have room, until it has none.
pub(super) fn hand_out_to(hub: &Hub, inbox: &Arc<Inbox>) {
    let filters: Vec<ByteString> = {
        let mut state = inbox.state.lock();
        state.asking = false;
        state.filters.iter().filter(|f| f.sub.kind == Kind::Queue).map(|f| f.sub.filter.clone()).collect()
    };
    for filter in &filters {
        let mut last: Option<ByteString> = None;
        while inbox.has_room() {
            let next = hub.queue.lock().next_ready_topic(filter, last.as_deref());
            let Some(topic) = next else { break };
            hand_out(hub, &topic);
            last = Some(topic);
        }
    }
}

/// Leases the topic's messages to connected subscribers with room, in the order of the log, round robin.
pub(super) fn hand_out(hub: &Hub, topic: &ByteString) {
    let mut given: Vec<Arc<Inbox>> = Vec::new();
    loop {
        let Some(lsn) = hub.queue.lock().first_ready(topic) else { break };
        // Asked before the message is read: while nobody has room this costs no disk.
        let mut subscribers = hub.queue_subscribers(topic);
        subscribers.retain(|sub| sub.inbox.has_room());
        if subscribers.is_empty() {
            break;
        }
        let stored = match load(&hub.log, lsn) {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                tracing::error!(lsn = lsn.0, %topic, "a queue owes a message that is not in the log; it is passed over");
                hub.queue.lock().remove(lsn);
                continue;
            }
            Err(error) => {
                tracing::error!(lsn = lsn.0, %topic, %error, "a queue message can't be read; its queue waits");
                break;
            }
        };
        let first = hub.queue.lock().next_turn(subscribers.len());
        let (tail, head) = subscribers.split_at(first.min(subscribers.len()));
        // The lease is entered first: a message that is in an inbox always has its holder.
        let taker = head.iter().chain(tail).find(|sub| {
            let leased = hub.queue.lock().lease(lsn, &sub.inbox.client, sub.inbox.epoch);
            let taken = leased && sub.inbox.lease(lsn, &stored, sub);
            if leased && !taken {
                hub.queue.lock().release(&sub.inbox.client, sub.inbox.epoch, &[lsn], false);
            }
            taken
        });
        let Some(sub) = taker else { break };
        if !given.iter().any(|inbox| Arc::ptr_eq(inbox, &sub.inbox)) {
            given.push(Arc::clone(&sub.inbox));
        }
    }
    given.iter().for_each(|inbox| inbox.wake());
}

/// Reads one chunk of the log for an inbox. True when it wants more.
pub(super) fn fill(hub: &Hub, inbox: &Arc<Inbox>) -> bool {
    if let Some((filter, from, newest)) = unresolved(inbox) {
        resolve_newest(hub, inbox, &filter, from, newest);
        return true;
    }
    let (pos, generation, reader) = {
        let mut state = inbox.state.lock();
        if !state.wants_fill() {
            state.filling = false;
            // A reader holds its segment: a client that takes nothing must not keep the log from being trimmed.
            state.reader = None;
            return false;
        }
        (state.pos, state.generation, state.reader.take())
    };
    let mut records = Vec::new();
    let read = match reader.filter(|r| r.position() == pos).map_or_else(|| hub.log.reader(pos), Ok) {
        Ok(mut reader) => reader.read_batch(CHUNK_RECORDS, CHUNK_BYTES, &mut records).map(|_| reader),
        Err(error) => Err(error),
    };
    let reader = match read {
        Ok(reader) => reader,
        Err(ReadError::Trimmed { first }) => {
            tracing::warn!(client = %inbox.client, from = pos.0, to = first.0, "records a cursor still wanted were trimmed by retention");
            metrics::counter!(crate::metrics::GAP_RECORDS).increment(first.0.saturating_sub(pos.0));
            let mut state = inbox.state.lock();
            if state.generation == generation {
                state.pos = first;
            }
            return true;
        }
        Err(error) => {
            tracing::error!(client = %inbox.client, lsn = pos.0, %error, "stored messages can't be read; this connection waits for them");
            inbox.state.lock().filling = false;
            return false;
        }
    };
    metrics::counter!(crate::metrics::CATCH_UP_RECORDS).increment(records.len() as u64);
    let messages: Vec<(StoredMessage, bool)> = records
        .iter()
        .filter_map(stored)
        .map(|stored| {
            let superseded = hub.superseded(stored.lsn, &stored.message);
            (stored, superseded)
        })
        .collect();
    let mut state = inbox.state.lock();
    if state.closed || state.generation != generation {
        return !state.closed;
    }
    for (stored, superseded) in &messages {
        let matched: Vec<usize> = (0..state.filters.len())
            .filter(|i| {
                let filter = state.filters.get(*i).map(|f| &f.sub.filter);
                filter.is_some_and(|filter| topic::matches(filter, &stored.message.topic))
            })
            .collect();
        if !matched.is_empty() && state.offer(&inbox.client, stored, &matched, *superseded) == Offer::Full {
            state.pos = stored.lsn;
            state.filling = false;
            return false;
        }
    }
    state.pos = reader.position();
    if records.is_empty() && hub.live_end() <= state.pos {
        // Everything durable was looked at and the applier is not past it: from here on it puts messages in directly.
        state.go_live();
        return false;
    }
    state.reader = Some(reader);
    true
}

fn unresolved(inbox: &Inbox) -> Option<(ByteString, Lsn, u64)> {
    let state = inbox.state.lock();
    state.filters.iter().find_map(|f| f.newest.map(|n| (f.sub.filter.clone(), f.from, n)))
}

/// Finds where the newest `newest` messages of a filter begin, so that they are then given oldest first.
fn resolve_newest(hub: &Hub, inbox: &Inbox, filter: &ByteString, from: Lsn, newest: u64) {
    let mut last: VecDeque<Lsn> = VecDeque::new();
    let mut skipped = 0u64;
    let mut scan = || -> Result<Lsn, ReadError> {
        let mut reader = match hub.log.reader(from) {
            Err(ReadError::Trimmed { first }) => hub.log.reader(first)?,
            other => other?,
        };
        let mut records = Vec::new();
        while reader.read_batch(CHUNK_RECORDS, CHUNK_BYTES, &mut records)? > 0 {
            for stored in records.drain(..).filter_map(|record| stored(&record)) {
                if topic::matches(filter, &stored.message.topic) {
                    last.push_back(stored.lsn);
                    if last.len() as u64 > newest {
                        last.pop_front();
                        skipped += 1;
                    }
                }
            }
        }
        Ok(last.front().copied().unwrap_or(reader.position()))
    };
    let begin = scan().unwrap_or_else(|error| {
        tracing::error!(%filter, %error, "the newest stored messages can't be found; the subscription begins with what follows");
        hub.live_end()
    });
    metrics::counter!(crate::metrics::OFFLINE_SKIPPED).increment(skipped);
    let mut state = inbox.state.lock();
    if let Some(f) = state.filters.iter_mut().find(|f| f.sub.filter == *filter) {
        f.newest = None;
        f.from = f.from.max(begin);
        f.start = f.start.max(begin);
    }
}
