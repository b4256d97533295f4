//! The least a log has to do, and the baseline: segments that were written through beforehand and go round, a header of length,
//! checksum and number, one `pwrite` and one `fdatasync` a batch. No recovery, no index, no readers beside the writer.
//!
//! ```text
//!  0        4        8                16
//! +--------+--------+----------------+------- - -
//! | length | crc 32 |     number     | record ...
//! +--------+--------+----------------+------- - -
//! ```
//!
//! The checksum covers number and record.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, bail};
use parking_lot::Mutex;

use super::{Engine, Native, Store};

/// Bytes of a segment.
const SEGMENT: u64 = 64 << 20;
/// Segments that go round.
const SEGMENTS: usize = 4;
const HEADER: usize = 16;

pub const ENGINE: Engine = Engine {
    name: "raw",
    groups: false,
    durable: true,
    unsynced: true,
    reads: true,
    native: Some(|dir, _| Ok(Box::new(Mutex::new(Raw::open(dir)?)))),
    store: Some(|dir, _| Ok(Box::new(Raw::open(dir)?))),
    flight: None,
};

struct Raw {
    files: Vec<File>,
    current: usize,
    at: u64,
    number: u64,
    /// End of what was written, by segment.
    ends: Vec<u64>,
    buffer: Vec<u8>,
}

impl Raw {
    fn open(dir: &Path) -> Result<Raw> {
        let zeros = vec![0; 1 << 20];
        let mut files = Vec::new();
        for n in 0..SEGMENTS {
            let file =
                File::options().create(true).truncate(true).read(true).write(true).open(dir.join(n.to_string()))?;
            for at in (0..SEGMENT).step_by(zeros.len()) {
                file.write_all_at(&zeros, at)?;
            }
            file.sync_all()?;
            files.push(file);
        }
        File::open(dir)?.sync_all()?;
        Ok(Raw { files, current: 0, at: 0, number: 0, ends: vec![0; SEGMENTS], buffer: Vec::with_capacity(1 << 20) })
    }

    fn file(&self) -> Result<&File> {
        self.files.get(self.current).ok_or_else(|| anyhow::anyhow!("no segment"))
    }

    fn encode(&mut self, records: &[u8], size: usize) {
        self.buffer.clear();
        for record in records.chunks_exact(size) {
            let start = self.buffer.len();
            self.buffer.extend_from_slice(&(record.len() as u32).to_le_bytes());
            self.buffer.extend_from_slice(&[0; 4]);
            self.buffer.extend_from_slice(&self.number.to_le_bytes());
            self.buffer.extend_from_slice(record);
            let crc = crc32fast::hash(&self.buffer[start + 8..]);
            self.buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
            self.number += 1;
        }
    }
}

impl Store for Raw {
    fn write(&mut self, records: &[u8], size: usize, sync: bool) -> Result<()> {
        self.encode(records, size);
        if self.at + self.buffer.len() as u64 > SEGMENT {
            self.file()?.sync_data()?;
            self.current = (self.current + 1) % SEGMENTS;
            self.at = 0;
        }
        self.file()?.write_all_at(&self.buffer, self.at)?;
        if sync {
            self.file()?.sync_data()?;
        }
        self.at += self.buffer.len() as u64;
        self.ends[self.current] = self.at;
        Ok(())
    }

    fn read_all(&mut self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        let mut buffer = vec![0; 1 << 20];
        for (file, end) in self.files.iter().zip(&self.ends) {
            let (mut at, mut have) = (0, 0);
            while at + (have as u64) < *end {
                let want = (buffer.len() - have).min((*end - at) as usize - have);
                file.read_exact_at(&mut buffer[have..have + want], at + have as u64)?;
                have += want;
                let mut used = 0;
                while let Some(header) = buffer[used..have].first_chunk::<HEADER>() {
                    let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
                    let Some(covered) = buffer[used..have].get(8..HEADER + len) else { break };
                    let crc = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
                    if crc32fast::hash(covered) != crc || covered[..8] != u64::to_le_bytes(count) {
                        bail!("record {count} is damaged");
                    }
                    count += 1;
                    bytes += len as u64;
                    used += HEADER + len;
                }
                buffer.copy_within(used..have, 0);
                have -= used;
                at += used as u64;
            }
        }
        Ok((count, bytes))
    }
}

impl Native for Mutex<Raw> {
    fn append(&self, _: usize, record: &[u8]) -> Result<()> {
        self.lock().write(record, record.len(), true)
    }
}
