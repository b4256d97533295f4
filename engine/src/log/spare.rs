//! Segment files prepared ahead of need: every block written and synced, so that an append's `fdatasync` has no metadata to write.
//!
//! A spare is either made anew (zeros, under `*.making` until it is complete) or a trimmed segment under a new name. It becomes a segment when its
//! header is written and synced, the file renamed and the folder synced: see [`install`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::segment::{Header, SEGMENT_HEADER, Segment, file_name};
use crate::disk::{Disk, DiskFile, OpenHow};

/// Spare files kept at most.
const SPARES_MAX: usize = 2;
const ZEROS: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Spares {
    dir: PathBuf,
    segment_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<PathBuf>,
    made: u64,
    wanted: bool,
    stop: bool,
}

impl Spares {
    /// `found` are spare files from before; those of another size must have been removed.
    pub fn new(dir: PathBuf, segment_bytes: u64, found: Vec<PathBuf>) -> Spares {
        let made = found.iter().filter_map(|path| path.file_stem()?.to_str()?.parse::<u64>().ok()).max().unwrap_or(0);
        Spares {
            dir,
            segment_bytes,
            state: Mutex::new(State { ready: found, made, wanted: true, stop: false }),
            changed: Condvar::new(),
        }
    }

    /// A prepared file, made on the spot when none is ready. Asks for another in the background.
    pub fn take(&self, disk: &dyn Disk) -> io::Result<PathBuf> {
        let ready = {
            let mut state = self.state.lock();
            state.wanted = true;
            self.changed.notify_all();
            state.ready.pop()
        };
        match ready {
            Some(path) => Ok(path),
            None => self.make(disk),
        }
    }

    /// Makes a trimmed segment a spare, or removes it when there are enough. Not durable until the folder is synced.
    pub fn recycle(&self, disk: &dyn Disk, path: &Path, len: u64) -> io::Result<()> {
        let room = self.state.lock().ready.len() < SPARES_MAX;
        if !room || len != self.segment_bytes {
            return disk.remove(path);
        }
        let spare = self.name("spare");
        disk.rename(path, &spare)?;
        self.state.lock().ready.push(spare);
        Ok(())
    }

    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// The background thread: keeps one spare ready. A failure here stops nothing; the writer makes a file itself when it needs one.
    pub fn run(&self, disk: &dyn Disk) {
        loop {
            {
                let mut state = self.state.lock();
                while !(state.stop || state.wanted && state.ready.is_empty()) {
                    self.changed.wait(&mut state);
                }
                if state.stop {
                    return;
                }
            }
            self.prepare(disk);
        }
    }

    /// Makes a spare where one is wanted and none is ready. False where none is wanted.
    pub fn prepare(&self, disk: &dyn Disk) -> bool {
        {
            let mut state = self.state.lock();
            if state.stop || !state.wanted || !state.ready.is_empty() {
                return false;
            }
            state.wanted = false;
        }
        match self.make(disk) {
            Ok(path) => self.state.lock().ready.push(path),
            Err(e) => tracing::warn!(dir = %self.dir.display(), error = %e, "could not prepare the next log segment"),
        }
        true
    }

    fn name(&self, extension: &str) -> PathBuf {
        let mut state = self.state.lock();
        state.made += 1;
        self.dir.join(format!("{:06}.{extension}", state.made))
    }

    fn make(&self, disk: &dyn Disk) -> io::Result<PathBuf> {
        let making = self.name("making");
        let file = disk.open(&making, OpenHow::Create)?;
        let written = fill(&*file, 0, self.segment_bytes).and_then(|()| file.sync_data());
        if let Err(e) = written {
            drop(file);
            // Give the room back: on a full disk it is what the log itself may need.
            let _ = disk.remove(&making);
            return Err(e);
        }
        let spare = making.with_extension("spare");
        disk.rename(&making, &spare)?;
        Ok(spare)
    }
}

/// Writes zeros from `from` to `to`.
pub(crate) fn fill(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS.min(to.saturating_sub(from) as usize)];
    let mut at = from;
    while at < to {
        let n = zeros.len().min((to - at) as usize);
        file.write_all_at(zeros.get(..n).unwrap_or_default(), at)?;
        at += n as u64;
    }
    Ok(())
}

/// Makes a spare file the segment of `header`: header, sync, name, folder sync, in this order, so that a segment's name always stands
/// for a readable header.
pub(crate) fn install(
    disk: &dyn Disk,
    dir: &Path,
    spare: &Path,
    header: Header,
) -> io::Result<(Segment, Arc<dyn DiskFile>)> {
    let file = disk.open(spare, OpenHow::Write)?;
    file.write_all_at(&header.encode(), 0)?;
    file.sync_data()?;
    drop(file);
    let path = dir.join(file_name(header.first));
    disk.rename(spare, &path)?;
    disk.sync_dir(dir)?;
    let file: Arc<dyn DiskFile> = Arc::from(disk.open(&path, OpenHow::Write)?);
    let segment = Segment::new(path, header, file.len()?, SEGMENT_HEADER as u64, header.first);
    segment.set_index_complete();
    segment.keep_open(file.clone());
    Ok((segment, file))
}
