//! Segment files prepared ahead of need: every block written and synced, so that an append's `fdatasync` has no metadata to write.
//!
//! A spare is either made anew (zeros, under `*.making` until it is complete) or a trimmed segment under a new name. It becomes a segment when its
//! header is written and synced, the file renamed and the folder synced: see [`install`].
//!
//! One spare is the *reserve*: it is made with the log, and while no other can be made only essential records may go on into it. Records get
//! their numbers before they are written, so room is promised when they are queued (see [`Place`]): what is queued always has a place to go.

use crate::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Condvar, Mutex};

use super::NewRecord;
use super::frame::HEADER;
use super::options::{LogOptions, Priority};
use super::room::Shortage;
use super::segment::{Header, SEAL_MIN, SEGMENT_HEADER, Segment, file_name};
use crate::disk::{Disk, DiskFile, OpenHow};

/// Spare files that ordinary records leave alone.
pub(super) const RESERVE: usize = 1;
/// Spare files prepared beyond the reserve.
const AHEAD: usize = 1;
/// Spare files kept at most.
pub(super) const SPARES_MAX: usize = RESERVE + 2;
const ZEROS: usize = 1 << 20;
/// How long a segment that has no place for its name in the folder waits before it tries again.
const HOLD: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Spares {
    dir: PathBuf,
    segment_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// A thread prepares spares: what is on its way may be counted on, and waited for.
    ahead: AtomicBool,
    /// The reserve is promised or used: each append has to ask.
    strained: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<PathBuf>,
    /// How many of them are promised to records in the queue.
    promised: usize,
    /// How many a refused append would have needed.
    demand: usize,
    made: u64,
    /// Why no spare can be made: there is no room.
    short: Option<Shortage>,
    /// Why the last attempt failed, where room was not the reason.
    failed: Option<Arc<str>>,
    /// An append of this priority was refused, and nothing has changed since.
    refused: [bool; 2],
    /// Counts what may let a refused append through.
    version: u64,
    /// Try at once, whatever the backoff says.
    kicked: bool,
    stop: bool,
}

/// Why no room can be promised now.
#[derive(Debug)]
pub(crate) enum Short {
    /// A spare is being prepared; the number tells when something has changed.
    Preparing(u64),
    /// There is no room for one.
    NoSpace(Arc<str>),
    /// Making one failed.
    Failed(Arc<str>),
}

/// Where the next record goes, as planned when records are queued. The writer follows the same rule, so that the plan is what happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Offset in the segment.
    pub at: u64,
    /// The segment's size.
    pub capacity: u64,
    /// Size of the segments to come.
    pub segment_bytes: u64,
}

impl Place {
    /// True when a frame of `bytes` and a seal fit.
    pub fn fits(&self, bytes: usize) -> bool {
        self.at + (bytes + SEAL_MIN) as u64 <= self.capacity
    }

    /// The place behind the records, and how many segments have to be begun for them.
    pub fn after<B: AsRef<[u8]>>(mut self, records: &[NewRecord<B>], bytes: usize) -> (Place, usize) {
        if self.fits(bytes) {
            self.at += bytes as u64;
            return (self, 0);
        }
        let mut begun = 0;
        for record in records {
            let need = HEADER + record.body.as_ref().len();
            if !self.fits(need) {
                self.at = SEGMENT_HEADER as u64;
                self.capacity = self.segment_bytes;
                begun += 1;
            }
            self.at += need as u64;
        }
        (self, begun)
    }
}

impl State {
    fn free(&self) -> usize {
        self.ready.len().saturating_sub(self.promised)
    }

    fn target(&self) -> usize {
        RESERVE + self.demand.max(AHEAD)
    }
}

impl Spares {
    /// `found` are spare files from before; those of another size must have been removed.
    pub fn new(options: &LogOptions, found: Vec<PathBuf>) -> Spares {
        let made = found.iter().filter_map(|path| path.file_stem()?.to_str()?.parse::<u64>().ok()).max().unwrap_or(0);
        let strained = AtomicBool::new(found.len() < RESERVE);
        let state = Mutex::new(State { ready: found, made, ..State::default() });
        let (dir, segment_bytes, ahead) = (options.dir.clone(), options.segment_bytes, AtomicBool::new(false));
        Spares { dir, segment_bytes, state, changed: Condvar::new(), ahead, strained }
    }

    /// A thread prepares spares from now on.
    pub fn set_ahead(&self) {
        self.ahead.store(true, Ordering::Relaxed);
    }

    /// True when a thread prepares spares; else whoever needs one makes it.
    pub fn is_ahead(&self) -> bool {
        self.ahead.load(Ordering::Relaxed)
    }

    /// True when appends that begin no segment must ask too.
    pub fn is_strained(&self) -> bool {
        self.strained.load(Ordering::Relaxed)
    }

    /// Promises `segments` spares to records that end at `place`.
    ///
    /// While no more spares can be made, ordinary records get none of the reserve. While one is being made, which is when nobody knows yet
    /// whether there is room, they may count on half of it: if there turns out to be none, the other half is still there.
    pub fn promise(&self, segments: usize, place: &Place, priority: Priority) -> Result<(), Short> {
        let mut state = self.state.lock();
        let given = match state.free().checked_sub(segments) {
            None => false,
            Some(left) if left >= RESERVE => true,
            Some(_) if priority == Priority::Essential => true,
            Some(_) => self.is_ahead() && state.short.is_none() && place.at <= self.segment_bytes / 2,
        };
        if given {
            state.promised += segments;
            self.note(&mut state);
            if segments > 0 {
                state.demand = 0;
                self.changed.notify_all();
            }
            return Ok(());
        }
        if let Some(refused) = state.refused.get_mut(priority as usize) {
            *refused = true;
        }
        state.demand = state.demand.max(segments);
        if let Some(short) = &state.short {
            return Err(Short::NoSpace(short.why.clone()));
        }
        if let Some(why) = state.failed.take() {
            return Err(Short::Failed(why));
        }
        self.changed.notify_all();
        Err(Short::Preparing(state.version))
    }

    /// A spare that was promised.
    pub fn take(&self, disk: &dyn Disk) -> io::Result<PathBuf> {
        let ready = {
            let mut state = self.state.lock();
            state.promised = state.promised.saturating_sub(1);
            let ready = state.ready.pop();
            self.note(&mut state);
            self.changed.notify_all();
            ready
        };
        ready.map_or_else(|| self.make(disk), Ok)
    }

    /// Makes a trimmed segment a spare, or removes it when there are enough. Not durable until the folder is synced.
    pub fn recycle(&self, disk: &dyn Disk, path: &Path, len: u64) -> io::Result<()> {
        let room = self.state.lock().free() < SPARES_MAX;
        if !room || len != self.segment_bytes {
            return disk.remove(path);
        }
        let spare = self.name("spare");
        disk.rename(path, &spare)?;
        self.add(spare);
        Ok(())
    }

    /// Takes a prepared file in.
    pub fn add(&self, spare: PathBuf) {
        let mut state = self.state.lock();
        state.ready.push(spare);
        state.failed = None;
        self.note(&mut state);
        self.moved(&mut state);
    }

    /// Keeps `strained` true to the state.
    fn note(&self, state: &mut State) {
        self.strained.store(state.free() < RESERVE, Ordering::Relaxed);
    }

    fn moved(&self, state: &mut State) {
        state.version += 1;
        state.refused = [false; 2];
        self.changed.notify_all();
    }

    /// Remembers that there is no room for a spare, or (`None`) that there is again. True when that is news.
    pub fn set_short(&self, short: Option<Shortage>) -> bool {
        let mut state = self.state.lock();
        let news = state.short.is_some() != short.is_some();
        let since = state.short.as_ref().map(|before| before.since);
        state.short = short.map(|now| Shortage { since: since.unwrap_or(now.since), ..now });
        if news {
            self.moved(&mut state);
            // Those who wait for a spare that is being prepared are told, those who know already go on waiting.
        }
        news
    }

    /// Remembers why making a spare failed, for those who need one.
    pub fn set_failed(&self, why: Arc<str>) {
        let mut state = self.state.lock();
        state.failed = Some(why);
        self.moved(&mut state);
    }

    /// Why no spare can be made, if so.
    pub fn short(&self) -> Option<Arc<str>> {
        self.state.lock().short.as_ref().map(|short| short.why.clone())
    }

    /// As [`short`](Self::short), with what there is no more of.
    pub fn shortage(&self) -> Option<Shortage> {
        self.state.lock().short.clone()
    }

    /// True when more than the reserve is there.
    pub fn has_ordinary(&self) -> bool {
        self.state.lock().free() > RESERVE
    }

    /// True when the reserve is there.
    pub fn has_reserve(&self) -> bool {
        self.state.lock().free() >= RESERVE
    }

    /// Bytes of the spare files.
    pub fn bytes(&self) -> u64 {
        self.state.lock().ready.len() as u64 * self.segment_bytes
    }

    /// True when an append of this priority was refused and nothing has changed since.
    pub fn refused(&self, priority: Priority) -> bool {
        self.state.lock().refused.get(priority as usize).copied().unwrap_or(false)
    }

    /// Blocks until something has changed since `version`, or the log stops.
    pub fn wait_change(&self, version: u64) {
        let mut state = self.state.lock();
        while state.version == version && !state.stop {
            self.changed.wait(&mut state);
        }
    }

    /// Blocks until a spare is needed; while none can be made at most for `backoff`, unless kicked. False when the log stops.
    pub fn wait_need(&self, backoff: Duration) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return false;
            }
            // The state ends with a spare that could be made, also when enough of them came back by trimming.
            let needed = state.free() < state.target() || state.short.is_some();
            let in_trouble = state.short.is_some() || state.failed.is_some();
            if needed && (!in_trouble || state.kicked) {
                state.kicked = false;
                return true;
            }
            if needed {
                if self.changed.wait_for(&mut state, backoff).timed_out() {
                    return !state.stop;
                }
            } else {
                self.changed.wait(&mut state);
            }
        }
    }

    /// Lets the next attempt begin at once.
    pub fn kick(&self) {
        self.state.lock().kicked = true;
        self.changed.notify_all();
    }

    /// Waits a moment; false when the log stops.
    pub fn hold(&self) -> bool {
        let mut state = self.state.lock();
        if !state.stop {
            self.changed.wait_for(&mut state, HOLD);
        }
        !state.stop
    }

    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// True when a spare is needed.
    pub fn wants(&self) -> bool {
        let state = self.state.lock();
        !state.stop && (state.free() < state.target() || state.short.is_some())
    }

    fn name(&self, extension: &str) -> PathBuf {
        let mut state = self.state.lock();
        state.made += 1;
        self.dir.join(format!("{:06}.{extension}", state.made))
    }

    /// Makes a spare file; it is the caller's.
    pub fn make(&self, disk: &dyn Disk) -> io::Result<PathBuf> {
        let making = self.name("making");
        let file = disk.open(&making, OpenHow::Create)?;
        let written = fill(&*file, 0, self.segment_bytes).and_then(|()| file.sync_data());
        if let Err(e) = written {
            drop(file);
            // Give the room back: on a full disk it is what the log itself may need.
            let _ = disk.remove(&making);
            return Err(e);
        }
        let spare = making.with_extension("spare");
        disk.rename(&making, &spare)?;
        Ok(spare)
    }
}

/// Writes zeros from `from` to `to`.
pub(crate) fn fill(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS.min(to.saturating_sub(from) as usize)];
    let mut at = from;
    while at < to {
        let n = zeros.len().min((to - at) as usize);
        file.write_all_at(zeros.get(..n).unwrap_or_default(), at)?;
        at += n as u64;
    }
    Ok(())
}

/// Makes a spare file the segment of `header`: header, sync, name, folder sync, in this order, so that a segment's name always stands
/// for a readable header. Whether the file had a former life is seen from its first bytes; that and its length are noted in the header.
pub(crate) fn install(
    disk: &dyn Disk,
    dir: &Path,
    spare: &Path,
    mut header: Header,
) -> io::Result<(Segment, Arc<dyn DiskFile>)> {
    let file = disk.open(spare, OpenHow::Write)?;
    let mut former = [0; SEGMENT_HEADER];
    file.read_at(&mut former, 0)?;
    header.reused = former != [0; SEGMENT_HEADER];
    header.bytes = file.len()?;
    file.write_all_at(&header.encode(), 0)?;
    file.sync_data()?;
    drop(file);
    let path = dir.join(file_name(header.first));
    disk.rename(spare, &path)?;
    disk.sync_dir(dir)?;
    let file: Arc<dyn DiskFile> = Arc::from(disk.open(&path, OpenHow::Write)?);
    let segment = Segment::new(path, header, file.len()?, SEGMENT_HEADER as u64, header.first);
    segment.set_index_complete();
    segment.keep_open(file.clone());
    Ok((segment, file))
}
