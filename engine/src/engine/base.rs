//! What state begins with at an opening: the newest there is that the log bears out.
//!
//! ```text
//!   log        first ......... end
//!   state                            known      an index or checkpoint of this log that knows more than the log:
//!   log        first ......... end|gap|known+1  1. the log jumps, durably; 2. what lies in the gap is set aside; 3. state from the log
//! ```
//!
//! Records that were durable are gone then (an older copy of `log/` was put back, or the disk lied). Their numbers were given out, and are
//! in databases and in msgids: they are not given again. Whether state lies in such a gap is seen from the log, so a crash between the
//! steps changes nothing.

use std::io;
use std::path::{Path, PathBuf};

use super::{OpenError, StateSource};
use crate::disk::Disk;
use crate::ids::Lsn;
use crate::log::{Log, SkipReason};
use crate::state::State;
use crate::state::checkpoint::{self, CheckpointError};
use crate::state::store::StateStore;

/// See the module.
pub(super) struct Base {
    pub(super) state: State,
    pub(super) source: StateSource,
    /// The newest checkpoint that counts: the log may be trimmed up to there.
    pub(super) checkpointed: Option<Lsn>,
    /// The log's end as it was found, and what was known beyond.
    pub(super) ahead: Option<(Lsn, Lsn)>,
}

/// The newest state there is at or below the log's end, to be brought up by replay: the index, a checkpoint, or nothing at all.
pub(super) fn find(
    disk: &dyn Disk,
    dir: &Path,
    state_dir: &Path,
    log: &Log,
    store: &mut dyn StateStore,
) -> Result<Base, OpenError> {
    let indexed = store.load(log.id());
    let listed = checkpoint::list(disk, state_dir);
    let mut checkpoints =
        listed.map_err(|source| OpenError::Io { what: "listing", path: state_dir.to_owned(), source })?;
    let ahead = jump(disk, log, indexed.as_ref(), &checkpoints)?;
    let (first, end) = (log.first(), log.durable_end());
    checkpoints.retain(|(applied, _)| (first..=end).contains(applied));
    let mut lost = Vec::new();
    while let Some((applied, _)) = checkpoints.first()
        && is_lost(log, *applied)
    {
        lost.push(checkpoints.remove(0));
    }
    let checkpointed = checkpoints.first().map(|(applied, _)| *applied);
    if let Some(state) = indexed {
        if (first..=end).contains(&state.applied) && !is_lost(log, state.applied) {
            return Ok(Base { state, source: StateSource::Index, checkpointed, ahead });
        }
        store.clear(&format!("it reflects the log up to record {}, and the log holds {first} to {end}", state.applied));
    }
    let (mut state, source, checkpointed) = match newest(disk, log, checkpoints)? {
        Some(state) => (state, StateSource::Checkpoint, checkpointed),
        None if first == Lsn::FIRST => {
            (State { applied: Lsn::FIRST, ..State::default() }, StateSource::Log, checkpointed)
        }
        None => {
            // State that knows of records that are gone is better than none.
            let state = newest(disk, log, lost)?.ok_or_else(|| OpenError::StateLost { dir: dir.to_owned(), first })?;
            tracing::error!(applied = %state.applied, "the only state there is reflects records that the log has lost; it is used as it is");
            let at = state.applied;
            (state, StateSource::Checkpoint, Some(at))
        }
    };
    // The index begins empty: every row is to be written to it.
    state.dirty = state.keys().collect();
    Ok(Base { state, source, checkpointed, ahead })
}

/// The newest of these that reads.
fn newest(disk: &dyn Disk, log: &Log, checkpoints: Vec<(Lsn, PathBuf)>) -> Result<Option<State>, OpenError> {
    for (_, file) in checkpoints {
        match checkpoint::read(disk, &file, log.id()) {
            Ok(state) => return Ok(Some(state)),
            // Without it the log may still be whole; only when it is not, the checkpoint's fault is fatal.
            Err(error) if log.first() == Lsn::FIRST && !matches!(error, CheckpointError::NewerFormat { .. }) => {
                tracing::warn!(%error, "checkpoint unusable; rebuilding state from the log");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// True where state of this position reflects records that the log has lost. Damage that was repaired is another thing: those records
/// had been applied.
fn is_lost(log: &Log, applied: Lsn) -> bool {
    // A place that can't be read is met again by the replay, which says so.
    log.skip_at(applied).ok().flatten().is_some_and(|skip| skip.why != SkipReason::Damage)
}

/// Where state of this very log knows more than the log: the log goes on behind it. What was found, and what was known.
fn jump(
    disk: &dyn Disk,
    log: &Log,
    indexed: Option<&State>,
    checkpoints: &[(Lsn, PathBuf)],
) -> Result<Option<(Lsn, Lsn)>, OpenError> {
    let end = log.durable_end();
    let indexed = indexed.map(|state| state.applied).filter(|applied| *applied > end);
    let of_this_log = |file: &Path| checkpoint::read(disk, file, log.id()).is_ok();
    let beyond = checkpoints.iter().take_while(|(applied, _)| *applied > end);
    let checkpointed = beyond.filter(|(_, file)| of_this_log(file)).map(|(applied, _)| *applied).next();
    let Some(known) = indexed.max(checkpointed) else { return Ok(None) };
    tracing::error!(
        dir = %log.dir().display(), %end, %known,
        "state knows more than the log: records from {end} to {known} were durable and are gone (was an older copy of log/ put back, did the disk \
         lose what it had confirmed?). Numbers go on behind {known}, state is rebuilt from what the log has. If there is a newer copy of log/: \
         stop now and put it back"
    );
    let failed = |why: String| OpenError::Io {
        what: "writing a gap record to",
        path: log.dir().to_owned(),
        source: io::Error::other(why),
    };
    if let Some(gap) = log.advance_to(known.next()).map_err(|e| failed(e.to_string()))? {
        log.write_queued();
        log.wait_durable_blocking(gap.last).map_err(|e| failed(e.to_string()))?;
    }
    Ok(Some((end, known)))
}
