//! Repairing a log that is not open: what reads is kept, what does not is set aside and named.
//!
//! The result is a log that opens and whose numbers are dense: where records are lost there is a gap record in their place. It says that damage is the
//! reason, and readers step over it, count it and say so. Frames that read keep their bytes. Every file that is changed or replaced is
//! kept first, whole, as `*.damaged`; nothing is ever deleted.
//!
//! Each step is safe to crash after: while a repair is under way there is `running.repair` in the folder, with which the log does not open; files
//! are written under another name, synced and renamed; running the repair again plans anew from what it finds.

mod act;
mod planning;
mod rewrite;

use std::path::{Path, PathBuf};

use super::error::OpenError;
use super::inspect::{Damage, Progress};
use super::segment::hex;
use crate::disk::Disk;
use crate::ids::Lsn;

/// What a step of a repair does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A segment gets the name of its first record.
    Rename,
    /// A file that is no part of this log, or holds what another one holds, becomes `*.damaged`.
    SetAside,
    /// A segment is copied to `*.damaged` and written anew from what reads of it.
    Rewrite,
    /// A segment with one gap takes the place of segments that are missing.
    Fill,
    /// The note of where the log begins is written anew.
    Floor,
}

impl Action {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Action::Rename => "rename",
            Action::SetAside => "set_aside",
            Action::Rewrite => "rewrite",
            Action::Fill => "fill",
            Action::Floor => "floor",
        }
    }
}

/// A file that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where it is now.
    pub file: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC-32 (IEEE) of all of it.
    pub crc: u32,
}

/// One step of a repair.
#[derive(Clone, Debug)]
pub struct RepairStep {
    /// What it does.
    pub action: Action,
    /// To which file.
    pub file: PathBuf,
    /// The file that is there afterwards, where it is another one.
    pub to: Option<PathBuf>,
    /// Why, in words.
    pub why: String,
    /// Records that are kept.
    pub records: u64,
    /// What is lost, place by place.
    pub lost: Vec<Damage>,
    /// The file as it was; `None` before it is done, and where nothing is replaced.
    pub kept: Option<Kept>,
}

/// What a repair does, or would do.
#[derive(Clone, Debug)]
pub struct RepairReport {
    /// Identity of the log, in hexadecimal.
    pub log_id: String,
    /// It was done; else this is what would be done.
    pub applied: bool,
    /// The steps in their order. None where the log is sound.
    pub steps: Vec<RepairStep>,
}

impl RepairReport {
    /// Numbers of records that are lost.
    #[must_use]
    pub fn records_lost(&self) -> u64 {
        self.steps.iter().flat_map(|step| &step.lost).map(Damage::records).sum()
    }
}

/// Plans the repair of the log in `dir`, and does it with `apply`. The caller holds the folder: nobody has the log open. Reads every byte of the log.
///
/// With `apply` all of it is durable when it returns. After an error or a crash, call it again.
///
/// # Errors
/// `NewerFormat`: a newer program wrote a segment; nothing is done. `Damaged`: no segment tells which log this is. `Io` with the file.
pub fn repair(
    disk: &dyn Disk,
    dir: &Path,
    apply: bool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<RepairReport, OpenError> {
    let mut plan = planning::plan(disk, dir, progress)?;
    let mut steps = Vec::new();
    if apply && !plan.is_empty() {
        act::act(disk, dir, &mut plan)?;
    }
    let log_id = plan.log_id.map(|id| hex(&id)).unwrap_or_default();
    steps.extend(plan.work.into_iter().map(|work| work.step));
    Ok(RepairReport { log_id, applied: apply, steps })
}

/// Where lost numbers begin and end.
type Numbers = (Lsn, Lsn);
