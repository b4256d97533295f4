//! What the keeper does when the log has no room: asks for a checkpoint that lets it trim, and, where the policy says so, passes sinks that lag.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, OpenHow};
use crate::event::codec::KIND_PUBLISHED;
use crate::event::{DropOwner, DropReason, Dropped, DroppedRange, Event};
use crate::ids::Lsn;
use crate::log::{AppendError, Log, ReadError, SegmentInfo};

/// What happens to a sink that lags while the log has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The log waits for it: new records are refused until it has gone on.
    #[default]
    Block,
    /// The oldest segment goes although the sink has not stored it. What it lost is counted, and recorded as [`Event::Dropped`] before.
    DropOldest,
}

/// Bytes of what lies beside the log's segments and spares, which the log counts itself: the state's folder, sidecars, residue.
pub(super) fn bytes_beside(disk: &dyn Disk, state_dir: &Path, log_dir: &Path) -> u64 {
    let own = |file: &&PathBuf| file.extension().is_some_and(|e| e == "seg" || e == "spare" || e == "making");
    let state = disk.list(state_dir).unwrap_or_default();
    let log = disk.list(log_dir).unwrap_or_default();
    let len = |file: &PathBuf| disk.open(file, OpenHow::Read).and_then(|file| file.len()).unwrap_or(0);
    state.iter().chain(log.iter().filter(|file| !own(file))).map(len).sum()
}

/// The segment that goes first; `None` while there is only the one that is written.
pub(super) fn oldest(log: &Log) -> Option<SegmentInfo> {
    let segments = log.segments();
    if segments.len() > 1 { segments.first().copied() } else { None }
}

/// Records that these sinks are passed by: they count as having stored everything below `to`. The number of the record.
pub(super) fn pass(log: &Log, lagging: &[(String, Lsn)], to: Lsn) -> Result<Option<Lsn>, AppendError> {
    let mut drops = Vec::new();
    for (sink, position) in lagging {
        let from = (*position).max(log.first());
        match messages_in(log, from, to) {
            Ok(count) => drops.push(DroppedRange { owner: DropOwner::Sink(sink.as_str().into()), from, to, count }),
            Err(error) => {
                tracing::error!(sink, %error, "what a sink would lose can't be counted: it is not passed");
                return Ok(None);
            }
        }
    }
    let dropped = Dropped { reason: DropReason::DiskBudget, drops };
    Ok(Some(super::append(log, &[Event::Dropped(dropped)])?.last))
}

fn messages_in(log: &Log, from: Lsn, to: Lsn) -> Result<u64, ReadError> {
    let (mut reader, mut records, mut count) = (log.reader(from)?, Vec::new(), 0);
    while reader.position() < to && reader.read_batch(4096, 1 << 20, &mut records)? > 0 {
        count += records.drain(..).filter(|r| r.lsn < to && r.kind == KIND_PUBLISHED).count() as u64;
    }
    Ok(count)
}
