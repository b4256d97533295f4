//! Residue: records that are still owed, carried out of segments that retention gave up.
//!
//! The log itself is dense and ends where it was trimmed. What somebody is still owed of the records before (a queue's message, a
//! message in flight, the newest of a keep-latest topic, the backlog of a session that sleeps) is copied, with its number and its time,
//! into residue files before its segment goes. Readers of the log (sinks, the applier) never see them; reading one record by its number
//! and the catch-up of subscribers look here for what lies before the log's first record.
//!
//! # A residue file, version 1
//!
//! `NNNNNNNNNNNNNNNNNNNN.residue`, named by the first record number it covers. All numbers are little-endian.
//!
//! ```text
//! +--------+-------+-------+-- - -+-------+-------+- -+-------+-----+
//! | header | frame | frame |      | mark  | mark  |   | index | end |
//! +--------+-------+-------+-- - -+-------+-------+- -+-------+-----+
//!  0        64                     frames_end          index_at       file's length
//!
//! header                                                        mark
//!  0         8     12   16        32      40           48  60   64       0      8       16
//! +---------+-----+----+---------+-------+------------+---+----+        +------+--------+
//! |FBAYRESI | ver | 0  | log id  | from  | created_us | 0 |crc |        | lsn  | offset |
//! +---------+-----+----+---------+-------+------------+---+----+        +------+--------+
//!            u32   u32  16 B      u64     u64              u32 of 0..60
//!
//! end
//!  0     8         16           24         32       48    52   56          64
//! +-----+---------+------------+----------+--------+-----+----+----------+
//! | to  | records | frames_end | index_at | zeros  | crc | 0  | FBAYRESE |
//! +-----+---------+------------+----------+--------+-----+----+----------+
//!  u64   u64       u64          u64                 u32, started from the seed, of the marks and bytes 0..48
//! ```
//!
//! The file covers the record numbers `from..to`; it holds those of them that were owed, in order. A *frame* is that of a segment, with
//! `behind` 0; its checksum starts from the file's *seed*, the CRC of `FBAYRESI`, log id and `from`. A *mark* is the number and offset of
//! a frame, one for about 64 KiB. The *index* is that of a segment's sidecar (`crate::postings`), of this file's frames.
//!
//! It is written as `*.residue-making`, synced, renamed and the folder synced, all before the trim that it is for. A name therefore
//! stands for a whole file. When files are merged, the new one takes the name of the first of them; the others, which it covers, are
//! removed then, or at the next opening.

mod file;
mod format;
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sync::RwLock;

use super::options::OnDamage;
use super::{OpenError, ReadError, Record};
use crate::disk::Disk;
use crate::ids::Lsn;
use crate::postings::Found;

pub(crate) use file::ResidueFile;
pub(crate) use format::parse_name;
pub(crate) use writer::ResidueWriter;

/// The residue files of a log.
#[derive(Debug)]
pub(crate) struct Residue {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    log_id: [u8; 16],
    files: RwLock<BTreeMap<Lsn, Arc<ResidueFile>>>,
}

impl Residue {
    /// Opens the files of a log's folder. What a crash left of a file that was being made, or of files that were merged, is removed.
    ///
    /// # Errors
    /// A damaged file, unless the policy is to set it aside under the name `*.damaged`; the disk.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        log_id: [u8; 16],
        on_damage: OnDamage,
    ) -> Result<Residue, OpenError> {
        let mut names: Vec<PathBuf> = Vec::new();
        for path in disk.list(dir).map_err(OpenError::io("listing", dir))? {
            if path.extension().is_some_and(|e| e == format::MAKING) {
                disk.remove(&path).map_err(OpenError::io("removing", path))?;
            } else if parse_name(&path).is_some() {
                names.push(path);
            }
        }
        names.sort();
        let mut files: BTreeMap<Lsn, Arc<ResidueFile>> = BTreeMap::new();
        for path in names {
            let file = match ResidueFile::open(&*disk, &path, log_id) {
                Ok(file) => file,
                Err(error @ OpenError::Damaged { .. }) if on_damage == OnDamage::Quarantine => {
                    let aside = path.with_extension("residue.damaged");
                    disk.rename(&path, &aside).map_err(OpenError::io("setting aside", &path))?;
                    tracing::error!(%error, copy = %aside.display(), "a residue file was damaged and set aside; what it held can't be delivered");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let covered = files.last_key_value().is_some_and(|(_, before)| before.covers().end >= file.covers().end);
            if covered {
                disk.remove(&path).map_err(OpenError::io("removing", &path))?;
            } else {
                files.insert(file.covers().start, Arc::new(file));
            }
        }
        Ok(Residue { disk, dir: dir.to_owned(), log_id, files: RwLock::new(files) })
    }

    /// The files, in order.
    pub(crate) fn files(&self) -> Vec<Arc<ResidueFile>> {
        self.files.read().values().cloned().collect()
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.read().values().map(|file| file.bytes()).sum()
    }

    /// Begins a file of the records from `from` on.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn begin(&self, from: Lsn, created_us: u64) -> io::Result<ResidueWriter<'_>> {
        ResidueWriter::begin(&*self.disk, &self.dir, self.log_id, from, created_us)
    }

    /// Takes in a file that was written. Those that it covers are removed: from here on nobody finds them.
    ///
    /// # Errors
    /// Where it does not open, or the disk fails: the set is unchanged then.
    pub(crate) fn add(&self, path: &Path) -> io::Result<Arc<ResidueFile>> {
        let file = ResidueFile::open(&*self.disk, path, self.log_id).map_err(|e| io::Error::other(e.to_string()))?;
        let file = Arc::new(file);
        let covered: Vec<Arc<ResidueFile>> = {
            let mut files = self.files.write();
            let range = file.covers();
            let covered: Vec<Lsn> = files
                .range(range.clone())
                .filter(|(_, f)| f.covers().end <= range.end)
                .map(|(from, _)| *from)
                .collect();
            let covered = covered.into_iter().filter_map(|from| files.remove(&from)).collect();
            files.insert(range.start, Arc::clone(&file));
            covered
        };
        for old in covered.iter().filter(|old| old.path != file.path) {
            self.disk.remove(&old.path)?;
        }
        if covered.len() > 1 {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(file)
    }

    /// Removes a file that nobody needs any more.
    ///
    /// # Errors
    /// Of the disk: a file that could not be removed is found again at the next opening, and removed later.
    pub(crate) fn remove(&self, from: Lsn) -> io::Result<()> {
        let removed = self.files.write().remove(&from);
        match removed {
            Some(file) => self.disk.remove(&file.path),
            None => Ok(()),
        }
    }

    /// One record; `None` when it was not carried.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn read(&self, lsn: Lsn) -> Result<Option<Record>, ReadError> {
        // Files may overlap: the same record is the same in all of them.
        let files: Vec<Arc<ResidueFile>> = self.files.read().range(..=lsn).rev().map(|(_, f)| f.clone()).collect();
        for file in files.iter().filter(|file| file.covers().contains(&lsn)) {
            if let Some(record) = file.read(lsn)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Records in `range` whose topic matches one of the filters, the lowest `limit` of them at most, in order, and the number below
    /// which these are all.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) fn matching(
        &self,
        filters: &[&str],
        range: &Range<Lsn>,
        limit: usize,
    ) -> Result<(Vec<Record>, Lsn), ReadError> {
        let mut records: Vec<Record> = Vec::new();
        if filters.is_empty() {
            return Ok((records, range.end));
        }
        for file in self.files() {
            let covers = file.covers();
            if covers.start >= range.end || covers.end <= range.start {
                continue;
            }
            let mut found = Found::new(range.end, limit.saturating_sub(records.len()).max(1));
            let behind = records.last().map_or(range.start, |last: &Record| last.lsn.next());
            file.find(filters, &(behind.max(range.start)..range.end), &mut found)?;
            let (places, until) = found.finish();
            for place in &places {
                records.push(file.at(place)?);
            }
            if until < range.end {
                return Ok((records, until));
            }
            if records.len() >= limit {
                let until = records.last().map_or(range.end, |last| last.lsn.next());
                return Ok((records, until.min(range.end)));
            }
        }
        Ok((records, range.end))
    }

    /// Numbers and bytes of the records in `range` whose topic matches the filter.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn sizes(&self, filter: &str, range: &Range<Lsn>) -> Result<Vec<(Lsn, u64)>, ReadError> {
        let mut sizes: Vec<(Lsn, u64)> = Vec::new();
        for file in self.files() {
            let covers = file.covers();
            if covers.start >= range.end || covers.end <= range.start {
                continue;
            }
            let mut found = Found::new(range.end, usize::MAX / 4);
            file.find(&[filter], range, &mut found)?;
            let behind = sizes.last().map(|(lsn, _)| *lsn);
            let (places, _) = found.finish();
            sizes.extend(places.iter().filter(|p| Some(p.lsn) > behind).map(|p| (p.lsn, u64::from(p.len))));
        }
        Ok(sizes)
    }
}

/// A residue file, as a walk through all of it found it.
#[derive(Clone, Debug)]
pub struct ResidueReport {
    /// File.
    pub file: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// The first record number that it covers.
    pub from: Lsn,
    /// The number behind the last one covered.
    pub to: Lsn,
    /// Records in it.
    pub records: u64,
}

/// Reads every byte of a residue file of the log `log_id` and checks every checksum. Nothing is written.
///
/// # Errors
/// What is wrong with it: `Damaged` with the place, `NewerFormat`, `ForeignSegment`, `Io`.
pub fn verify_residue(disk: &dyn Disk, path: &Path, log_id: [u8; 16]) -> Result<ResidueReport, OpenError> {
    let file = ResidueFile::open(disk, path, log_id)?;
    let damaged = |at, lsn, what| OpenError::Damaged { file: path.to_owned(), at, lsn, what };
    let fault = |error| match error {
        ReadError::Corrupt { at, lsn, what, .. } => damaged(at, lsn, what),
        ReadError::Io { source, .. } => OpenError::Io { what: "reading", file: path.to_owned(), source },
        ReadError::Trimmed { first } => damaged(0, first, "was trimmed".to_owned()),
    };
    let covers = file.covers();
    let mut found = Found::new(covers.end, usize::MAX / 4);
    file.find(&["#"], &covers, &mut found).map_err(fault)?;
    let (places, _) = found.finish();
    let mut walk = file.walk(Lsn::NONE);
    let (mut records, mut indexed) = (0, 0);
    while let Some((frame, _)) = walk.step().map_err(fault)? {
        if !covers.contains(&frame.lsn) {
            return Err(damaged(0, frame.lsn, "holds a record that it does not cover".to_owned()));
        }
        indexed += u64::from(places.binary_search_by_key(&frame.lsn, |p| p.lsn).is_ok());
        records += 1;
    }
    if records != file.records() || indexed != places.len() as u64 {
        let what = format!("it holds {records} records and says {} ({} in its index)", file.records(), places.len());
        return Err(damaged(0, covers.start, what));
    }
    Ok(ResidueReport { file: path.to_owned(), bytes: file.bytes(), from: covers.start, to: covers.end, records })
}
