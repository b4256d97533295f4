//! redb 4: one write transaction a batch, committed in one phase with `Durability::Immediate`.

use std::path::Path;

use anyhow::Result;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Engine, Mode, Native, Store};

pub const ENGINE: Engine = Engine {
    name: "redb",
    groups: false,
    durable: true,
    unsynced: true,
    reads: true,
    native: Some(|dir, _| Ok(Box::new(parking_lot::Mutex::new(Redb::open(dir)?)))),
    store: Some(|dir, _: Mode| Ok(Box::new(Redb::open(dir)?))),
    flight: None,
};

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

struct Redb {
    database: Database,
    next: u64,
}

impl Redb {
    fn open(dir: &Path) -> Result<Redb> {
        Ok(Redb { database: Database::create(dir.join("redb"))?, next: 0 })
    }
}

impl Store for Redb {
    fn write(&mut self, records: &[u8], size: usize, sync: bool) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(if sync { Durability::Immediate } else { Durability::None })?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for record in records.chunks_exact(size) {
                table.insert(self.next, record)?;
                self.next += 1;
            }
        }
        Ok(transaction.commit()?)
    }

    fn read_all(&mut self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        let transaction = self.database.begin_read()?;
        for row in transaction.open_table(TABLE)?.iter()? {
            bytes += row?.1.value().len() as u64;
            count += 1;
        }
        Ok((count, bytes))
    }
}

impl Native for parking_lot::Mutex<Redb> {
    fn append(&self, _: usize, record: &[u8]) -> Result<()> {
        self.lock().write(record, record.len(), true)
    }
}
