//! Load: publishers with a window of publishes each that are not done yet, and subscribers, all on one thread.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::publisher;
use crate::stats::percentile;
use crate::subscriber::{self, Arrivals};
use crate::wire::{self, Packet};

/// How long an acknowledgement may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// After the last publish: how long nothing may arrive before what is missing counts as lost.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// Keep alive of all connections, s: longer than a run. Some servers refuse 0, which means none.
const KEEP_ALIVE_S: u16 = 3_600;

/// What to do.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server.
    pub server: SocketAddr,
    /// QoS of publishes and subscriptions (0..=2; 2 with all four packets both ways).
    pub qos: u8,
    /// Publishers, each with a connection and a topic of its own (`bench/<n>`).
    pub publishers: u32,
    /// Publishes of each publisher that may be in flight: without PUBACK (QoS 1) or PUBCOMP (QoS 2), or not arrived at all
    /// subscribers (QoS 0).
    pub window: usize,
    /// Payload, bytes (20 at least).
    pub payload: usize,
    /// Load before the measured time: connections, caches and prepared files settle.
    pub warm_up: Duration,
    /// Measured time.
    pub time: Duration,
    /// Subscribers of `bench/#`: each gets a copy of each message.
    pub subscribers: u32,
    /// Filters that match nothing, each of its own (`bench/<n>/down`), held by other clients, 100 each.
    pub idle_filters: u32,
    /// Topics (`bench/<n>/up`) that the publishers turn to when the measured time begins, never published to before; 0: each
    /// stays with its own.
    pub new_topics: u32,
    /// Publishes a second, over all publishers; `None` = as many as the windows allow.
    pub rate: Option<u32>,
}

impl Default for Load {
    /// 4 publishers of QoS 1 with 64 in flight each, 128 bytes, one subscriber, 1 s after 1 s of warming up.
    fn default() -> Load {
        Load {
            server: SocketAddr::from(([127, 0, 0, 1], 1883)),
            qos: 1,
            publishers: 4,
            window: 64,
            payload: 128,
            warm_up: Duration::from_secs(1),
            time: Duration::from_secs(1),
            subscribers: 1,
            idle_filters: 0,
            new_topics: 0,
            rate: None,
        }
    }
}

/// What was measured. Latencies are in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Publishes acknowledged per second of the measured time (QoS 0: sent).
    pub acknowledged: f64,
    /// Copies that reached subscribers per second of the measured time.
    pub delivered: f64,
    /// From PUBLISH to PUBACK or PUBCOMP, median (QoS 0: 0).
    pub ack_p50: u32,
    /// From PUBLISH to PUBACK or PUBCOMP (QoS 0: 0).
    pub ack_p99: u32,
    /// From PUBLISH to its arrival at a subscriber, median.
    pub end_to_end_p50: u32,
    /// From PUBLISH to its arrival at a subscriber.
    pub end_to_end_p99: u32,
    /// Publishes acknowledged (QoS 0: sent) in the whole run, warm-up included.
    pub total: u64,
    /// Copies that reached subscribers in the whole run.
    pub copies: u64,
    /// Copies that never came of what was acknowledged (QoS 0: sent).
    pub lost: u64,
    /// Copies that came again.
    pub repeated: u64,
    /// What the caller's meter grew by between the first publish and the last arrival.
    pub metered: f64,
}

/// The run's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    from: u64,
    /// The end of the measured time, ns.
    pub(crate) to: u64,
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
    /// In the measured time.
    pub(crate) measured: u64,
    pub(crate) total: u64,
}

impl Samples {
    pub(crate) fn add(&mut self, clock: &Clock, sent: u64, now: u64) {
        self.count(clock, now);
        if clock.measured(now) {
            self.micros.push(u32::try_from(now.saturating_sub(sent) / 1000).unwrap_or(u32::MAX));
        }
    }

    /// Without a latency.
    pub(crate) fn count(&mut self, clock: &Clock, now: u64) {
        self.total += 1;
        self.measured += u64::from(clock.measured(now));
    }

    fn absorb(&mut self, other: Samples) {
        self.micros.extend(other.micros);
        self.measured += other.measured;
        self.total += other.total;
    }
}

/// What all connections of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) load: Load,
    pub(crate) clock: Clock,
    /// By publisher.
    pub(crate) arrivals: Vec<Arrivals>,
    pub(crate) new_topics: Vec<String>,
}

/// Runs it to its end.
///
/// # Errors
/// Where the server can't be reached, ends a connection, or leaves a publish unacknowledged.
pub fn run(load: &Load) -> Result<Report> {
    run_metered(load, &|| Ok(0.0))
}

/// Runs it to its end and reads a meter (the server's processor time, say) when all is connected and subscribed, and at the end.
///
/// # Errors
/// Where the server can't be reached, ends a connection, or leaves a publish unacknowledged, and those of the meter.
pub fn run_metered(load: &Load, meter: &dyn Fn() -> Result<f64>) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(drive(load, meter)))
}

/// True once the server takes MQTT connections.
pub fn is_up(server: SocketAddr) -> bool {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return false };
    runtime.block_on(async { open(server, "bench-probe").await.is_ok() })
}

async fn drive(load: &Load, meter: &dyn Fn() -> Result<f64>) -> Result<Report> {
    // Connections are opened before the clock starts.
    let _idle = subscriber::open_idle(load).await?;
    let (mut publishers, mut subscribers) = (Vec::new(), Vec::new());
    for n in 0..load.publishers {
        publishers.push(open(load.server, &format!("bench-publisher-{n}")).await?);
    }
    for n in 0..load.subscribers {
        subscribers.push(subscriber::open(load, n).await?);
    }
    let before = meter()?;
    let run = Rc::new(Run {
        load: load.clone(),
        clock: Clock::new(load),
        arrivals: (0..load.publishers).map(|_| Arrivals::default()).collect(),
        new_topics: (0..load.new_topics).map(|n| format!("bench/{n}/up")).collect(),
    });
    // What each subscriber has to wait for: the number of publishes, once all are acknowledged.
    let (tell_total, total) = watch::channel(None);
    let readers: Vec<_> = subscribers
        .into_iter()
        .map(|stream| tokio::task::spawn_local(subscriber::read(stream, Rc::clone(&run), total.clone())))
        .collect();
    let writers: Vec<_> = publishers
        .into_iter()
        .zip(0..)
        .map(|(stream, n)| tokio::task::spawn_local(publisher::publish(Rc::clone(&run), stream, n)))
        .collect();
    let mut sent = Samples::default();
    for writer in writers {
        sent.absorb(writer.await??);
    }
    let _ = tell_total.send(Some(sent.total));
    let (mut arrived, mut lost, mut repeated) = (Samples::default(), 0, 0);
    for reader in readers {
        let at_one = reader.await??;
        lost += sent.total.saturating_sub(at_one.samples.total);
        repeated += at_one.repeated;
        arrived.absorb(at_one.samples);
    }
    let seconds = load.time.as_secs_f64();
    Ok(Report {
        acknowledged: sent.measured as f64 / seconds,
        delivered: arrived.measured as f64 / seconds,
        ack_p50: percentile(&mut sent.micros, 0.5),
        ack_p99: percentile(&mut sent.micros, 0.99),
        end_to_end_p50: percentile(&mut arrived.micros, 0.5),
        end_to_end_p99: percentile(&mut arrived.micros, 0.99),
        total: sent.total,
        copies: arrived.total,
        lost,
        repeated,
        metered: meter()? - before,
    })
}

/// Connects as a clean session.
pub(crate) async fn open(server: SocketAddr, client: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(server).await.with_context(|| format!("connecting to {server}"))?;
    stream.set_nodelay(true)?;
    let mut out = BytesMut::new();
    wire::connect_as(&mut out, client, KEEP_ALIVE_S, None);
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
