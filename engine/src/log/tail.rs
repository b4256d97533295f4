//! The tail cache: the newest groups, as they were written, in memory. A reader that keeps up never touches the disk.

use std::collections::VecDeque;

use crate::sync::Mutex;
use bytes::{Bytes, BytesMut};

use crate::ids::Lsn;

/// Bytes counted for keeping a group besides its own.
const OVERHEAD: usize = 128;

#[derive(Debug)]
pub(crate) struct TailCache {
    limit: usize,
    groups: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    list: VecDeque<CachedGroup>,
    bytes: usize,
}

/// Whole frames with the LSNs `first..next`.
#[derive(Clone, Debug)]
pub(crate) struct CachedGroup {
    pub first: Lsn,
    pub next: Lsn,
    pub frames: Bytes,
    /// First record of their segment, and the offset of the first of them in it.
    pub segment: Lsn,
    pub at: u64,
}

impl TailCache {
    pub fn new(limit: usize) -> TailCache {
        TailCache { limit, groups: Mutex::default() }
    }

    /// Takes the newest group. Gives back the buffer of one that had to go and that nobody reads, for the next group.
    pub fn push(&self, group: CachedGroup) -> Option<BytesMut> {
        let mut groups = self.groups.lock();
        groups.bytes += group.frames.len() + OVERHEAD;
        groups.list.push_back(group);
        let mut spare = None;
        while groups.bytes > self.limit {
            let Some(old) = groups.list.pop_front() else { break };
            groups.bytes -= old.frames.len() + OVERHEAD;
            spare = old.frames.try_into_mut().ok().or(spare);
        }
        spare
    }

    /// The group that holds `lsn` (or the gap it lies in).
    pub fn get(&self, lsn: Lsn) -> Option<CachedGroup> {
        let groups = self.groups.lock();
        let n = groups.list.partition_point(|group| group.next <= lsn);
        groups.list.get(n).filter(|group| group.first <= lsn).cloned()
    }
}
