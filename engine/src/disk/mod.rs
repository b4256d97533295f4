//! The seam to the file system.
//!
//! The engine reaches files through two small traits, [`Disk`] and [`DiskFile`], and through nothing else (but for state's derived index,
//! which is a library's own):
//!
//! - [`RealDisk`] is the operating system's file system.
//! - [`CheckedDisk`] wraps another disk and latches its first failed write or sync: nothing is written after it.
//! - [`ForgettingDisk`] lives in memory and loses at a crash what was not synced, so that tests can pull the plug.
//!
//! File access is positional; no file has a cursor of its own.

mod checked;
mod forgetting;
mod real;
mod sequential;

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

pub use checked::{CheckedDisk, Latch};
pub use forgetting::{Fault, FaultKind, ForgettingDisk, Operation};
pub use real::RealDisk;
pub use sequential::Sequential;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenHow {
    /// Existing file, for reading.
    Read,
    /// Existing file, for reading and writing.
    Write,
    /// For reading and writing; created when it is not there, emptied when it is.
    Create,
}

/// A file system, as much of one as the engine needs. Paths are whole paths.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens or creates a file. A created name is durable only after [`sync_dir`](Disk::sync_dir) of its folder.
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Box<dyn DiskFile>>;
    /// Renames a file inside one folder, replacing what has the new name. Durable after `sync_dir`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after `sync_dir`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The files of a folder, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Creates a folder and those above it; no error when it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that files in this folder may still take; `None` where the disk can't tell. What it says is old when it returns: it
    /// saves attempts that can't succeed and proves nothing.
    ///
    /// # Errors
    /// Of the file system.
    fn free_bytes(&self, dir: &Path) -> io::Result<Option<u64>> {
        let _ = dir;
        Ok(None)
    }
    /// Takes an exclusive lock on a file (created when missing) until the answer is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when somebody else holds it.
    fn lock(&self, path: &Path) -> io::Result<FolderLock>;
}

/// An open file.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True when it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts it, or extends it by zeros that may take no room on the disk.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reads at a position; less than asked for only at the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all bytes at a position. Durable after [`sync_data`](DiskFile::sync_data).
    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()>;
    /// Makes the bytes and the length durable. After an error nothing is known about the bytes written before it.
    fn sync_data(&self) -> io::Result<()>;
}

/// How long a held lock is waited for, and how often it is looked at.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_STEP: Duration = Duration::from_millis(10);

/// One process per folder: locks the file `LOCK` in it. The lock goes with the process, also when it is killed.
///
/// # Errors
/// `WouldBlock` where somebody else has it all that time.
pub(crate) fn lock_folder(disk: &dyn Disk, dir: &Path, patience: Duration) -> io::Result<FolderLock> {
    // A child process that is being started somewhere in this program has a copy of every
    // descriptor until it runs its own program: a lock just given back may look held for a moment.
    let end = Instant::now() + patience;
    loop {
        match disk.lock(&dir.join("LOCK")) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => thread::sleep(LOCK_STEP),
            answer => return answer,
        }
    }
}

/// True where an operation failed because the file system, or the user's part of it, has no room left.
#[must_use]
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An exclusive lock, held until dropped.
pub struct FolderLock(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl FolderLock {
    /// A lock that is given back when `held` is dropped.
    pub fn new(held: impl Any + Send + Sync) -> FolderLock {
        FolderLock(Box::new(held))
    }
}

impl fmt::Debug for FolderLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FolderLock")
    }
}
