//! The index in redb: one file, one table.
//!
//! Batches are commits without a sync; a flush is one commit with it that also keeps redb's allocator state ("quick repair"), so that
//! a file left by a killed process opens without a walk. The file is reached through [`crate::disk::Disk`] as all others are.
//!
//! Opening checks every page's checksum first. All rows are read then anyway, and what comes after can rely on the tree being one:
//! on a damaged one redb may panic or walk in a circle. A panic counts as an unusable file.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    TableDefinition,
};

use super::super::State;
use super::{Batch, Loading, META, Meta, StateStore, checked};
use crate::disk::{Disk, DiskFile, OpenHow};

const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");
/// Pages that redb may keep in memory, bytes. State itself is in memory; the index is only written, and read once.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The index in redb.
pub struct RedbStore {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    log_id: [u8; 16],
    db: Option<Database>,
    /// A batch is missing: nothing more is written, or the file would claim rows that it does not have.
    failed: bool,
}

impl RedbStore {
    /// An index in the file `path`, made when it is first written.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, path: &Path) -> RedbStore {
        RedbStore { disk, path: path.to_owned(), log_id: [0; 16], db: None, failed: false }
    }

    fn open(&self, how: OpenHow) -> io::Result<Database> {
        let backend = Backend(self.disk.open(&self.path, how)?);
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(how == OpenHow::Write);
        guarded(|| builder.create_with_backend(backend))
    }

    fn read_all(&self) -> io::Result<(Database, State)> {
        let db = self.open(OpenHow::Write)?;
        let mut loading = Loading::default();
        guarded(|| -> Result<(), Unusable> {
            for entry in db.begin_read()?.open_table(ROWS)?.iter()? {
                let (key, value) = entry?;
                loading.row(key.value(), value.value()).map_err(Unusable::Row)?;
            }
            Ok(())
        })?;
        let state = loading.finish(self.log_id).map_err(io::Error::other)?;
        Ok((db, state))
    }

    /// Commits; after the first error the file is let go as it is.
    fn commit(&mut self, durability: Durability, batch: Option<&Batch>) -> io::Result<()> {
        let done = if self.failed {
            Err(io::Error::other("an earlier batch failed"))
        } else {
            self.try_commit(durability, batch)
        };
        if done.is_err() && !self.failed {
            self.failed = true;
            let _ = self.close(); // The error that counts is the first one.
        }
        done
    }

    fn try_commit(&self, durability: Durability, batch: Option<&Batch>) -> io::Result<()> {
        let Some(db) = &self.db else { return Ok(()) };
        guarded(|| -> Result<(), Unusable> {
            let mut transaction = db.begin_write()?;
            transaction.set_durability(durability)?;
            transaction.set_quick_repair(matches!(durability, Durability::Immediate));
            if let Some(batch) = batch {
                let mut rows = transaction.open_table(ROWS)?;
                for (key, value) in &batch.rows {
                    match value {
                        Some(value) => rows.insert(key.as_slice(), checked(key, value).as_slice())?,
                        None => rows.remove(key.as_slice())?,
                    };
                }
                rows.remove(META)?;
                let there = rows.len()?;
                if let Some(total) = batch.total.filter(|total| *total != there) {
                    return Err(Unusable::Row(format!("it has {there} rows where there should be {total}")));
                }
                let meta = Meta { log_id: self.log_id, applied: batch.applied, rows: there }.encode();
                rows.insert(META, checked(META, &meta).as_slice())?;
            }
            transaction.commit()?;
            Ok(())
        })
    }

    fn close(&mut self) -> io::Result<()> {
        let db = self.db.take();
        guarded(move || db.map_or(Ok(()), Database::close))
    }

    /// Gives the file up: the next batch begins an empty one.
    fn remove(&mut self, why: &str) {
        tracing::warn!(file = %self.path.display(), why, "state index unusable; rebuilding it from checkpoint and log");
        metrics::counter!(crate::metrics::STATE_REBUILDS).increment(1);
        // redb writes to the file once more as it lets go of it.
        let closed = self.close();
        self.failed = false;
        let removed = self.disk.remove(&self.path);
        for error in [closed.err(), removed.err()].into_iter().flatten() {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %self.path.display(), %error, "letting go of the unusable state index");
            }
        }
    }
}

impl StateStore for RedbStore {
    fn load(&mut self, log_id: [u8; 16]) -> Option<State> {
        self.log_id = log_id;
        match self.read_all() {
            Ok((db, state)) => {
                self.db = Some(db);
                Some(state)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.remove(&error.to_string());
                None
            }
        }
    }

    fn clear(&mut self, why: &str) {
        self.remove(why);
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        if self.db.is_none() && !self.failed {
            self.db = Some(self.open(OpenHow::Create)?);
            if let Some(folder) = self.path.parent() {
                self.disk.sync_dir(folder)?;
            }
        }
        self.commit(Durability::None, Some(batch))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.commit(Durability::Immediate, None)
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(file = %self.path.display(), %error, "the state index was not closed cleanly; the next start checks it");
        }
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why rows could not be read or written. redb has an error type for each step; all of them end here.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    Row(String),
    #[error(transparent)]
    Transaction(#[from] redb::TransactionError),
    #[error(transparent)]
    Durability(#[from] redb::SetDurabilityError),
    #[error(transparent)]
    Table(#[from] redb::TableError),
    #[error(transparent)]
    Storage(#[from] redb::StorageError),
    #[error(transparent)]
    Commit(#[from] redb::CommitError),
}

/// Bytes that do not make a tree may make redb panic instead of answering. Both are an unusable file here.
fn guarded<T, E: std::error::Error + Send + Sync + 'static>(call: impl FnOnce() -> Result<T, E>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("the index library panicked")),
    }
}

/// redb's file on a [`Disk`].
#[derive(Debug)]
struct Backend(Box<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.0.read_at(out, offset)? < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fault, FaultKind, ForgettingDisk, Operation};
    use crate::ids::Lsn;
    use crate::state::rows::RowKey;

    const ID: [u8; 16] = [7; 16];

    fn path() -> PathBuf {
        PathBuf::from("/state/index.redb")
    }

    fn disk() -> ForgettingDisk {
        let disk = ForgettingDisk::new();
        disk.create_dir(Path::new("/state")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk
    }

    fn store(disk: &ForgettingDisk) -> RedbStore {
        RedbStore::new(Arc::new(disk.clone()), &path())
    }

    /// A batch after which `sinks` have the position `at`.
    fn batch(sinks: u64, at: u64) -> Batch {
        let mut state = State::default();
        for sink in 0..sinks {
            state.sinks.insert(format!("sink/{sink}").into(), Lsn(at));
        }
        let rows = state.keys().map(|key: RowKey| (key.encode(), state.row(&key))).collect();
        Batch { rows, applied: Lsn(at), log_bytes: 0, whole: false, total: Some(sinks) }
    }

    #[test]
    fn after_a_crash_the_rows_of_a_flush_are_there_whole() {
        for seed in 0..60 {
            let disk = disk();
            let mut store = store(&disk);
            assert!(store.load(ID).is_none());
            for at in 1..=6 {
                store.write(&batch(400, at)).unwrap();
                if at % 2 == 0 {
                    store.flush().unwrap();
                }
                if at % 3 == 0 {
                    store.write(&batch(400, at)).unwrap();
                }
            }
            store.write(&batch(400, 7)).unwrap();
            disk.crash(seed);
            drop(store);
            let state = super::tests::store(&disk).load(ID).expect("what was flushed is there");
            assert!(state.applied == Lsn(6) && state.sinks.len() == 400, "seed {seed}: {}", state.applied);
            assert!(state.sinks.values().all(|at| *at == state.applied));
        }
    }

    #[test]
    fn a_batch_that_misses_a_row_is_refused() {
        let disk = disk();
        let mut store = store(&disk);
        assert!(store.load(ID).is_none());
        store.write(&batch(50, 1)).unwrap();
        store.flush().unwrap();
        assert!(store.write(&Batch { total: Some(51), ..batch(50, 2) }).is_err());
        drop(store);
        assert_eq!(super::tests::store(&disk).load(ID).unwrap().applied, Lsn(1));
    }

    #[test]
    fn a_disk_that_fails_is_an_error_and_what_was_flushed_before_stays() {
        for kind in [FaultKind::NoSpace, FaultKind::Io, FaultKind::Short] {
            for (operation, nth) in
                [(Operation::Write, 1), (Operation::Write, 3), (Operation::Sync, 1), (Operation::Sync, 2)]
            {
                let disk = disk();
                let mut store = store(&disk);
                assert!(store.load(ID).is_none());
                store.write(&batch(50, 1)).unwrap();
                store.flush().unwrap();
                disk.inject(Fault { operation, nth, kind });
                let failed = store.write(&batch(50, 2)).and_then(|()| store.flush());
                assert!(failed.is_err(), "{operation:?} {nth} {kind:?}");
                assert!(store.write(&batch(50, 3)).is_err(), "a batch is missing");
                drop(store);
                disk.crash(nth);
                let mut again = super::tests::store(&disk);
                again.log_id = ID;
                let read = again.read_all().map(|(_, state)| state);
                let state = read.unwrap_or_else(|e| panic!("{operation:?} {nth} {kind:?}: {e}"));
                assert!(state.sinks.values().all(|at| *at == state.applied), "{operation:?} {nth} {kind:?}");
            }
        }
    }
}
