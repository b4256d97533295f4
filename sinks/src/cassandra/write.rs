//! Cassandra as a sink: batches by partition, then the position.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use forebay_engine::Lsn;
use futures_util::StreamExt;

use super::connect::{CassandraConn, CassandraSink};
use super::op::{self, CassandraOp};
use super::partition::{self, Writer};
use super::{encode, inspect, position};
use crate::rule::Rule;
use crate::sink::{AtWorst, Batch, BatchLimits, EncodeError, Finding, Kept, Sink, SinkRecord, WriteError};

/// Partitions of one batch that are written at once.
const AT_ONCE: usize = 64;

/// us since 1970.
pub(super) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

impl Sink for CassandraSink {
    type Op = CassandraOp;
    type Conn = CassandraConn;

    fn limits(&self) -> BatchLimits {
        BatchLimits { operations: 2_048, bytes: 4 << 20 }
    }

    fn connections(&self) -> usize {
        self.config.connections.get()
    }

    fn encode(&self, record: &SinkRecord, rule: &Rule, out: &mut Vec<CassandraOp>) -> Result<(), EncodeError> {
        encode::encode(record, rule, &self.statements, out)
    }

    fn imported(&self, record: &SinkRecord) -> Option<CassandraOp> {
        encode::imported(record)
    }

    fn weight(&self, op: &CassandraOp) -> usize {
        op::weight(op)
    }

    fn render(&self, op: &CassandraOp) -> String {
        op::render(op)
    }

    fn at_worst(&self, op: &CassandraOp) -> AtWorst {
        match op {
            CassandraOp::Statement { cql, .. } if encode::adds(cql) => AtWorst::AtLeastOnce,
            _ => AtWorst::SameAgain,
        }
    }

    async fn inspect(&self) -> Vec<Finding> {
        inspect::inspect(self).await
    }

    async fn connect(&self) -> Result<CassandraConn, WriteError> {
        Ok(CassandraConn { link: self.link().await?, epoch: 0 })
    }

    async fn write<'a>(&'a self, conn: &'a mut CassandraConn, batch: Batch<'a, CassandraOp>) -> Result<(), WriteError> {
        let link = Arc::clone(&conn.link);
        let watch = link.watch();
        let written = self.batch(conn, &batch).await;
        watch.answered();
        written
    }

    async fn positions<'a>(
        &'a self,
        conn: &'a mut CassandraConn,
        log_id: u64,
        sink: &'a str,
    ) -> Result<Kept, WriteError> {
        let link = Arc::clone(&conn.link);
        let watch = link.watch();
        self.refresh(&link).await?;
        let kept = position::read(conn, &self.epoch, log_id, sink, now_us().cast_signed()).await;
        watch.answered();
        kept
    }

    async fn reset<'a>(
        &'a self,
        conn: &'a mut CassandraConn,
        log_id: u64,
        sink: &'a str,
        to: Lsn,
    ) -> Result<(), WriteError> {
        self.refresh(&conn.link).await?;
        position::reset(conn, log_id, sink, to, now_us().cast_signed()).await
    }
}

impl CassandraSink {
    async fn batch(&self, conn: &CassandraConn, batch: &Batch<'_, CassandraOp>) -> Result<(), WriteError> {
        self.refresh(&conn.link).await?;
        let writer = Writer { sink: self, link: &conn.link, now_us: now_us() };
        let parts = partition::parts(batch.entries);
        let parts: Vec<_> = parts.into_iter().map(|part| writer.begin(part)).collect();
        let mut written = futures_util::stream::iter(parts).buffer_unordered(AT_ONCE);
        let mut refused = Vec::new();
        while let Some(part) = written.next().await {
            refused.extend(part?);
        }
        // An operation may have been refused in two tables: one verdict is enough.
        refused.sort_by_key(|(index, _)| *index);
        refused.dedup_by_key(|(index, _)| *index);
        if !refused.is_empty() {
            return Err(WriteError::Items(refused));
        }
        match batch.positions {
            Some(positions) => position::store(conn, &self.epoch, positions).await,
            None => Ok(()),
        }
    }
}
