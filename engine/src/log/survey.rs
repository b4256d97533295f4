//! Looking at a log's folder: every segment's header and seal, and the facts that the table in [`mod@super::plan`] decides by. Changes nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::OpenError;
use super::options::OnDamage;
use super::plan::{Decision, Facts, Head, Joint, Place, Reason, Tail, plan};
use super::scan::Scan;
use super::segment::{FORMAT, Header, HeaderFault, SEGMENT_HEADER, Seal, hex, parse_name};
use super::trim::{Floor, read_floor};
use super::window::Window;
use crate::disk::{Disk, DiskFile, OpenHow};
use crate::ids::Lsn;

/// One segment's file, as seen from outside its frames.
#[derive(Debug)]
pub(crate) struct Sighting {
    pub path: PathBuf,
    /// The number in its name.
    pub name: Lsn,
    pub head: Head,
    /// Its header, where the checksum is right.
    pub header: Option<Header>,
    /// Format version, where a newer one is claimed.
    pub version: u32,
    pub len: u64,
    pub seal: Option<Seal>,
    pub joint: Joint,
    /// The number that should be its first, where the joint is not as it should be.
    pub expected: Lsn,
    /// Why it can't be read.
    pub error: Option<io::Error>,
}

/// A folder.
#[derive(Debug)]
pub(crate) struct Survey {
    /// The identity that most segments have.
    pub log_id: Option<[u8; 16]>,
    pub floor: Floor,
    /// The log is said to begin with this number, and no segment begins there or behind it: the note is of another log, or segments are missing.
    pub floor_beyond: Option<Lsn>,
    /// In the order of their names; those below the floor are left out.
    pub segments: Vec<Sighting>,
    /// What a trim that was interrupted had on its list.
    pub trimmed: Vec<PathBuf>,
    /// Segments that an interrupted repair was moving to their right names.
    pub unfinished: Vec<PathBuf>,
}

/// The extension of a segment that a repair is moving; its stem is the name it is to have.
pub(crate) const MOVING: &str = "repair";

/// Looks at the segments of a folder.
///
/// # Errors
/// Where the folder can't be listed. What is wrong with one file is in its sighting.
pub(crate) fn survey(disk: &dyn Disk, dir: &Path) -> io::Result<Survey> {
    let mut floor = read_floor(disk, dir)?;
    let mut names: Vec<PathBuf> = disk.list(dir)?;
    let unfinished = names.iter().filter(|path| path.extension().is_some_and(|e| e == MOVING)).cloned().collect();
    names.retain(|path| parse_name(path).is_some());
    names.sort();
    // A trim never takes the segment that is written to.
    let last = names.last().and_then(|path| parse_name(path)).unwrap_or(Lsn::FIRST);
    let mut floor_beyond = None;
    if let Floor::At(at) = floor
        && at > last
    {
        floor_beyond = Some(at);
        floor = Floor::Unreadable;
    }
    let (trimmed, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|path| floor.is_above(parse_name(path)));
    let mut segments: Vec<Sighting> = names.into_iter().map(|path| sight(disk, path)).collect();
    let log_id = most_common_id(&segments);
    for segment in &mut segments {
        identify(segment, log_id);
    }
    join(&mut segments, floor);
    Ok(Survey { log_id, floor, floor_beyond, segments, trimmed, unfinished })
}

/// A segment that an interrupted repair was moving; `None` for its mark.
pub(crate) fn moving(disk: &dyn Disk, path: PathBuf, log_id: Option<[u8; 16]>) -> Option<Sighting> {
    let name = parse_name(&path.with_extension("seg"))?;
    let mut seen = Sighting { name, ..sight(disk, path) };
    identify(&mut seen, log_id);
    Some(seen)
}

fn sight(disk: &dyn Disk, path: PathBuf) -> Sighting {
    let mut seen = Sighting {
        name: parse_name(&path).unwrap_or_default(),
        path,
        head: Head::Unreadable,
        header: None,
        version: FORMAT,
        len: 0,
        seal: None,
        joint: Joint::Unknown,
        expected: Lsn::NONE,
        error: None,
    };
    if let Err(error) = look(disk, &mut seen) {
        seen.head = Head::Unreadable;
        seen.error = Some(error);
    }
    seen
}

fn look(disk: &dyn Disk, seen: &mut Sighting) -> io::Result<()> {
    let file = disk.open(&seen.path, OpenHow::Read)?;
    let mut window = Window::new(&*file)?;
    seen.len = window.len();
    let mut bytes = [0; SEGMENT_HEADER];
    let n = file.read_at(&mut bytes, 0)?;
    match Header::decode(bytes.get(..n).unwrap_or_default()) {
        Ok(header) => {
            seen.head = Head::Sound;
            seen.header = Some(header);
            seen.seal = Seal::find(&mut window, &header)?;
        }
        Err(HeaderFault::Newer(version)) => {
            seen.head = Head::Newer;
            seen.version = version;
        }
        Err(HeaderFault::Damaged(head)) => seen.head = head,
    }
    Ok(())
}

/// Of several with as many segments, the one that comes first in the log.
fn most_common_id(segments: &[Sighting]) -> Option<[u8; 16]> {
    let mut votes: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    for header in segments.iter().filter_map(|segment| segment.header) {
        *votes.entry(header.log_id).or_default() += 1;
    }
    let most = votes.values().copied().max()?;
    let ids = segments.iter().filter_map(|segment| segment.header).map(|header| header.log_id);
    ids.into_iter().find(|id| votes.get(id) == Some(&most))
}

fn identify(segment: &mut Sighting, log_id: Option<[u8; 16]>) {
    let Some(header) = segment.header else { return };
    if log_id != Some(header.log_id) {
        segment.head = Head::Foreign;
    } else if header.first != segment.name {
        segment.head = Head::Misnamed;
    }
}

fn join(segments: &mut [Sighting], floor: Floor) {
    let mut expected = match floor {
        Floor::At(floor) => Some(floor),
        Floor::None | Floor::Unreadable => None,
    };
    for segment in segments {
        segment.joint = match expected {
            None => Joint::Unknown,
            Some(expected) if segment.name > expected => Joint::Hole,
            Some(expected) if segment.name < expected => Joint::Overlap,
            Some(_) => Joint::Fits,
        };
        segment.expected = expected.unwrap_or(segment.name);
        expected = segment.seal.filter(|_| segment.head == Head::Sound).map(|seal| seal.next);
    }
}

impl Sighting {
    /// The facts for the table. `scan` is the look at the last segment's frames.
    pub fn facts(&self, place: Place, policy: OnDamage, scan: Option<&Scan>) -> Facts {
        Facts {
            held: false,
            below_floor: false,
            place,
            head: self.head,
            joint: self.joint,
            sealed: self.seal.is_some(),
            short: self.is_short(),
            tail: scan.map_or(Tail::End, |scan| scan.tail),
            policy,
        }
    }

    /// The file is shorter than it was made. One that a seal ends is as long as it should be.
    pub fn is_short(&self) -> bool {
        self.seal.is_none() && self.header.is_some_and(|header| self.len < header.bytes)
    }

    /// What the table says before the frames were looked at: reasons to refuse that the header and its place give.
    pub fn refused(&self, place: Place) -> Option<Reason> {
        let facts = Facts { short: false, ..self.facts(place, OnDamage::Refuse, None) };
        match plan(&facts) {
            (Decision::Refuse, reason) => Some(reason),
            _ => None,
        }
    }

    /// Opens the file.
    pub fn open(&self, disk: &dyn Disk, how: OpenHow) -> Result<Arc<dyn DiskFile>, OpenError> {
        disk.open(&self.path, how).map(Arc::from).map_err(OpenError::io("opening", &self.path))
    }

    /// Why the log does not open.
    pub fn error(&mut self, reason: Reason, before: Option<&Path>, log_id: Option<[u8; 16]>) -> OpenError {
        let file = self.path.clone();
        match reason {
            Reason::Header(Head::Newer) => OpenError::NewerFormat { file, version: self.version, known: FORMAT },
            Reason::Header(Head::Foreign) => {
                let name = |id: Option<[u8; 16]>| id.map(|id| hex(&id)).unwrap_or_default();
                let found = name(self.header.map(|header| header.log_id));
                OpenError::ForeignSegment { file, found, expected: name(log_id) }
            }
            Reason::Header(Head::Unreadable) => {
                let source = self.error.take().unwrap_or_else(|| io::ErrorKind::Other.into());
                OpenError::Io { what: "reading", file, source }
            }
            Reason::MissingBefore => match before {
                Some(before) => OpenError::MissingSegment { after: before.to_owned(), expected: self.expected },
                None => OpenError::MissingFirst { file, expected: self.expected, found: self.name },
            },
            reason => {
                let (at, lsn) = match reason {
                    Reason::NoSeal => (self.len, self.name),
                    Reason::Overlapping => (0, self.expected),
                    _ => (0, self.name),
                };
                let mut what = reason.what().to_owned();
                if let (Reason::Header(Head::Misnamed), Some(header)) = (reason, self.header) {
                    what = format!("{what}: it begins with record {}", header.first);
                }
                OpenError::Damaged { file, at, lsn, what }
            }
        }
    }
}
