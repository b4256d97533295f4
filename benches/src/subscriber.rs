//! The subscribing side of the load.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::{Result, bail};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::load::{Load, Run, SILENCE, Samples, answered};
use crate::wire::{self, Packet};

/// Filters in a SUBSCRIBE, and of a client, of those that match nothing.
const FILTERS: u32 = 100;

/// What arrived.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    /// First arrivals.
    pub(crate) samples: Samples,
    /// Arrivals of what had arrived before.
    pub(crate) repeated: u64,
}

/// Copies of one publisher's messages that arrived anywhere, and who waits for them.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    /// First arrivals at all subscribers.
    pub(crate) copies: Cell<u64>,
    /// Told of each.
    pub(crate) came: Notify,
}

/// Connects and subscribes to `bench/#` with the load's QoS.
pub(crate) async fn open(load: &Load, n: u32) -> Result<TcpStream> {
    subscribed(load, &format!("bench-subscriber-{n}"), &["bench/#".to_owned()], load.qos).await
}

/// Clients with filters of their own that no publish matches. With QoS 0: what they cost is the search through them, and a
/// server that keeps a queue for each filter of QoS 1 would be measured by that.
pub(crate) async fn open_idle(load: &Load) -> Result<Vec<TcpStream>> {
    let mut clients = Vec::new();
    for first in (0..load.idle_filters).step_by(FILTERS as usize) {
        let filters: Vec<String> =
            (first..load.idle_filters.min(first + FILTERS)).map(|n| format!("bench/{n}/down")).collect();
        clients.push(subscribed(load, &format!("bench-idle-{first}"), &filters, 0).await?);
    }
    Ok(clients)
}

async fn subscribed(load: &Load, client: &str, filters: &[String], qos: u8) -> Result<TcpStream> {
    let mut stream = crate::load::open(load.server, client).await?;
    let mut out = BytesMut::new();
    wire::subscribe(&mut out, filters, qos);
    stream.write_all(&out).await?;
    answered(&mut stream, "SUBSCRIBE").await?;
    Ok(stream)
}

/// Reads and acknowledges until as many messages have arrived as `total` says and all exchanges of QoS 2 are complete, or
/// nothing comes any more.
pub(crate) async fn read(
    mut stream: TcpStream,
    run: Rc<Run>,
    mut total: watch::Receiver<Option<u64>>,
) -> Result<Arrived> {
    let mut seen = vec![Vec::<u64>::new(); run.arrivals.len()];
    let mut arrived = Arrived::default();
    // Packet ids whose PUBREL has not come, and how many they are.
    let (mut unreleased, mut waiting) = (vec![0u64; 1024], 0u32);
    let (mut out, mut input) = (BytesMut::new(), BytesMut::with_capacity(256 * 1024));
    loop {
        let expected = *total.borrow_and_update();
        if waiting == 0 && expected.is_some_and(|expected| arrived.samples.total >= expected) {
            return Ok(arrived);
        }
        input.reserve(64 * 1024);
        let read = tokio::select! {
            read = stream.read_buf(&mut input) => read?,
            Ok(()) = total.changed(), if expected.is_none() => continue,
            // What has not come by now is reported as lost.
            () = tokio::time::sleep(SILENCE), if expected.is_some() => return Ok(arrived),
        };
        anyhow::ensure!(read > 0, "the server closed a subscriber's connection");
        let now = run.clock.now();
        while let Some(packet) = wire::take(&mut input)? {
            let (qos, id, sent_ns, publisher, sequence) = match packet {
                Packet::Publish { qos, id, sent_ns, publisher, sequence } => (qos, id, sent_ns, publisher, sequence),
                Packet::PubRel(id) => {
                    waiting -= u32::from(unmark(&mut unreleased, id.into()));
                    wire::pubcomp(&mut out, id);
                    continue;
                }
                other => bail!("a subscriber received {other:?}"),
            };
            anyhow::ensure!(
                qos == run.load.qos,
                "what was published and subscribed with QoS {} came with QoS {qos}",
                run.load.qos
            );
            let at = publisher as usize;
            let (Some(seen), Some(arrivals)) = (seen.get_mut(at), run.arrivals.get(at)) else {
                bail!("a message of an earlier run arrived");
            };
            if mark(seen, sequence) {
                arrived.samples.add(&run.clock, sent_ns, now);
                if qos == 0 {
                    arrivals.copies.set(arrivals.copies.get() + 1);
                    arrivals.came.notify_one();
                }
            } else {
                arrived.repeated += 1;
            }
            match qos {
                0 => {}
                1 => wire::puback(&mut out, id),
                _ => {
                    waiting += u32::from(mark(&mut unreleased, id.into()));
                    wire::pubrec(&mut out, id);
                }
            }
        }
        stream.write_all_buf(&mut out).await?;
    }
}

/// Sets a bit; true where it was not set.
fn mark(bits: &mut Vec<u64>, n: u64) -> bool {
    let (word, bit) = ((n / 64) as usize, 1u64 << (n % 64));
    if bits.len() <= word {
        bits.resize(word + 1024, 0);
    }
    let Some(word) = bits.get_mut(word) else { return false };
    let new = *word & bit == 0;
    *word |= bit;
    new
}

/// Clears a bit; true where it was set.
fn unmark(bits: &mut [u64], n: u64) -> bool {
    let Some(word) = bits.get_mut((n / 64) as usize) else { return false };
    let bit = 1u64 << (n % 64);
    let was = *word & bit != 0;
    *word &= !bit;
    was
}
