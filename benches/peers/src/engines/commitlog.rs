//! commitlog 0.2: its `flush` is `File::flush`, which does nothing, and `msync` of index pages. It cannot be durable, and is measured
//! where nothing is synced.

use std::path::Path;

use anyhow::{Result, anyhow};
use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};

use super::{Engine, Mode, Store};

pub const ENGINE: Engine = Engine {
    name: "commitlog",
    groups: false,
    durable: false,
    unsynced: true,
    reads: true,
    native: None,
    store: Some(|dir, _: Mode| Ok(Box::new(Commit::open(dir)?))),
    flight: None,
};

struct Commit {
    log: CommitLog,
    buffer: MessageBuf,
}

impl Commit {
    fn open(dir: &Path) -> Result<Commit> {
        let mut options = LogOptions::new(dir.join("commitlog"));
        options.segment_max_bytes(64 << 20).index_max_items(1 << 20).message_max_bytes(8 << 20);
        Ok(Commit { log: CommitLog::new(options)?, buffer: MessageBuf::default() })
    }
}

impl Store for Commit {
    fn write(&mut self, records: &[u8], size: usize, _: bool) -> Result<()> {
        self.buffer.clear();
        for record in records.chunks_exact(size) {
            self.buffer.push(record).map_err(|e| anyhow!("{e:?}"))?;
        }
        self.log.append(&mut self.buffer)?;
        Ok(())
    }

    fn read_all(&mut self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        loop {
            let messages = self.log.read(count, ReadLimit::max_bytes(1 << 20)).map_err(|e| anyhow!("{e:?}"))?;
            if messages.len() == 0 {
                return Ok((count, bytes));
            }
            count += messages.len() as u64;
            bytes += messages.iter().map(|message| message.payload().len() as u64).sum::<u64>();
        }
    }
}
