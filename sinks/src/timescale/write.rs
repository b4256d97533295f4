//! The sink.

use std::sync::Arc;

use forebay_engine::{Event, Lsn};

use super::config::TimescaleConfig;
use super::{encode, inspect};
use crate::lookup::Lookup;
use crate::metrics::WITHOUT_TEMPLATE;
use crate::pgsql::{PgsqlConn, PgsqlSink};
use crate::rule::Rule;
use crate::sink::{Batch, BatchLimits, EncodeError, Finding, Kept, Sink, SinkRecord, WriteError};
use crate::sql::{self, SqlOp};

/// Runs templates' statements. Clones are one.
#[derive(Clone, Debug)]
pub struct TimescaleSink {
    pub(super) config: Arc<TimescaleConfig>,
    pub(super) server: PgsqlSink,
}

impl TimescaleSink {
    /// The sink of a pool. Connects nothing.
    #[must_use]
    pub fn new(config: TimescaleConfig) -> TimescaleSink {
        let server = PgsqlSink::of_statements(config.server.clone());
        TimescaleSink { config: Arc::new(config), server }
    }
}

impl Sink for TimescaleSink {
    type Op = SqlOp;
    type Conn = PgsqlConn;

    fn limits(&self) -> BatchLimits {
        self.server.limits()
    }

    fn connections(&self) -> usize {
        self.server.connections()
    }

    fn atomic(&self) -> bool {
        true
    }

    fn encode(&self, record: &SinkRecord, _rule: &Rule, out: &mut Vec<SqlOp>) -> Result<(), EncodeError> {
        let Event::Published(published) = &record.event else { return Ok(()) };
        match encode::statements(&self.config.templates, record, &published.message)? {
            Some(statements) => out.extend(statements),
            None => metrics::counter!(WITHOUT_TEMPLATE, "sink" => self.config.sink.clone()).increment(1),
        }
        Ok(())
    }

    fn weight(&self, op: &SqlOp) -> usize {
        sql::weight(op)
    }

    fn render(&self, op: &SqlOp) -> String {
        match op {
            SqlOp::Statement { sql, values } => encode::rendered(sql, values),
            other => sql::render(other),
        }
    }

    async fn inspect(&self) -> Vec<Finding> {
        inspect::inspect(self).await
    }

    async fn connect(&self) -> Result<PgsqlConn, WriteError> {
        self.server.connect().await
    }

    async fn write<'a>(&'a self, conn: &'a mut PgsqlConn, batch: Batch<'a, SqlOp>) -> Result<(), WriteError> {
        self.server.write(conn, batch).await
    }

    async fn positions<'a>(&'a self, conn: &'a mut PgsqlConn, log_id: u64, sink: &'a str) -> Result<Kept, WriteError> {
        self.server.positions(conn, log_id, sink).await
    }

    async fn reset<'a>(
        &'a self,
        conn: &'a mut PgsqlConn,
        log_id: u64,
        sink: &'a str,
        to: Lsn,
    ) -> Result<(), WriteError> {
        self.server.reset(conn, log_id, sink, to).await
    }
}

impl Lookup for TimescaleSink {}
