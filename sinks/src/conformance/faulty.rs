//! Breaks the link to a real database from the outside.

use std::sync::Arc;
use std::time::Duration;

use forebay_engine::Lsn;
use parking_lot::Mutex;

use super::{Fault, PROMPT};
use crate::rule::Rule;
use crate::sink::{AtWorst, Batch, BatchLimits, EncodeError, Finding, Kept, Sink, SinkRecord, WriteError};

/// Another sink with a link that can be broken. Clones share the fault.
#[derive(Clone, Debug)]
pub struct Faulty<S: Sink> {
    inner: S,
    fault: Arc<Mutex<(Fault, u32)>>,
    spoil: Option<fn(&SinkRecord, &mut S::Op)>,
}

impl<S: Sink> Faulty<S> {
    /// Wraps a sink.
    pub fn new(inner: S) -> Self {
        Faulty { inner, fault: Arc::new(Mutex::new((Fault::None, 0))), spoil: None }
    }

    /// Changes operations before they are sent: for databases that refuse nothing which a rule can say.
    #[must_use]
    pub fn spoiling(self, spoil: fn(&SinkRecord, &mut S::Op)) -> Self {
        Faulty { spoil: Some(spoil), ..self }
    }

    /// The same link to a new sink: what a process that starts again has.
    #[must_use]
    pub fn anew(&self, inner: S) -> Self {
        Faulty { inner, fault: self.fault.clone(), spoil: self.spoil }
    }

    /// Breaks or mends the link.
    pub fn set(&self, fault: Fault) {
        let times = match fault {
            Fault::None => 0,
            Fault::DieInBatch | Fault::DieAfterCommit => 1,
            Fault::Busy => 3,
            Fault::Down | Fault::Hang | Fault::HangIfLarge | Fault::Slow => u32::MAX,
        };
        *self.fault.lock() = (fault, times);
    }

    fn take(&self) -> Fault {
        let mut fault = self.fault.lock();
        if fault.1 == 0 {
            return Fault::None;
        }
        fault.1 = fault.1.saturating_sub(1).max(if fault.1 == u32::MAX { u32::MAX } else { 0 });
        fault.0
    }
}

fn broken(what: &'static str) -> WriteError {
    WriteError::Disconnected(what.into())
}

impl<S: Sink> Sink for Faulty<S> {
    type Op = S::Op;
    type Conn = S::Conn;

    fn limits(&self) -> BatchLimits {
        self.inner.limits()
    }
    fn connections(&self) -> usize {
        self.inner.connections()
    }
    fn writers(&self, statements: bool) -> usize {
        self.inner.writers(statements)
    }
    fn atomic(&self) -> bool {
        self.inner.atomic()
    }
    fn encode(&self, record: &SinkRecord, rule: &Rule, out: &mut Vec<S::Op>) -> Result<(), EncodeError> {
        let before = out.len();
        self.inner.encode(record, rule, out)?;
        if let Some(spoil) = self.spoil {
            out.iter_mut().skip(before).for_each(|op| spoil(record, op));
        }
        Ok(())
    }
    fn look_back(&self) -> u64 {
        self.inner.look_back()
    }
    fn begins(&self) {
        self.inner.begins();
    }
    fn imported(&self, record: &SinkRecord) -> Option<S::Op> {
        self.inner.imported(record)
    }
    fn weight(&self, op: &S::Op) -> usize {
        self.inner.weight(op)
    }
    fn render(&self, op: &S::Op) -> String {
        self.inner.render(op)
    }
    fn at_worst(&self, op: &S::Op) -> AtWorst {
        self.inner.at_worst(op)
    }
    async fn inspect(&self) -> Vec<Finding> {
        self.inner.inspect().await
    }
    async fn connect(&self) -> Result<S::Conn, WriteError> {
        if self.fault.lock().0 == Fault::Down {
            return Err(broken("the database is down"));
        }
        self.inner.connect().await
    }
    async fn write<'a>(&'a self, conn: &'a mut S::Conn, batch: Batch<'a, S::Op>) -> Result<(), WriteError> {
        match self.take() {
            Fault::None => self.inner.write(conn, batch).await,
            Fault::Down => Err(broken("the database is down")),
            Fault::DieInBatch => {
                // The write is really under way when it is given up, and the connection goes with it.
                let write = self.inner.write(conn, batch);
                match tokio::time::timeout(Duration::from_micros(300), write).await {
                    Ok(result) => result.and(Err(broken("died after the commit"))),
                    Err(_) => Err(broken("died in mid-batch")),
                }
            }
            Fault::DieAfterCommit => self.inner.write(conn, batch).await.and(Err(broken("died after the commit"))),
            Fault::HangIfLarge if batch.entries.len() <= PROMPT => self.inner.write(conn, batch).await,
            Fault::Hang | Fault::HangIfLarge => std::future::pending().await,
            Fault::Slow => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.inner.write(conn, batch).await
            }
            Fault::Busy => Err(WriteError::Busy { wait: Some(Duration::from_millis(5)), cause: "throttled".into() }),
        }
    }
    async fn positions<'a>(&'a self, conn: &'a mut S::Conn, log_id: u64, sink: &'a str) -> Result<Kept, WriteError> {
        self.inner.positions(conn, log_id, sink).await
    }
    async fn reset<'a>(&'a self, conn: &'a mut S::Conn, log_id: u64, sink: &'a str, to: Lsn) -> Result<(), WriteError> {
        self.inner.reset(conn, log_id, sink, to).await
    }
    async fn maintain<'a>(&'a self, conn: &'a mut S::Conn, now_us: u64) -> Result<u64, WriteError> {
        self.inner.maintain(conn, now_us).await
    }
}
