//! The checkpoint: all of state in one checksummed file, so that checkpoint and log together always rebuild it.
//!
//! ```text
//! checkpoint-<20 digits: applied>.fbc
//! 0   magic    "FBYCKPT\0"           8 bytes
//! 8   version  u32 LE (1)
//! 12  log id   16 bytes
//! 28  applied  u64 LE                every record below is included
//! 36  rows     u64 LE
//! 44  rows: key length u32 LE, value length u32 LE, key, value     (see `rows`)
//! end CRC32 u32 LE over everything before
//! ```
//!
//! It is written under a temporary name, synced, renamed and the folder synced; the one before is kept until then. Segments are
//! trimmed only up to the newest checkpoint that was synced.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::State;
use crate::disk::{Disk, DiskFile, OpenHow, Sequential};
use crate::ids::Lsn;

const MAGIC: &[u8; 8] = b"FBYCKPT\0";
const VERSION: u32 = 1;
/// A row's key or value is never longer: a message is bounded by the log's record size.
const PART_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes written and read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Why a checkpoint can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system failed.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// Its error.
        source: io::Error,
    },
    /// The bytes are not a whole checkpoint of this log.
    #[error("{file}: {what}")]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Written by a newer Forebay.
    #[error("{file}: checkpoint format {version} is newer than this program knows (1); use the Forebay that wrote it")]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// State's rows, copied at one moment, ready to be written.
#[derive(Debug)]
pub struct Snapshot {
    applied: Lsn,
    rows: u64,
    body: Vec<u8>,
}

impl Snapshot {
    /// Copies `state`.
    #[must_use]
    pub fn of(state: &State) -> Snapshot {
        let (mut body, mut rows) = (Vec::new(), 0);
        state.each_row(|key, value| {
            body.extend_from_slice(&(key.len() as u32).to_le_bytes());
            body.extend_from_slice(&(value.len() as u32).to_le_bytes());
            body.extend_from_slice(key);
            body.extend_from_slice(value);
            rows += 1;
        });
        Snapshot { applied: state.applied, rows, body }
    }

    /// Bytes of the file it makes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.body.len() as u64 + 48
    }

    /// True when there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The state's place in the log.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// Writes the file and removes older ones. When it returns, the checkpoint is durable. It goes into a spare file whose bytes are on the
    /// disk already, so that it needs no room; the file of the checkpoint before is the next spare.
    ///
    /// # Errors
    /// Of the file system; the checkpoint before stays then.
    pub fn write(&self, disk: &dyn Disk, dir: &Path, log_id: [u8; 16]) -> io::Result<PathBuf> {
        let (target, spare) = (dir.join(file_name(self.applied)), dir.join(SPARE));
        let file = open_spare(disk, &spare)?;
        let buffered = BufWriter::with_capacity(BUFFER_BYTES, Sequential::new(&*file));
        let mut out = Hashed { inner: buffered, crc: crc32fast::Hasher::new() };
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&log_id)?;
        out.write_all(&self.applied.0.to_le_bytes())?;
        out.write_all(&self.rows.to_le_bytes())?;
        out.write_all(&self.body)?;
        let crc = out.crc.clone().finalize();
        out.write_all(&crc.to_le_bytes())?;
        out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.set_len(self.len())?;
        file.sync_data()?;
        disk.rename(&spare, &target)?;
        disk.sync_dir(dir)?;
        let mut recycled = false;
        for (_, older) in list(disk, dir)?.into_iter().filter(|(applied, _)| *applied < self.applied) {
            if recycled {
                disk.remove(&older)?;
            } else {
                disk.rename(&older, &spare)?;
                recycled = true;
            }
        }
        disk.sync_dir(dir)?;
        keep_spare(disk, dir, self.len());
        Ok(target)
    }
}

/// The file that the next checkpoint is written into. What is in it means nothing.
const SPARE: &str = "checkpoint.spare";
/// It has at least this many bytes, and twice those of the newest checkpoint.
const SPARE_MIN: u64 = 256 * 1024;

fn open_spare(disk: &dyn Disk, spare: &Path) -> io::Result<Box<dyn DiskFile>> {
    match disk.open(spare, OpenHow::Write) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => disk.open(spare, OpenHow::Create),
        opened => opened,
    }
}

/// Makes the spare file large enough for a checkpoint twice as large as `newest` bytes, as far as there is room.
pub(crate) fn keep_spare(disk: &dyn Disk, dir: &Path, newest: u64) {
    let spare = dir.join(SPARE);
    let want = SPARE_MIN.max(newest.saturating_mul(2));
    let grow = || {
        let file = open_spare(disk, &spare)?;
        let len = file.len()?;
        if len < want {
            crate::log::fill(&*file, len, want)?;
            file.sync_data()?;
        }
        Ok::<(), io::Error>(())
    };
    if let Err(error) = grow() {
        tracing::warn!(file = %spare.display(), %error, "no room is held for the next checkpoint: it may have to wait for some");
    }
}

struct Hashed<W> {
    inner: W,
    crc: crc32fast::Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.crc.update(buf.get(..n).unwrap_or(buf));
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn file_name(applied: Lsn) -> String {
    format!("checkpoint-{:020}.fbc", applied.0)
}

/// The checkpoints in a folder, newest first.
///
/// # Errors
/// Of the file system.
pub fn list(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<(Lsn, PathBuf)>> {
    let mut found = Vec::new();
    for path in disk.list(dir)? {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let number = name.strip_prefix("checkpoint-").and_then(|n| n.strip_suffix(".fbc"));
        if let Some(applied) = number.and_then(|n| n.parse().ok()) {
            found.push((Lsn(applied), path));
        }
    }
    found.sort_unstable_by_key(|(applied, _)| std::cmp::Reverse(*applied));
    Ok(found)
}

/// Reads a checkpoint of the log `log_id`.
///
/// # Errors
/// Where it can't be read whole, or belongs to another log.
pub fn read(disk: &dyn Disk, file: &Path, log_id: [u8; 16]) -> Result<State, CheckpointError> {
    let io = |source| CheckpointError::Io { file: file.to_owned(), source };
    let invalid = |what: String| CheckpointError::Invalid { file: file.to_owned(), what };
    let opened = disk.open(file, OpenHow::Read).map_err(io)?;
    let buffered = BufReader::with_capacity(BUFFER_BYTES, Sequential::new(&*opened));
    let mut input = Unhashed { inner: buffered, crc: crc32fast::Hasher::new() };
    if &input.array::<8>().map_err(io)? != MAGIC {
        return Err(invalid("it does not begin as a checkpoint does".into()));
    }
    match u32::from_le_bytes(input.array().map_err(io)?) {
        VERSION => {}
        version if version > VERSION => {
            return Err(CheckpointError::NewerFormat { file: file.to_owned(), version });
        }
        version => return Err(invalid(format!("there is no checkpoint format {version}"))),
    }
    if input.array::<16>().map_err(io)? != log_id {
        return Err(invalid("it belongs to another log".into()));
    }
    let applied = Lsn(u64::from_le_bytes(input.array().map_err(io)?));
    let rows = u64::from_le_bytes(input.array().map_err(io)?);
    let mut state = State::default();
    for row in 0..rows {
        let key = u32::from_le_bytes(input.array().map_err(io)?) as usize;
        let value = u32::from_le_bytes(input.array().map_err(io)?) as usize;
        if key > PART_BYTES_MAX || value > PART_BYTES_MAX {
            return Err(invalid(format!("row {row} has an impossible length")));
        }
        let (key, value) = (input.take(key).map_err(io)?, input.take(value).map_err(io)?);
        state.load_row(key, value).map_err(|e| invalid(format!("row {row}: {e}")))?;
    }
    let expected = input.crc.clone().finalize();
    if u32::from_le_bytes(input.array().map_err(io)?) != expected {
        return Err(invalid("its checksum does not fit its bytes".into()));
    }
    state.loaded(applied);
    Ok(state)
}

struct Unhashed<R> {
    inner: R,
    crc: crc32fast::Hasher,
}

impl<R: Read> Unhashed<R> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.crc.update(&bytes);
        Ok(bytes)
    }

    /// Reads `len` bytes in steps, so that a wrong length costs no memory.
    fn take(&mut self, len: usize) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(len.min(64 * 1024));
        if self.inner.by_ref().take(len as u64).read_to_end(&mut bytes)? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.crc.update(&bytes);
        Ok(Bytes::from(bytes))
    }
}
