//! The least that durability takes: a write and a sync of a few bytes, one at a time.

use std::fs::OpenOptions;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::stats::percentile;

/// Bytes of a write: about a record of 128 B of payload.
const BYTES: usize = 209;
/// The file, written whole beforehand so that a sync has no metadata to write, as a log's segment.
const FILE: u64 = 16 << 20;

/// Median time of a write and its `fdatasync`, us, measured for `time` in a file in the system's folder for temporary files, where the
/// servers keep theirs too.
///
/// # Errors
/// Where the file can't be made, written or synced.
pub fn write_and_sync_p50_us(time: Duration) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let file = OpenOptions::new().create_new(true).write(true).open(folder.path().join("bare"))?;
    file.write_all_at(&vec![1; FILE as usize], 0)?;
    file.sync_all()?;
    let (begun, mut samples, mut at) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed() < time {
        let before = Instant::now();
        file.write_all_at(&[7; BYTES], at)?;
        file.sync_data()?;
        samples.push(u32::try_from(before.elapsed().as_nanos() / 100).unwrap_or(u32::MAX));
        at = (at + BYTES as u64) % (FILE - BYTES as u64);
    }
    Ok(f64::from(percentile(&mut samples, 0.5)) / 10.0)
}
