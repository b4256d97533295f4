//! SQLite through rusqlite (bundled): write-ahead log, `synchronous=FULL`, one transaction a batch of prepared inserts.

use std::path::Path;

use anyhow::Result;
use rusqlite::{Connection, params};

use super::{Engine, Mode, Native, Store};

pub const ENGINE: Engine = Engine {
    name: "sqlite",
    groups: false,
    durable: true,
    unsynced: true,
    reads: true,
    native: Some(|dir, _| Ok(Box::new(parking_lot::Mutex::new(Sqlite::open(dir, Mode::Synced)?)))),
    store: Some(|dir, mode| Ok(Box::new(Sqlite::open(dir, mode)?))),
    flight: None,
};

struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    fn open(dir: &Path, mode: Mode) -> Result<Sqlite> {
        let connection = Connection::open(dir.join("sqlite.db"))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", if mode == Mode::Synced { "full" } else { "off" })?;
        connection.execute("create table log (id integer primary key, v blob)", [])?;
        Ok(Sqlite { connection })
    }
}

impl Store for Sqlite {
    fn write(&mut self, records: &[u8], size: usize, _: bool) -> Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("insert into log (v) values (?1)")?;
            for record in records.chunks_exact(size) {
                insert.execute(params![record])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn read_all(&mut self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        let mut select = self.connection.prepare("select v from log order by id")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            bytes += row.get_ref(0)?.as_blob()?.len() as u64;
            count += 1;
        }
        Ok((count, bytes))
    }
}

impl Native for parking_lot::Mutex<Sqlite> {
    fn append(&self, _: usize, record: &[u8]) -> Result<()> {
        self.lock().write(record, record.len(), true)
    }
}
