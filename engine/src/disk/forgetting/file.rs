//! Handles: an open file, and a folder's lock.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::changes::Change;
use super::state::{Node, State, error_of};
use super::{FaultKind, Operation};
use crate::disk::DiskFile;

pub(super) struct Held {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) path: PathBuf,
    pub(super) generation: u64,
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
pub(super) struct ForgettingFile {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) node: u64,
    pub(super) generation: u64,
}

impl ForgettingFile {
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the program that opened this file was killed"));
        }
        work(&mut state, self.node)
    }
}

pub(super) fn node_of(state: &mut State, number: u64) -> io::Result<&mut Node> {
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
