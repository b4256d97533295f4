//! The reference sink: keyed rows in memory, with switches for every way a database can fail. The smallest complete [`Sink`], and
//! what the runtime is tested with.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::{Event, Lsn};
use parking_lot::Mutex;

use crate::rule::Rule;
use crate::sink::{
    Batch, BatchLimits, EncodeError, Finding, Kept, PREFIX_LANE, Positions, Sink, SinkRecord, Verdict, WriteError,
};

/// What the database does with calls.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Connects and writes fail.
    pub down: bool,
    /// The next writes fail after having stored half of their operations (all or nothing when atomic) and drop the connection.
    pub die_in_batch: u32,
    /// The next writes store everything and then drop the connection: the outcome is unknown to the caller.
    pub die_after_commit: u32,
    /// Writes of at least so many operations are accepted and never answered.
    pub hang_from: Option<usize>,
    /// Each write takes this long.
    pub slow: Duration,
    /// The next writes answer "busy".
    pub busy: u32,
    /// Payloads containing this are refused, item by item.
    pub poison: Option<Vec<u8>>,
    /// Refusals concern the whole batch and name no culprit.
    pub whole: bool,
    /// The next rounds of upkeep fail.
    pub upkeep: u32,
    /// The answer to what positions there are takes this long, once it is made.
    pub late_positions: Duration,
}

/// A stored operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryOp {
    /// Row key: the record and the rule's number, so that a repeat is the same row.
    pub key: (u64, u32),
    /// The key whose order counts: topic or client.
    pub order: String,
    /// What is stored.
    pub value: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<(u64, u32), MemoryOp>,
    /// Keys in the order they were first stored.
    arrivals: Vec<(String, u64)>,
    /// How often a row was written that was there already.
    repeats: u64,
    positions: HashMap<(u64, String), BTreeMap<u16, Lsn>>,
    faults: Faults,
    writes: u64,
    connects: u64,
    upkeeps: u64,
}

/// The database. Clones share it, so that it outlives the sinks that write to it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDatabase(Arc<Mutex<State>>);

impl MemoryDatabase {
    /// Changes the faults.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.0.lock().faults);
    }

    /// Rows by key.
    #[must_use]
    pub fn rows(&self) -> Vec<MemoryOp> {
        self.0.lock().rows.values().cloned().collect()
    }

    /// (order key, record) in the order rows first arrived.
    #[must_use]
    pub fn arrivals(&self) -> Vec<(String, u64)> {
        self.0.lock().arrivals.clone()
    }

    /// How often a row was written that was there already.
    #[must_use]
    pub fn repeats(&self) -> u64 {
        self.0.lock().repeats
    }

    /// Calls of `write` so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.0.lock().writes
    }

    /// Calls of `connect` so far.
    #[must_use]
    pub fn connects(&self) -> u64 {
        self.0.lock().connects
    }

    /// Rounds of upkeep that were done.
    #[must_use]
    pub fn upkeeps(&self) -> u64 {
        self.0.lock().upkeeps
    }

    /// Forgets rows and positions.
    pub fn wipe(&self) {
        let mut state = self.0.lock();
        state.rows.clear();
        state.positions.clear();
    }
}

/// A sink over a [`MemoryDatabase`].
#[derive(Clone, Debug)]
pub struct MemorySink {
    /// The database.
    pub database: MemoryDatabase,
    /// Whether it keeps positions and stores batches all or nothing.
    pub transactional: bool,
    /// Connections.
    pub connections: usize,
}

/// A connection: nothing but the proof that one was made.
#[derive(Debug)]
pub struct MemoryConn(());

impl Sink for MemorySink {
    type Op = MemoryOp;
    type Conn = MemoryConn;

    fn limits(&self) -> BatchLimits {
        BatchLimits { operations: 256, bytes: 1 << 20 }
    }

    fn connections(&self) -> usize {
        self.connections
    }

    fn atomic(&self) -> bool {
        self.transactional
    }

    fn encode(&self, record: &SinkRecord, rule: &Rule, out: &mut Vec<MemoryOp>) -> Result<(), EncodeError> {
        let (order, value) = match &record.event {
            Event::Published(p) => (p.message.topic.to_string(), p.message.payload.to_vec()),
            Event::Acked(a) => (a.topic.to_string(), a.client.as_bytes().to_vec()),
            Event::Unsubscribed(u) => (u.filter.to_string(), u.client.as_bytes().to_vec()),
            Event::ClientConnected(c) => (c.client.to_string(), b"online".to_vec()),
            Event::ClientDisconnected(d) => (d.client.to_string(), b"offline".to_vec()),
            _ => return Ok(()),
        };
        out.push(MemoryOp { key: (record.lsn.0, rule.number), order, value });
        Ok(())
    }

    async fn inspect(&self) -> Vec<Finding> {
        Vec::new()
    }

    fn weight(&self, op: &MemoryOp) -> usize {
        op.order.len() + op.value.len() + 32
    }

    async fn connect(&self) -> Result<MemoryConn, WriteError> {
        let mut state = self.database.0.lock();
        state.connects += 1;
        if state.faults.down { Err(down()) } else { Ok(MemoryConn(())) }
    }

    async fn write<'a>(&'a self, _conn: &'a mut MemoryConn, batch: Batch<'a, MemoryOp>) -> Result<(), WriteError> {
        let (hang, slow) = {
            let mut state = self.database.0.lock();
            state.writes += 1;
            (state.faults.hang_from.is_some_and(|from| batch.entries.len() >= from), state.faults.slow)
        };
        if hang {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(slow).await;
        self.database.0.lock().write(&batch, self.transactional)
    }

    async fn positions<'a>(
        &'a self,
        _conn: &'a mut MemoryConn,
        log_id: u64,
        sink: &'a str,
    ) -> Result<Kept, WriteError> {
        if !self.transactional {
            return Ok(Kept::Never);
        }
        let (lanes, late) = {
            let state = self.database.0.lock();
            (state.positions.get(&(log_id, sink.to_owned())).cloned(), state.faults.late_positions)
        };
        tokio::time::sleep(late).await;
        let Some(lanes) = lanes else { return Ok(Kept::Nothing) };
        let prefix = lanes.get(&PREFIX_LANE).copied().unwrap_or_default();
        let lanes = lanes.iter().filter(|(l, _)| **l != PREFIX_LANE).map(|(l, p)| (*l, *p)).collect();
        Ok(Kept::At(Positions { log_id, sink: sink.to_owned(), lanes, prefix }))
    }

    async fn reset<'a>(
        &'a self,
        _conn: &'a mut MemoryConn,
        log_id: u64,
        sink: &'a str,
        to: Lsn,
    ) -> Result<(), WriteError> {
        let positions = BTreeMap::from([(PREFIX_LANE, to)]);
        self.database.0.lock().positions.insert((log_id, sink.to_owned()), positions);
        Ok(())
    }

    async fn maintain<'a>(&'a self, _conn: &'a mut MemoryConn, _now_us: u64) -> Result<u64, WriteError> {
        let mut state = self.database.0.lock();
        if take_one(&mut state.faults.upkeep) {
            return Err(down());
        }
        state.upkeeps += 1;
        Ok(0)
    }
}

fn down() -> WriteError {
    WriteError::Disconnected("the database is down".into())
}

impl State {
    fn write(&mut self, batch: &Batch<'_, MemoryOp>, transactional: bool) -> Result<(), WriteError> {
        if self.faults.down {
            return Err(down());
        }
        if take_one(&mut self.faults.busy) {
            return Err(WriteError::Busy { wait: Some(Duration::from_millis(5)), cause: "throttled".into() });
        }
        let poisoned: Vec<usize> = batch
            .entries
            .iter()
            .enumerate()
            .filter(|(_, e)| self.faults.poison.as_ref().is_some_and(|p| contains(&e.op.value, p)))
            .map(|(index, _)| index)
            .collect();
        if !poisoned.is_empty() && self.faults.whole {
            return Err(WriteError::Whole("refused".into()));
        }
        let dies = take_one(&mut self.faults.die_in_batch);
        let half = batch.entries.len() / 2;
        for (index, entry) in batch.entries.iter().enumerate() {
            let nothing = transactional && (dies || !poisoned.is_empty());
            let lost = nothing || poisoned.contains(&index) || (dies && index >= half);
            if !lost {
                self.store(&entry.op);
            }
        }
        if dies {
            return Err(WriteError::Disconnected("died in mid-batch".into()));
        }
        if !poisoned.is_empty() {
            let bury = |index| (index, Verdict::Bury("poison".into()));
            return Err(WriteError::Items(poisoned.into_iter().map(bury).collect()));
        }
        if let (Some(p), true) = (batch.positions, transactional) {
            let slot = self.positions.entry((p.log_id, p.sink.clone())).or_default();
            for (lane, lsn) in p.lanes.iter().copied().chain([(PREFIX_LANE, p.prefix)]) {
                let held = slot.entry(lane).or_default();
                *held = (*held).max(lsn);
            }
        }
        if take_one(&mut self.faults.die_after_commit) {
            return Err(WriteError::Disconnected("died after the commit".into()));
        }
        Ok(())
    }

    fn store(&mut self, op: &MemoryOp) {
        if self.rows.insert(op.key, op.clone()).is_some() {
            self.repeats += 1;
        } else {
            self.arrivals.push((op.order.clone(), op.key.0));
        }
    }
}

fn take_one(count: &mut u32) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|w| w == needle)
}
