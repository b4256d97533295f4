//! DynamoDB as a sink: a batch, then its position.

use std::sync::Arc;

use forebay_engine::Lsn;

use super::connect::{DynamoConn, DynamoSink};
use super::fold::Segment;
use super::op::{self, DynamoOp};
use super::request::Progress;
use super::{encode, inspect, position};
use crate::rule::Rule;
use crate::sink::{AtWorst, Batch, BatchLimits, EncodeError, Finding, Kept, Sink, SinkRecord, WriteError};

impl DynamoSink {
    async fn batch(&self, conn: &DynamoConn, batch: &Batch<'_, DynamoOp>) -> Result<(), WriteError> {
        self.refresh(&conn.link).await?;
        let progress = Progress::new();
        let segment = Segment::of(batch.entries.iter().map(|entry| &entry.op));
        let verdicts = self.apply(&conn.link, &progress, &segment).await?;
        if !verdicts.is_empty() {
            return Err(WriteError::Items(verdicts.into_iter().collect()));
        }
        match batch.positions {
            Some(positions) => position::store(conn, &progress, positions).await,
            None => Ok(()),
        }
    }
}

impl Sink for DynamoSink {
    type Op = DynamoOp;
    type Conn = DynamoConn;

    fn limits(&self) -> BatchLimits {
        BatchLimits { operations: 1_000, bytes: 8 << 20 }
    }

    fn connections(&self) -> usize {
        self.config.connections
    }

    fn encode(&self, record: &SinkRecord, rule: &Rule, out: &mut Vec<DynamoOp>) -> Result<(), EncodeError> {
        encode::encode(record, rule, self.config.binary_payload, out)
    }

    fn begins(&self) {
        self.shared.forget();
    }

    fn imported(&self, record: &SinkRecord) -> Option<DynamoOp> {
        encode::imported(record)
    }

    fn weight(&self, op: &DynamoOp) -> usize {
        op::weight(op)
    }

    fn render(&self, op: &DynamoOp) -> String {
        op::render(op, &self.config.node_name)
    }

    fn at_worst(&self, _op: &DynamoOp) -> AtWorst {
        AtWorst::SameAgain
    }

    async fn inspect(&self) -> Vec<Finding> {
        inspect::inspect(self).await
    }

    async fn connect(&self) -> Result<DynamoConn, WriteError> {
        Ok(DynamoConn { link: self.link().await?, epoch: None, listing: None })
    }

    async fn write<'a>(&'a self, conn: &'a mut DynamoConn, batch: Batch<'a, DynamoOp>) -> Result<(), WriteError> {
        let link = Arc::clone(&conn.link);
        let watch = link.watch();
        let written = self.batch(conn, &batch).await;
        watch.answered();
        written
    }

    async fn positions<'a>(&'a self, conn: &'a mut DynamoConn, log_id: u64, sink: &'a str) -> Result<Kept, WriteError> {
        let link = Arc::clone(&conn.link);
        let watch = link.watch();
        self.refresh(&link).await?;
        let kept = position::read(conn, log_id, sink).await;
        watch.answered();
        kept
    }

    async fn reset<'a>(
        &'a self,
        conn: &'a mut DynamoConn,
        log_id: u64,
        sink: &'a str,
        to: Lsn,
    ) -> Result<(), WriteError> {
        self.refresh(&conn.link).await?;
        position::reset(conn, log_id, sink, to).await
    }

    async fn maintain<'a>(&'a self, conn: &'a mut DynamoConn, now_us: u64) -> Result<u64, WriteError> {
        self.expire(conn, now_us).await
    }
}
