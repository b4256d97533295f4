//! Which records are under way, and so how far the sink has come.

use std::collections::BTreeMap;

use forebay_engine::Lsn;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::sink::LANES;

/// Positions of one sink: `stored prefix <= prefix <= read`.
#[derive(Debug)]
pub(crate) struct Tracker {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    /// Handed to a worker and not done: record number to record time.
    pending: BTreeMap<Lsn, u64>,
    /// Everything below was looked at.
    read: Lsn,
    /// Every record below that is not the sink's own report was done when it was last worth reporting.
    noteworthy: Lsn,
    /// What the database holds, by lane.
    lanes: Vec<Lsn>,
    /// The prefix as the database holds it; `None` for one that keeps no position.
    stored_prefix: Option<Lsn>,
}

impl Tracker {
    /// Begins at `start`; the database holds `stored`, with this prefix where it keeps one: below `start` where the sink was passed by.
    pub(crate) fn new(start: Lsn, stored: &[(u16, Lsn)], stored_prefix: Option<Lsn>) -> Tracker {
        let mut lanes = vec![Lsn::NONE; usize::from(LANES)];
        for (lane, lsn) in stored {
            if let Some(slot) = lanes.get_mut(usize::from(*lane)) {
                *slot = *lsn;
            }
        }
        let inner = Inner { pending: BTreeMap::new(), read: start, noteworthy: start, lanes, stored_prefix };
        Tracker { inner: Mutex::new(inner), changed: Notify::new() }
    }

    /// A record was handed to a worker.
    pub(crate) fn begin(&self, lsn: Lsn, time_us: u64) {
        let mut inner = self.inner.lock();
        inner.pending.insert(lsn, time_us);
        inner.read = inner.read.max(lsn.next());
        inner.noteworthy = inner.read;
    }

    /// All below `next` was looked at; `noteworthy` when something but the sink's own reports was among it.
    pub(crate) fn read_to(&self, next: Lsn, noteworthy: bool) {
        let mut inner = self.inner.lock();
        inner.read = inner.read.max(next);
        if noteworthy {
            inner.noteworthy = inner.read;
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Records are done. Lanes are given where the database now holds them.
    pub(crate) fn finish(&self, records: impl Iterator<Item = Lsn>, lanes: &[(u16, Lsn)], prefix: Option<Lsn>) {
        let mut inner = self.inner.lock();
        for lsn in records {
            inner.pending.remove(&lsn);
        }
        for (lane, lsn) in lanes {
            if let Some(slot) = inner.lanes.get_mut(usize::from(*lane)) {
                *slot = (*slot).max(*lsn);
            }
        }
        if let Some(prefix) = prefix {
            inner.stored_prefix = inner.stored_prefix.max(Some(prefix));
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Every record below is done.
    pub(crate) fn prefix(&self) -> Lsn {
        let inner = self.inner.lock();
        inner.pending.first_key_value().map_or(inner.read, |(lsn, _)| *lsn)
    }

    /// The prefix as far as a report of it is worth a record.
    pub(crate) fn noteworthy_prefix(&self) -> Lsn {
        let inner = self.inner.lock();
        inner.pending.first_key_value().map_or(inner.noteworthy, |(lsn, _)| *lsn)
    }

    /// The prefix that the database holds; nothing for one that keeps no position.
    pub(crate) fn stored_prefix(&self) -> Lsn {
        self.inner.lock().stored_prefix.unwrap_or(Lsn::NONE)
    }

    /// Where the sink would go on after a new connection, and what is stored beyond, by lane.
    pub(crate) fn known(&self) -> (Lsn, Vec<(u16, Lsn)>) {
        let prefix = self.prefix();
        let inner = self.inner.lock();
        let lanes = (0..).zip(inner.lanes.iter().copied()).filter(|(_, lsn)| *lsn > Lsn::NONE).collect();
        (inner.stored_prefix.unwrap_or(prefix), lanes)
    }

    /// What the database holds: the prefix (nothing for one that keeps no position), and each lane.
    pub(crate) fn held(&self) -> (Lsn, Vec<Lsn>) {
        let inner = self.inner.lock();
        (inner.stored_prefix.unwrap_or(Lsn::NONE), inner.lanes.clone())
    }

    /// What the database holds for a lane.
    pub(crate) fn lane(&self, lane: u16) -> Lsn {
        self.inner.lock().lanes.get(usize::from(lane)).copied().unwrap_or(Lsn::NONE)
    }

    /// Record time of the oldest record that is not done.
    pub(crate) fn oldest_us(&self) -> Option<u64> {
        self.inner.lock().pending.first_key_value().map(|(_, time)| *time)
    }

    /// Resolves at the next change.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Resolves when nothing is under way.
    pub(crate) async fn idle(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.inner.lock().pending.is_empty() {
                return;
            }
            changed.await;
        }
    }
}
