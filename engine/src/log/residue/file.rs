//! One residue file, opened: its marks and the head of its index are in memory, records are read when they are asked for.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::format::{END, End, Fault, HEADER, Header};
use crate::disk::{Disk, DiskFile, OpenHow};
use crate::ids::Lsn;
use crate::log::error::ReadError;
use crate::log::frame::{self, Decoded, Frame};
use crate::log::reader::record_of;
use crate::log::segment::hex;
use crate::log::{OpenError, Record};
use crate::postings::{Found, Position, SegmentIndex, Source};

/// Bytes asked of the disk at once.
const READ_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct ResidueFile {
    pub path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: Header,
    seed: u32,
    end: End,
    marks: Vec<(Lsn, u64)>,
    index: SegmentIndex,
    bytes: u64,
}

impl ResidueFile {
    /// Opens a file and checks all but its records and the blocks of its index, which are checked when they are read.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(disk: &dyn Disk, path: &Path, log_id: [u8; 16]) -> Result<ResidueFile, OpenError> {
        let io = |source| OpenError::Io { what: "reading", file: path.to_owned(), source };
        let damaged = |at, what: &str| OpenError::Damaged {
            file: path.to_owned(),
            at,
            lsn: super::parse_name(path).unwrap_or_default(),
            what: what.to_owned(),
        };
        let fault = |at| {
            move |fault| match fault {
                Fault::Newer(version) => {
                    OpenError::NewerFormat { file: path.to_owned(), version, known: super::format::FORMAT }
                }
                Fault::Damaged(what) => damaged(at, what),
            }
        };
        let file: Arc<dyn DiskFile> = Arc::from(disk.open(path, OpenHow::Read).map_err(io)?);
        let len = file.len().map_err(io)?;
        let header = Header::decode(&read(&*file, 0, HEADER).map_err(io)?).map_err(fault(0))?;
        if header.log_id != log_id {
            let (found, expected) = (hex(&header.log_id), hex(&log_id));
            return Err(OpenError::ForeignSegment { file: path.to_owned(), found, expected });
        }
        if super::parse_name(path) != Some(header.from) {
            return Err(damaged(32, "its name and its header disagree about its first record"));
        }
        let end_at = len.saturating_sub(END as u64);
        let end_bytes = read(&*file, end_at, END).map_err(io)?;
        let end = End::decode(&end_bytes, len).map_err(fault(end_at))?;
        let table = read(&*file, end.frames_end, (end.index_at - end.frames_end) as usize).map_err(io)?;
        let marks = End::marks(header.seed(), &table, &end_bytes).map_err(fault(end_at))?;
        let part = Part { file: Arc::clone(&file), at: end.index_at, len: end_at - end.index_at };
        let index = SegmentIndex::open(Source::File(Arc::new(part), metrics::counter!(crate::metrics::LOG_READ_BYTES)))
            .map_err(|e| damaged(end.index_at, &format!("its index {e}")))?;
        let of = index.of();
        if of.log_id != log_id || of.first != header.from || of.next != end.to || of.end != end.frames_end {
            return Err(damaged(end.index_at, "its index is of another file"));
        }
        Ok(ResidueFile { path: path.to_owned(), seed: header.seed(), file, header, end, marks, index, bytes: len })
    }

    /// The record numbers that it covers; those of its records are some of them.
    pub(crate) fn covers(&self) -> Range<Lsn> {
        self.header.from..self.end.to
    }

    pub(crate) fn records(&self) -> u64 {
        self.end.records
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One record; `None` when it was not carried.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn read(&self, lsn: Lsn) -> Result<Option<Record>, ReadError> {
        let mut walk = self.walk(lsn);
        while let Some((frame, bytes)) = walk.step()? {
            if frame.lsn >= lsn {
                return Ok((frame.lsn == lsn).then(|| record_of(&frame, bytes)));
            }
        }
        Ok(None)
    }

    /// Its records, from one at or before `lsn` on.
    pub(crate) fn walk(&self, lsn: Lsn) -> Walk<'_> {
        let n = self.marks.partition_point(|(first, _)| *first <= lsn);
        let at = n.checked_sub(1).and_then(|n| self.marks.get(n)).map_or(HEADER as u64, |(_, at)| *at);
        Walk { of: self, buffer: Bytes::new(), at, last: Lsn::NONE }
    }

    /// Where the records lie whose topic matches one of the filters, into `found`.
    ///
    /// # Errors
    /// `Corrupt` where the index does not read.
    pub(crate) fn find(&self, filters: &[&str], range: &Range<Lsn>, found: &mut Found) -> Result<(), ReadError> {
        for filter in filters {
            let mut search = self.index.search(filter);
            loop {
                match self.index.find(&mut search, filter, range, found) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(e) => return Err(self.corrupt(self.end.index_at, range.start, format!("its index {e}"))),
                }
            }
        }
        Ok(())
    }

    /// The record at a place that its index gave.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn at(&self, place: &Position) -> Result<Record, ReadError> {
        let bytes = self.bytes_at(place.at, place.len as usize)?;
        match frame::decode(&bytes, self.seed) {
            Decoded::Frame(frame) if frame.lsn == place.lsn && frame.size() == bytes.len() => {
                Ok(record_of(&frame, bytes))
            }
            _ => Err(self.corrupt(place.at, place.lsn, "the record is not where its index says".to_owned())),
        }
    }

    fn bytes_at(&self, at: u64, len: usize) -> Result<Bytes, ReadError> {
        read(&*self.file, at, len).map(Bytes::from).map_err(|source| ReadError::Io { file: self.path.clone(), source })
    }

    fn corrupt(&self, at: u64, lsn: Lsn, what: String) -> ReadError {
        ReadError::Corrupt { file: self.path.clone(), at, lsn, what }
    }
}

/// Walks records in order.
pub(crate) struct Walk<'a> {
    of: &'a ResidueFile,
    /// Bytes read and not used; they begin at `at`.
    buffer: Bytes,
    at: u64,
    last: Lsn,
}

impl Walk<'_> {
    /// The next frame and its bytes; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn step(&mut self) -> Result<Option<(Frame, Bytes)>, ReadError> {
        let end = self.of.end.frames_end;
        loop {
            if self.at >= end {
                return Ok(None);
            }
            let left = (end - self.at) as usize;
            let need = match frame::decode(&self.buffer, self.of.seed) {
                Decoded::Frame(frame) if frame.lsn > self.last => {
                    let bytes = self.buffer.split_to(frame.size());
                    self.at += frame.size() as u64;
                    self.last = frame.lsn;
                    return Ok(Some((frame, bytes)));
                }
                Decoded::Frame(_) => return Err(self.corrupt("its records are not in order")),
                Decoded::Incomplete(need) if need <= left => need,
                Decoded::End if self.buffer.len() < frame::HEADER => frame::HEADER.min(left),
                Decoded::Incomplete(_) => return Err(self.corrupt("a record reaches beyond the records")),
                Decoded::End => return Err(self.corrupt("zeros where a record should be")),
                Decoded::Bad(what) => return Err(self.corrupt(what)),
            };
            let mut buffer = BytesMut::zeroed(need.max(READ_BYTES).min(left));
            let n = self
                .of
                .file
                .read_at(&mut buffer, self.at)
                .map_err(|source| ReadError::Io { file: self.of.path.clone(), source })?;
            if n < need || n <= self.buffer.len() {
                return Err(self.corrupt("the file is shorter than it was"));
            }
            buffer.truncate(n);
            self.buffer = buffer.freeze();
        }
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        Ok(self.step()?.map(|(frame, bytes)| record_of(&frame, bytes)))
    }

    fn corrupt(&self, what: &str) -> ReadError {
        self.of.corrupt(self.at, self.last.next(), what.to_owned())
    }
}

fn read(file: &dyn DiskFile, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let n = file.read_at(&mut bytes, at)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// A part of a file, read as a file of its own.
#[derive(Debug)]
struct Part {
    file: Arc<dyn DiskFile>,
    at: u64,
    len: u64,
}

impl DiskFile for Part {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let n = (buf.len() as u64).min(self.len.saturating_sub(at)) as usize;
        self.file.read_at(buf.get_mut(..n).unwrap_or_default(), self.at + at)
    }

    fn write_all_at(&self, _buf: &[u8], _at: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
