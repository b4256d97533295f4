//! The least a durable log has to do: one file that is written through beforehand, one `pwrite` and one `fdatasync` a group.
//! No numbers, no checksums, no recovery, no readers.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};

/// Size of the file, bytes; the end is followed by the beginning.
const FILE_BYTES: u64 = 64 << 20;

/// The file.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    at: u64,
}

impl RawFile {
    /// Creates it, writes it through and syncs it.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn create(path: &Path) -> Result<RawFile> {
        let mut file = File::create(path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES >> 20 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(RawFile { file, at: 0 })
    }

    /// Writes and syncs.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.at + bytes.len() as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.file.sync_data()?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// Group commit over a [`RawFile`]: one writer thread takes what has gathered while it wrote.
#[derive(Debug)]
pub struct RawGroups {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Groups alternate, so that one wake reaches one group.
    done: [Condvar; 2],
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// Records given in, and records that are durable.
    given: u64,
    durable: u64,
    /// Number of the group that is gathering.
    group: usize,
    idle: bool,
    closing: bool,
    failed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RawGroups {
    /// Starts the writer thread.
    #[must_use]
    pub fn start(file: RawFile) -> RawGroups {
        let shared = Arc::new(Shared::default());
        let writer = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let result = write_groups(&shared, file);
                shared.lock().failed = result.is_err();
                shared.done.iter().for_each(Condvar::notify_all);
                result
            }
        });
        RawGroups { shared, writer: Some(writer) }
    }

    /// Queues a record. Returns its number and its group.
    #[must_use]
    pub fn give(&self, record: &[u8]) -> (u64, usize) {
        let mut state = self.shared.lock();
        state.buffer.extend_from_slice(record);
        state.given += 1;
        if state.idle {
            self.shared.work.notify_one();
        }
        (state.given, state.group)
    }

    /// Blocks until record `number` of `group` is durable.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn wait(&self, number: u64, group: usize) -> Result<()> {
        let mut state = self.shared.lock();
        while state.durable < number {
            if state.failed {
                return Err(anyhow!("the raw log's writer has failed"));
            }
            let Some(done) = self.shared.done.get(group & 1) else { continue };
            state = done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Ends the writer.
    ///
    /// # Errors
    /// Where the disk failed.
    pub fn close(mut self) -> Result<()> {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        self.writer.take().map_or(Ok(()), |writer| writer.join().map_err(|_| anyhow!("the writer panicked"))?)
    }
}

fn write_groups(shared: &Shared, mut file: RawFile) -> Result<()> {
    let mut group = Vec::new();
    loop {
        let (number, up_to) = {
            let mut state = shared.lock();
            while state.buffer.is_empty() {
                if state.closing {
                    return Ok(());
                }
                state.idle = true;
                state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle = false;
            }
            std::mem::swap(&mut state.buffer, &mut group);
            state.group += 1;
            (state.group - 1, state.given)
        };
        file.append(&group)?;
        group.clear();
        shared.lock().durable = up_to;
        if let Some(done) = shared.done.get(number & 1) {
            done.notify_all();
        }
        // Those just woken are about to append again: let them.
        std::thread::yield_now();
    }
}
