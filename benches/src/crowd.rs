//! A crowd: thousands of connections of which some publish now and then and the others only stay.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::wire::{self, Packet};

/// How long an answer may take before it counts as missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a client that was refused waits before it tries again.
const PAUSE: Duration = Duration::from_secs(1);

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Anybody.
    Anybody,
    /// Each client as a user of its own, `device<n>`, with the password [`PASSWORD`].
    Users,
}

/// The password of all users of a crowd.
pub const PASSWORD: &str = "correct horse";

/// The name of a user.
#[must_use]
pub fn user(n: usize) -> String {
    format!("device{n}")
}

/// What came of a storm of connects.
#[derive(Debug, Default)]
pub struct Storm {
    /// From the first try of a client to its CONNACK, microseconds.
    pub micros: Vec<u32>,
    /// Tries that were refused, or ended without an answer; each was made again a second later.
    pub refused: u64,
    /// From the first connect to the last CONNACK.
    pub took: Duration,
}

/// Connects so many clients at a rate.
///
/// # Errors
/// Where the server can't be reached at all, or a client is not let in within two minutes.
pub async fn connect(
    server: SocketAddr,
    clients: usize,
    per_s: u64,
    keep_alive_s: u16,
    who: Who,
) -> Result<(Storm, Vec<TcpStream>)> {
    let begun = Instant::now();
    let mut connecting = JoinSet::new();
    for n in 0..clients {
        let due = Duration::from_nanos(1_000_000_000 / per_s.max(1) * n as u64);
        connecting.spawn(async move {
            tokio::time::sleep_until((begun + due).into()).await;
            let (first, mut refused) = (Instant::now(), 0);
            loop {
                if let Ok(Some(stream)) = try_connect(server, n, keep_alive_s, who).await {
                    return Ok((stream, first.elapsed(), refused));
                }
                refused += 1;
                anyhow::ensure!(first.elapsed() < Duration::from_secs(120), "client {n} was refused {refused} times");
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    let (mut storm, mut streams) = (Storm::default(), Vec::new());
    while let Some(connected) = connecting.join_next().await {
        let (stream, took, refused) = connected??;
        storm.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        storm.refused += refused;
        streams.push(stream);
    }
    storm.took = begun.elapsed();
    Ok((storm, streams))
}

/// `None` where it was refused.
async fn try_connect(server: SocketAddr, n: usize, keep_alive_s: u16, who: Who) -> Result<Option<TcpStream>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let mut out = BytesMut::new();
    let name = user(n);
    let credentials = (who == Who::Users).then_some((name.as_str(), PASSWORD));
    wire::connect_as(&mut out, &format!("crowd{n}"), keep_alive_s, credentials);
    stream.write_all(&out).await?;
    let mut input = BytesMut::with_capacity(8);
    loop {
        match wire::take(&mut input)? {
            Some(Packet::Answer(0)) => return Ok(Some(stream)),
            Some(Packet::Answer(_)) => return Ok(None),
            Some(other) => bail!("CONNECT was answered with {other:?}"),
            None => anyhow::ensure!(stream.read_buf(&mut input).await? > 0, "closed in answer to CONNECT"),
        }
    }
}

/// What came of a stay.
#[derive(Debug, Default)]
pub struct Stay {
    /// From PUBLISH to PUBACK, microseconds.
    pub micros: Vec<u32>,
    /// PINGRESPs that came.
    pub pings: u64,
    /// Connections that the server ended, or whose answers did not come within 30 s: missed keep alives among them.
    pub lost: Vec<String>,
}

/// Keeps the connections for a time: the first `talking` of them publish once a second with QoS 1, the others send PINGREQ.
///
/// # Errors
/// Where a task of the crowd panicked.
pub async fn stay(
    streams: Vec<TcpStream>,
    talking: usize,
    keep_alive_s: u16,
    size: usize,
    time: Duration,
) -> Result<Stay> {
    let begun = Instant::now();
    let all = streams.len().max(1);
    let mut staying = JoinSet::new();
    for (n, stream) in streams.into_iter().enumerate() {
        let talks = n < talking;
        let every = if talks { Duration::from_secs(1) } else { Duration::from_secs(u64::from(keep_alive_s)) * 3 / 4 };
        // Spread over the interval, as devices are.
        let first = begun + every.mul_f64((n * 7919 % all) as f64 / all as f64);
        staying.spawn(async move {
            let mut stay = Stay::default();
            if let Err(error) = one(stream, talks.then_some((n, size)), (first, every), begun + time, &mut stay).await {
                stay.lost.push(format!("{n}: {error:#}"));
            }
            stay
        });
    }
    let mut sum = Stay::default();
    while let Some(ended) = staying.join_next().await {
        let stay = ended?;
        sum.micros.extend(stay.micros);
        sum.pings += stay.pings;
        sum.lost.extend(stay.lost);
    }
    Ok(sum)
}

async fn one(
    mut stream: TcpStream,
    talks: Option<(usize, usize)>,
    (first, every): (Instant, Duration),
    end: Instant,
    stay: &mut Stay,
) -> Result<()> {
    let (mut due, mut id) = (first, 0u16);
    let (mut out, mut input) = (BytesMut::new(), BytesMut::new());
    while due < end {
        tokio::time::sleep_until(due.into()).await;
        id = id.checked_add(1).unwrap_or(1);
        match talks {
            Some((n, size)) => wire::publish(&mut out, &format!("crowd/{n}"), id, (0, 0, 0), size),
            None => wire::ping(&mut out),
        }
        let sent = Instant::now();
        stream.write_all_buf(&mut out).await?;
        let answer = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(packet) = wire::take(&mut input)? {
                    return Ok(packet);
                }
                anyhow::ensure!(stream.read_buf(&mut input).await? > 0, "the server closed the connection");
            }
        });
        match answer.await.with_context(|| format!("no answer within {PATIENCE:?}"))?? {
            Packet::PubAck(acked) if talks.is_some() && acked == id => {
                stay.micros.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Packet::PingResp if talks.is_none() => stay.pings += 1,
            other => bail!("answered with {other:?}"),
        }
        due += every;
    }
    // Until all have ended: who is gone is no connection any more.
    tokio::time::sleep_until((end + Duration::from_secs(1)).into()).await;
    Ok(())
}
