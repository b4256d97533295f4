//! The delivery worker: reads the log for connections that are behind, and hands out queue messages. The only reader of the disk
//! in delivery, so that neither the applier nor a connection ever waits for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use bytes::Bytes;
use bytestring::ByteString;

use super::catch_up::fill;
use super::groups::hand_out_group;
use super::hub::Hub;
use super::inbox::Inbox;
use super::retry::Retries;
use crate::event::codec::KIND_PUBLISHED;
use crate::event::{Event, Published};
use crate::ids::Lsn;
use crate::log::{Log, ReadError, Record};
use crate::rules::Kind;
use crate::state::StoredMessage;

/// What the worker is asked to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// Read the log for this inbox until it is full or has caught up.
    Fill(Arc<Inbox>),
    /// This topic's queue may have something to hand out.
    Topic(ByteString),
    /// This shared subscription's group may have something to hand out.
    Group(ByteString),
    /// This inbox may have room for messages of queues and groups.
    Room(Arc<Inbox>),
    /// End the worker.
    Stop,
}

/// Runs until told to stop.
pub(crate) fn run(hub: &Hub, work: &Receiver<Work>) {
    let mut worker = Worker::default();
    loop {
        // While inboxes are behind, new work is taken in between their turns.
        let next = if !worker.filling.is_empty() {
            work.try_recv().ok()
        } else if let Some(wait) = worker.retries.due_in(hub.clock.now_us()) {
            match work.recv_timeout(wait) {
                Ok(next) => Some(next),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            match work.recv() {
                Ok(next) => Some(next),
                Err(_) => return,
            }
        };
        if !worker.step(hub, next) {
            return;
        }
    }
}

/// What the worker has to do besides what it is asked.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    /// The connections that are behind, in the order of their turns.
    filling: VecDeque<Arc<Inbox>>,
    retries: Retries,
}

impl Worker {
    /// True when no connection is behind and nothing is due to be tried again.
    pub(crate) fn is_idle(&self, hub: &Hub) -> bool {
        self.filling.is_empty() && self.retries.due_in(hub.clock.now_us()).is_none_or(|wait| !wait.is_zero())
    }

    /// Does what is asked, or else what is due to be tried again; then gives the connection whose turn it is one chunk of the log. False
    /// once told to stop.
    pub(crate) fn step(&mut self, hub: &Hub, next: Option<Work>) -> bool {
        let now_us = hub.clock.now_us();
        let retry = if next.is_none() { self.retries.take_due(now_us) } else { None };
        let again = retry.is_some();
        match next.or(retry) {
            Some(Work::Stop) => return false,
            Some(Work::Fill(inbox)) => self.filling.push_back(inbox),
            Some(Work::Topic(topic)) => hand_out(hub, &topic),
            Some(Work::Group(share)) => hand_out_group(hub, &share),
            Some(Work::Room(inbox)) => hand_out_to(hub, &inbox),
            None => {}
        }
        if let Some(inbox) = self.filling.pop_front() {
            if fill(hub, &inbox) {
                self.filling.push_back(Arc::clone(&inbox));
            }
            inbox.wake();
        }
        self.retries.take_in(hub.take_failed(), again, now_us);
        true
    }
}

/// A stored message by its number.
pub(crate) fn load(log: &Log, lsn: Lsn) -> Result<Option<StoredMessage>, ReadError> {
    Ok(log.read(lsn)?.and_then(|record| stored(&record)))
}

/// The message of a publish record; `None` for other records and for bytes that are none (reported).
pub(super) fn stored(record: &Record) -> Option<StoredMessage> {
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

/// Looks through the queues and groups of an inbox that may have room, until it has none.
pub(super) fn hand_out_to(hub: &Hub, inbox: &Arc<Inbox>) {
    let (filters, shares): (Vec<ByteString>, Vec<ByteString>) = {
        let mut state = inbox.state.lock();
        state.asking = false;
        let queues = state.filters.iter().filter(|f| f.sub.kind == Kind::Queue);
        (queues.map(|f| f.sub.filter.clone()).collect(), state.shared.shares.clone())
    };
    for share in &shares {
        if inbox.has_room() {
            hand_out_group(hub, share);
        }
    }
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
            Err(ReadError::Trimmed { .. }) => {
                tracing::error!(lsn = lsn.0, %topic, "a queue owes a message that is in no segment and no residue file any more; it is passed over");
                hub.queue.lock().remove(lsn);
                continue;
            }
            Err(error) => {
                tracing::error!(lsn = lsn.0, %topic, %error, "a queue message can't be read; its queue waits, and it is tried again");
                hub.try_again(Work::Topic(topic.clone()));
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
