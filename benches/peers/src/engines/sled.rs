//! sled 0.34: `insert` and `flush`, without its own timer. Its flush ends in `sync_file_range`, which does not make data durable: it
//! is measured with one producer, and compared with nobody.

use std::path::Path;

use anyhow::Result;
use sled::Db;

use super::{Engine, Mode, Native, Store};

pub const ENGINE: Engine = Engine {
    name: "sled",
    groups: false,
    durable: false,
    unsynced: true,
    reads: true,
    native: Some(|dir, _| Ok(Box::new(parking_lot::Mutex::new(Sled::open(dir)?)))),
    store: Some(|dir, _: Mode| Ok(Box::new(Sled::open(dir)?))),
    flight: None,
};

struct Sled {
    database: Db,
    next: u64,
}

impl Sled {
    fn open(dir: &Path) -> Result<Sled> {
        let database =
            sled::Config::new().path(dir.join("sled")).flush_every_ms(None).cache_capacity(1 << 30).open()?;
        Ok(Sled { database, next: 0 })
    }
}

impl Store for Sled {
    fn write(&mut self, records: &[u8], size: usize, sync: bool) -> Result<()> {
        let mut batch = sled::Batch::default();
        for record in records.chunks_exact(size) {
            batch.insert(&self.next.to_be_bytes(), record);
            self.next += 1;
        }
        self.database.apply_batch(batch)?;
        if sync {
            self.database.flush()?;
        }
        Ok(())
    }

    fn read_all(&mut self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        for row in self.database.iter() {
            bytes += row?.1.len() as u64;
            count += 1;
        }
        Ok((count, bytes))
    }
}

impl Native for parking_lot::Mutex<Sled> {
    fn append(&self, _: usize, record: &[u8]) -> Result<()> {
        self.lock().write(record, record.len(), true)
    }
}
