//! What can go wrong, per operation, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::ids::Lsn;

/// What went wrong with an append. Nothing of the batch is in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// A record is larger than the log takes.
    #[error("record of {len} bytes is larger than the log takes ({max} bytes)")]
    TooLarge {
        /// Its size.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The batch has no records.
    #[error("the batch has no records")]
    Empty,
    /// Kinds 0 and 128 upwards are the log's own.
    #[error("record kind {0} is not one of the embedder's (1 to 127)")]
    ReservedKind(u8),
    /// The queue of records waiting for the disk is full, or the segment they would go into is still being prepared, or an engine's state
    /// is too far behind the log ([`EngineOptions::apply_lag_bytes`](crate::EngineOptions::apply_lag_bytes)): wait for room
    /// ([`Log::wait_room`](super::Log::wait_room)), then try again.
    #[error(
        "{queued} bytes wait for the disk or for state: more than the limit, or the next segment is still being prepared"
    )]
    Full {
        /// Bytes waiting.
        queued: usize,
    },
    /// There is no room on the disk for more segments, or the disk budget is used up. It ends by itself when there is room again
    /// ([`Log::wait_room`](super::Log::wait_room) resolves then).
    #[error(
        "the log has no room: {why}. Free disk space, or let what still needs old records (a sink that lags, queues, sessions) go on; \
         records are taken again by themselves then"
    )]
    NoSpace {
        /// Which room is used up, with figures.
        why: Arc<str>,
    },
    /// The log has failed or was closed; the first reason.
    #[error("the log takes no more records: {0}")]
    Stopped(Arc<str>),
}

/// What went wrong with a read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The place was trimmed.
    #[error("records before {first} were trimmed")]
    Trimmed {
        /// First record there is.
        first: Lsn,
    },
    /// The bytes there are damaged.
    #[error(
        "{file}: damaged at byte {at} (record {lsn}): {what}; stop the server, then `forebay log verify` shows all damage and `forebay log repair` keeps what reads"
    )]
    Corrupt {
        /// File.
        file: PathBuf,
        /// Byte offset.
        at: u64,
        /// Record number.
        lsn: Lsn,
        /// What is wrong.
        what: String,
    },
    /// The disk failed.
    #[error("reading {file}: {source}")]
    Io {
        /// File.
        file: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// The log has stopped before the record became durable; the first reason.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the log stopped before the record was durable: {0}")]
pub struct NotDurable(pub Arc<str>);

/// What went wrong with a blocking append.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DurableError {
    /// The batch was not taken.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The batch was taken, but the log stopped before it was durable. Whether it is there after reopening is open.
    #[error(transparent)]
    NotDurable(#[from] NotDurable),
}

/// Why a log did not open. Nothing was changed on the disk, unless `Io` says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has the log open.
    #[error("{0}: in use by another process, or opened twice by this one; one at a time may have a log open")]
    Locked(PathBuf),
    /// A setting is out of range.
    #[error("log setting {setting}: {what}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// A file was written by a newer version.
    #[error("{file}: format version {version} is newer than this program reads ({known}); use the newer program")]
    NewerFormat {
        /// File.
        file: PathBuf,
        /// Its version.
        version: u32,
        /// The newest version known here.
        known: u32,
    },
    /// A segment belongs to another log.
    #[error(
        "{file}: belongs to log {found}, this is log {expected}; move it out of the folder, or let `forebay log repair` set it aside"
    )]
    ForeignSegment {
        /// File.
        file: PathBuf,
        /// Identity found.
        found: String,
        /// Identity of the other segments.
        expected: String,
    },
    /// A segment is not there.
    #[error(
        "after {after} a segment that begins with record {expected} is missing; put it back from a backup, or run `forebay log repair`, which puts a gap in its place"
    )]
    MissingSegment {
        /// The segment before the hole.
        after: PathBuf,
        /// First record of the one that is missing.
        expected: Lsn,
    },
    /// The first segment is not there.
    #[error(
        "{file} begins with record {found}, but the log begins with record {expected}: the segments before it are missing; put them back from a backup, or run `forebay log repair`, which puts a gap in their place"
    )]
    MissingFirst {
        /// The first segment there is.
        file: PathBuf,
        /// Where the log begins.
        expected: Lsn,
        /// Where the file begins.
        found: Lsn,
    },
    /// The log is said to begin behind its last segment.
    #[error(
        "{file} says that the log begins with record {floor}, and no segment begins there: it is of another log or segments are missing. Nothing was changed. Put the segments back, or move the file out of the folder"
    )]
    FloorBeyond {
        /// The file that says so.
        file: PathBuf,
        /// Where the log is said to begin.
        floor: Lsn,
    },
    /// A repair was interrupted.
    #[error("{file}: left over from an interrupted repair; run `forebay log repair --apply` again")]
    RepairUnfinished {
        /// File.
        file: PathBuf,
    },
    /// Bytes that had been synced are damaged.
    #[error(
        "{file}: damaged at byte {at} (record {lsn}): {what}; nothing was changed. `forebay log verify` shows all of it. Put the file back from a backup, or run `forebay log repair`, which keeps a copy of it and every record that reads"
    )]
    Damaged {
        /// File.
        file: PathBuf,
        /// Byte offset.
        at: u64,
        /// The record that should be there.
        lsn: Lsn,
        /// What is wrong.
        what: String,
    },
    /// The disk failed.
    #[error("{what} {file}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// File or folder.
        file: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(what: &'static str, file: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> OpenError {
        let file = file.into();
        move |source| OpenError::Io { what, file, source }
    }
}

/// What went wrong with trimming. What was not removed yet is removed by the next trim or at the next opening.
#[derive(Debug, thiserror::Error)]
#[error("trimming the log below {floor}: {source}")]
pub struct TrimError {
    /// The floor asked for.
    pub floor: Lsn,
    /// Cause.
    pub source: io::Error,
}
