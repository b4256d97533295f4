//! The derived index: state's rows in sled, so that opening costs the tail and not the log.
//!
//! The log is the truth; the index may lag and may be lost. Each row carries a CRC over key and value, and the meta row carries the log's
//! id, the record the rows reflect and their number: whatever does not fit is thrown away and rebuilt from checkpoint and log.
//!
//! ```text
//! row    key -> CRC32 u32 LE over key and value, value            (see `rows`)
//! meta   "M" -> CRC32 u32 LE over the rest, version u8 (1), log id 16 bytes, applied u64 LE, rows u64 LE
//! ```

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::State;
use super::rows::RowKey;
use crate::ids::Lsn;

const META: &[u8] = b"M";
const VERSION: u8 = 1;
/// Pages that sled may keep in memory. State itself is in memory; the index is only written and read once.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

type Db = sled::Db<1024>;

/// Where state's rows are kept between runs. A narrow trait, so that another store can take sled's place.
pub trait StateStore: Send {
    /// Loads everything; `None` where there is nothing usable (the reason is logged), after which the store is empty.
    fn load(&mut self, log_id: [u8; 16]) -> Option<State>;

    /// Throws away whatever there is.
    fn clear(&mut self, why: &str);

    /// Writes changed rows as one batch together with the place in the log that they reflect.
    ///
    /// # Errors
    /// Of the store. The index then lags and is thrown away at the next opening.
    fn write(&mut self, batch: &Batch) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Of the store.
    fn flush(&mut self) -> io::Result<()>;
}

/// Changed rows.
#[derive(Debug, Default)]
pub struct Batch {
    /// Key and new value; `None` = removed.
    pub rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Every record below is reflected.
    pub applied: Lsn,
    /// Rows there are after this batch.
    pub total: u64,
}

impl State {
    /// Collects the rows that changed since the last call. `None` when nothing was applied since; records that change no row move
    /// the index on too, or they would be replayed at each opening.
    pub(crate) fn take_batch(&mut self) -> Option<Batch> {
        if self.dirty.is_empty() && self.applied <= self.indexed {
            return None;
        }
        self.indexed = self.applied;
        let dirty: Vec<RowKey> = self.dirty.drain().collect();
        let rows = dirty.iter().map(|key| (key.encode(), self.row(key))).collect();
        Some(Batch { rows, applied: self.applied, total: self.count() })
    }

    fn count(&self) -> u64 {
        let in_sessions: usize =
            self.sessions.values().map(|s| 1 + s.subscriptions.len() + s.received.len() + s.outbound.len()).sum();
        let cursors: usize = self.cursors.values().map(std::collections::BTreeMap::len).sum();
        let rest = self.retained.len() + self.queue.len() + self.latest.len() + self.sinks.len();
        (in_sessions + cursors + rest + usize::from(self.epoch > 0)) as u64
    }
}

/// The index in sled.
#[derive(Debug)]
pub struct SledStore {
    dir: PathBuf,
    log_id: [u8; 16],
    db: Option<Db>,
}

impl SledStore {
    /// An index in the folder `dir`, made when it is first written.
    #[must_use]
    pub fn new(dir: &Path) -> SledStore {
        SledStore { dir: dir.to_owned(), log_id: [0; 16], db: None }
    }

    fn open(&self) -> io::Result<Db> {
        let config = sled::Config::new()
            .path(&self.dir)
            .cache_capacity_bytes(CACHE_BYTES)
            .flush_every_ms(None)
            .zstd_compression_level(1);
        guarded(|| config.open())
    }

    fn read_all(&self, db: &Db, log_id: [u8; 16]) -> Result<State, String> {
        let mut state = State::default();
        let (mut meta, mut rows) = (None, 0);
        for entry in db.iter() {
            let (key, value) = entry.map_err(|e| e.to_string())?;
            let (crc, value) = value.split_at_checked(4).ok_or("a row is shorter than its checksum")?;
            if crc != row_crc(&key, value) {
                return Err("a row's checksum does not fit".into());
            }
            if &*key == META {
                meta = Some(Meta::decode(value).ok_or("its meta row is not one of this version")?);
                continue;
            }
            rows += 1;
            state.load_row(Bytes::copy_from_slice(&key), Bytes::copy_from_slice(value)).map_err(|e| e.to_string())?;
        }
        let meta = meta.ok_or("it has no meta row")?;
        if meta.log_id != log_id {
            return Err("it belongs to another log".into());
        }
        if meta.rows != rows {
            return Err(format!("it has {rows} rows instead of {}", meta.rows));
        }
        state.loaded(meta.applied);
        Ok(state)
    }

    /// Puts the folder out of the way and begins an empty one.
    fn set_aside(&mut self, why: &str) {
        self.db = None;
        tracing::warn!(folder = %self.dir.display(), why, "state index unusable; rebuilding it from checkpoint and log");
        metrics::counter!(crate::metrics::STATE_REBUILDS).increment(1);
        if let Err(error) = fs::remove_dir_all(&self.dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.dir.display(), %error, "the unusable state index can't be removed");
        }
    }
}

/// sled is an alpha: a folder it can't read may make it panic instead of answering. Both are an unusable index here.
fn guarded<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("the index library panicked")),
    }
}

fn row_crc(key: &[u8], value: &[u8]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(value);
    crc.finalize().to_le_bytes()
}

struct Meta {
    log_id: [u8; 16],
    applied: Lsn,
    rows: u64,
}

impl Meta {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.log_id);
        out.extend_from_slice(&self.applied.0.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Meta> {
        let (version, rest) = bytes.split_first()?;
        let (log_id, rest) = rest.split_first_chunk::<16>()?;
        let (applied, rest) = rest.split_first_chunk::<8>()?;
        let (rows, rest) = rest.split_first_chunk::<8>()?;
        (*version == VERSION && rest.is_empty()).then(|| Meta {
            log_id: *log_id,
            applied: Lsn(u64::from_le_bytes(*applied)),
            rows: u64::from_le_bytes(*rows),
        })
    }
}

fn checked(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = row_crc(key, value).to_vec();
    out.extend_from_slice(value);
    out
}

impl StateStore for SledStore {
    fn load(&mut self, log_id: [u8; 16]) -> Option<State> {
        self.log_id = log_id;
        if !self.dir.exists() {
            return None;
        }
        let read = self.open().and_then(|db| {
            let state = guarded(|| self.read_all(&db, log_id).map_err(io::Error::other))?;
            Ok((db, state))
        });
        match read {
            Ok((db, state)) => {
                self.db = Some(db);
                Some(state)
            }
            Err(error) => {
                self.set_aside(&error.to_string());
                None
            }
        }
    }

    fn clear(&mut self, why: &str) {
        self.set_aside(why);
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        if self.db.is_none() {
            self.db = Some(self.open()?);
        }
        let Some(db) = &self.db else { return Ok(()) };
        let mut rows = sled::Batch::default();
        for (key, value) in &batch.rows {
            match value {
                Some(value) => rows.insert(key.as_slice(), checked(key, value)),
                None => rows.remove(key.as_slice()),
            }
        }
        let meta = Meta { log_id: self.log_id, applied: batch.applied, rows: batch.total }.encode();
        rows.insert(META, checked(META, &meta));
        guarded(|| db.apply_batch(rows))
    }

    fn flush(&mut self) -> io::Result<()> {
        match &self.db {
            Some(db) => guarded(|| db.flush().map(drop)),
            None => Ok(()),
        }
    }
}
