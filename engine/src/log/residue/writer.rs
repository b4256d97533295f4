//! Writing a residue file: under another name until all of it is durable.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::format::{End, Header, MAKING, MARK_STEP, file_name};
use crate::disk::{Disk, DiskFile, OpenHow};
use crate::event::codec::KIND_PUBLISHED;
use crate::event::{Event, Published};
use crate::ids::Lsn;
use crate::log::Record;
use crate::log::frame::{self, Frame};
use crate::postings::{Identity, IndexBuilder, Position};

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is being made.
pub(crate) struct ResidueWriter<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    making: PathBuf,
    file: Box<dyn DiskFile>,
    header: Header,
    seed: u32,
    buffer: BytesMut,
    /// Offset of the buffer's first byte.
    at: u64,
    records: u64,
    marks: Vec<(Lsn, u64)>,
    index: IndexBuilder,
}

impl<'a> ResidueWriter<'a> {
    /// Begins a file of the records from `from` on.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn begin(
        disk: &'a dyn Disk,
        dir: &'a Path,
        log_id: [u8; 16],
        from: Lsn,
        created_us: u64,
    ) -> io::Result<ResidueWriter<'a>> {
        let header = Header { log_id, from, created_us };
        let making = dir.join(format!("{:020}.{MAKING}", from.0));
        let file = disk.open(&making, OpenHow::Create)?;
        let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
        buffer.extend_from_slice(&header.encode());
        let (seed, marks, index) = (header.seed(), Vec::new(), IndexBuilder::default());
        Ok(ResidueWriter { disk, dir, making, file, header, seed, buffer, at: 0, records: 0, marks, index })
    }

    /// Adds a record; its number is above all that were added before.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn push(&mut self, record: &Record) -> io::Result<()> {
        let at = self.at + self.buffer.len() as u64;
        if self.marks.last().is_none_or(|(_, last)| at >= last + MARK_STEP) {
            self.marks.push((record.lsn, at));
        }
        let (lsn, len) = (record.lsn, record.body.len());
        let frame = Frame { lsn, time_us: record.time_us, group: lsn, kind: record.kind, weak: false, len };
        frame::encode(&mut self.buffer, self.seed, &frame, &record.body);
        self.records += 1;
        if record.kind == KIND_PUBLISHED
            && let Ok(Event::Published(Published { message, .. })) =
                Event::decode(record.kind, Bytes::clone(&record.body))
        {
            self.index.add(&message.topic, Position { lsn, at, len: frame.size() as u32 });
        }
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the file, which covers everything below `to`, and gives it its name. Durable when it returns.
    ///
    /// # Errors
    /// Of the disk; what was written is removed then.
    pub(crate) fn finish(mut self, to: Lsn) -> io::Result<PathBuf> {
        let done = self.complete(to);
        if done.is_err() {
            self.discard();
        }
        done
    }

    fn complete(&mut self, to: Lsn) -> io::Result<PathBuf> {
        let frames_end = self.bytes();
        let of = Identity { log_id: self.header.log_id, first: self.header.from, next: to, end: frames_end };
        let mut end = End { to, records: self.records, frames_end, index_at: 0 };
        end.index_at = frames_end + (self.marks.len() * super::format::MARK) as u64;
        let (marks, end) = end.encode(self.seed, &self.marks);
        self.buffer.extend_from_slice(&marks);
        self.buffer.extend_from_slice(&self.index.encode(&of));
        self.buffer.extend_from_slice(&end);
        self.flush()?;
        self.file.sync_data()?;
        let path = file_name(self.dir, self.header.from);
        self.disk.rename(&self.making, &path)?;
        self.disk.sync_dir(self.dir)?;
        Ok(path)
    }

    /// Gives up: nothing of it stays.
    pub(crate) fn discard(&self) {
        // What can't be removed is removed at the next opening.
        let _ = self.disk.remove(&self.making);
    }
}
