//! Walking the frames of one segment file in large reads.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use metrics::Counter;

use super::error::ReadError;
use super::frame::{self, Decoded, Frame, HEADER};
use super::run::Run;
use crate::disk::DiskFile;
use crate::ids::Lsn;

/// Bytes asked of the disk at once.
const READ_BYTES: usize = 256 << 10;

/// Walks the frames of one segment file, checking every checksum and that the numbers follow each other.
#[derive(Debug)]
pub(crate) struct FrameWalk {
    file: Arc<dyn DiskFile>,
    seed: u32,
    /// Bytes read; those not used begin at `at`.
    buffer: Run,
    /// The last two reads as a whole: their memory is used again when nobody holds a record of them any more.
    reads: [Bytes; 2],
    pub at: u64,
    /// Number of the next frame.
    pub next: Lsn,
    end: u64,
    /// Counts what is asked of the disk.
    asked: Counter,
}

/// What is wrong at a place of a segment.
#[derive(Debug)]
pub(crate) enum WalkError {
    Io(std::io::Error),
    Damaged(String),
}

impl WalkError {
    pub fn at(self, path: &Path, at: u64, lsn: Lsn) -> ReadError {
        let file = path.to_owned();
        match self {
            WalkError::Io(source) => ReadError::Io { file, source },
            WalkError::Damaged(what) => ReadError::Corrupt { file, at, lsn, what },
        }
    }
}

impl FrameWalk {
    /// From the frame `next` at `at` to the offset `end`.
    pub fn new(file: Arc<dyn DiskFile>, seed: u32, next: Lsn, at: u64, end: u64, asked: Counter) -> FrameWalk {
        FrameWalk { file, seed, buffer: Run::default(), reads: Default::default(), at, next, end, asked }
    }

    /// Steps on the next frame, which is then the [`current`](FrameWalk::current) one; `None` at the end.
    #[inline]
    pub fn step(&mut self) -> Result<Option<Frame>, WalkError> {
        loop {
            if self.at >= self.end {
                return Ok(None);
            }
            let rest = self.buffer.rest();
            let need = match frame::decode(rest, self.seed) {
                Decoded::Frame(frame) => {
                    if frame.lsn != self.next {
                        return Err(WalkError::Damaged(format!(
                            "holds record {} in the place of {}",
                            frame.lsn, self.next
                        )));
                    }
                    self.next = frame::next_after(&frame, rest);
                    self.buffer.step(frame.size());
                    self.at += frame.size() as u64;
                    return Ok(Some(frame));
                }
                Decoded::Incomplete(need) => need,
                Decoded::End if rest.len() < HEADER => HEADER,
                Decoded::End => return Err(WalkError::Damaged("zeros where a record should be".to_owned())),
                Decoded::Bad(what) => return Err(WalkError::Damaged(what.to_owned())),
            };
            let left = (self.end - self.at) as usize;
            if need > left {
                return Err(WalkError::Damaged("a record reaches beyond the end".to_owned()));
            }
            let mut buffer = self.memory(need.max(READ_BYTES).min(left));
            self.asked.increment(buffer.len() as u64);
            let n = self.file.read_at(&mut buffer, self.at).map_err(WalkError::Io)?;
            if n < need {
                return Err(WalkError::Damaged("the file is shorter than it was".to_owned()));
            }
            buffer.truncate(n);
            let buffer = buffer.freeze();
            self.buffer = Run::new(buffer.clone());
            self.reads.swap(0, 1);
            self.reads[0] = buffer;
        }
    }

    /// The frame stepped on.
    #[inline]
    pub fn current(&self) -> &[u8] {
        self.buffer.current()
    }

    /// The same, sharing the memory.
    #[inline]
    pub fn share(&self) -> Bytes {
        self.buffer.share()
    }

    /// Memory for a read: that of the read before the last, where nobody uses it. New memory has to be zeroed, and is touched for the
    /// first time.
    fn memory(&mut self, len: usize) -> BytesMut {
        self.buffer = Run::default();
        let [_, old] = &mut self.reads;
        match std::mem::take(old).try_into_mut() {
            Ok(mut memory) if memory.capacity() >= len => {
                memory.resize(len, 0);
                memory
            }
            _ => BytesMut::zeroed(len),
        }
    }
}
