//! The derived index: state's rows in a file of their own, so that opening costs the tail and not the log.
//!
//! The log is the truth; the index may lag and may be lost. Each row carries a CRC over key and value, and the meta row carries the log's
//! id, the record the rows reflect and their number: whatever does not fit is thrown away and rebuilt from checkpoint and log.
//!
//! ```text
//! row    key -> CRC32 u32 LE over key and value, value            (see `rows`)
//! meta   "M" -> CRC32 u32 LE over key and the rest, version u8 (2), log id 16 bytes, applied u64 LE, rows u64 LE
//! ```
//!
//! [`StateStore`] is the seam, [`RedbStore`] keeps the rows in redb. Version 1 was the same rows in a folder of sled's.

mod redb;

use std::io;

use bytes::Bytes;

pub use self::redb::RedbStore;
use super::State;
use super::rows::RowKey;
use crate::ids::Lsn;

const META: &[u8] = b"M";
const VERSION: u8 = 2;

/// Where state's rows are kept between runs. A narrow trait: the engine needs no more of a store than this.
pub trait StateStore: Send {
    /// Loads everything; `None` where there is nothing usable (the reason is logged), after which the store is empty.
    fn load(&mut self, log_id: [u8; 16]) -> Option<State>;

    /// Throws away whatever there is.
    fn clear(&mut self, why: &str);

    /// Writes changed rows as one batch together with the place in the log that they reflect. Durable after [`flush`](Self::flush).
    ///
    /// # Errors
    /// Of the store. What it holds is then an older state of the same log, or nothing: later batches must not be written to it.
    fn write(&mut self, batch: &Batch) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Of the store, as above.
    fn flush(&mut self) -> io::Result<()>;
}

/// Changed rows.
#[derive(Debug, Default)]
pub struct Batch {
    /// Key and new value; `None` = removed.
    pub rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Every record below is reflected.
    pub applied: Lsn,
    /// Bytes of the log that this batch moves the index on by, about: what a start would have to replay without it.
    pub log_bytes: u64,
    /// True when these are all rows there are: whatever the store holds is of no use any more.
    pub whole: bool,
    /// Rows there are after this batch; `None` where state is too large to count them each time. A store that comes to another number
    /// has missed a row and must answer with an error.
    pub total: Option<u64>,
}

/// Sessions and clients with cursors up to which rows are counted for each batch.
const COUNTED_MAX: usize = 1000;

impl State {
    /// Collects the rows that changed since the last call. `None` when nothing was applied since; records that change no row move
    /// the index on too, or they would be replayed at each opening.
    pub(crate) fn take_batch(&mut self, log_bytes: u64) -> Option<Batch> {
        if self.dirty.is_empty() && self.applied <= self.indexed {
            return None;
        }
        self.indexed = self.applied;
        let dirty: Vec<RowKey> = self.dirty.drain().collect();
        let rows = dirty.iter().map(|key| (key.encode(), self.row(key))).collect();
        let countable = self.sessions.len() + self.cursors.len() <= COUNTED_MAX;
        let total = countable.then(|| self.count());
        Some(Batch { rows, applied: self.applied, log_bytes, whole: false, total })
    }

    /// All rows, for an index that is written anew.
    pub(crate) fn take_whole(&mut self) -> Option<Batch> {
        self.dirty = self.keys().collect();
        self.indexed = Lsn::NONE;
        self.take_batch(0).map(|batch| Batch { whole: true, ..batch })
    }

    fn count(&self) -> u64 {
        let in_sessions: usize =
            self.sessions.values().map(|s| 1 + s.subscriptions.len() + s.received.len() + s.outbound.len()).sum();
        let cursors: usize = self.cursors.values().map(super::Few::len).sum();
        let rest = self.retained.len() + self.queue.len() + self.latest.len() + self.sinks.len() + self.gaps.len();
        (in_sessions + cursors + rest + self.groups.rows() + usize::from(self.epoch > 0)) as u64
    }
}

/// Takes in stored rows one by one and says whether they make a whole state.
#[derive(Default)]
struct Loading {
    state: State,
    meta: Option<Meta>,
    rows: u64,
}

impl Loading {
    fn row(&mut self, key: &[u8], stored: &[u8]) -> Result<(), String> {
        let (crc, value) = stored.split_at_checked(4).ok_or("a row is shorter than its checksum")?;
        if crc != row_crc(key, value) {
            return Err("a row's checksum does not fit".into());
        }
        if key == META {
            self.meta = Some(Meta::decode(value).ok_or("its meta row is not one of this version")?);
            return Ok(());
        }
        self.rows += 1;
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.state.load_row(key, value).map_err(|e| e.to_string())
    }

    fn finish(mut self, log_id: [u8; 16]) -> Result<State, String> {
        let meta = self.meta.ok_or("it has no meta row")?;
        if meta.log_id != log_id {
            return Err("it belongs to another log".into());
        }
        if meta.rows != self.rows {
            return Err(format!("it has {} rows instead of {}", self.rows, meta.rows));
        }
        self.state.loaded(meta.applied);
        Ok(self.state)
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
