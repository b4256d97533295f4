//! Bytes as the `trim.intent` of a log of four segments.
//!
//! ```text
//! input: flags u8 | bytes of the file
//! flags: bit 0  put the checksum right
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::format;
use crate::segments::{dir, disk_of, files, open, options, segment_path, written};

/// The floor that an intent names, by the table of `docs/FORMAT.md`.
fn floor_of(bytes: &[u8]) -> Option<u64> {
    let valid = bytes.len() == 20
        && bytes.starts_with(b"FBAYTRIM")
        && format::u32_at(bytes, 16) == Some(crc32fast::hash(&bytes[..16]));
    valid.then(|| format::u64_at(bytes, 8)).flatten()
}

/// First number and bytes of each segment.
fn log() -> &'static [(u64, Vec<u8>)] {
    static LOG: OnceLock<Vec<(u64, Vec<u8>)>> = OnceLock::new();
    LOG.get_or_init(|| {
        let segments = written(&[3, 3, 3, 3], true);
        segments.into_iter().map(|bytes| (format::u64_at(&bytes, 32).expect("a header"), bytes)).collect()
    })
}

pub(crate) fn check(data: &[u8]) {
    let Some((flags, intent)) = data.split_first() else { return };
    let mut intent = intent.to_vec();
    if flags & 1 != 0 && intent.len() == 20 {
        let sum = crc32fast::hash(&intent[..16]);
        intent[16..].copy_from_slice(&sum.to_le_bytes());
    }
    let mut before: BTreeMap<PathBuf, Vec<u8>> =
        log().iter().map(|(first, bytes)| (segment_path(*first), bytes.clone())).collect();
    let path = dir().join("trim.intent");
    before.insert(path.clone(), intent.clone());
    let disk = disk_of(&before);
    // A trim leaves the beginning of a segment: any other floor is of another log, or segments are missing.
    let opened = open(&disk, &options());
    let after = files(&disk);
    let floor = floor_of(&intent);
    let fits = floor.is_none_or(|floor| log().iter().any(|(first, _)| *first == floor));
    if let Err(problem) = opened {
        assert!(!fits, "{problem}");
        assert!(after == before, "refused, and files changed: {problem}");
        return;
    }
    assert!(fits, "floor {floor:?}");
    for (first, bytes) in log() {
        let removed = floor.is_some_and(|floor| *first < floor);
        let found = after.get(&segment_path(*first));
        assert!(found == (!removed).then_some(bytes), "segment {first}, floor {floor:?}");
    }
    assert_eq!(after.get(&path), Some(&intent), "the note of where the log begins stays");
}
