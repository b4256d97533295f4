//! The subscribing side of the load.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::load::{Clock, PATIENCE, Samples, answered};
use crate::wire::{self, Packet};

/// What arrived.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    /// First arrivals.
    pub(crate) samples: Samples,
    /// Arrivals of what had arrived before.
    pub(crate) repeated: u64,
}

/// Connects and subscribes to `bench/#` with QoS 1.
pub(crate) async fn open(server: SocketAddr) -> Result<TcpStream> {
    let mut stream = crate::load::open(server, "bench-subscriber").await?;
    let mut out = BytesMut::new();
    wire::subscribe(&mut out, "bench/#");
    stream.write_all(&out).await?;
    answered(&mut stream, "SUBSCRIBE").await?;
    Ok(stream)
}

/// Reads and acknowledges until as many messages have arrived as `total` says, or nothing comes any more.
pub(crate) async fn read(
    mut stream: TcpStream,
    clock: Clock,
    publishers: usize,
    mut total: watch::Receiver<Option<u64>>,
) -> Result<Arrived> {
    let mut seen = vec![Vec::<u64>::new(); publishers];
    let mut arrived = Arrived::default();
    let (mut out, mut input) = (BytesMut::new(), BytesMut::with_capacity(256 * 1024));
    loop {
        let expected = *total.borrow_and_update();
        if expected.is_some_and(|expected| arrived.samples.total >= expected) {
            return Ok(arrived);
        }
        input.reserve(64 * 1024);
        let read = tokio::select! {
            read = stream.read_buf(&mut input) => read?,
            Ok(()) = total.changed(), if expected.is_none() => continue,
            // What has not come by now is reported as lost.
            () = tokio::time::sleep(PATIENCE), if expected.is_some() => return Ok(arrived),
        };
        anyhow::ensure!(read > 0, "the server closed the subscriber's connection");
        let now = clock.now();
        while let Some(packet) = wire::take(&mut input)? {
            let Packet::Publish { id, sent_ns, publisher, sequence } = packet else {
                bail!("the subscriber received {packet:?}");
            };
            let Some(seen) = seen.get_mut(publisher as usize) else { bail!("a message of an earlier run arrived") };
            if mark(seen, sequence) {
                arrived.samples.add(&clock, sent_ns, now);
            } else {
                arrived.repeated += 1;
            }
            if id > 0 {
                wire::puback(&mut out, id);
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
