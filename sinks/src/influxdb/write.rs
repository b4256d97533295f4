//! The sink.

use std::sync::Arc;

use forebay_engine::Event;
use tokio::net::UdpSocket;

use super::config::{InfluxConfig, Target};
use super::error;
use super::inspect;
use super::line::{Encoder, Line};
use crate::http::{HttpConfig, HttpConn, connect, escaped};
use crate::lookup::Lookup;
use crate::metrics::{MOVED_POINTS, WITHOUT_TEMPLATE};
use crate::rule::Rule;
use crate::sink::{AtWorst, Batch, BatchLimits, EncodeError, Finding, Sink, SinkRecord, WriteError};
use crate::template::Unit;

/// Most bytes of one body: below what servers take by default (25 MB).
const BODY_BYTES: usize = 8 << 20;

/// Most bytes of one datagram that holds several lines, so that networks don't cut it into pieces.
const DATAGRAM_BYTES: usize = 1_400;

/// Most bytes that a datagram can have.
const DATAGRAM_MAX: usize = 65_507;

/// Writes points. Clones are one.
#[derive(Clone, Debug)]
pub struct InfluxSink {
    pub(super) config: Arc<InfluxConfig>,
    encoder: Arc<Encoder>,
    path: Arc<str>,
    what: Arc<str>,
}

/// A connection.
#[derive(Debug)]
pub enum InfluxConn {
    /// HTTP.
    Http(HttpConn),
    /// UDP.
    Udp(UdpSocket),
}

impl InfluxSink {
    /// The sink of a pool. Connects nothing.
    #[must_use]
    pub fn new(config: InfluxConfig) -> InfluxSink {
        let path = path(&config);
        let what = match &config.target {
            Target::Udp(_) => "UDP".to_owned(),
            Target::V1 { database, .. } => format!("database {database}"),
            Target::V2 { bucket, .. } => format!("bucket {bucket}"),
        };
        let encoder = Arc::new(Encoder::new(&config));
        InfluxSink { config: Arc::new(config), encoder, path: path.into(), what: what.into() }
    }

    pub(super) fn http(&self) -> Option<&HttpConfig> {
        match &self.config.target {
            Target::Udp(_) => None,
            Target::V1 { http, .. } | Target::V2 { http, .. } => Some(http),
        }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// Where lines are posted to.
fn path(config: &InfluxConfig) -> String {
    match &config.target {
        Target::Udp(_) => String::new(),
        Target::V1 { database, .. } => {
            let unit = match config.unit {
                Unit::Us => "u",
                unit => unit.name(),
            };
            format!("/write?db={}&precision={unit}", escaped(database))
        }
        Target::V2 { org, bucket, .. } => {
            let org = org.as_ref().map(|org| format!("org={}&", escaped(org))).unwrap_or_default();
            format!("/api/v2/write?{org}bucket={}&precision={}", escaped(bucket), config.unit.name())
        }
    }
}

impl Sink for InfluxSink {
    type Op = Line;
    type Conn = InfluxConn;

    fn limits(&self) -> BatchLimits {
        BatchLimits { operations: self.config.batch, bytes: BODY_BYTES }
    }

    fn connections(&self) -> usize {
        self.config.connections
    }

    fn look_back(&self) -> u64 {
        self.encoder.maker.look_back()
    }

    fn begins(&self) {
        self.encoder.maker.forget();
    }

    fn encode(&self, record: &SinkRecord, _rule: &Rule, out: &mut Vec<Line>) -> Result<(), EncodeError> {
        let Event::Published(published) = &record.event else { return Ok(()) };
        let Some(lines) = self.encoder.lines(record, &published.message)? else {
            metrics::counter!(WITHOUT_TEMPLATE, "sink" => self.config.sink.clone()).increment(1);
            return Ok(());
        };
        if let (Target::Udp(_), Some(long)) =
            (&self.config.target, lines.iter().find(|line| line.text.len() > DATAGRAM_MAX))
        {
            let reason = format!("a point of {} bytes does not fit into a datagram: use HTTP", long.text.len());
            return Err(EncodeError { reason });
        }
        out.extend(lines);
        Ok(())
    }

    fn weight(&self, op: &Line) -> usize {
        op.text.len() + 64
    }

    fn render(&self, op: &Line) -> String {
        op.text.clone()
    }

    fn at_worst(&self, _op: &Line) -> AtWorst {
        AtWorst::SameAgain
    }

    async fn inspect(&self) -> Vec<Finding> {
        inspect::inspect(self).await
    }

    async fn connect(&self) -> Result<InfluxConn, WriteError> {
        match &self.config.target {
            Target::Udp(servers) => udp(servers).await.map(InfluxConn::Udp),
            Target::V1 { http, .. } | Target::V2 { http, .. } => connect(http).await.map(InfluxConn::Http),
        }
    }

    async fn write<'a>(&'a self, conn: &'a mut InfluxConn, batch: Batch<'a, Line>) -> Result<(), WriteError> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        match conn {
            InfluxConn::Http(http) => {
                let mut body = Vec::with_capacity(batch.entries.iter().map(|e| e.op.text.len() + 1).sum());
                for entry in batch.entries {
                    body.extend_from_slice(entry.op.text.as_bytes());
                    body.push(b'\n');
                }
                let answer = http.post(&self.path, "text/plain; charset=utf-8", body).await?;
                error::map(&answer, &self.what)?;
            }
            InfluxConn::Udp(socket) => send(socket, batch.entries.iter().map(|e| e.op.text.as_str())).await?,
        }
        let moved = batch.entries.iter().filter(|entry| entry.op.moved).count();
        if moved > 0 {
            metrics::counter!(MOVED_POINTS, "sink" => self.config.sink.clone()).increment(moved as u64);
        }
        Ok(())
    }
}

impl Lookup for InfluxSink {}

async fn udp(servers: &[String]) -> Result<UdpSocket, WriteError> {
    let mut why = "the pool names no server".to_owned();
    for server in servers {
        match tokio::net::lookup_host(server).await {
            Ok(mut found) => {
                let Some(address) = found.next() else { continue };
                let own = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                match UdpSocket::bind(own).await {
                    Ok(socket) => match socket.connect(address).await {
                        Ok(()) => return Ok(socket),
                        Err(error) => why = format!("{server}: {error}"),
                    },
                    Err(error) => why = format!("{server}: {error}"),
                }
            }
            Err(error) => why = format!("{server}: {error}"),
        }
    }
    Err(WriteError::Disconnected(why.into()))
}

/// Sends lines, as many in a datagram as fit. That nobody listens is noticed at times, by what a datagram before was answered.
async fn send<'a>(socket: &UdpSocket, lines: impl Iterator<Item = &'a str>) -> Result<(), WriteError> {
    let lost = |e: std::io::Error| WriteError::Disconnected(format!("UDP: {e}").into());
    let mut datagram: Vec<u8> = Vec::with_capacity(DATAGRAM_BYTES);
    for line in lines {
        if !datagram.is_empty() && datagram.len() + line.len() + 1 > DATAGRAM_BYTES {
            socket.send(&datagram).await.map_err(lost)?;
            datagram.clear();
        }
        if !datagram.is_empty() {
            datagram.push(b'\n');
        }
        datagram.extend_from_slice(line.as_bytes());
    }
    if !datagram.is_empty() {
        socket.send(&datagram).await.map_err(lost)?;
    }
    Ok(())
}
