//! What the disk holds, and which failures wait.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use super::changes::{Change, Dice, NameChange};
use super::{Fault, FaultKind, Operation};

#[derive(Debug, Default)]
pub(super) struct State {
    /// Handles of an older generation are dead: their program was killed.
    pub(super) generation: u64,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) next_node: u64,
    pub(super) live: BTreeMap<PathBuf, u64>,
    pub(super) durable: BTreeMap<PathBuf, u64>,
    pub(super) names: Vec<NameChange>,
    /// Folders, and whether their own name is durable.
    pub(super) folders: BTreeMap<PathBuf, bool>,
    pub(super) locked: BTreeSet<PathBuf>,
    pub(super) faults: Vec<Fault>,
    pub(super) changes_left: Option<u64>,
    /// A change was refused for want of power.
    pub(super) off: bool,
    /// The write that was under way when the power failed.
    pub(super) cut_short: Option<(u64, Change)>,
    pub(super) changes: u64,
    /// Bytes that all files together may have.
    pub(super) capacity: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<Change>,
}

impl State {
    pub(super) fn new_node(&mut self) -> u64 {
        self.next_node += 1;
        self.next_node
    }

    pub(super) fn change(&mut self) -> io::Result<()> {
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

    pub(super) fn used(&self) -> u64 {
        self.live.values().filter_map(|node| self.nodes.get(node)).map(|node| node.live.len() as u64).sum()
    }

    pub(super) fn free(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used()))
    }

    /// How many of `bytes` to be written at `at` there is room for.
    pub(super) fn fitting(&self, number: u64, at: u64, bytes: usize) -> usize {
        let Some(free) = self.free() else { return bytes };
        let len = self.nodes.get(&number).map_or(0, |node| node.live.len() as u64);
        (len.max(at) + free).saturating_sub(at).min(bytes as u64) as usize
    }

    /// A folder whose name was not synced may be lost with everything in it.
    pub(super) fn lose_folders(&mut self, dice: &mut Dice) {
        let lost: Vec<PathBuf> =
            self.folders.iter().filter(|(_, durable)| !**durable && dice.coin()).map(|(dir, _)| dir.clone()).collect();
        self.folders.retain(|dir, durable| {
            *durable = true;
            !lost.iter().any(|gone| dir.starts_with(gone))
        });
        self.durable.retain(|file, _| !lost.iter().any(|gone| file.starts_with(gone)));
    }

    pub(super) fn strike(&mut self, operation: Operation) -> Option<FaultKind> {
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

pub(super) fn error_of(kind: FaultKind) -> io::Error {
    match kind {
        FaultKind::Io => io::Error::other("input/output error (injected)"),
        FaultKind::NoSpace | FaultKind::Short => io::ErrorKind::StorageFull.into(),
    }
}
