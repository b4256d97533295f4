//! What has gathered for the next group.
//!
//! ```text
//!  parts   [ frame frame frame ... ] [ frame frame ... ] ...        records in the order of their numbers
//! ```
//!
//! A producer's records are *staged*: written as frames, but for their checksums, into memory that queue, writer and tail cache pass to and fro.
//! They are copied once between the producer and the disk, and what a producer allocated is freed by the producer: memory that one thread
//! allocates and another frees makes both wait for the allocator's lock, with a system call each, which cost more than the write. The frames
//! get their numbers under the queue's lock. A large batch is staged before the lock is taken, in a part of its own, and only numbered under it.

use bytes::BytesMut;

use super::NewRecord;
use super::frame::{self, HEADER};
use crate::ids::Lsn;

/// Batches above this are not copied while the queue is locked.
const STAGE_MAX: usize = 256 << 10;
/// A part that is larger takes no more: what follows begins another.
const PART_BYTES: usize = 4 << 20;
/// Memory for frames above this is given back once the group is written.
const KEEP_MAX: usize = 8 << 20;

/// Records that wait for the leader, as frames without checksums.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    parts: Vec<BytesMut>,
    /// Memory for the next part.
    spare: BytesMut,
    /// The last part takes more.
    open: bool,
    batches: usize,
    /// Bytes on disk.
    bytes: usize,
}

/// Frames of a large batch without numbers; nothing for a batch that is staged under the lock.
#[derive(Debug, Default)]
pub(crate) struct Staged(Option<BytesMut>);

impl Staged {
    /// Stages a batch that takes `bytes` on disk, where it is a large one.
    pub fn of<B: AsRef<[u8]>>(records: &[NewRecord<B>], bytes: usize) -> Staged {
        Staged((bytes > STAGE_MAX).then(|| {
            let mut frames = BytesMut::with_capacity(bytes);
            records.iter().for_each(|r| frame::stage(&mut frames, Lsn::NONE, 0, r.kind, r.body.as_ref()));
            frames
        }))
    }
}

impl Gathered {
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Calls of producers.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds records that take `bytes` on disk, the first with this number and time, or the frames they were staged as.
    pub fn push<B: AsRef<[u8]>>(
        &mut self,
        first: Lsn,
        first_time_us: u64,
        records: &[NewRecord<B>],
        bytes: usize,
        staged: Staged,
    ) {
        self.bytes += bytes;
        self.batches += 1;
        if let Staged(Some(mut frames)) = staged {
            number(&mut frames, first, first_time_us);
            self.parts.push(frames);
            self.open = false;
            return;
        }
        let part = self.part(bytes);
        part.reserve(bytes);
        for (n, record) in (0..).zip(records) {
            frame::stage(part, Lsn(first.0 + n), first_time_us + n, record.kind, record.body.as_ref());
        }
    }

    /// The part that takes the next `bytes`.
    fn part(&mut self, bytes: usize) -> &mut BytesMut {
        self.open &= self.parts.last().is_some_and(|part| part.len() < PART_BYTES);
        if !self.open {
            let spare = std::mem::take(&mut self.spare);
            self.parts.push(if spare.capacity() >= bytes { spare } else { BytesMut::with_capacity(bytes) });
            self.open = true;
        }
        // There is one: it was pushed where there was none.
        self.parts.last_mut().unwrap_or(&mut self.spare)
    }

    /// Takes the frames out, in the order of their numbers.
    pub fn take_parts(&mut self) -> Vec<BytesMut> {
        self.open = false;
        std::mem::take(&mut self.parts)
    }

    /// Takes memory that nobody reads any more, for the next part.
    pub fn keep(&mut self, mut memory: BytesMut) {
        if memory.capacity() > self.spare.capacity() && memory.capacity() <= KEEP_MAX {
            memory.clear();
            self.spare = memory;
        }
    }

    /// Forgets the records and keeps memory for the next.
    pub fn clear(&mut self) {
        self.open = false;
        self.batches = 0;
        self.bytes = 0;
        for part in std::mem::take(&mut self.parts) {
            self.keep(part);
        }
    }
}

/// Numbers frames that were staged without.
fn number(frames: &mut [u8], first: Lsn, first_time_us: u64) {
    let (mut at, mut n) = (0, 0);
    while let Some(frame) = frames.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let Some(len) = frame::number(frame, Lsn(first.0 + n), first_time_us + n) else { return };
        at += HEADER + len;
        n += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(lens: &[usize]) -> Vec<NewRecord> {
        lens.iter().map(|len| NewRecord { kind: 1 + (len % 7) as u8, body: vec![*len as u8; *len] }).collect()
    }

    /// Number, time, kind and body of every record.
    fn read(parts: Vec<BytesMut>) -> Vec<(u64, u64, u8, Vec<u8>)> {
        let mut out = Vec::new();
        for part in parts {
            let mut rest = &part[..];
            while let Some(frame) = frame::peek(rest) {
                out.push((frame.lsn.0, frame.time_us, frame.kind, rest[HEADER..frame.size()].to_vec()));
                rest = &rest[frame.size()..];
            }
            assert!(rest.is_empty());
        }
        out
    }

    #[test]
    fn records_come_back_in_order_with_their_numbers_and_times_however_they_were_staged() {
        let mut gathered = Gathered::default();
        let batches = [vec![3, 0, 9], vec![STAGE_MAX, 1], vec![5, 6], vec![1], vec![STAGE_MAX + 1]];
        for round in 0..3 {
            let (mut lsn, mut time_us, mut expected, mut bytes) = (Lsn(10 + round), 1000, Vec::new(), 0);
            for lens in &batches {
                let new = records(lens);
                for (n, record) in (0..).zip(&new) {
                    expected.push((lsn.0 + n, time_us + n, record.kind, record.body.clone()));
                }
                let size = lens.iter().map(|len| HEADER + len).sum::<usize>();
                gathered.push(lsn, time_us, &new, size, Staged::of(&new, size));
                lsn = Lsn(lsn.0 + lens.len() as u64);
                time_us += 100;
                bytes += size;
            }
            assert_eq!((gathered.batches(), gathered.bytes()), (batches.len(), bytes));
            assert_eq!(read(gathered.take_parts()), expected);
            gathered.clear();
            gathered.keep(BytesMut::with_capacity(1000));
            assert!(gathered.is_empty() && gathered.bytes() == 0 && gathered.batches() == 0);
        }
    }

    #[test]
    fn a_part_that_is_full_is_followed_by_another() {
        let mut gathered = Gathered::default();
        let batch = records(&[100_000, 100_000]);
        for n in 0..50 {
            gathered.push(Lsn(1 + 2 * n), 1, &batch, 2 * (HEADER + 100_000), Staged::default());
        }
        let parts = gathered.take_parts();
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() < PART_BYTES + 300_000));
        assert_eq!(read(parts).len(), 100);
    }
}
