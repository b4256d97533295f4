//! Bytes as a checkpoint file.
//!
//! ```text
//! input: flags u8 | the file
//! flags: bit 0  put the checksum right        bit 1  put in the log's id
//! ```

use std::path::{Path, PathBuf};

use forebay_engine::disk::{Disk, ForgettingDisk};
use forebay_engine::state::State;
use forebay_engine::state::checkpoint::{self, CheckpointError, Snapshot};

const LOG_ID: [u8; 16] = *b"a log for a fuzz";

/// A checkpoint that reads is state; written again it reads as the same state.
pub(crate) fn check(data: &[u8]) {
    let Some((flags, file)) = data.split_first() else { return };
    let mut file = file.to_vec();
    if let (true, Some(place)) = (flags & 2 != 0, file.get_mut(12..28)) {
        place.copy_from_slice(&LOG_ID);
    }
    if let (true, Some(end)) = (flags & 1 != 0, file.len().checked_sub(4)) {
        let sum = crc32fast::hash(&file[..end]);
        file[end..].copy_from_slice(&sum.to_le_bytes());
    }
    let (disk, dir) = (ForgettingDisk::new(), PathBuf::from("/state"));
    disk.create_dir(&dir).expect("a folder in memory");
    let path = dir.join("checkpoint-00000000000000000009.fbc");
    disk.overwrite(&path, &file);
    let state = match checkpoint::read(&disk, &path, LOG_ID) {
        Ok(state) => state,
        Err(CheckpointError::NewerFormat { version, .. }) => {
            assert!(version > 1, "version {version} is not newer");
            return;
        }
        Err(_) => return,
    };
    let rows = |state: &State| -> Vec<_> { state.keys().map(|key| (key.encode(), state.row(&key))).collect() };
    let snapshot = Snapshot::of(&state);
    let again = snapshot.write(&disk, Path::new("/again"), LOG_ID).expect("it writes to memory");
    assert_eq!(disk.bytes(&again).expect("a file").len() as u64, snapshot.len());
    let same = checkpoint::read(&disk, &again, LOG_ID).expect("its own file reads");
    assert_eq!(rows(&same), rows(&state));
}
