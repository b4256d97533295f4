//! Batches, positions and upkeep.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use forebay_engine::Lsn;
use mongodb::bson::{Bson, doc};
use mongodb::options::FindOptions;

use super::apply::{Duplicate, Verdicts};
use super::command::{Command, Kind};
use super::conn::MongoConn;
use super::connect::MongoSink;
use super::fold::Segment;
use super::op::{self, MongoOp};
use super::{encode, inspect};
use crate::rule::Rule;
use crate::sink::{AtWorst, Batch, BatchLimits, EncodeError, Finding, Kept, Sink, SinkRecord, Verdict, WriteError};

/// Expired documents that upkeep removes in one step.
const UPKEEP: i64 = 500;

impl MongoSink {
    /// Stores a batch without a transaction: every statement by itself, then the position.
    async fn plainly(&self, conn: &mut MongoConn, batch: &Batch<'_, MongoOp>) -> Result<(), WriteError> {
        let segment = Segment::of(batch.entries.iter().map(|entry| &entry.op));
        let mut verdicts = Verdicts::new();
        self.apply(conn, &segment, &BTreeSet::new(), &mut verdicts).await?;
        if !verdicts.is_empty() {
            return Err(WriteError::Items(verdicts.into_iter().collect()));
        }
        match batch.positions {
            Some(positions) => conn.store_positions(positions).await,
            None => Ok(()),
        }
    }

    /// Stores a batch and its position in one transaction.
    async fn at_once(&self, conn: &mut MongoConn, batch: &Batch<'_, MongoOp>) -> Result<(), WriteError> {
        let segment = Segment::of(batch.entries.iter().map(|entry| &entry.op));
        let mut verdicts = Verdicts::new();
        let mut stored = BTreeSet::new();
        // The first refusal ends a transaction. Messages that are there already (after a reset, say) are then looked for first.
        for look_first in [false, true] {
            if look_first {
                stored = self.stored(conn, &segment.messages).await?;
            }
            conn.begin().await?;
            let done = async {
                self.apply(conn, &segment, &stored, &mut verdicts).await?;
                match batch.positions {
                    Some(positions) if verdicts.is_empty() => conn.store_positions(positions).await,
                    _ => Ok(()),
                }
            };
            match done.await {
                Ok(()) if verdicts.is_empty() => return conn.commit().await,
                Ok(()) => conn.abort().await,
                Err(error) => {
                    conn.abort().await;
                    return Err(error);
                }
            }
            let duplicate = verdicts.values().any(|v| matches!(v, Verdict::Bury(why) if why.is::<Duplicate>()));
            if !duplicate || look_first {
                break;
            }
            verdicts.clear();
        }
        Err(WriteError::Items(verdicts.into_iter().collect()))
    }
}

impl Sink for MongoSink {
    type Op = MongoOp;
    type Conn = MongoConn;

    fn limits(&self) -> BatchLimits {
        BatchLimits { operations: 4_096, bytes: 8 << 20 }
    }

    fn connections(&self) -> usize {
        self.config.connections
    }

    fn atomic(&self) -> bool {
        self.shared.atomic.load(Ordering::Relaxed)
    }

    fn encode(&self, record: &SinkRecord, rule: &Rule, out: &mut Vec<MongoOp>) -> Result<(), EncodeError> {
        encode::encode(record, rule, out)
    }

    fn imported(&self, record: &SinkRecord) -> Option<MongoOp> {
        encode::imported(record)
    }

    fn weight(&self, op: &MongoOp) -> usize {
        op::weight(op)
    }

    fn render(&self, op: &MongoOp) -> String {
        op::render(op, &self.config.node_name)
    }

    fn at_worst(&self, op: &MongoOp) -> AtWorst {
        match op {
            MongoOp::Message(_) => AtWorst::Once,
            _ => AtWorst::SameAgain,
        }
    }

    async fn inspect(&self) -> Vec<Finding> {
        inspect::inspect(self).await
    }

    async fn connect(&self) -> Result<MongoConn, WriteError> {
        self.open().await
    }

    async fn write<'a>(&'a self, conn: &'a mut MongoConn, batch: Batch<'a, MongoOp>) -> Result<(), WriteError> {
        if conn.transactions { self.at_once(conn, &batch).await } else { self.plainly(conn, &batch).await }
    }

    async fn positions<'a>(&'a self, conn: &'a mut MongoConn, log_id: u64, sink: &'a str) -> Result<Kept, WriteError> {
        self.read_positions(conn, log_id, sink).await
    }

    async fn reset<'a>(
        &'a self,
        conn: &'a mut MongoConn,
        log_id: u64,
        sink: &'a str,
        to: Lsn,
    ) -> Result<(), WriteError> {
        self.reset_positions(conn, log_id, sink, to).await
    }

    async fn maintain<'a>(&'a self, conn: &'a mut MongoConn, now_us: u64) -> Result<u64, WriteError> {
        let due = doc! { "at_us": { "$lte": i64::try_from(now_us).unwrap_or(i64::MAX) } };
        let first = FindOptions::builder().sort(doc! { "at_us": 1 }).limit(UPKEEP).build();
        let rows = conn.all("forebay_expiry", due, first).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut messages = Command::new(Kind::Delete, "mqtt_msg");
        let mut retained = Command::new(Kind::Delete, "mqtt_retain");
        let mut done = Command::new(Kind::Delete, "forebay_expiry");
        for row in &rows {
            let (msgid, name) = (row.get_str("msgid").unwrap_or_default(), row.get_str("topic").unwrap_or_default());
            if row.get_str("kind").is_ok_and(|kind| kind == "retain") {
                retained.delete(doc! { "topic": name, "msgid": msgid }, Vec::new());
            } else if let Some(id) = row.get("id") {
                messages.delete(doc! { "_id": id.clone(), "msgid": msgid }, Vec::new());
            }
            done.delete(doc! { "_id": row.get("_id").cloned().unwrap_or(Bson::Null) }, Vec::new());
        }
        // The entry last: what a crash leaves of it is removed again.
        for command in [&messages, &retained, &done] {
            conn.demand(command).await?;
        }
        Ok(rows.len() as u64)
    }
}
