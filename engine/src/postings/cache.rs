//! Blocks of dictionaries that were read lately, for all opened indexes together.
//!
//! Ten thousand sessions that come back look for ten thousand topics, forty of them in a block: without this each look is a read and a
//! checksum. Two generations take turns: what is used moves to the young one; when that has half of the bytes, the old one goes and the young
//! one takes its place. Looking up and letting go cost the same whatever there is in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

/// What a block takes besides its bytes, about.
const OVERHEAD: usize = 128;

/// An opened index, and the offset of a block in it.
type Key = (u64, u64);

/// See the module.
#[derive(Debug)]
pub(crate) struct BlockCache {
    /// Bytes at most, of both generations.
    limit: usize,
    next: AtomicU64,
    blocks: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Bytes>,
    /// Bytes of the young ones.
    bytes: usize,
    old: HashMap<Key, Bytes>,
}

impl BlockCache {
    /// One that takes at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> BlockCache {
        BlockCache { limit, next: AtomicU64::new(0), blocks: Mutex::default() }
    }

    /// A number for an index that was opened: blocks of an index before it in the same place are none of its own.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A block that was checked when it was put in.
    pub(super) fn get(&self, index: u64, at: u64) -> Option<Bytes> {
        let mut blocks = self.blocks.lock();
        if let Some(block) = blocks.young.get(&(index, at)) {
            return Some(block.clone());
        }
        let block = blocks.old.remove(&(index, at))?;
        blocks.put((index, at), block.clone(), self.limit);
        Some(block)
    }

    /// Takes a block in. One that is large for the cache is left out.
    pub(super) fn put(&self, index: u64, at: u64, block: &Bytes) {
        if (block.len() + OVERHEAD) * 8 <= self.limit {
            self.blocks.lock().put((index, at), block.clone(), self.limit);
        }
    }

    /// Bytes that the blocks take, about.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let blocks = self.blocks.lock();
        blocks.young.values().chain(blocks.old.values()).map(|block| block.len() + OVERHEAD).sum()
    }
}

impl Generations {
    fn put(&mut self, key: Key, block: Bytes, limit: usize) {
        let bytes = block.len() + OVERHEAD;
        if self.bytes + bytes > limit / 2 {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        if self.young.insert(key, block).is_none() {
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_what_is_not_goes_and_the_bytes_are_bounded() {
        let cache = BlockCache::new(64 << 10);
        let block = |n: u64| Bytes::from(vec![n as u8; 900]);
        for n in 0..1000 {
            cache.put(1, n, &block(n));
            assert_eq!(cache.get(1, 0), Some(block(0)), "it is used all the time");
            assert!(cache.bytes() <= 64 << 10, "{} after {n}", cache.bytes());
        }
        assert_eq!(cache.get(1, 999), Some(block(999)));
        assert_eq!(cache.get(1, 500), None, "it was not used for long");
        cache.put(1, 2000, &Bytes::from(vec![0; 60 << 10]));
        assert_eq!(cache.get(1, 2000), None, "one block may not push all others out");
    }

    #[test]
    fn an_index_that_was_opened_again_shares_no_block_with_the_one_before() {
        let cache = BlockCache::new(64 << 10);
        let (before, after) = (cache.number(), cache.number());
        cache.put(before, 96, &Bytes::from_static(b"of the file that was there before"));
        assert_eq!(cache.get(after, 96), None);
    }
}
