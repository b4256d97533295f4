//! Opening: lock, recover the log, bring state up to it, start the threads.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::applier::{Applier, Jobs, Place};
use super::base::{self, Base};
use super::bounds::QueueBounds;
use super::keeper::{self, IndexHealth, Job, Keeper, Room};
use super::manual::Manual;
use super::space;
use super::trimmer::Trimmer;
use super::{Engine, EngineOptions, Inner};
use crate::delivery::{self, Hub, Work};
use crate::disk::{self, Disk, FolderLock, LOCK_PATIENCE, RealDisk};
use crate::event::codec::CodecError;
use crate::ids::Lsn;
use crate::log::watermark::Watermark;
use crate::log::{self, Log, LogOptions, ReadError, RecoveryReport};
use crate::postings::{Indexer, Postings};
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
    /// Where state knew more of this log than the log itself: the log's end as it was found, and the position that was known. Records
    /// between were durable and are gone; numbers go on behind.
    pub ahead: Option<(Lsn, Lsn)>,
}

/// State may always lag so many bytes behind: below it, appends would wait for it at every group.
const APPLY_LAG_MIN: u64 = 1 << 20;

/// Opens the folder and starts the threads.
pub(super) fn open(options: EngineOptions) -> Result<(Engine, OpenReport), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (keep, jobs) = mpsc::sync_channel(2);
    let keep: Jobs = Box::new(move |job| drop(keep.send(job)));
    let store = Box::new(RedbStore::new(Arc::clone(&disk), &state_dir(&options.dir).join("index.redb")));
    let lock = make_folders(&*disk, &options.dir, LOCK_PATIENCE)?;
    remove_old_index(&state_dir(&options.dir).join("index"));
    let log_options = LogOptions { dir: options.dir.join("log"), ..options.log.clone() };
    let (log, recovery) = Log::open_on(Arc::clone(&disk), Arc::clone(&options.clock), log_options)?;
    let (engine, Parts { applier, keeper, todo, indexer }, report) =
        put_together(options, disk, store, lock, (log, recovery), keep)?;
    let hub = Arc::clone(&engine.inner.hub);
    let threads = [
        spawn("forebay-apply", move || applier.run())?,
        spawn("forebay-deliver", move || delivery::run(&hub, &todo))?,
        spawn("forebay-state", move || keeper.run(&jobs))?,
        spawn("forebay-index", move || indexer.run())?,
    ];
    engine.inner.threads.lock().extend(threads);
    Ok((engine, report))
}

/// Opens the folder on a disk of the caller's, without threads.
pub(super) fn open_manual(
    options: EngineOptions,
    disk: Arc<dyn Disk>,
    store: Box<dyn StateStore>,
) -> Result<(Engine, Manual, OpenReport), OpenError> {
    let jobs: Arc<Mutex<VecDeque<Job>>> = Arc::default();
    let queue = Arc::clone(&jobs);
    let keep: Jobs = Box::new(move |job| queue.lock().push_back(job));
    let lock = make_folders(&*disk, &options.dir, Duration::ZERO)?;
    let log_options = LogOptions { dir: options.dir.join("log"), ..options.log.clone() };
    let opened = Log::open_manual(Arc::clone(&disk), Arc::clone(&options.clock), log_options)?;
    let (engine, parts, report) = put_together(options, disk, store, lock, opened, keep)?;
    parts.applier.begin();
    let manual = Manual::new(engine.inner.log.clone(), Arc::clone(&engine.inner.hub), parts, jobs);
    Ok((engine, manual, report))
}

fn state_dir(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// Makes the folders, durably, and takes the lock.
fn make_folders(disk: &dyn Disk, dir: &Path, patience: Duration) -> Result<FolderLock, OpenError> {
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { what, path, source }
    };
    disk.create_dir(dir).map_err(io("making the folder", dir))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        match disk.sync_dir(parent) {
            // A folder that may not be read holds names that somebody else has made.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::debug!(folder = %parent.display(), %error, "the folder above the data folder can't be synced");
            }
            synced => synced.map_err(io("syncing the folder", parent))?,
        }
    }
    let lock = disk::lock_folder(disk, dir, patience).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked(dir.to_owned()),
        _ => OpenError::Io { what: "locking", path: dir.to_owned(), source: error },
    })?;
    let state = state_dir(dir);
    disk.create_dir(&state).map_err(io("making the folder", &state))?;
    // A checkpoint in a folder whose name is lost is lost with it, and the log may have been trimmed for it.
    disk.sync_dir(dir).map_err(io("syncing the folder", dir))?;
    // So is one that is listed and whose name is not durable: its writer was killed, or failed, between the rename and the sync.
    disk.sync_dir(&state).map_err(io("syncing the folder", &state))?;
    Ok(lock)
}

/// What works behind the engine's handle, each part by a thread or by the steps of [`Manual`].
pub(super) struct Parts {
    pub(super) applier: Applier,
    pub(super) keeper: Keeper,
    pub(super) todo: mpsc::Receiver<Work>,
    pub(super) indexer: Indexer,
}

/// Brings state up to the opened log and puts the engine together; nothing runs yet.
fn put_together(
    options: EngineOptions,
    disk: Arc<dyn Disk>,
    mut store: Box<dyn StateStore>,
    lock: FolderLock,
    (log, recovery): (Log, RecoveryReport),
    jobs: Jobs,
) -> Result<(Engine, Parts, OpenReport), OpenError> {
    let rules = Arc::new(RuleIndex::new(&options.rules));
    let state_dir = state_dir(&options.dir);
    let Base { mut state, source, checkpointed, ahead } =
        base::find(&*disk, &options.dir, &state_dir, &log, &mut *store)?;
    let replayed = replay(&log, &rules, &mut state)?;

    let end = state.applied;
    let last_epoch = AtomicU64::new(state.epoch);
    let state = Arc::new(RwLock::new(state));
    let applied = Arc::new(Watermark::new(end));
    let postings = Postings::new(log.clone(), Arc::clone(&disk), Arc::clone(&options.clock), end);
    let postings =
        postings.map_err(|source| OpenError::Io { what: "listing", path: options.log.dir.clone(), source })?;
    let postings = Arc::new(postings);
    let (work, todo) = mpsc::channel();
    let hub = Arc::new(Hub::new(
        log.clone(),
        Arc::clone(&rules),
        Arc::clone(&state),
        Arc::clone(&options.clock),
        Arc::clone(&postings),
        work.clone(),
    ));
    hub.set_delivering(end);
    hub.set_offered(end);
    let closing = Arc::new(AtomicBool::new(false));
    checkpoint::keep_spare(&*disk, &state_dir, 0);
    log.set_other_bytes(space::bytes_beside(&*disk, &state_dir, log.dir()));
    let shared = Arc::new(keeper::Shared::new(checkpointed.unwrap_or(Lsn::NONE)));
    let lock = Arc::new(lock);
    let keeper = Keeper {
        log: log.clone(),
        state: Arc::clone(&state),
        store,
        disk,
        dir: state_dir,
        trimmer: Trimmer::new(
            log.clone(),
            Arc::clone(&state),
            Arc::clone(&hub),
            Arc::clone(&options.clock),
            options.retention,
            options.bounds,
        ),
        trimming: false,
        shared: Arc::clone(&shared),
        clock: Arc::clone(&options.clock),
        postings: Arc::clone(&postings),
        index: IndexHealth::default(),
        when_full: options.when_full,
        room: Room::at(options.clock.now_us()),
        lag_bytes: keeper::lag_bytes(options.log.segment_bytes),
        _lock: Arc::clone(&lock),
    };
    let applier = Applier {
        log: log.clone(),
        hub: Arc::clone(&hub),
        state: Arc::clone(&state),
        applied: Arc::clone(&applied),
        closing: Arc::clone(&closing),
        clock: Arc::clone(&options.clock),
        jobs,
        checkpoint_bytes: options.checkpoint_bytes,
        keeper: Arc::clone(&shared),
        lag_bytes: keeper::lag_bytes(options.log.segment_bytes),
        queues: QueueBounds::new(options.bounds),
        place: Place::new(log.reader(end)?, options.clock.now_us(), options.checkpoint_bytes),
        _lock: Arc::clone(&lock),
    };
    log.follow(options.apply_lag_bytes.max(APPLY_LAG_MIN));
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
        threads: Mutex::default(),
        lock: Mutex::new(Some(lock)),
    };
    let report = OpenReport { log: recovery, state: source, replayed, ahead };
    Ok((Engine { inner: Arc::new(inner) }, Parts { applier, keeper, todo, indexer: Indexer::new(postings) }, report))
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
