//! The sink.

use std::sync::Arc;

use forebay_engine::Event;

use super::answer;
use super::config::OpentsdbConfig;
use super::encode::{Put, puts};
use super::inspect;
use crate::http::{HttpConn, connect};
use crate::lookup::Lookup;
use crate::metrics::{MOVED_POINTS, WITHOUT_TEMPLATE};
use crate::rule::Rule;
use crate::sink::{AtWorst, Batch, BatchLimits, EncodeError, Finding, Sink, SinkRecord, WriteError};
use crate::template::Maker;

/// Most bytes of one body.
const BODY_BYTES: usize = 4 << 20;

/// Writes points. Clones are one.
#[derive(Clone, Debug)]
pub struct OpentsdbSink {
    config: Arc<OpentsdbConfig>,
    maker: Arc<Maker>,
    path: Arc<str>,
}

impl OpentsdbSink {
    /// The sink of a pool. Connects nothing.
    #[must_use]
    pub fn new(config: OpentsdbConfig) -> OpentsdbSink {
        let mut path = "/api/put?details".to_owned();
        if config.sync {
            path += "&sync";
            if config.sync_timeout_ms > 0 {
                path += &format!("&sync_timeout={}", config.sync_timeout_ms);
            }
        }
        // EMQ X sent times of payloads as they were.
        let maker = Maker::new(config.templates.clone(), config.unit, config.unit, config.same_time);
        OpentsdbSink { config: Arc::new(config), maker: Arc::new(maker), path: path.into() }
    }
}

impl Sink for OpentsdbSink {
    type Op = Put;
    type Conn = HttpConn;

    fn limits(&self) -> BatchLimits {
        BatchLimits { operations: self.config.batch, bytes: BODY_BYTES }
    }

    fn connections(&self) -> usize {
        self.config.connections
    }

    fn look_back(&self) -> u64 {
        self.maker.look_back()
    }

    fn begins(&self) {
        self.maker.forget();
    }

    fn encode(&self, record: &SinkRecord, _rule: &Rule, out: &mut Vec<Put>) -> Result<(), EncodeError> {
        let Event::Published(published) = &record.event else { return Ok(()) };
        match puts(&self.maker, record, &published.message)? {
            Some(puts) => out.extend(puts),
            None => metrics::counter!(WITHOUT_TEMPLATE, "sink" => self.config.sink.clone()).increment(1),
        }
        Ok(())
    }

    fn weight(&self, op: &Put) -> usize {
        op.json.len() + 64
    }

    fn render(&self, op: &Put) -> String {
        op.json.clone()
    }

    fn at_worst(&self, _op: &Put) -> AtWorst {
        AtWorst::SameAgain
    }

    async fn inspect(&self) -> Vec<Finding> {
        inspect::inspect(&self.config).await
    }

    async fn connect(&self) -> Result<HttpConn, WriteError> {
        connect(&self.config.http).await
    }

    async fn write<'a>(&'a self, conn: &'a mut HttpConn, batch: Batch<'a, Put>) -> Result<(), WriteError> {
        // A single message may give more points than a put takes.
        let mut refused = Vec::new();
        for (number, entries) in batch.entries.chunks(self.config.batch).enumerate() {
            let puts: Vec<&str> = entries.iter().map(|entry| entry.op.json.as_str()).collect();
            let body = format!("[{}]", puts.join(","));
            let answer = conn.post(&self.path, "application/json", body.into_bytes()).await?;
            match answer::map(&answer, entries) {
                Ok(()) => {}
                Err(WriteError::Items(items)) => {
                    let before = number * self.config.batch;
                    refused.extend(items.into_iter().map(|(index, verdict)| (before + index, verdict)));
                }
                Err(error) => return Err(error),
            }
        }
        if !refused.is_empty() {
            return Err(WriteError::Items(refused));
        }
        let moved = batch.entries.iter().filter(|entry| entry.op.moved).count();
        if moved > 0 {
            metrics::counter!(MOVED_POINTS, "sink" => self.config.sink.clone()).increment(moved as u64);
        }
        Ok(())
    }
}

impl Lookup for OpentsdbSink {}
