//! Bytes as the segments of a log, on a disk in memory.
//!
//! ```text
//! input: flags u8 | length of the first segment u16 | first segment | second segment
//! flags: bit 0  put the checksums right        bit 2  the files are named 1 and 5, whatever their headers say
//!        bit 1  open in a weaker durability     bit 3  the last file is as long as a whole segment
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::{Disk, ForgettingDisk};
use forebay_engine::log::{Durability, Log, LogOptions, NewRecord, OnDamage, OpenError, ReadError, Record, verify};

use crate::format::{self, Frame};

/// The smallest segment there is.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;

/// A log's folder on the disk in memory.
pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/log")
}

/// Options of a log that does nothing but what it is told to.
pub(crate) fn options() -> LogOptions {
    let mut options = LogOptions::new(dir());
    options.segment_bytes = SEGMENT_BYTES;
    options.prepare_ahead = false;
    options
}

pub(crate) fn open(disk: &ForgettingDisk, options: &LogOptions) -> Result<Log, OpenError> {
    let clock = Arc::new(SteppedClock::new(1_700_000_000_000_000));
    Log::open_on(Arc::new(disk.clone()), clock, options.clone()).map(|(log, _)| log)
}

/// The live bytes of every file in the log's folder.
pub(crate) fn files(disk: &ForgettingDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = disk.list(&dir()).unwrap_or_default();
    paths.into_iter().filter_map(|path| disk.bytes(&path).map(|bytes| (path, bytes))).collect()
}

pub(crate) fn disk_of(files: &BTreeMap<PathBuf, Vec<u8>>) -> ForgettingDisk {
    let disk = ForgettingDisk::new();
    disk.create_dir(&dir()).expect("a folder in memory");
    for (path, bytes) in files {
        disk.overwrite(path, bytes);
    }
    disk
}

pub(crate) fn segment_path(first: u64) -> PathBuf {
    dir().join(format!("{first:020}.seg"))
}

struct Input {
    files: BTreeMap<PathBuf, Vec<u8>>,
    weak: bool,
}

fn parse(data: &[u8]) -> Option<Input> {
    let (flags, rest) = data.split_first()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (first, second) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*len))));
    let mut files = BTreeMap::new();
    for (n, bytes) in [first, second].into_iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
        let mut bytes = bytes.to_vec();
        if flags & 1 != 0 {
            format::repair_checksums(&mut bytes);
        }
        let promised = format::u64_at(&bytes, 32).filter(|_| flags & 4 == 0);
        files.insert(segment_path(promised.unwrap_or(1 + 4 * n as u64)), bytes);
    }
    if let Some(mut last) = files.last_entry().filter(|_| flags & 8 != 0) {
        last.get_mut().resize(SEGMENT_BYTES as usize, 0);
    }
    Some(Input { files, weak: flags & 2 != 0 })
}

/// Everything that reads, up to the end or to the damage that stops it. Numbers must rise.
fn read_all(log: &Log) -> (Vec<Record>, Option<ReadError>) {
    let mut records: Vec<Record> = Vec::new();
    let failure = match log.reader(log.first()) {
        Ok(mut reader) => loop {
            match reader.read_batch(16, 4096, &mut records) {
                Ok(0) => break None,
                Ok(_) => {}
                Err(e) => break Some(e),
            }
        },
        Err(e) => Some(e),
    };
    assert!(records.windows(2).all(|pair| pair[0].lsn < pair[1].lsn), "numbers do not rise");
    assert!(records.iter().all(|record| record.lsn < log.durable_end()), "a record that is not durable was read");
    (records, failure)
}

fn assert_none_invented(records: &[Record], there: &[Frame]) {
    for record in records {
        let same = |frame: &&Frame| {
            (frame.lsn, frame.time_us, frame.kind) == (record.lsn.0, record.time_us, record.kind)
                && frame.body == record.body
        };
        assert!(there.iter().any(|frame| same(&frame)), "record {} is in no segment", record.lsn);
    }
}

/// Opens what the input says with both policies; reads, verifies, appends, opens again.
pub(crate) fn check(data: &[u8]) {
    let Some(input) = parse(data) else { return };
    let there: Vec<Frame> = input.files.values().flat_map(|bytes| format::frames_in(bytes)).collect();
    let sound = verify(&disk_of(&input.files), &dir()).expect("the folder lists").is_sound();
    for policy in [OnDamage::Refuse, OnDamage::Quarantine] {
        let mut options = options();
        options.on_damage = policy;
        options.durability = if input.weak { Durability::Buffered } else { Durability::Synced };
        let disk = disk_of(&input.files);
        let log = match open(&disk, &options) {
            Ok(log) => log,
            Err(problem) => {
                assert!(!sound, "verify finds nothing wrong, opening does: {problem}");
                assert!(files(&disk) == input.files, "opening failed and changed files: {problem}");
                continue;
            }
        };
        let (records, damage) = read_all(&log);
        assert!(!sound || damage.is_none(), "verify finds nothing wrong, reading does: {damage:?}");
        assert_none_invented(&records, &there);
        goes_on(log, &disk, &options, &records, damage.is_some());
    }
}

/// A log that opened takes records, and gives the same ones after a crash and after a close.
fn goes_on(log: Log, disk: &ForgettingDisk, options: &LogOptions, before: &[Record], damaged: bool) {
    let body = b"goes on".to_vec();
    let appended = match log.append_durable(vec![NewRecord { kind: 1, body: body.clone() }]) {
        Ok(appended) => appended,
        // The last number or time is taken: nothing can follow it.
        Err(e) if e.to_string().contains("used up") => return,
        Err(e) => panic!("a log that opened takes no record: {e}"),
    };
    let mut last = Some(log);
    for closed in [false, true] {
        if let Some(log) = last.take() {
            if closed {
                log.close();
            } else {
                drop(log);
                disk.crash(u64::from(before.len() as u32));
            }
        }
        let log = match open(disk, options) {
            Ok(log) => log,
            Err(problem) => panic!("it opened, went on, and does not open again: {problem}"),
        };
        let (records, damage) = read_all(&log);
        assert!(records.starts_with(before), "records are gone after opening again");
        if damaged {
            assert!(damage.is_some(), "damage is gone");
        } else {
            assert!(damage.is_none(), "{damage:?}");
            let newest = records.last().expect("the appended record");
            assert_eq!((newest.lsn, &newest.body[..]), (appended.last, &body[..]));
        }
        last = Some(log);
    }
}

/// The segments of a log of several runs, one a run and with that many records: each but the last was closed, the last as
/// `close` says. Zeros at the end of a segment that was not closed are left out.
pub(crate) fn written(runs: &[usize], close: bool) -> Vec<Vec<u8>> {
    let disk = ForgettingDisk::new();
    let mut options = options();
    options.log_id = Some(*b"a log for a fuzz");
    for (run, count) in runs.iter().enumerate() {
        let log = open(&disk, &options).expect("the log opens");
        for n in 0..*count {
            let body = format!("record {n} of run {run}").into_bytes();
            log.append_durable(vec![NewRecord { kind: 1 + n as u8, body }]).expect("appends");
        }
        if close || run + 1 < runs.len() {
            log.close();
        }
    }
    let mut segments: Vec<Vec<u8>> = files(&disk)
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "seg"))
        .map(|(_, bytes)| bytes)
        .collect();
    if let Some(last) = segments.last_mut() {
        let used = last.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        last.truncate(used);
    }
    segments
}
