//! Load: publishers with a window of unacknowledged QoS 1 publishes each, one subscriber, all on one thread.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::stats::percentile;
use crate::subscriber;
use crate::wire::{self, Packet};

/// How long the last acknowledgements and deliveries may take after the last publish.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How often a publisher with a rate looks whether the next publish is due.
const TICK: Duration = Duration::from_millis(1);

/// What to do.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server.
    pub server: SocketAddr,
    /// Publishers, each with a connection and a topic of its own (`bench/<n>`).
    pub publishers: u32,
    /// Publishes of each publisher that may wait for their PUBACK.
    pub window: usize,
    /// Payload, bytes (20 at least).
    pub payload: usize,
    /// Load before the measured time: connections, caches and prepared files settle.
    pub warm_up: Duration,
    /// Measured time.
    pub time: Duration,
    /// One subscriber of `bench/#` with QoS 1.
    pub subscriber: bool,
    /// Publishes a second, over all publishers; `None` = as many as the windows allow.
    pub rate: Option<u32>,
}

/// What was measured. Latencies are in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Publishes acknowledged per second of the measured time.
    pub acknowledged: f64,
    /// Messages that reached the subscriber per second of the measured time.
    pub delivered: f64,
    /// From PUBLISH to PUBACK, median.
    pub ack_p50: u32,
    /// From PUBLISH to PUBACK.
    pub ack_p99: u32,
    /// From PUBLISH to its arrival at the subscriber, median.
    pub end_to_end_p50: u32,
    /// From PUBLISH to its arrival at the subscriber.
    pub end_to_end_p99: u32,
    /// Publishes acknowledged in the whole run, warm-up included.
    pub total: u64,
    /// Acknowledged and never delivered (with a subscriber).
    pub lost: u64,
    /// Delivered more than once.
    pub repeated: u64,
}

/// The run's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    from: u64,
    to: u64,
}

impl Clock {
    fn new(load: &Load) -> Clock {
        let from = load.warm_up.as_nanos() as u64;
        Clock { start: Instant::now(), from, to: from + load.time.as_nanos() as u64 }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// True within the measured time.
    pub(crate) fn measured(&self, now: u64) -> bool {
        (self.from..self.to).contains(&now)
    }
}

/// Counts and latencies of one side.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) micros: Vec<u32>,
    pub(crate) total: u64,
}

impl Samples {
    pub(crate) fn add(&mut self, clock: &Clock, sent: u64, now: u64) {
        self.total += 1;
        if clock.measured(now) {
            self.micros.push(u32::try_from(now.saturating_sub(sent) / 1000).unwrap_or(u32::MAX));
        }
    }
}

/// Runs it to its end.
///
/// # Errors
/// Where the server can't be reached, ends a connection, or leaves a publish unacknowledged.
pub fn run(load: &Load) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(drive(Rc::new(load.clone()))))
}

/// True once the server takes MQTT connections.
pub fn is_up(server: SocketAddr) -> bool {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return false };
    runtime.block_on(async { open(server, "bench-probe").await.is_ok() })
}

async fn drive(load: Rc<Load>) -> Result<Report> {
    // Connections are opened before the clock starts.
    let mut publishers = Vec::new();
    for n in 0..load.publishers {
        publishers.push(open(load.server, &format!("bench-publisher-{n}")).await?);
    }
    let subscription = if load.subscriber { Some(subscriber::open(load.server).await?) } else { None };
    let clock = Clock::new(&load);
    // What the subscriber has to wait for: the number of publishes, once all are acknowledged.
    let (tell_total, total) = watch::channel(None);
    let reader = subscription
        .map(|stream| tokio::task::spawn_local(subscriber::read(stream, clock, load.publishers as usize, total)));
    let writers: Vec<_> = publishers
        .into_iter()
        .zip(0..)
        .map(|(stream, n)| tokio::task::spawn_local(publish(Rc::clone(&load), stream, n, clock)))
        .collect();
    let mut acks = Samples::default();
    for writer in writers {
        let samples = writer.await??;
        acks.total += samples.total;
        acks.micros.extend(samples.micros);
    }
    let seconds = load.time.as_secs_f64();
    let mut report = Report {
        acknowledged: acks.micros.len() as f64 / seconds,
        ack_p50: percentile(&mut acks.micros, 0.5),
        ack_p99: percentile(&mut acks.micros, 0.99),
        total: acks.total,
        ..Report::default()
    };
    if let Some(reader) = reader {
        let _ = tell_total.send(Some(acks.total));
        let mut arrived = reader.await??;
        report.delivered = arrived.samples.micros.len() as f64 / seconds;
        report.end_to_end_p50 = percentile(&mut arrived.samples.micros, 0.5);
        report.end_to_end_p99 = percentile(&mut arrived.samples.micros, 0.99);
        report.lost = acks.total.saturating_sub(arrived.samples.total);
        report.repeated = arrived.repeated;
    }
    Ok(report)
}

/// Connects as a clean session.
pub(crate) async fn open(server: SocketAddr, client: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(server).await.with_context(|| format!("connecting to {server}"))?;
    stream.set_nodelay(true)?;
    let mut out = BytesMut::new();
    wire::connect(&mut out, client);
    stream.write_all(&out).await?;
    answered(&mut stream, "CONNECT").await?;
    Ok(stream)
}

/// Reads the answer to the one packet that was sent.
pub(crate) async fn answered(stream: &mut TcpStream, what: &str) -> Result<()> {
    let mut input = BytesMut::new();
    loop {
        match wire::take(&mut input)? {
            Some(Packet::Answer(code)) if code < 3 => return Ok(()),
            Some(packet) => bail!("{what} was answered with {packet:?}"),
            None => anyhow::ensure!(stream.read_buf(&mut input).await? > 0, "closed in answer to {what}"),
        }
    }
}

async fn publish(load: Rc<Load>, mut stream: TcpStream, n: u32, clock: Clock) -> Result<Samples> {
    let topic = format!("bench/{n}");
    let (mut samples, mut sent): (Samples, VecDeque<(u16, u64)>) = (Samples::default(), VecDeque::new());
    let (mut out, mut input) = (BytesMut::new(), BytesMut::with_capacity(4096));
    let (mut id, mut sequence) = (0u16, 0u64);
    let own_rate = load.rate.map(|rate| f64::from(rate) / f64::from(load.publishers.max(1)) / 1e9);
    loop {
        let now = clock.now();
        let due = own_rate.map_or(u64::MAX, |rate| (now as f64 * rate) as u64);
        while now < clock.to && sent.len() < load.window && sequence < due {
            id = id.checked_add(1).unwrap_or(1);
            wire::publish(&mut out, &topic, id, (now, n, sequence), load.payload);
            sent.push_back((id, now));
            sequence += 1;
        }
        if sent.is_empty() && now >= clock.to {
            return Ok(samples);
        }
        stream.write_all_buf(&mut out).await?;
        let paced = own_rate.is_some() && now < clock.to;
        if sent.is_empty() && paced {
            tokio::time::sleep(TICK).await;
            continue;
        }
        let read = tokio::time::timeout(if paced { TICK } else { PATIENCE }, stream.read_buf(&mut input)).await;
        if paced && read.is_err() {
            continue;
        }
        let read = read.with_context(|| format!("no PUBACK within {PATIENCE:?}, {} are missing", sent.len()))?;
        anyhow::ensure!(read? > 0, "the server closed the connection");
        let now = clock.now();
        while let Some(packet) = wire::take(&mut input)? {
            let Packet::PubAck(id) = packet else { bail!("a publisher received {packet:?}") };
            let Some(at) = sent.iter().position(|(waiting, _)| *waiting == id) else {
                bail!("PUBACK of packet id {id}, which nobody waits for");
            };
            if let Some((_, begun)) = sent.remove(at) {
                samples.add(&clock, begun, now);
            }
        }
    }
}
