//! Opening: lock, recover the log, bring state up to it, start the threads.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::applier::Applier;
use super::keeper::{self, Keeper};
use super::{Engine, EngineOptions, Inner};
use crate::delivery::{self, Hub};
use crate::disk::RealDisk;
use crate::event::codec::CodecError;
use crate::ids::Lsn;
use crate::log::watermark::Watermark;
use crate::log::{self, Log, ReadError, RecoveryReport};
use crate::rules::RuleIndex;
use crate::state::State;
use crate::state::checkpoint::{self, CheckpointError};
use crate::state::store::{RedbStore, StateStore};

/// Why an engine did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder.
    #[error("{0} is in use by another process; stop it or choose another data folder")]
    Locked(PathBuf),
    /// The folder can't be made or read.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The log did not open.
    #[error(transparent)]
    Log(#[from] log::OpenError),
    /// Reading the log while bringing state up to it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The newest checkpoint can't be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Records before the log's first are gone and so is the state they made.
    #[error(
        "the log in {dir} begins at record {first}, and there is neither a state index nor a checkpoint of what was before; \
         put the folder state/ back from a backup"
    )]
    StateLost {
        /// Data folder.
        dir: PathBuf,
        /// First record there is.
        first: Lsn,
    },
    /// A record is sound but not an event this program knows.
    #[error("record {lsn}: {source}")]
    Event {
        /// The record.
        lsn: Lsn,
        /// Why.
        source: CodecError,
    },
}

/// Where state came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateSource {
    /// The derived index.
    Index,
    /// A checkpoint.
    Checkpoint,
    /// The log from its first record.
    Log,
}

/// What opening found.
#[derive(Debug)]
pub struct OpenReport {
    /// What recovery of the log found and did.
    pub log: RecoveryReport,
    /// Where state came from.
    pub state: StateSource,
    /// Records replayed to bring it up to the log.
    pub replayed: u64,
}

/// How long a held lock is waited for, and how often it is looked at.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_STEP: Duration = Duration::from_millis(10);

/// One process per data folder. The lock goes with the process, also when it is killed.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    fn take(dir: &Path) -> Result<FolderLock, OpenError> {
        let io = |what| move |source| OpenError::Io { what, path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(io("making the folder"))?;
        let file = File::options().create(true).truncate(false).write(true).open(dir.join("LOCK"));
        let file = file.map_err(io("opening LOCK in"))?;
        // A child process that is being started somewhere in this program (sled starts one when it opens) has a copy of every
        // descriptor until it runs its own program: a lock just given back may look held for a moment.
        let end = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(FolderLock { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(LOCK_STEP),
                Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(dir.to_owned())),
                Err(TryLockError::Error(source)) => return Err(io("locking")(source)),
            }
        }
    }
}

pub(super) fn open(mut options: EngineOptions) -> Result<(Engine, OpenReport), OpenError> {
    let lock = FolderLock::take(&options.dir)?;
    options.log.dir = options.dir.join("log");
    let (log, recovery) = Log::open_on(Arc::new(RealDisk), Arc::clone(&options.clock), options.log.clone())?;
    let rules = Arc::new(RuleIndex::new(&options.rules));
    let state_dir = options.dir.join("state");
    fs::create_dir_all(&state_dir).map_err(|source| OpenError::Io {
        what: "making the folder",
        path: state_dir.clone(),
        source,
    })?;

    let mut store = RedbStore::new(Arc::new(RealDisk), &state_dir.join("index.redb"));
    remove_old_index(&state_dir.join("index"));
    let (mut state, source) = base_state(&options.dir, &state_dir, &log, &mut store)?;
    let replayed = replay(&log, &rules, &mut state)?;
    let checkpoints = checkpoint::list(&state_dir).map_err(|source| OpenError::Io {
        what: "listing",
        path: state_dir.clone(),
        source,
    })?;

    let end = state.applied;
    let state = Arc::new(RwLock::new(state));
    let applied = Arc::new(Watermark::new(end));
    let (work, todo) = mpsc::channel();
    let hub = Arc::new(Hub::new(
        log.clone(),
        Arc::clone(&rules),
        Arc::clone(&state),
        Arc::clone(&options.clock),
        work.clone(),
    ));
    hub.set_delivering(end);
    hub.set_offered(end);
    let closing = Arc::new(AtomicBool::new(false));
    // One beyond the log's end is not of this history.
    let checkpointed = checkpoints.iter().map(|(applied, _)| *applied).find(|applied| *applied <= end);
    let checkpointed = checkpointed.unwrap_or(Lsn::NONE);
    let lock = Arc::new(lock);
    let shared = Arc::new(keeper::Shared::new(checkpointed));
    let (keep, jobs) = mpsc::sync_channel(2);
    let keeper = Keeper {
        log: log.clone(),
        state: Arc::clone(&state),
        store: Box::new(store),
        dir: state_dir,
        retention: options.retention,
        clock: Arc::clone(&options.clock),
        shared: Arc::clone(&shared),
        jobs,
        rules: Arc::clone(&rules),
        _lock: Arc::clone(&lock),
    };
    let applier = Applier {
        log: log.clone(),
        hub: Arc::clone(&hub),
        state: Arc::clone(&state),
        applied: Arc::clone(&applied),
        closing: Arc::clone(&closing),
        keeper: keep,
        checkpoint_bytes: options.checkpoint_bytes,
        _lock: Arc::clone(&lock),
    };
    let worker_hub = Arc::clone(&hub);
    let threads = vec![
        spawn("forebay-apply", move || applier.run())?,
        spawn("forebay-deliver", move || delivery::run(&worker_hub, &todo))?,
        spawn("forebay-state", move || keeper.run())?,
    ];
    let last_epoch = AtomicU64::new(state.read().epoch);
    let inner = Inner {
        log,
        hub,
        state,
        applied,
        clock: options.clock,
        node: options.node,
        dir: options.dir,
        last_epoch,
        closing,
        keeper: shared,
        work,
        threads: Mutex::new(threads),
        lock: Mutex::new(Some(lock)),
    };
    Ok((Engine { inner: Arc::new(inner) }, OpenReport { log: recovery, state: source, replayed }))
}

fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, OpenError> {
    let started = thread::Builder::new().name(name.into()).spawn(run);
    started.map_err(|source| OpenError::Io { what: "starting the thread", path: name.into(), source })
}

/// Removes the folder in which earlier versions kept the index. It is derived: what is left of it is wasted room and nothing else.
fn remove_old_index(folder: &Path) {
    if !folder.is_dir() {
        return;
    }
    match fs::remove_dir_all(folder) {
        Ok(()) => {
            tracing::info!(folder = %folder.display(), "removed the state index of an earlier version; it is written anew")
        }
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "the state index of an earlier version is of no use and can't be removed");
        }
    }
}

/// The newest state there is at or below the log's end, to be brought up by replay: the index, a checkpoint, or nothing at all.
fn base_state(
    dir: &Path,
    state_dir: &Path,
    log: &Log,
    store: &mut dyn StateStore,
) -> Result<(State, StateSource), OpenError> {
    let (first, end) = (log.first(), log.durable_end());
    if let Some(state) = store.load(log.id()) {
        if state.applied >= first && state.applied <= end {
            return Ok((state, StateSource::Index));
        }
        store.clear(&format!("it reflects the log up to record {}, and the log holds {first} to {end}", state.applied));
    }
    let checkpoints = checkpoint::list(state_dir).map_err(|source| OpenError::Io {
        what: "listing",
        path: state_dir.to_owned(),
        source,
    })?;
    let mut base = None;
    for (applied, file) in checkpoints {
        if applied < first || applied > end {
            continue;
        }
        match checkpoint::read(&file, log.id()) {
            Ok(state) => {
                base = Some((state, StateSource::Checkpoint));
                break;
            }
            // Without it the log may still be whole; only when it is not, the checkpoint's fault is fatal.
            Err(error) if first == Lsn::FIRST && !matches!(error, CheckpointError::NewerFormat { .. }) => {
                tracing::warn!(%error, "checkpoint unusable; rebuilding state from the log");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let (mut state, source) = match base {
        Some(found) => found,
        None if first == Lsn::FIRST => (State { applied: Lsn::FIRST, ..State::default() }, StateSource::Log),
        None => return Err(OpenError::StateLost { dir: dir.to_owned(), first }),
    };
    // The index begins empty: every row is to be written to it.
    state.dirty = state.keys().collect();
    Ok((state, source))
}

/// Applies the log's records from the state's place on.
fn replay(log: &Log, rules: &RuleIndex, state: &mut State) -> Result<u64, OpenError> {
    let (mut reader, mut records, mut replayed) = (log.reader(state.applied)?, Vec::new(), 0);
    while reader.read_batch(4096, 4 << 20, &mut records)? > 0 {
        for record in records.drain(..) {
            let event =
                super::event_for_state(&record).map_err(|source| OpenError::Event { lsn: record.lsn, source })?;
            state.apply(rules, record.lsn, record.time_us, &event);
            replayed += 1;
        }
        state.applied = reader.position();
    }
    Ok(replayed)
}
