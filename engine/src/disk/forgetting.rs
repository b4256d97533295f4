//! A disk in memory that forgets what was not synced.
//!
//! Every file and every folder entry exists twice: as programs see it (*live*) and as it would be after the power fails (*durable*).
//! `sync_data` and `sync_dir` carry the changes from one to the other. [`ForgettingDisk::crash`] keeps the durable image plus
//! any subset, chosen by a seed, of the changes that were not synced: folder changes one by one, writes torn at sectors of 512 bytes.
//!
//! Failures can be injected ([`ForgettingDisk::inject`]). A sync that fails does what Linux does: the pages stay readable, count as
//! clean, and are gone after the next crash even when a later sync succeeds. The same calls with the same seeds give the same result.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile, FolderLock, OpenHow};

const SECTOR: usize = 512;

/// What a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `write_all_at`.
    Write,
    /// `sync_data`.
    Sync,
    /// `sync_dir`.
    SyncDir,
    /// `read_at`.
    Read,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An input/output error. A sync that fails so forgets the pages at the next crash.
    Io,
    /// No space left. Nothing is written.
    NoSpace,
    /// Half of the bytes are written, then no space is left.
    Short,
}

/// A failure to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What it strikes.
    pub operation: Operation,
    /// Which one from now on; 1 is the next.
    pub nth: u64,
    /// What happens.
    pub kind: FaultKind,
}

/// A disk in memory that loses at a crash what was not synced. Cheap to clone; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct ForgettingDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Handles of an older generation are dead: their program was killed.
    generation: u64,
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    live: BTreeMap<PathBuf, u64>,
    durable: BTreeMap<PathBuf, u64>,
    names: Vec<NameChange>,
    /// Folders, and whether their own name is durable.
    folders: BTreeMap<PathBuf, bool>,
    locked: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    changes_left: Option<u64>,
    /// A change was refused for want of power.
    off: bool,
    /// The write that was under way when the power failed.
    cut_short: Option<(u64, Change)>,
    changes: u64,
    /// Bytes that all files together may have.
    capacity: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Link { path: PathBuf, node: u64 },
    Rename { from: PathBuf, to: PathBuf, node: u64 },
    Unlink { path: PathBuf },
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        let (NameChange::Link { path, .. } | NameChange::Rename { to: path, .. } | NameChange::Unlink { path }) = self;
        path.parent() == Some(dir)
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Link { path, node } => {
                names.insert(path.clone(), *node);
            }
            NameChange::Rename { from, to, node } => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
            NameChange::Unlink { path } => {
                names.remove(path);
            }
        }
    }
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes } => put(image, *at, bytes),
            Change::SetLen(len) => image.resize(*len, 0),
        }
    }

    /// Keeps each sector or not, as the dice fall.
    fn apply_torn(&self, image: &mut Vec<u8>, dice: &mut Dice) {
        match self {
            Change::SetLen(len) => {
                if dice.coin() {
                    image.resize(*len, 0);
                }
            }
            Change::Write { at, bytes } => {
                // Sometimes all or nothing, else sector by sector: whole writes are the common case on real disks.
                let mode = dice.below(3);
                let mut done = 0;
                while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
                    let to_boundary = SECTOR - (at + done) % SECTOR;
                    let piece = rest.get(..to_boundary).unwrap_or(rest);
                    let keep = match mode {
                        0 => false,
                        1 => true,
                        _ => dice.coin(),
                    };
                    if keep {
                        put(image, at + done, piece);
                    }
                    done += piece.len();
                }
            }
        }
    }
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    if let Some(place) = image.get_mut(at..end) {
        place.copy_from_slice(bytes);
    }
}

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

impl ForgettingDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> ForgettingDisk {
        ForgettingDisk::default()
    }

    /// Kills the programs: open files answer with errors from now on, locks are free, no byte is lost.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.locked.clear();
        state.faults.clear();
        state.changes_left = None;
        state.off = false;
        state.cut_short = None;
    }

    /// Pulls the plug: what was synced stays, of the rest any part chosen by `seed`. Open files are dead, locks are free.
    pub fn crash(&self, seed: u64) {
        let cut_short = self.state.lock().cut_short.take();
        self.kill();
        let mut dice = Dice(seed);
        let mut state = self.state.lock();
        if let Some((number, change)) = cut_short
            && let Some(node) = state.nodes.get_mut(&number)
        {
            node.pending.push(change);
        }
        for change in std::mem::take(&mut state.names) {
            if dice.coin() {
                change.apply(&mut state.durable);
            }
        }
        state.lose_folders(&mut dice);
        state.live = state.durable.clone();
        let kept: BTreeSet<u64> = state.live.values().copied().collect();
        state.nodes.retain(|number, _| kept.contains(number));
        for node in state.nodes.values_mut() {
            for change in std::mem::take(&mut node.pending) {
                change.apply_torn(&mut node.durable, &mut dice);
            }
            node.live = node.durable.clone();
        }
    }

    /// Lets an operation fail.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Lets `n` more changes (writes, syncs, renames, removals, creations) through; everything after them fails, as if the power
    /// had gone. Follow it with [`crash`](ForgettingDisk::crash).
    pub fn power_off_after(&self, n: u64) {
        self.state.lock().changes_left = Some(n);
    }

    /// Limits the bytes of all files together; `None` lifts the limit. What would make a file grow beyond it fails for want of
    /// space, and so does a new name when no byte is free. Bytes of a file may be written again at any time.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used()
    }

    /// True once a change was refused because of [`power_off_after`](ForgettingDisk::power_off_after).
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state.lock().off
    }

    /// Another disk with the same files, live and durable, and no open ones.
    #[must_use]
    pub fn copy(&self) -> ForgettingDisk {
        let state = self.state.lock();
        let copy = State {
            nodes: state.nodes.clone(),
            next_node: state.next_node,
            live: state.live.clone(),
            durable: state.durable.clone(),
            names: state.names.clone(),
            folders: state.folders.clone(),
            capacity: state.capacity,
            ..State::default()
        };
        ForgettingDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// Changes made so far (writes, syncs, renames, removals, creations).
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    /// The live bytes of a file, for tests that look at or damage them.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let node = state.live.get(path)?;
        state.nodes.get(node).map(|node| node.live.clone())
    }

    /// Replaces the bytes of a file, live and durable, as damage or an operator would.
    pub fn overwrite(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state.lock();
        let number = match state.live.get(path) {
            Some(number) => *number,
            None => state.new_node(),
        };
        state.live.insert(path.to_owned(), number);
        state.durable.insert(path.to_owned(), number);
        state.nodes.insert(number, Node { live: bytes.to_vec(), durable: bytes.to_vec(), pending: Vec::new() });
    }
}

impl State {
    fn new_node(&mut self) -> u64 {
        self.next_node += 1;
        self.next_node
    }

    fn change(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.changes_left {
            if *left == 0 {
                self.off = true;
                return Err(io::Error::other("the power is off"));
            }
            *left -= 1;
        }
        self.changes += 1;
        Ok(())
    }

    fn used(&self) -> u64 {
        self.live.values().filter_map(|node| self.nodes.get(node)).map(|node| node.live.len() as u64).sum()
    }

    fn free(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used()))
    }

    /// How many of `bytes` to be written at `at` there is room for.
    fn fitting(&self, number: u64, at: u64, bytes: usize) -> usize {
        let Some(free) = self.free() else { return bytes };
        let len = self.nodes.get(&number).map_or(0, |node| node.live.len() as u64);
        (len.max(at) + free).saturating_sub(at).min(bytes as u64) as usize
    }

    /// A folder whose name was not synced may be lost with everything in it.
    fn lose_folders(&mut self, dice: &mut Dice) {
        let lost: Vec<PathBuf> =
            self.folders.iter().filter(|(_, durable)| !**durable && dice.coin()).map(|(dir, _)| dir.clone()).collect();
        self.folders.retain(|dir, durable| {
            *durable = true;
            !lost.iter().any(|gone| dir.starts_with(gone))
        });
        self.durable.retain(|file, _| !lost.iter().any(|gone| file.starts_with(gone)));
    }

    fn strike(&mut self, operation: Operation) -> Option<FaultKind> {
        let mut struck = None;
        self.faults.retain_mut(|fault| {
            if fault.operation != operation {
                return true;
            }
            fault.nth = fault.nth.saturating_sub(1);
            if fault.nth == 0 {
                struck = Some(fault.kind);
            }
            fault.nth > 0
        });
        struck
    }
}

fn error_of(kind: FaultKind) -> io::Error {
    match kind {
        FaultKind::Io => io::Error::other("input/output error (injected)"),
        FaultKind::NoSpace | FaultKind::Short => io::ErrorKind::StorageFull.into(),
    }
}

impl Disk for ForgettingDisk {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        let node = match (state.live.get(path).copied(), how) {
            (Some(node), OpenHow::Read | OpenHow::Write) => node,
            (None, OpenHow::Read | OpenHow::Write) => return Err(io::ErrorKind::NotFound.into()),
            (Some(node), OpenHow::Create) => {
                state.change()?;
                if let Some(node) = state.nodes.get_mut(&node) {
                    node.live.clear();
                    node.pending.push(Change::SetLen(0));
                }
                node
            }
            (None, OpenHow::Create) if state.free() == Some(0) => return Err(io::ErrorKind::StorageFull.into()),
            (None, OpenHow::Create) => {
                state.change()?;
                let node = state.new_node();
                state.nodes.insert(node, Node::default());
                state.live.insert(path.to_owned(), node);
                state.names.push(NameChange::Link { path: path.to_owned(), node });
                node
            }
        };
        let generation = state.generation;
        Ok(Box::new(ForgettingFile { state: self.state.clone(), node, generation }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let node = state.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.live.insert(to.to_owned(), node);
        state.names.push(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), node });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.live.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.names.push(NameChange::Unlink { path: path.to_owned() });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state.lock();
        Ok(state.live.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let above = dir.ancestors().filter(|dir| dir.parent().is_some_and(|parent| parent != Path::new("")));
        let missing: Vec<PathBuf> =
            above.filter(|dir| !state.folders.contains_key(*dir)).map(Path::to_path_buf).collect();
        if !missing.is_empty() {
            state.change()?;
        }
        state.folders.extend(missing.into_iter().map(|dir| (dir, false)));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        if let Some(kind) = state.strike(Operation::SyncDir) {
            return Err(error_of(kind));
        }
        let (synced, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.names).into_iter().partition(|change| change.is_in(dir));
        state.names = rest;
        for change in synced {
            change.apply(&mut state.durable);
        }
        for (folder, durable) in &mut state.folders {
            *durable |= folder.parent() == Some(dir);
        }
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<Option<u64>> {
        Ok(self.state.lock().free())
    }

    fn lock(&self, path: &Path) -> io::Result<FolderLock> {
        let mut state = self.state.lock();
        if !state.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let generation = state.generation;
        Ok(FolderLock::new(Held { state: self.state.clone(), path: path.to_owned(), generation }))
    }
}

struct Held {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    generation: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.generation == self.generation {
            state.locked.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct ForgettingFile {
    state: Arc<Mutex<State>>,
    node: u64,
    generation: u64,
}

impl ForgettingFile {
    fn with<T>(&self, work: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the program that opened this file was killed"));
        }
        work(&mut state, self.node)
    }
}

fn node_of(state: &mut State, number: u64) -> io::Result<&mut Node> {
    state.nodes.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl DiskFile for ForgettingFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|state, number| Ok(node_of(state, number)?.live.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state, number| {
            state.change()?;
            let node = node_of(state, number)?;
            node.live.resize(len as usize, 0);
            node.pending.push(Change::SetLen(len as usize));
            Ok(())
        })
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.with(|state, number| {
            if let Some(kind) = state.strike(Operation::Read) {
                return Err(error_of(kind));
            }
            let node = node_of(state, number)?;
            let Some(rest) = node.live.get(at as usize..) else { return Ok(0) };
            let n = rest.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
                to.copy_from_slice(from);
            }
            Ok(n)
        })
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.with(|state, number| {
            let was_off = state.off;
            if let Err(error) = state.change() {
                if !was_off {
                    // The power fails while these bytes are on their way: any of them may arrive.
                    let change = Change::Write { at: at as usize, bytes: buf.to_vec() };
                    state.cut_short = Some((number, change));
                }
                return Err(error);
            }
            let fitting = state.fitting(number, at, buf.len());
            let fault = state.strike(Operation::Write).or((fitting < buf.len()).then_some(FaultKind::NoSpace));
            let kept = match fault {
                None => buf,
                _ if fitting < buf.len() => buf.get(..fitting).unwrap_or_default(),
                Some(FaultKind::Short) => buf.get(..buf.len() / 2).unwrap_or_default(),
                Some(_) => &[],
            };
            let node = node_of(state, number)?;
            let change = Change::Write { at: at as usize, bytes: kept.to_vec() };
            change.apply(&mut node.live);
            node.pending.push(change);
            fault.map_or(Ok(()), |kind| Err(error_of(kind)))
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, number| {
            state.change()?;
            let fault = state.strike(Operation::Sync);
            let node = node_of(state, number)?;
            let pending = std::mem::take(&mut node.pending);
            if let Some(kind) = fault {
                // The pages count as clean now: live, but not on their way to the disk any more.
                return Err(error_of(kind));
            }
            for change in pending {
                change.apply(&mut node.durable);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(path: &Path) -> (ForgettingDisk, Box<dyn DiskFile>) {
        let disk = ForgettingDisk::new();
        let file = disk.open(path, OpenHow::Create).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        (disk, file)
    }

    #[test]
    fn synced_bytes_survive_every_crash_and_others_may_not() {
        let path = Path::new("/d/f");
        let mut lost = false;
        let mut kept = false;
        for seed in 0..50 {
            let (disk, file) = disk_with(path);
            file.write_all_at(&[1; 2048], 0).unwrap();
            file.sync_data().unwrap();
            file.write_all_at(&[2; 2048], 2048).unwrap();
            disk.crash(seed);
            assert!(file.len().is_err(), "a handle outlived the crash");
            let bytes = disk.bytes(path).unwrap();
            assert_eq!(bytes[..2048], [1; 2048]);
            lost |= bytes.len() < 4096 || bytes[2048..] != [2; 2048];
            kept |= bytes.len() == 4096 && bytes[2048..] == [2; 2048];
        }
        assert!(lost && kept);
    }

    #[test]
    fn a_name_that_was_not_synced_may_be_gone() {
        let gone = (0..50).filter(|seed| {
            let disk = ForgettingDisk::new();
            disk.open(Path::new("/d/f"), OpenHow::Create).unwrap().sync_data().unwrap();
            disk.crash(*seed);
            disk.bytes(Path::new("/d/f")).is_none()
        });
        assert!((1..50).contains(&gone.count()));
    }

    #[test]
    fn pages_of_a_failed_sync_read_back_but_are_gone_after_a_crash_even_when_a_later_sync_succeeds() {
        let path = Path::new("/d/f");
        let (disk, file) = disk_with(path);
        file.write_all_at(&[7; 100], 0).unwrap();
        disk.inject(Fault { operation: Operation::Sync, nth: 1, kind: FaultKind::Io });
        assert!(file.sync_data().is_err());
        assert!(file.sync_data().is_ok());
        assert_eq!(disk.bytes(path).unwrap(), vec![7; 100]);
        disk.crash(1);
        assert_eq!(disk.bytes(path).unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn a_full_disk_takes_what_fits_no_new_name_and_bytes_over_old_ones() {
        let path = Path::new("/d/f");
        let (disk, file) = disk_with(path);
        disk.set_capacity(Some(1000));
        file.write_all_at(&[1; 600], 0).unwrap();
        assert_eq!(disk.free_bytes(path).unwrap(), Some(400));
        assert!(super::super::is_no_space(&file.write_all_at(&[2; 600], 600).unwrap_err()));
        assert_eq!((file.len().unwrap(), disk.used_bytes()), (1000, 1000), "as much as fits was written");
        file.write_all_at(&[3; 1000], 0).unwrap();
        assert!(disk.open(Path::new("/d/g"), OpenHow::Create).is_err());
        disk.rename(path, Path::new("/d/h")).unwrap();
        disk.set_capacity(None);
        file.write_all_at(&[4; 600], 1000).unwrap();
    }

    #[test]
    fn a_folder_whose_name_was_not_synced_may_be_gone_with_its_files() {
        let (dir, file) = (Path::new("/d/e"), Path::new("/d/e/f"));
        for synced in [false, true] {
            let left = (0..50).filter(|seed| {
                let disk = ForgettingDisk::new();
                disk.create_dir(dir).unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
                if synced {
                    disk.sync_dir(Path::new("/d")).unwrap();
                }
                disk.open(file, OpenHow::Create).unwrap().sync_data().unwrap();
                disk.sync_dir(dir).unwrap();
                disk.crash(*seed);
                disk.bytes(file).is_some()
            });
            assert!(if synced { left.count() == 50 } else { (1..50).contains(&left.count()) });
        }
    }

    #[test]
    fn bytes_on_their_way_when_the_power_fails_may_arrive() {
        let arrived = (0..50).filter(|seed| {
            let (disk, file) = disk_with(Path::new("/d/f"));
            disk.power_off_after(0);
            assert!(file.write_all_at(&[1; 100], 0).is_err() && disk.is_off());
            disk.crash(*seed);
            !disk.bytes(Path::new("/d/f")).unwrap().is_empty()
        });
        assert!((1..50).contains(&arrived.count()));
    }

    #[test]
    fn the_same_seed_gives_the_same_disk() {
        let image = |seed| {
            let (disk, file) = disk_with(Path::new("/d/f"));
            for n in 0..20 {
                file.write_all_at(&[n as u8; 700], n * 600).unwrap();
            }
            disk.crash(seed);
            disk.bytes(Path::new("/d/f"))
        };
        assert_eq!(image(9), image(9));
        assert_ne!(image(9), image(10));
    }
}
