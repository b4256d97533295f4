//! A disk in memory that forgets what was not synced.
//!
//! Every file and every folder entry exists twice: as programs see it (*live*) and as it would be after the power fails (*durable*).
//! `sync_data` and `sync_dir` carry the changes from one to the other. [`ForgettingDisk::crash`] keeps the durable image plus
//! any subset, chosen by a seed, of the changes that were not synced: folder changes one by one, writes torn at sectors of 512 bytes.
//!
//! Failures can be injected ([`ForgettingDisk::inject`]). A sync that fails does what Linux does: the pages stay readable, count as
//! clean, and are gone after the next crash even when a later sync succeeds. The same calls with the same seeds give the same result.

mod changes;
mod file;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::changes::{Change, Dice, NameChange};
use self::file::{ForgettingFile, Held};
use self::state::{Node, State, error_of};
use super::{Disk, DiskFile, FolderLock, OpenHow};

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
