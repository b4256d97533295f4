//! A log in memory that fills up while sinks read it.

use std::collections::HashMap;
use std::sync::Arc;

use bytestring::ByteString;
use forebay_engine::event::{
    AckOutcome, Acked, ClientConnected, ClientDisconnected, DisconnectReason, DropOwner, Dropped, Message, Published,
    Unsubscribed,
};
use forebay_engine::log::{AppendError, DurableError, ReadError};
use forebay_engine::state::Gap;
use forebay_engine::{Event, Lsn, MsgId, QoS, Record};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::source::{BoxFuture, RecordReader, Source};

/// Kind of a number that no record has, as the log's own gaps are.
const SKIPPED: u8 = 128;

/// First record's time: 2024-01-01T00:00:00Z.
pub const BEGIN_US: u64 = 1_704_067_200_000_000;

/// A log in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    records: Arc<Mutex<Vec<Record>>>,
    grown: Arc<Notify>,
    sink_positions: Arc<Mutex<HashMap<String, Lsn>>>,
    /// Records below are "trimmed".
    first: Arc<Mutex<u64>>,
    gaps: Arc<Mutex<HashMap<String, Gap>>>,
    /// Numbers that only a database knew.
    beyond: Arc<Mutex<Vec<(Lsn, Lsn)>>>,
    /// Sinks that follow, and what they are asked.
    asked: Arc<Mutex<HashMap<String, Option<Lsn>>>>,
}

impl MemoryLog {
    /// Appends an event.
    pub fn push(&self, event: &Event) -> Lsn {
        let mut body = Vec::new();
        event.encode(&mut body);
        let mut records = self.records.lock();
        let lsn = Lsn(records.len() as u64 + 1);
        if let Event::SinkPosition(p) = event {
            self.sink_positions.lock().insert(p.sink.to_string(), p.next);
        }
        if let Event::Dropped(dropped) = event {
            self.pass(dropped);
        }
        records.push(Record { lsn, time_us: BEGIN_US + lsn.0, kind: event.kind(), body: body.into() });
        drop(records);
        self.grown.notify_waiters();
        lsn
    }

    /// Appends a message.
    pub fn publish(&self, topic: &str, payload: &[u8], qos: QoS) -> Lsn {
        self.message(Message {
            topic: topic.into(),
            payload: payload.to_vec().into(),
            qos,
            publisher: ByteString::from_static("publisher"),
            ..Message::default()
        })
    }

    /// Appends a message as it is.
    pub fn message(&self, message: Message) -> Lsn {
        self.push(&Event::Published(Published { message, packet_id: None, epoch: 1 }))
    }

    /// Appends an acknowledgement of a message. Topics under `queue/` are queues.
    pub fn ack(&self, client: &str, topic: &str, lsn: Lsn) -> Lsn {
        self.push(&Event::Acked(Acked {
            client: client.into(),
            lsn,
            time_us: BEGIN_US + lsn.0,
            topic: topic.into(),
            packet_id: None,
            outcome: AckOutcome::Acknowledged,
            queue: topic.starts_with("queue/"),
            cursors: Vec::new(),
        }))
    }

    /// Appends an unsubscribe.
    pub fn unsubscribe(&self, client: &str, filter: &str) -> Lsn {
        self.push(&Event::Unsubscribed(Unsubscribed {
            client: client.into(),
            epoch: 1,
            filter: filter.into(),
            by_proxy: false,
        }))
    }

    /// Appends a client's coming.
    pub fn connect(&self, client: &str, epoch: u64) -> Lsn {
        self.push(&Event::ClientConnected(ClientConnected {
            client: client.into(),
            epoch,
            username: ByteString::new(),
            peer: ByteString::new(),
            protocol: 4,
            keep_alive_s: 60,
            clean_start: true,
        }))
    }

    /// Appends a client's going.
    pub fn disconnect(&self, client: &str, epoch: u64, superseded: bool) -> Lsn {
        self.push(&Event::ClientDisconnected(ClientDisconnected {
            client: client.into(),
            epoch,
            reason: DisconnectReason::Normal,
            superseded,
            cancel_will: true,
            expiry_s: None,
            positions: Vec::new(),
        }))
    }

    /// Positions and gaps after a record that sinks were passed.
    fn pass(&self, dropped: &Dropped) {
        for range in &dropped.drops {
            let DropOwner::Sink(sink) = &range.owner else { continue };
            let (mut gaps, mut positions) = (self.gaps.lock(), self.sink_positions.lock());
            let longer = gaps.get(&**sink).copied().filter(|gap| gap.to == range.from);
            let gap = Gap {
                from: longer.map_or(range.from, |gap| gap.from),
                to: range.to,
                count: range.count + longer.map_or(0, |gap| gap.count),
                reason: dropped.reason,
                time_us: BEGIN_US,
                total: range.count + gaps.get(&**sink).map_or(0, |gap| gap.total),
            };
            gaps.insert(sink.to_string(), gap);
            let position = positions.entry(sink.to_string()).or_default();
            *position = (*position).max(range.to);
            self.asked.lock().values_mut().for_each(|asked| *asked = None);
        }
    }

    /// Asks a sink to let go of what is below `to`. False when it does not follow.
    #[must_use]
    pub fn ask(&self, sink: &str, to: Lsn) -> bool {
        self.asked.lock().get_mut(sink).map(|asked| *asked = Some(to)).is_some()
    }

    /// Makes the log begin at `first`.
    pub fn trim(&self, first: Lsn) {
        *self.first.lock() = first.0;
    }

    /// Forgets the records from `end` on, as a restored backup of a log would.
    pub fn truncate(&self, end: Lsn) {
        self.sink_positions.lock().retain(|_, position| *position <= end);
        self.records.lock().truncate(usize::try_from(end.0.saturating_sub(1)).unwrap_or(usize::MAX));
    }

    /// All events.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.records.lock().iter().filter_map(|r| Event::decode(r.kind, r.body.clone()).ok()).collect()
    }
}

struct MemoryReader {
    log: MemoryLog,
    next: u64,
}

impl RecordReader for MemoryReader {
    fn read(&mut self, max_records: usize, _max_bytes: usize, out: &mut Vec<Record>) -> Result<usize, ReadError> {
        let from = usize::try_from(self.next.saturating_sub(1)).unwrap_or(usize::MAX);
        let before = out.len();
        out.extend(self.log.records.lock().iter().skip(from).take(max_records).cloned());
        let read = out.len() - before;
        self.next += read as u64;
        Ok(read)
    }
}

impl Source for MemoryLog {
    fn log_id(&self) -> u64 {
        0xf0f0_f0f0_f0f0_f0f0
    }
    fn first(&self) -> Lsn {
        Lsn((*self.first.lock()).max(1))
    }
    fn durable_end(&self) -> Lsn {
        Lsn(self.records.lock().len() as u64 + 1)
    }
    fn reader(&self, from: Lsn) -> Result<Box<dyn RecordReader>, ReadError> {
        if from < self.first() {
            return Err(ReadError::Trimmed { first: self.first() });
        }
        Ok(Box::new(MemoryReader { log: self.clone(), next: from.0 }))
    }
    fn wait(&self, lsn: Lsn) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let grown = self.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            if self.durable_end() <= lsn {
                grown.await;
            }
        })
    }
    fn append(&self, event: Event) -> BoxFuture<'_, Result<Lsn, AppendError>> {
        Box::pin(async move { Ok(self.push(&event)) })
    }
    fn msgid(&self, lsn: Lsn, time_us: u64) -> MsgId {
        MsgId::new(time_us, 7, lsn)
    }
    fn sink_position(&self, sink: &str) -> Option<Lsn> {
        self.sink_positions.lock().get(sink).copied()
    }
    fn sink_gap(&self, sink: &str) -> Option<Gap> {
        self.gaps.lock().get(sink).copied()
    }
    fn skip_past(&self, lsn: Lsn) -> BoxFuture<'_, Result<(), DurableError>> {
        let mut records = self.records.lock();
        let from = Lsn(records.len() as u64 + 1);
        for n in from.0..=lsn.0 {
            records.push(Record { lsn: Lsn(n), time_us: BEGIN_US + n, kind: SKIPPED, body: bytes::Bytes::new() });
        }
        self.beyond.lock().push((from, Lsn(records.len() as u64 + 1)));
        Box::pin(std::future::ready(Ok(())))
    }
    fn is_beyond(&self, lsn: Lsn) -> bool {
        self.beyond.lock().iter().any(|(from, to)| *from < lsn && lsn < *to)
    }
    fn follows(&self, sink: &str, follows: bool) {
        let mut asked = self.asked.lock();
        if follows {
            asked.entry(sink.to_owned()).or_default();
        } else {
            asked.remove(sink);
        }
    }
    fn asked(&self, sink: &str) -> Option<Lsn> {
        self.asked.lock().get(sink).copied().flatten()
    }
    fn retained_at(&self, topic: &str) -> Option<u64> {
        let records = self.records.lock();
        records.iter().rev().find_map(|r| match Event::decode(r.kind, r.body.clone()) {
            Ok(Event::Published(p)) if p.message.retain && &*p.message.topic == topic => Some(r.time_us),
            _ => None,
        })
    }
    fn now_us(&self) -> u64 {
        BEGIN_US + self.records.lock().len() as u64
    }
}
