//! What has gathered for the next group.
//!
//! ```text
//!  batches   [first, count, bytes] [first, count, bytes, records] [first, count, bytes] ...
//!  heads     [kind, length] [kind, length] ...      one for each staged record, in order
//!  bodies    body body body ...                     their bytes, one after the other
//! ```
//!
//! A producer's records are *staged*: copied into memory that the queue and the writer pass to and fro, so that what a producer allocated is
//! freed by the producer. Memory that one thread allocates and another frees makes both wait for the allocator's lock, with a system call
//! each: that cost more than the write. Where the producer writes the group itself, and where the copy would hold the queue for long, the
//! records are taken as they are.

use super::NewRecord;
use crate::ids::Lsn;

/// Batches above this are not copied while the queue is locked.
const STAGE_MAX: usize = 64 << 10;
/// Memory for staged bodies above this is given back once the group is written.
const KEEP_MAX: usize = 8 << 20;

/// Records that were given their numbers together.
#[derive(Debug)]
struct Batch {
    first: Lsn,
    first_time_us: u64,
    count: usize,
    /// Records taken as they are; empty where they were staged.
    records: Vec<NewRecord>,
}

#[derive(Debug)]
struct Head {
    kind: u8,
    len: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Gathered {
    batches: Vec<Batch>,
    heads: Vec<Head>,
    bodies: Vec<u8>,
    /// Bytes on disk.
    bytes: usize,
}

/// A record that has its number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Numbered<'a> {
    pub lsn: Lsn,
    pub time_us: u64,
    pub kind: u8,
    pub body: &'a [u8],
}

impl Gathered {
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Calls of producers.
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds records that take `bytes` on disk. Where they are not staged they are taken out of `records`.
    pub fn push(&mut self, first: Lsn, first_time_us: u64, records: &mut Vec<NewRecord>, bytes: usize, stage: bool) {
        let count = records.len();
        self.bytes += bytes;
        if !stage || bytes > STAGE_MAX {
            self.batches.push(Batch { first, first_time_us, count, records: std::mem::take(records) });
            return;
        }
        for record in records.iter() {
            // A record is at most as long as a segment, which is 1 GiB at most.
            self.heads.push(Head { kind: record.kind, len: record.body.len() as u32 });
            self.bodies.extend_from_slice(&record.body);
        }
        self.batches.push(Batch { first, first_time_us, count, records: Vec::new() });
    }

    /// All records in the order of their numbers.
    pub fn records(&self) -> Records<'_> {
        Records { batches: self.batches.iter(), batch: None, heads: self.heads.iter(), bodies: &self.bodies }
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.batches.clear();
        self.heads.clear();
        self.bodies.clear();
        self.bytes = 0;
        if self.bodies.capacity() > KEEP_MAX {
            self.bodies = Vec::new();
            self.heads = Vec::new();
        }
    }
}

/// See [`Gathered::records`].
#[derive(Debug)]
pub(crate) struct Records<'a> {
    batches: std::slice::Iter<'a, Batch>,
    /// The batch that is being walked, and the place of its next record.
    batch: Option<(&'a Batch, usize)>,
    heads: std::slice::Iter<'a, Head>,
    bodies: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Numbered<'a>;

    fn next(&mut self) -> Option<Numbered<'a>> {
        loop {
            if let Some((batch, n)) = self.batch.filter(|(batch, n)| *n < batch.count) {
                self.batch = Some((batch, n + 1));
                let (kind, body) = match batch.records.get(n) {
                    Some(record) => (record.kind, record.body.as_slice()),
                    None => {
                        let head = self.heads.next()?;
                        let (body, rest) = self.bodies.split_at_checked(head.len as usize)?;
                        self.bodies = rest;
                        (head.kind, body)
                    }
                };
                let (lsn, time_us) = (Lsn(batch.first.0 + n as u64), batch.first_time_us + n as u64);
                return Some(Numbered { lsn, time_us, kind, body });
            }
            self.batch = Some((self.batches.next()?, 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(lens: &[usize]) -> Vec<NewRecord> {
        lens.iter().map(|len| NewRecord { kind: 1 + (len % 7) as u8, body: vec![*len as u8; *len] }).collect()
    }

    #[test]
    fn staged_and_taken_records_come_back_in_order_with_their_numbers_and_times() {
        let mut gathered = Gathered::default();
        let mut expected = Vec::new();
        let batches = [(vec![3, 0, 9], true), (vec![70_000], true), (vec![5, 6], false), (vec![1], true)];
        for round in 0..2 {
            let (mut lsn, mut time_us) = (Lsn(10 + round), 1000);
            expected.clear();
            for (lens, stage) in &batches {
                let mut new = records(lens);
                for (n, record) in new.iter().enumerate() {
                    expected.push((lsn.0 + n as u64, time_us + n as u64, record.kind, record.body.clone()));
                }
                let bytes = lens.iter().sum::<usize>();
                gathered.push(lsn, time_us, &mut new, bytes, *stage);
                assert_eq!(new.is_empty(), !stage || bytes > STAGE_MAX, "taken, or left to be freed by their owner");
                lsn = Lsn(lsn.0 + lens.len() as u64);
                time_us += 100;
            }
            let back: Vec<_> =
                gathered.records().map(|one| (one.lsn.0, one.time_us, one.kind, one.body.to_vec())).collect();
            assert_eq!(back, expected);
            assert_eq!((gathered.batches(), gathered.bytes()), (4, 70_024));
            gathered.clear();
            assert!(gathered.is_empty() && gathered.records().next().is_none() && gathered.bytes() == 0);
        }
    }
}
