//! The publishing side of the load: a window of publishes that are not done yet, on one connection.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{PATIENCE, Run, Samples};
use crate::wire::{self, Packet};

/// How often a publisher with a rate looks whether the next publish is due.
const TICK: Duration = Duration::from_millis(1);

/// With QoS 0: how long a full window waits for an arrival before its messages count as lost and the next ones are sent.
const STALL: Duration = Duration::from_secs(1);

/// A publish that is not acknowledged.
struct Sent {
    id: u16,
    begun: u64,
    /// QoS 2: PUBREC came and PUBREL was sent.
    received: bool,
}

/// Publishes until the run's end and waits until all is acknowledged (QoS 1 and 2).
pub(crate) async fn publish(run: Rc<Run>, stream: TcpStream, n: u32) -> Result<Samples> {
    if run.load.qos == 0 { unacknowledged(&run, stream, n).await } else { acknowledged(&run, stream, n).await }
}

/// Where a publisher is in its messages.
struct Cursor<'a> {
    run: &'a Run,
    n: u32,
    /// The topic of its own.
    topic: String,
    sequence: u64,
}

impl<'a> Cursor<'a> {
    fn new(run: &'a Run, n: u32) -> Cursor<'a> {
        Cursor { run, n, topic: format!("bench/{n}"), sequence: 0 }
    }

    /// Sequence number up to which publishes are due at a time.
    fn due(&self, now: u64) -> u64 {
        let load = &self.run.load;
        let own = load.rate.map(|rate| f64::from(rate) / f64::from(load.publishers.max(1)) / 1e9);
        own.map_or(u64::MAX, |rate| (now as f64 * rate) as u64)
    }

    fn put(&mut self, out: &mut BytesMut, id: u16, now: u64) {
        let load = &self.run.load;
        // New topics begin with the measured time and go round all publishers.
        let place = (self.sequence as usize) * load.publishers as usize + self.n as usize;
        let fresh = match self.run.new_topics.len() {
            0 => None,
            count if self.run.clock.measured(now) => self.run.new_topics.get(place % count),
            _ => None,
        };
        let topic = fresh.unwrap_or(&self.topic);
        wire::publish_as(out, topic, load.qos, id, (now, self.n, self.sequence), load.payload);
        self.sequence += 1;
    }
}

async fn acknowledged(run: &Run, mut stream: TcpStream, n: u32) -> Result<Samples> {
    let (mut cursor, mut id) = (Cursor::new(run, n), 0u16);
    let (mut samples, mut sent): (Samples, VecDeque<Sent>) = (Samples::default(), VecDeque::new());
    let (mut out, mut input) = (BytesMut::new(), BytesMut::with_capacity(4096));
    loop {
        let now = run.clock.now();
        let due = cursor.due(now);
        while now < run.clock.to && sent.len() < run.load.window && cursor.sequence < due {
            id = id.checked_add(1).unwrap_or(1);
            cursor.put(&mut out, id, now);
            sent.push_back(Sent { id, begun: now, received: false });
        }
        if sent.is_empty() && now >= run.clock.to {
            return Ok(samples);
        }
        stream.write_all_buf(&mut out).await?;
        let paced = run.load.rate.is_some() && now < run.clock.to;
        if sent.is_empty() && paced {
            tokio::time::sleep(TICK).await;
            continue;
        }
        let read = tokio::time::timeout(if paced { TICK } else { PATIENCE }, stream.read_buf(&mut input)).await;
        if paced && read.is_err() {
            continue;
        }
        let read = read.with_context(|| format!("{} publishes unacknowledged after {PATIENCE:?}", sent.len()))?;
        anyhow::ensure!(read? > 0, "the server closed the connection");
        let now = run.clock.now();
        while let Some(packet) = wire::take(&mut input)? {
            if let Some(begun) = settle(run.load.qos, &mut sent, &packet, &mut out)? {
                samples.add(&run.clock, begun, now);
            }
        }
    }
}

/// Takes an acknowledgement; the time of the publish that it ends, if it ends one.
fn settle(qos: u8, sent: &mut VecDeque<Sent>, packet: &Packet, out: &mut BytesMut) -> Result<Option<u64>> {
    let (id, last) = match (qos, packet) {
        (1, Packet::PubAck(id)) | (2, Packet::PubComp(id)) => (*id, true),
        (2, Packet::PubRec(id)) => (*id, false),
        _ => bail!("a publisher with QoS {qos} received {packet:?}"),
    };
    // Packet ids follow each other, but for the wrap and for what is out of order.
    let guess = sent.front().map_or(0, |first| usize::from(id.wrapping_sub(first.id)));
    let guessed = sent.get(guess).is_some_and(|waiting| waiting.id == id).then_some(guess);
    let at = guessed.or_else(|| sent.iter().position(|waiting| waiting.id == id));
    let Some((at, waiting)) = at.and_then(|at| Some((at, sent.get_mut(at)?))) else {
        bail!("{packet:?}, for which nobody waits");
    };
    anyhow::ensure!(qos == 1 || waiting.received == last, "{packet:?} out of its turn");
    if last {
        return Ok(sent.remove(at).map(|done| done.begun));
    }
    waiting.received = true;
    wire::pubrel(out, id);
    Ok(None)
}

/// With QoS 0 the window is of messages that have not arrived at all subscribers: nothing else tells a publisher that it goes
/// too fast, and what a server drops from a full queue says nothing of its rate.
async fn unacknowledged(run: &Run, mut stream: TcpStream, n: u32) -> Result<Samples> {
    let arrivals = run.arrivals.get(n as usize).context("a publisher without a number")?;
    let (mut cursor, mut samples, mut out) = (Cursor::new(run, n), Samples::default(), BytesMut::new());
    let (window, subscribers) = (run.load.window as u64, u64::from(run.load.subscribers));
    let mut written_off = 0;
    loop {
        let now = run.clock.now();
        if now >= run.clock.to {
            return Ok(samples);
        }
        let arrived = arrivals.copies.get().checked_div(subscribers).unwrap_or(cursor.sequence);
        let in_flight = cursor.sequence.saturating_sub(arrived + written_off);
        let until = (cursor.sequence + window.saturating_sub(in_flight)).min(cursor.due(now));
        if cursor.sequence >= until {
            if in_flight < window {
                tokio::time::sleep(TICK).await;
            } else if tokio::time::timeout(STALL, arrivals.came.notified()).await.is_err() {
                written_off += in_flight;
            }
            continue;
        }
        while cursor.sequence < until {
            cursor.put(&mut out, 0, now);
            samples.count(&run.clock, now);
        }
        stream.write_all_buf(&mut out).await?;
    }
}
