//! Changes that are on their way from the live image to the durable one, and what a crash makes of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link { path: PathBuf, node: u64 },
    Rename { from: PathBuf, to: PathBuf, node: u64 },
    Unlink { path: PathBuf },
}

impl NameChange {
    pub(super) fn is_in(&self, dir: &Path) -> bool {
        let (NameChange::Link { path, .. } | NameChange::Rename { to: path, .. } | NameChange::Unlink { path }) = self;
        path.parent() == Some(dir)
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
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
    pub(super) fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes } => put(image, *at, bytes),
            Change::SetLen(len) => image.resize(*len, 0),
        }
    }

    /// Keeps each sector or not, as the dice fall.
    pub(super) fn apply_torn(&self, image: &mut Vec<u8>, dice: &mut Dice) {
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
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
