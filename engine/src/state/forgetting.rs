//! A state index in memory that comes back from a crash at any older point: what the simulator puts in the place of the real one.
//!
//! The engine may rely on nothing of the index but that what it loads is consistent: a crash may give back any batch boundary, nothing
//! at all, or a store that says it is damaged, whether it was flushed or not.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::State;
use super::store::{Batch, StateStore};
use crate::ids::Lsn;

/// Older points kept to come back to.
const POINTS_MAX: usize = 6;

/// An index in memory. Cheap to clone; clones are the same index.
#[derive(Clone, Debug, Default)]
pub struct ForgettingStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    log_id: [u8; 16],
    now: Point,
    older: Vec<Point>,
    damaged: bool,
    writes_left: Option<u64>,
}

/// The rows after one batch.
#[derive(Clone, Debug, Default)]
struct Point {
    rows: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
    applied: Option<Lsn>,
}

impl ForgettingStore {
    /// An empty index.
    #[must_use]
    pub fn new() -> ForgettingStore {
        ForgettingStore::default()
    }

    /// What a crash leaves, chosen by `dice`: this point or an older one, nothing, or damage.
    pub fn crash(&self, dice: u64) {
        let mut inner = self.inner.lock();
        inner.writes_left = None;
        let points = inner.older.len() as u64 + 1;
        match (dice >> 8) % 8 {
            0 => inner.now = Point::default(),
            1 => inner.damaged = true,
            _ => {
                let back = dice % points;
                for _ in 0..back {
                    inner.now = inner.older.pop().unwrap_or_default();
                }
            }
        }
        inner.older.clear();
    }

    /// Lets `n` more writes through; those after them fail until the next crash.
    pub fn fail_after(&self, n: u64) {
        self.inner.lock().writes_left = Some(n);
    }

    /// Nothing is left of the index.
    pub fn lose(&self) {
        *self.inner.lock() = Inner::default();
    }

    /// An index of its own with the same rows.
    #[must_use]
    pub fn copy(&self) -> ForgettingStore {
        let inner = self.inner.lock();
        let copy = Inner { log_id: inner.log_id, now: inner.now.clone(), damaged: inner.damaged, ..Inner::default() };
        ForgettingStore { inner: Arc::new(Mutex::new(copy)) }
    }
}

impl StateStore for ForgettingStore {
    fn load(&mut self, log_id: [u8; 16]) -> Option<State> {
        let mut inner = self.inner.lock();
        let fits = inner.log_id == log_id && !inner.damaged;
        inner.log_id = log_id;
        inner.damaged = false;
        let loaded = inner.now.applied.filter(|_| fits).and_then(|applied| {
            let mut state = State::default();
            for (key, value) in &*inner.now.rows {
                state.load_row(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)).ok()?;
            }
            state.loaded(applied);
            Some(state)
        });
        if loaded.is_none() {
            inner.now = Point::default();
        }
        loaded
    }

    fn clear(&mut self, _why: &str) {
        self.inner.lock().now = Point::default();
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if let Some(left) = &mut inner.writes_left {
            if *left == 0 {
                return Err(io::Error::other("the index can't be written (injected)"));
            }
            *left -= 1;
        }
        let mut rows = BTreeMap::clone(&inner.now.rows);
        for (key, value) in &batch.rows {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        if let Some(total) = batch.total.filter(|total| rows.len() as u64 != *total) {
            return Err(io::Error::other(format!("{} rows where the batch says {total}", rows.len())));
        }
        let before = std::mem::replace(&mut inner.now, Point { rows: Arc::new(rows), applied: Some(batch.applied) });
        inner.older.push(before);
        if inner.older.len() > POINTS_MAX {
            inner.older.remove(0);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
