//! OkayWAL 0.3: its own grouping, segments of 64 MiB that it fills with zeros, a checkpointer that does nothing.

use std::path::Path;

use anyhow::{Result, bail};
use okaywal::{Configuration, LogVoid, WriteAheadLog};

use super::{Engine, Mode, Native, Store};

pub const ENGINE: Engine = Engine {
    name: "okaywal",
    groups: true,
    durable: true,
    unsynced: false,
    reads: false,
    native: Some(|dir, _| Ok(Box::new(Okay(open(dir)?)))),
    store: Some(|dir, _: Mode| Ok(Box::new(Okay(open(dir)?)))),
    flight: None,
};

struct Okay(WriteAheadLog);

fn open(dir: &Path) -> Result<WriteAheadLog> {
    let configuration = Configuration::default_for(dir)
        .preallocate_bytes(64 << 20)
        .checkpoint_after_bytes(60 << 20)
        .buffer_bytes(1 << 20);
    Ok(configuration.open(LogVoid)?)
}

impl Native for Okay {
    fn append(&self, _: usize, record: &[u8]) -> Result<()> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(record)?;
        entry.commit()?;
        Ok(())
    }
}

impl Store for Okay {
    fn write(&mut self, records: &[u8], size: usize, sync: bool) -> Result<()> {
        if !sync {
            bail!("okaywal always syncs");
        }
        let mut entry = self.0.begin_entry()?;
        for record in records.chunks_exact(size) {
            entry.write_chunk(record)?;
        }
        entry.commit()?;
        Ok(())
    }

    fn read_all(&mut self) -> Result<(u64, u64)> {
        bail!("okaywal reads in order only while it opens");
    }
}
