//! Postings: which records of a stretch of the log belong to which topic, so that a subscriber that was away reads its own messages
//! and not everybody's.
//!
//! They are derived from the log and never trusted beyond it: every record found through them is read and checked as any other, and
//! where they are missing, old or damaged the log itself is read instead, until they are built anew.
//!
//! # The sidecar of a segment, version 1
//!
//! `NNNNNNNNNNNNNNNNNNNN.idx` beside the segment of the same number. All numbers are little-endian; *int* is LEB128.
//!
//! ```text
//! +--------+--------+-------+---------+---------------+---------+---------------+- -
//! | header | filter | table | block 0 | chunks of it  | block 1 | chunks of it  |
//! +--------+--------+-------+---------+---------------+---------+---------------+- -
//!  0        96               `-- data begins
//!
//! header
//!  0         8     12   16       32      40     48     56       64      72       76       80      84     88   92   96
//! +---------+-----+----+--------+-------+------+------+---------+-------+--------+--------+-------+------+----+-----+
//! |FBAYTOPI | ver | 0  | log id | first | next | end  | records |topics | blocks | filter | table | crc  | 0  | crc |
//! +---------+-----+----+--------+-------+------+------+---------+-------+--------+--------+-------+------+----+-----+
//!            u32   u32  16 B     u64     u64    u64    u64       u64     u32      u32 B    u32 B   u32 of      u32 of
//!                                                                                         filter,table         0..92
//! ```
//!
//! `first` and `next` are the record numbers that the index covers, `end` the offset behind the last of them in the file that it indexes.
//!
//! The *filter* is a split block Bloom filter over the topics (see `membership`): a segment without a topic costs no read.
//!
//! The *table* has an entry for each block of the dictionary: the first topic in it (int: bytes shared with the topic before it, int:
//! length of the rest, the rest), int: bytes of the block, int: bytes of the chunks behind it.
//!
//! A *block* holds about 1 KiB of topics in order, and ends with a CRC-32 (u32): of its own offset in the file (u64) and its bytes,
//! started from the CRC of log id and `first`. For each topic:
//!
//! | field | |
//! |---|---|
//! | int, int, bytes | bytes shared with the topic before it in the block, length of the rest, the rest |
//! | int | records |
//! | int | bytes of what follows |
//! | up to 64 records | their *positions* |
//! | more | for each *chunk* of 256: int, LSN of its first record less that of the chunk before; int, bytes of the chunk. In front of them int: where the first chunk begins, counted from the end of the block |
//!
//! *Positions*: for each record int: its LSN less the one before (the first: less `first`), zigzag int: its offset less the one before
//! (the first: less 0), int: bytes of its frame. A *chunk* is positions that begin anew, and ends with a CRC as a block does.
//!
//! The file is written under the name `*.idx-making`, synced, and renamed. That the name is not synced costs at most building it again.

mod builder;
mod cache;
mod catalog;
#[cfg(test)]
mod catalog_tests;
mod coding;
mod found;
pub(crate) mod fuzzing;
mod index;
mod indexer;
mod membership;
mod newest;
mod part;
mod plan;
#[cfg(test)]
mod tests;

use std::io;

use crate::ids::Lsn;

pub(crate) use builder::IndexBuilder;
pub(crate) use catalog::Postings;
pub(crate) use found::Found;
pub(crate) use index::{Search, SegmentIndex, Source};
pub(crate) use indexer::Indexer;
pub(crate) use newest::{Counted, Newest};
pub(crate) use plan::{Plan, Searching, Wanted};

/// Where a record lies in the file that the index is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Its number.
    pub lsn: Lsn,
    /// Offset of its frame.
    pub at: u64,
    /// Bytes of its frame, header and body.
    pub len: u32,
}

/// What an index is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The log.
    pub log_id: [u8; 16],
    /// First record number covered.
    pub first: Lsn,
    /// The number after the last one covered.
    pub next: Lsn,
    /// Offset behind the last record covered.
    pub end: u64,
}

/// Why an index can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexFault {
    /// Reading it failed.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
    /// It is not what was written.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
    /// A later program wrote it.
    #[error("has format {0}, this program knows up to {version}", version = index::FORMAT)]
    Newer(u32),
    /// It is of another file.
    #[error("is of another segment")]
    Foreign,
}
