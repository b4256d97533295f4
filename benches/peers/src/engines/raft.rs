//! raft-engine 0.4: its own leader and follower groups, no compression, files of 128 MB, one Raft group a producer.
//!
//! An entry is a protobuf message; `BytesValue` is the smallest there is, and holds the index in its first 8 bytes.

use std::path::Path;

use anyhow::{Result, bail};
use parking_lot::Mutex;
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine as RaftEngine, LogBatch, MessageExt, ReadableSize};

use super::{Engine, Mode, Native, Store};

pub const ENGINE: Engine = Engine {
    name: "raft-engine",
    groups: true,
    durable: true,
    unsynced: true,
    reads: true,
    native: Some(|dir, producers| {
        let next = (0..producers).map(|_| Mutex::new((0, LogBatch::default()))).collect();
        Ok(Box::new(Producers { engine: open(dir)?, next }))
    }),
    store: Some(|dir, _: Mode| Ok(Box::new(OneGroup { engine: open(dir)?, next: 0, batch: LogBatch::default() }))),
    flight: None,
};

struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

fn open(dir: &Path) -> Result<RaftEngine> {
    let config = Config {
        dir: dir.join("raft").to_string_lossy().into_owned(),
        batch_compression_threshold: ReadableSize::kb(0),
        target_file_size: ReadableSize::mb(128),
        purge_threshold: ReadableSize::gb(10),
        ..Config::default()
    };
    Ok(RaftEngine::open(config)?)
}

fn entry(index: u64, record: &[u8]) -> BytesValue {
    let mut value = Vec::with_capacity(8 + record.len());
    value.extend_from_slice(&index.to_le_bytes());
    value.extend_from_slice(record);
    BytesValue { value, ..BytesValue::default() }
}

struct Producers {
    engine: RaftEngine,
    /// By producer: its next index, and its batch. Nobody else takes the lock.
    next: Vec<Mutex<(u64, LogBatch)>>,
}

impl Native for Producers {
    fn append(&self, producer: usize, record: &[u8]) -> Result<()> {
        let Some(next) = self.next.get(producer) else { bail!("no producer {producer}") };
        let (index, batch) = &mut *next.lock();
        batch.add_entries::<Entries>(producer as u64 + 1, &[entry(*index, record)])?;
        *index += 1;
        self.engine.write(batch, true)?;
        Ok(())
    }
}

struct OneGroup {
    engine: RaftEngine,
    next: u64,
    batch: LogBatch,
}

impl Store for OneGroup {
    fn write(&mut self, records: &[u8], size: usize, sync: bool) -> Result<()> {
        let entries: Vec<_> =
            (self.next..).zip(records.chunks_exact(size)).map(|(n, record)| entry(n, record)).collect();
        self.next += entries.len() as u64;
        self.batch.add_entries::<Entries>(1, &entries)?;
        self.engine.write(&mut self.batch, sync)?;
        Ok(())
    }

    fn read_all(&mut self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        let mut entries = Vec::with_capacity(4096);
        while count < self.next {
            let end = (count + 4096).min(self.next);
            self.engine.fetch_entries_to::<Entries>(1, count, end, None, &mut entries)?;
            if entries.is_empty() {
                bail!("entry {count} is missing");
            }
            count += entries.len() as u64;
            bytes += entries.iter().map(|entry: &BytesValue| entry.value.len() as u64 - 8).sum::<u64>();
            entries.clear();
        }
        Ok((count, bytes))
    }
}
