//! A disk that stops at its first failure.
//!
//! After a failed `fdatasync` the kernel may mark the lost pages clean, so that a second one succeeds and means nothing.
//! The only safe answer is to write nothing more until the log is opened again and its tail is written anew. The rule lives here,
//! in the wrapper, so that no call site can forget it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::{Disk, DiskFile, FolderLock, OpenHow, is_no_space};

/// Remembers the first failure. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Latch(Arc<OnceLock<Arc<str>>>);

impl Latch {
    /// The first failure, if there was one.
    #[must_use]
    pub fn reason(&self) -> Option<Arc<str>> {
        self.0.get().cloned()
    }

    fn open(&self) -> io::Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some(first) => Err(io::Error::other(format!("refused after an earlier failure: {first}"))),
        }
    }

    fn watch(&self, what: &str, path: &Path, result: io::Result<()>) -> io::Result<()> {
        if let Err(e) = &result {
            let _ = self.0.set(format!("{what} {}: {e}", path.display()).into());
        }
        result
    }
}

/// Wraps a disk: the first failed write, sync, rename or removal is kept, and everything after it that would change the disk is refused
/// with that first reason. Reading goes on.
#[derive(Clone, Debug)]
pub struct CheckedDisk {
    inner: Arc<dyn Disk>,
    latch: Latch,
}

impl CheckedDisk {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>) -> CheckedDisk {
        CheckedDisk { inner, latch: Latch::default() }
    }

    /// The disk under it, without the latch: for files whose bytes nobody trusts before they have been written and synced whole
    /// (spare segments in the making, the trim's intent). That one of them can't be written says nothing about the log.
    #[must_use]
    pub fn unlatched(&self) -> &Arc<dyn Disk> {
        &self.inner
    }

    /// Where the first failure is kept.
    #[must_use]
    pub fn latch(&self) -> &Latch {
        &self.latch
    }
}

impl Disk for CheckedDisk {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Box<dyn DiskFile>> {
        if how != OpenHow::Read {
            self.latch.open()?;
        }
        let file = self.inner.open(path, how)?;
        Ok(Box::new(CheckedFile { file, path: path.to_owned(), latch: self.latch.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.latch.open()?;
        match self.inner.rename(from, to) {
            // A folder that has no room for a name is as it was, and no byte of a file is in doubt.
            Err(e) if is_no_space(&e) => Err(e),
            renamed => self.latch.watch("renaming", from, renamed),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.latch.open()?;
        self.latch.watch("removing", path, self.inner.remove(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.latch.open()?;
        self.latch.watch("creating", dir, self.inner.create_dir(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.latch.open()?;
        self.latch.watch("syncing folder", dir, self.inner.sync_dir(dir))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<Option<u64>> {
        self.inner.free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<FolderLock> {
        self.inner.lock(path)
    }
}

#[derive(Debug)]
struct CheckedFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    latch: Latch,
}

impl DiskFile for CheckedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.latch.open()?;
        self.latch.watch("resizing", &self.path, self.file.set_len(len))
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.latch.open()?;
        self.latch.watch("writing", &self.path, self.file.write_all_at(buf, at))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.latch.open()?;
        self.latch.watch("syncing", &self.path, self.file.sync_data())
    }
}
