//! Faults put in on purpose, to see that the simulator finds them. None of them can be reached from Forebay itself.

use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use forebay_engine::disk::{Disk, DiskFile, FolderLock, ForgettingDisk, OpenHow};

/// A mistake the engine could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Segments are never synced.
    SyncSkipped,
    /// Folders are never synced: names of files may be forgotten.
    DirNotSynced,
    /// The log is trimmed for a checkpoint before that is written.
    CheckpointAfterTrim,
}

/// A disk that leaves out syncs, and says that it did them.
#[derive(Debug)]
pub struct FaultyDisk {
    inner: ForgettingDisk,
    fault: Fault,
}

impl FaultyDisk {
    /// `inner` with a fault.
    #[must_use]
    pub fn new(inner: ForgettingDisk, fault: Fault) -> FaultyDisk {
        FaultyDisk { inner, fault }
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Box<dyn DiskFile>> {
        let file = self.inner.open(path, how)?;
        let segment = path.extension().is_some_and(|extension| extension == "seg");
        let faulty = self.fault == Fault::SyncSkipped && segment;
        Ok(if faulty { Box::new(NeverSynced(file)) } else { file })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.fault == Fault::DirNotSynced { Ok(()) } else { self.inner.sync_dir(dir) }
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<Option<u64>> {
        self.inner.free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<FolderLock> {
        self.inner.lock(path)
    }
}

#[derive(Debug)]
struct NeverSynced(Box<dyn DiskFile>);

impl DiskFile for NeverSynced {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buf, at)
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(buf, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
