//! Writing a sound segment from what reads of a damaged one.

use std::io;
use std::path::{Path, PathBuf};

use bytes::BytesMut;

use crate::disk::{Disk, DiskFile, OpenHow};
use crate::ids::Lsn;
use crate::log::frame::{self, Frame, GAP_DAMAGE, HEADER, KIND_GAP};
use crate::log::scan::Run;
use crate::log::segment::{Header, SEAL_MIN, SEGMENT_HEADER, Seal};
use crate::log::window::Window;

/// Bytes written at once.
const PIECE: usize = 1 << 20;

/// What a segment is written from.
#[derive(Debug)]
pub(super) struct Rewrite {
    /// The file with what reads, and where its checksums start from. `None` for a segment that is nothing but a gap.
    pub source: Option<(PathBuf, u32)>,
    /// The header it gets.
    pub header: Header,
    /// What is copied.
    pub runs: Vec<Run>,
    /// The number behind its last record.
    pub next: Lsn,
    /// The time of the last record before this segment.
    pub after_us: u64,
}

struct Out {
    file: Box<dyn DiskFile>,
    buffer: BytesMut,
    /// Bytes of the file that are written.
    written: u64,
    header: Header,
    next: Lsn,
    last: Lsn,
    count: u64,
    time_us: u64,
}

impl Rewrite {
    /// Writes the segment to `path`, synced.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let file = disk.open(path, OpenHow::Create)?;
        let mut out = Out {
            file,
            buffer: BytesMut::from(&self.header.encode()[..]),
            written: 0,
            header: self.header,
            next: self.header.first,
            last: Lsn(self.header.first.0.saturating_sub(1)),
            count: 0,
            time_us: self.after_us,
        };
        if let Some((source, _)) = &self.source {
            let source = disk.open(source, OpenHow::Read)?;
            let mut window = Window::new(&*source)?;
            for run in &self.runs {
                out.copy(&mut window, run)?;
            }
        }
        out.gap(self.next, None)?;
        out.seal()
    }
}

impl Out {
    /// Frames keep their fields, and where the segment keeps its first number, their bytes.
    fn copy(&mut self, window: &mut Window<'_>, run: &Run) -> io::Result<()> {
        let mut at = run.at;
        while at < run.end {
            let found = frame::peek(window.bytes(at, HEADER)?).ok_or(io::ErrorKind::InvalidData)?;
            let bytes = window.bytes(at, found.size())?;
            let bytes = bytes.get(..found.size()).ok_or(io::ErrorKind::UnexpectedEof)?;
            at += found.size() as u64;
            if found.lsn < self.next {
                continue;
            }
            self.gap(found.lsn, Some(found.time_us))?;
            self.put(&found, frame::body_of(bytes, &found), frame::next_after(&found, bytes))?;
        }
        Ok(())
    }

    /// A gap up to `to`, where there is anything between. `before_us` is the time of the record behind it.
    fn gap(&mut self, to: Lsn, before_us: Option<u64>) -> io::Result<()> {
        if to <= self.next {
            return Ok(());
        }
        let after = self.time_us.saturating_add(1);
        let time_us = before_us.map_or(after, |before| after.min(before.saturating_sub(1)));
        let frame = Frame { lsn: self.next, time_us, group: self.next, kind: KIND_GAP, weak: false, len: 9 };
        let mut body = to.0.to_le_bytes().to_vec();
        body.push(GAP_DAMAGE);
        self.put(&frame, &body, to)
    }

    fn put(&mut self, frame: &Frame, body: &[u8], next: Lsn) -> io::Result<()> {
        frame::encode(&mut self.buffer, self.header.seed(), frame, body);
        self.next = next;
        self.last = frame.lsn;
        self.count += 1;
        self.time_us = frame.time_us;
        if self.buffer.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn seal(mut self) -> io::Result<()> {
        let at = self.written + self.buffer.len() as u64;
        let Out { count, last, next, time_us, header, .. } = self;
        Seal { at, count, last, next, time_us }.encode(&mut self.buffer, &header, at + SEAL_MIN as u64);
        self.flush()?;
        debug_assert!(self.written >= (SEGMENT_HEADER + SEAL_MIN) as u64);
        self.file.sync_data()
    }
}
