//! Putting an opened log together.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::sync::{Condvar, Mutex, RwLock};

use super::core::{Core, Queue};
use super::error::OpenError;
use super::follower::Follower;
use super::frame::NUMBER_MAX;
use super::inline::Pace;
use super::options::LogOptions;
use super::recovery::{Recovered, RecoveryReport, TailState, recover};
use super::residue::Residue;
use super::room::{self, NotMade};
use super::segment::{Header, SEGMENT_HEADER, Segment, hex};
use super::spare::{Place, Spares, install};
use super::tail::TailCache;
use super::watermark::Watermark;
use super::writer::Writer;
use super::{Handle, Log};
use crate::clock::{Clock, SystemClock};
use crate::disk::{self, CheckedDisk, Disk, RealDisk};
use crate::ids::Lsn;
use crate::metrics::{self, LogMetrics};

impl Log {
    /// Opens the log in a folder of the file system, or creates it. One at a time may have it open: the file `LOCK` in the folder is
    /// locked until [`close`](Log::close), or until the last clone is dropped.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: LogOptions) -> Result<(Log, RecoveryReport), OpenError> {
        options.validate()?;
        let dir = options.dir.clone();
        RealDisk.create_dir(&dir).map_err(OpenError::io("creating", &dir))?;
        let lock = disk::lock_folder(&RealDisk, &dir, disk::LOCK_PATIENCE).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => OpenError::Locked(dir.clone()),
            _ => OpenError::io("locking", &dir)(error),
        })?;
        let (log, report) = Log::open_on(Arc::new(RealDisk), Arc::new(SystemClock), options)?;
        *log.handle.lock.lock() = Some(lock);
        Ok((log, report))
    }

    /// As [`open`](Log::open), on a disk and with a clock of the caller's, who sees to it that nobody else has the log open.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        options: LogOptions,
    ) -> Result<(Log, RecoveryReport), OpenError> {
        let (log, report) = Log::open_manual(disk, clock, options)?;
        start_threads(&log)?;
        Ok((log, report))
    }

    /// As [`open_on`](Log::open_on), without threads: what is queued is written when somebody calls
    /// [`write_queued`](Log::write_queued) or appends with [`append_durable`](Log::append_durable).
    pub(crate) fn open_manual(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        options: LogOptions,
    ) -> Result<(Log, RecoveryReport), OpenError> {
        options.validate()?;
        let started = Instant::now();
        let mut report = RecoveryReport::default();
        let disk = CheckedDisk::new(disk);
        let recovered = recover(&disk, &options, &mut report)?;
        let jump = recovered.jump;
        let core = Arc::new(assemble(disk, clock, options, recovered)?);
        let log =
            Log { handle: Arc::new(Handle { core: core.clone(), threads: Mutex::default(), lock: Mutex::default() }) };
        mark(&log, jump, &mut report)?;
        report.log_id = hex(&core.log_id);
        report.segments = core.segments.read().len();
        report.first = log.first();
        report.next = log.end();
        report.no_space = core.spares.short();
        report.took = started.elapsed();
        tell(&report, &core.options);
        Ok((log, report))
    }
}

/// Builds the shared state; creates a segment when there is none to go on in.
fn assemble(
    disk: CheckedDisk,
    clock: Arc<dyn Clock>,
    options: LogOptions,
    recovered: Recovered,
) -> Result<Core, OpenError> {
    let log_id = recovered.log_id.unwrap_or_else(rand::random);
    let spares = Spares::new(&options, recovered.spares);
    let mut segments: BTreeMap<_, _> =
        recovered.segments.into_iter().map(|segment| (segment.first().0, Arc::new(segment))).collect();
    let (next, last_time_us) = recovered.tail.as_ref().map_or((Lsn::FIRST, 0), |tail| (tail.next, tail.last_time_us));
    let open_tail = recovered.tail.filter(|tail| !tail.sealed);
    let (segment, tail) = match (open_tail, segments.last_key_value()) {
        (Some(tail), Some((_, segment))) => (segment.clone(), tail),
        _ => {
            let weak = options.durability.is_weak();
            let header = Header { log_id, first: next, created_us: clock.now_us(), weak, reused: false, bytes: 0 };
            prepare(&spares, &disk, &options, used(&segments), Spares::has_ordinary)?;
            let made = spares.take(&disk).and_then(|spare| install(&disk, &options.dir, &spare, header));
            let (segment, file) = made.map_err(OpenError::io("creating a segment in", &options.dir))?;
            let segment = Arc::new(segment);
            segments.insert(next.0, segment.clone());
            let at = SEGMENT_HEADER as u64;
            (segment, TailState { file, at, next, count: 0, last: Lsn::NONE, last_time_us, sealed: false })
        }
    };
    prepare(&spares, &disk, &options, used(&segments), Spares::has_reserve)?;
    let place =
        Place { at: tail.at, capacity: segment.file_len.load(Ordering::Relaxed), segment_bytes: options.segment_bytes };
    let writer = Writer {
        segment,
        file: tail.file,
        at: tail.at,
        synced: next,
        count: tail.count,
        last: tail.last,
        last_time_us: tail.last_time_us,
        sealed: false,
        sync_next: options.durability.is_weak(),
    };
    // Past the latch: a residue file that can't be written stops a trim, not the log.
    let residue = Residue::open(Arc::clone(disk.unlatched()), &options.dir, log_id, options.on_damage)?;
    let metrics = LogMetrics::new(options.durability.name());
    metrics.segments.set(segments.len() as f64);
    if let Some(short) = spares.shortage() {
        metrics.no_space(Some(short.limit));
    }
    Ok(Core {
        log_id,
        disk,
        clock,
        queue: Mutex::new(Queue::new(next, last_time_us, place)),
        work: Condvar::new(),
        settled: Condvar::new(),
        writer: Mutex::new(writer),
        watermark: Arc::new(Watermark::new(next)),
        tail: TailCache::new(options.tail_cache_bytes),
        segments: RwLock::new(segments),
        trimming: Mutex::default(),
        residue,
        spares,
        follower: Follower::none(),
        metrics,
        groups: AtomicU64::new(0),
        syncs: AtomicU64::new(0),
        pace: Pace::default(),
        refusals: AtomicU64::new(0),
        other_bytes: AtomicU64::new(0),
        options,
    })
}

fn used(segments: &BTreeMap<u64, Arc<Segment>>) -> u64 {
    segments.values().map(|segment| segment.file_len.load(Ordering::Relaxed)).sum()
}

/// Makes spares until there are `enough`, or no room for them.
fn prepare(
    spares: &Spares,
    disk: &CheckedDisk,
    options: &LogOptions,
    segments: u64,
    enough: impl Fn(&Spares) -> bool,
) -> Result<(), OpenError> {
    while spares.short().is_none() && !enough(spares) {
        match room::make(spares, &**disk.unlatched(), options, segments + spares.bytes()) {
            Ok(spare) => spares.add(spare),
            Err(NotMade::NoSpace(short)) => {
                spares.set_short(Some(short));
            }
            Err(NotMade::Failed(error)) => return Err(OpenError::io("preparing a segment in", &options.dir)(error)),
        }
    }
    Ok(())
}

fn start_threads(log: &Log) -> Result<(), OpenError> {
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        let thread = crate::sync::thread::Builder::new().name(name.to_owned()).spawn(work);
        thread.map_err(OpenError::io("starting a thread for", &log.core().options.dir))
    };
    let core = log.core().clone();
    let writer = spawn("forebay-log", Box::new(move || core.run_writer()))?;
    log.handle.threads.lock().push(writer);
    if !log.core().options.prepare_ahead {
        return Ok(());
    }
    let core = log.core().clone();
    let preparer = spawn("forebay-prepare", Box::new(move || core.run_preparer()))?;
    log.core().spares.set_ahead();
    log.handle.threads.lock().push(preparer);
    Ok(())
}

/// Writes the gap that recovery asks for, and in the weaker levels a synced record that marks the log as written in one. A log whose
/// numbers or times are used up needs neither: nothing is appended to it any more, so that no number can be given twice.
fn mark(log: &Log, jump: Option<Lsn>, report: &mut RecoveryReport) -> Result<(), OpenError> {
    let weak = log.core().options.durability.is_weak();
    let from = log.end();
    let to = jump.filter(|to| *to > from).or_else(|| weak.then(|| from.next()));
    let to = to.map(|to| to.min(Lsn(NUMBER_MAX))).filter(|to| *to > from);
    let Some(to) = to.filter(|_| log.core().has_times()) else { return Ok(()) };
    let stopped = |reason: Arc<str>| OpenError::Io {
        what: "writing a gap record to",
        file: log.core().options.dir.clone(),
        source: std::io::Error::other(reason.to_string()),
    };
    let gap = log.advance_to(to).map_err(|e| stopped(e.to_string().into()))?;
    if let Some(gap) = gap {
        log.write_queued();
        log.wait_durable_blocking(gap.last).map_err(|e| stopped(e.0))?;
    }
    if jump.is_some() {
        report.gap = Some((from, to));
    }
    Ok(())
}

fn tell(report: &RecoveryReport, options: &LogOptions) {
    ::metrics::gauge!(metrics::LOG_RECOVERY_CUT_BYTES).set(report.cut_bytes as f64);
    ::metrics::gauge!(metrics::LOG_RECOVERY_SECONDS).set(report.took.as_secs_f64());
    let dir = options.dir.display();
    if let Some((file, at)) = &report.cut_at {
        tracing::warn!(file = %file.display(), at, bytes = report.cut_bytes, "cut a torn group off the log's end; it was never acknowledged");
    }
    if let Some(copy) = &report.quarantined {
        tracing::error!(copy = %copy.display(), "the log's last segment was damaged; a copy was set aside and the log goes on behind it");
    }
    if let Some((from, to)) = report.gap {
        tracing::error!(%from, %to, "record numbers jump ahead: those between may have been given out and lost");
    }
    if let Some(why) = &report.no_space {
        tracing::error!(%why, "the log has no room: new records are refused until there is, acknowledgements go on");
    }
    tracing::info!(%dir, next = %report.next, segments = report.segments, clean = report.clean, took_us = report.took.as_micros() as u64, "log open");
}
