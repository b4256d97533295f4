//! How far the one that follows the log may fall behind.
//!
//! State is brought up to the log at every opening, so what it lags behind is replayed: without a bound, a machine that appends faster than it
//! applies would take longer and longer to open after a crash. Ordinary appends wait while the records that are not followed yet are more
//! bytes than the limit; essential ones go on, and so does what the follower itself appends (bounds, positions, ends are essential).

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts what was followed. What was appended is counted in the queue, under its lock.
#[derive(Debug)]
pub(crate) struct Follower {
    /// Bytes of frames that may be appended and not followed; `u64::MAX` while nobody follows.
    limit: AtomicU64,
    /// Bytes of frames followed.
    done: AtomicU64,
    /// An append waits for the follower.
    awaited: AtomicBool,
}

impl Follower {
    /// Nobody follows.
    pub fn none() -> Follower {
        Follower { limit: AtomicU64::new(u64::MAX), done: AtomicU64::new(0), awaited: AtomicBool::new(false) }
    }

    /// Someone follows from here on, and may be `limit` bytes behind; `appended` were appended before.
    pub fn begin(&self, appended: u64, limit: u64) {
        self.done.store(appended, Ordering::SeqCst);
        self.limit.store(limit, Ordering::SeqCst);
    }

    /// Nobody follows any more.
    pub fn end(&self) {
        self.limit.store(u64::MAX, Ordering::SeqCst);
    }

    /// Bytes that are not followed, where they are more than the limit.
    pub fn behind(&self, appended: u64) -> Option<u64> {
        let behind = appended.saturating_sub(self.done.load(Ordering::SeqCst));
        (behind > self.limit.load(Ordering::SeqCst)).then_some(behind)
    }

    /// Says that an append is about to wait. Called before the look at how far it is behind: either that look sees what was followed, or
    /// the follower sees that somebody waits.
    pub fn await_it(&self) {
        self.awaited.store(true, Ordering::SeqCst);
    }

    /// So many bytes more were followed. True when somebody may wait for it.
    pub fn advance(&self, bytes: u64) -> bool {
        self.done.fetch_add(bytes, Ordering::SeqCst);
        self.awaited.load(Ordering::SeqCst)
    }

    /// Nobody waits any more.
    pub fn told(&self) {
        self.awaited.store(false, Ordering::SeqCst);
    }
}
