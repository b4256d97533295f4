//! Reads the log page by page and hands what rules want to the workers.

use std::sync::Arc;

use forebay_engine::log::ReadError;
use forebay_engine::{Event, Lsn, Record};
use tokio::sync::mpsc;

use super::generation::{Generation, hold};
use super::passed::behind_gap;
use super::plan::{Lane, lane};
use super::settle::letter;
use super::worker::Work;
use super::{Shared, Stop, is_report};
use crate::sink::{Entry, Sink, SinkRecord};
use crate::source::{RecordReader, Source};

/// One page: small enough to be dropped at any moment, large enough that the thread switch does not count.
const PAGE_RECORDS: usize = 1024;
const PAGE_BYTES: usize = 1 << 20;

/// Kinds from here on are the log's own (gaps); no rule concerns them.
const LOG_KINDS: u8 = 128;

/// What a record is worth beyond its operations' own weight.
const RECORD_OVERHEAD: usize = 256;

pub(crate) struct Reader<S: Sink> {
    shared: Arc<Shared<S>>,
    generation: Arc<Generation>,
    queues: Vec<mpsc::Sender<Work<S::Op>>>,
    position: Lsn,
    records: Option<Box<dyn RecordReader>>,
    /// Empty: memory for the operations of one rule.
    ops: Vec<S::Op>,
}

/// The workers are gone.
struct Ended;

impl<S: Sink> Reader<S> {
    pub(crate) fn new(
        shared: Arc<Shared<S>>,
        generation: Arc<Generation>,
        queues: Vec<mpsc::Sender<Work<S::Op>>>,
        position: Lsn,
    ) -> Self {
        Reader { shared, generation, queues, position, records: None, ops: Vec::new() }
    }

    /// Reads until the sink stops. When it returns, the workers' queues are closed.
    pub(crate) async fn run(mut self) {
        let (mut stop, mut ending) = (self.shared.stop.clone(), self.generation.ending.subscribe());
        let work = async {
            self.look_back().await;
            self.read().await;
        };
        tokio::select! {
            () = work => {}
            _ = ending.wait_for(|ending| *ending) => {}
            _ = stop.wait_for(|s| *s != Stop::No) => {}
        }
    }

    /// Shows the sink what came before its position, where it has to know that. What is trimmed can't be shown.
    async fn look_back(&mut self) {
        let shared = self.shared.clone();
        shared.sink.begins();
        let back = shared.sink.look_back();
        if back == 0 {
            return;
        }
        let to = self.position;
        let from = Lsn(to.0.saturating_sub(back)).max(shared.source.first());
        self.position = from;
        while self.position < to {
            let page = match self.page().await {
                Ok(page) if !page.is_empty() => page,
                Ok(_) => break,
                Err(error) => {
                    let (sink, at) = (&self.shared.name, from.0);
                    tracing::warn!(sink, at, %error, "records before the sink's position can't be read: points of one time may replace each other");
                    break;
                }
            };
            for record in page.into_iter().take_while(|record| record.lsn < to) {
                self.position = record.lsn.next();
                show(&shared, record);
            }
        }
        // Pages go beyond the place where reading begins.
        (self.position, self.records) = (to, None);
    }

    async fn read(&mut self) {
        loop {
            let page = self.page().await;
            if behind_gap(&*self.shared.source, &self.shared.name, self.position) > self.position {
                // The log could not wait: what is left of this page counts as lost.
                self.generation.restart.notify_one();
                return;
            }
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    let why = format!("reading the log at record {}: {error}", self.position);
                    hold(&self.shared, why).await;
                    continue;
                }
            };
            if page.is_empty() {
                self.shared.source.wait(self.position).await;
            }
            for record in page {
                if self.record(record).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Lets go of the segment it stands in: a reader that waits for others must not keep it from being trimmed.
    fn rest(&mut self) {
        self.records = None;
    }

    async fn page(&mut self) -> Result<Vec<Record>, ReadError> {
        if self.shared.source.durable_end() <= self.position {
            return Ok(Vec::new());
        }
        let (source, position, records) = (self.shared.source.clone(), self.position, self.records.take());
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = match records {
                Some(reader) => reader,
                None => source.reader(position)?,
            };
            let mut page = Vec::new();
            reader.read(PAGE_RECORDS, PAGE_BYTES, &mut page)?;
            Ok::<_, ReadError>((reader, page))
        });
        match read.await {
            Ok(Ok((reader, page))) => {
                self.records = Some(reader);
                Ok(page)
            }
            Ok(Err(error)) => Err(error),
            // The runtime is shutting down: nothing more will be read.
            Err(_) => Ok(Vec::new()),
        }
    }

    async fn record(&mut self, record: Record) -> Result<(), Ended> {
        let next = record.lsn.next();
        let mut noteworthy = false;
        if record.kind < LOG_KINDS {
            let event = loop {
                match Event::decode(record.kind, record.body.clone()) {
                    Ok(event) => break event,
                    Err(error) => {
                        let why =
                            format!("record {} can't be decoded: {error}; is the log of a newer version?", record.lsn);
                        hold(&self.shared, why).await;
                    }
                }
            };
            noteworthy = !is_report(&event);
            if noteworthy {
                self.dispatch(&record, event).await?;
            }
        }
        self.generation.tracker.read_to(next, noteworthy);
        self.position = next;
        Ok(())
    }

    async fn dispatch(&mut self, record: &Record, event: Event) -> Result<(), Ended> {
        let lane = lane(&event);
        let number = if let Lane::One(n) = lane { n } else { 0 };
        if record.lsn < self.generation.tracker.lane(number) {
            return Ok(());
        }
        let about = sink_record(&*self.shared.source, record.lsn, record.time_us, event);
        let Some(work) = self.encode(record, &about, number).await else { return Ok(()) };
        let weight = work.weight.min(self.shared.options.memory_bytes);
        let permits = u32::try_from(weight).unwrap_or(u32::MAX);
        let memory = self.generation.memory.clone();
        let permit = match memory.clone().try_acquire_many_owned(permits) {
            Ok(permit) => permit,
            Err(_) => {
                self.rest();
                memory.acquire_many_owned(permits).await.map_err(|_| Ended)?
            }
        };
        let queue = self.queues.get(usize::from(number) % self.queues.len().max(1)).ok_or(Ended)?;
        if queue.capacity() == 0 || lane == Lane::Barrier {
            self.records = None; // As `rest`.
        }
        let tracker = &self.generation.tracker;
        if lane == Lane::Barrier {
            tracker.idle().await;
        }
        tracker.begin(record.lsn, record.time_us);
        queue.send(Work { permit: Some(permit), ..work }).await.map_err(|_| Ended)?;
        if lane == Lane::Barrier {
            tracker.idle().await;
        }
        Ok(())
    }

    /// The record's operations in the order of the rules; `None` when there is none.
    async fn encode(&mut self, record: &Record, about: &SinkRecord, lane: u16) -> Option<Work<S::Op>> {
        let mut entries = Vec::new();
        let mut weight = RECORD_OVERHEAD + record.body.len();
        let mut ops = std::mem::take(&mut self.ops);
        for (index, rule) in self.shared.plan.matching(&about.event) {
            if let Err(error) = self.shared.sink.encode(about, rule, &mut ops) {
                ops.clear();
                let mut entry = letter(&self.shared, index, 0, record.lsn, record.time_us);
                entry.reason = error.reason;
                entry.kind = record.kind;
                entry.body = record.body.clone();
                super::settle::bury(&self.shared, &entry).await;
            }
            entries.reserve_exact(ops.len());
            for (place, op) in ops.drain(..).enumerate() {
                weight += self.shared.sink.weight(&op);
                let place = u32::try_from(place).unwrap_or(u32::MAX);
                entries.push(Entry { lsn: record.lsn, time_us: record.time_us, rule: index, place, op });
            }
        }
        self.ops = ops;
        let own_import = self.shared.plan.is_own_import(&about.event);
        if let Some(op) = own_import.then(|| self.shared.sink.imported(about)).flatten() {
            weight += self.shared.sink.weight(&op);
            entries.push(Entry { lsn: record.lsn, time_us: record.time_us, rule: 0, place: 0, op });
        }
        if entries.is_empty() {
            return None;
        }
        Some(Work {
            lsn: record.lsn,
            lane,
            entries,
            weight,
            permit: None,
            kind: record.kind,
            body: record.body.clone(),
        })
    }
}

/// Lets the sink see a record that it has stored already.
fn show<S: Sink>(shared: &Shared<S>, record: Record) {
    let event = match Event::decode(record.kind, record.body) {
        Ok(event) if record.kind < LOG_KINDS => event,
        _ => return,
    };
    let about = sink_record(&*shared.source, record.lsn, record.time_us, event);
    let mut dropped = Vec::new();
    for (_, rule) in shared.plan.matching(&about.event) {
        // What has no operations had none before.
        let _ = shared.sink.encode(&about, rule, &mut dropped);
        dropped.clear();
    }
}

/// An event with its place, and the name of the message it is about.
pub(crate) fn sink_record(source: &dyn Source, lsn: Lsn, time_us: u64, event: Event) -> SinkRecord {
    let msgid = match &event {
        Event::Acked(a) => source.msgid(a.lsn, a.time_us),
        Event::Delivered(d) => source.msgid(d.lsn, d.time_us),
        _ => source.msgid(lsn, time_us),
    };
    SinkRecord { lsn, time_us, msgid, event }
}
