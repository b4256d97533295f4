//! fjall 3: a keyspace with numbers as keys; a batch is committed with `fdatasync`.

use std::path::Path;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Engine, Mode, Native, Store};

pub const ENGINE: Engine = Engine {
    name: "fjall",
    groups: false,
    durable: true,
    unsynced: true,
    reads: true,
    native: Some(|dir, _| Ok(Box::new(parking_lot::Mutex::new(Fjall::open(dir)?)))),
    store: Some(|dir, _: Mode| Ok(Box::new(Fjall::open(dir)?))),
    flight: None,
};

struct Fjall {
    database: Database,
    keyspace: Keyspace,
    next: u64,
}

impl Fjall {
    fn open(dir: &Path) -> Result<Fjall> {
        let database = Database::builder(dir.join("fjall")).open()?;
        let keyspace = database.keyspace("log", KeyspaceCreateOptions::default)?;
        Ok(Fjall { database, keyspace, next: 0 })
    }
}

impl Store for Fjall {
    fn write(&mut self, records: &[u8], size: usize, sync: bool) -> Result<()> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(mode));
        for record in records.chunks_exact(size) {
            batch.insert(&self.keyspace, self.next.to_be_bytes(), record);
            self.next += 1;
        }
        Ok(batch.commit()?)
    }

    fn read_all(&mut self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        for row in self.keyspace.iter() {
            bytes += row.value()?.len() as u64;
            count += 1;
        }
        Ok((count, bytes))
    }
}

impl Native for parking_lot::Mutex<Fjall> {
    fn append(&self, _: usize, record: &[u8]) -> Result<()> {
        self.lock().write(record, record.len(), true)
    }
}
