//! A bounded look into a file: whatever the file's size, no more than [`WINDOW`] bytes of it are in memory.

use std::io;

use super::frame::{self, Frame, HEADER, KIND_GAP, KIND_SEAL, NUMBER_MAX, checksum, u32_at, u64_at};
use crate::disk::DiskFile;
use crate::ids::Lsn;

/// Bytes of a file that are in memory at once.
pub(crate) const WINDOW: usize = 1 << 20;

/// Part of a file, moved by the reads.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    start: u64,
    buffer: Vec<u8>,
}

/// What lies at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lies {
    /// A valid frame, and the number after it.
    Frame(Frame, Lsn),
    /// Zeros, or the end of the file: nothing was written here.
    End,
    /// Not a frame of this segment, and why.
    Bad(&'static str),
}

impl<'a> Window<'a> {
    pub fn new(file: &'a dyn DiskFile) -> io::Result<Window<'a>> {
        Ok(Window { file, len: file.len()?, start: 0, buffer: Vec::new() })
    }

    /// A second look into the same file, with a place of its own.
    pub fn another(&self) -> Window<'a> {
        Window { file: self.file, len: self.len, start: 0, buffer: Vec::new() }
    }

    /// Length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The bytes from `at` on: at least `need` of them, unless the file ends before. Who asks for more than [`WINDOW`] has checked that so much
    /// belongs together.
    pub fn bytes(&mut self, at: u64, need: usize) -> io::Result<&[u8]> {
        let wanted = (need as u64).min(self.len.saturating_sub(at));
        let held = self.start + self.buffer.len() as u64;
        if at < self.start || at + wanted > held {
            let n = (WINDOW.max(need) as u64).min(self.len.saturating_sub(at)) as usize;
            self.buffer.resize(n, 0);
            let got = self.file.read_at(&mut self.buffer, at)?;
            self.start = at;
            self.buffer.truncate(got);
            if got < n {
                // It became shorter while it was looked at.
                self.len = at + got as u64;
            }
        }
        Ok(self.buffer.get((at - self.start) as usize..).unwrap_or_default())
    }

    /// Carries a checksum on over the bytes of a range.
    pub fn crc(&mut self, crc: u32, from: u64, to: u64) -> io::Result<u32> {
        let (mut crc, mut at) = (crc, from);
        while at < to {
            let bytes = self.bytes(at, 1)?;
            let n = bytes.len().min((to - at) as usize);
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            crc = checksum(crc, bytes.get(..n).unwrap_or_default());
            at += n as u64;
        }
        Ok(crc)
    }

    /// Hands the bytes of a range over, piece by piece.
    pub fn pieces(&mut self, from: u64, to: u64, take: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut at = from;
        while at < to.min(self.len) {
            let bytes = self.bytes(at, 1)?;
            let n = bytes.len().min((to - at) as usize);
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            take(at, bytes.get(..n).unwrap_or_default())?;
            at += n as u64;
        }
        Ok(())
    }

    /// Checks the frame at `at`.
    pub fn frame(&mut self, at: u64, seed: u32) -> io::Result<Lies> {
        let left = self.len.saturating_sub(at);
        let head = self.bytes(at, HEADER)?;
        let Some(header) = head.first_chunk::<HEADER>().copied() else {
            return Ok(if head.iter().all(|b| *b == 0) { Lies::End } else { Lies::Bad("a record cut short") });
        };
        self.frame_of(at, left, &header, seed)
    }

    /// Checks the frame at `at` as if its header were `header`.
    pub fn frame_of(&mut self, at: u64, left: u64, header: &[u8; HEADER], seed: u32) -> io::Result<Lies> {
        if *header == [0; HEADER] {
            return Ok(Lies::End);
        }
        let Some(frame) = frame::peek(header).filter(|frame| frame.kind != 0) else {
            return Ok(Lies::Bad("not a record (kind 0)"));
        };
        if frame.size() as u64 > left {
            return Ok(Lies::Bad("a record cut short"));
        }
        let crc = checksum(seed, header.get(4..).unwrap_or_default());
        let crc = self.crc(crc, at + HEADER as u64, at + frame.size() as u64)?;
        if u32_at(header, 0) != Some(crc) {
            return Ok(Lies::Bad("checksum does not match"));
        }
        let next = match frame.kind {
            KIND_SEAL => frame.lsn,
            KIND_GAP => {
                let to = u64_at(self.bytes(at + HEADER as u64, frame.len.min(8))?, 0).filter(|_| frame.len >= 8);
                to.map_or(frame.lsn.next(), |to| Lsn(to).max(frame.lsn.next()))
            }
            _ => frame.lsn.next(),
        };
        if next.0 > NUMBER_MAX || frame.time_us > NUMBER_MAX {
            return Ok(Lies::Bad("a number or a time that no log reaches"));
        }
        Ok(Lies::Frame(frame, next))
    }
}
