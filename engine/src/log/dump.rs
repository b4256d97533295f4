//! Showing a log that is not open, record by record or byte by byte. Nothing here writes.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;

use super::Record;
use super::anatomy::{Anatomy, dissect};
use super::error::ReadError;
use super::frame::{self, GAP_BEYOND, GAP_DAMAGE, HEADER, KIND_GAP, KIND_SEAL, checksum, u32_at, u64_at};
use super::plan::Place;
use super::scan::Run;
use super::segment::SEGMENT_HEADER;
use super::survey::{Sighting, survey};
use super::window::Window;
use crate::disk::{Disk, OpenHow};
use crate::event::Event;
use crate::ids::Lsn;
use crate::json::Object;

/// A segment's header, byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderItem {
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Format version.
    pub version: u32,
    /// Flags: bit 0 written in a weaker durability level, bit 1 the file had a former life.
    pub flags: u32,
    /// Identity of the log.
    pub log_id: [u8; 16],
    /// First record.
    pub first: Lsn,
    /// Time of creation, us since 1970.
    pub created_us: u64,
    /// Length of the file when it became a segment, in bytes.
    pub length: u64,
    /// Checksum as it stands in the header.
    pub crc: u32,
    /// Checksum of the header's bytes.
    pub crc_computed: u32,
    /// Where the checksums of the frames start from.
    pub seed: u32,
    /// The header does not read: identity and first record follow from the other segments and the file's name.
    pub assumed: bool,
}

/// A frame, byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameItem {
    /// Offset in the file.
    pub at: u64,
    /// Checksum as it stands in the frame.
    pub crc: u32,
    /// Checksum of the frame's bytes, started from the segment's seed.
    pub crc_computed: u32,
    /// Number of the record; of a seal, the number that comes next.
    pub lsn: Lsn,
    /// Its time, us since 1970.
    pub time_us: u64,
    /// How many numbers before this one its group begins.
    pub behind: u32,
    /// Kind: 1..=127 the embedder's, 128 a gap, 129 a seal.
    pub kind: u8,
    /// Flags: bit 0 written in a weaker durability level.
    pub flags: u8,
    /// The body.
    pub body: Bytes,
    /// The number of the next record.
    pub next: Lsn,
}

/// What a dump comes to, in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The beginning of a segment.
    Segment(HeaderItem),
    /// A frame: a record, a gap or a seal.
    Frame(FrameItem),
    /// Bytes that do not read, or a whole segment.
    Damage {
        /// First byte, and the byte behind the last one.
        at: u64,
        /// See `at`.
        end: u64,
        /// First record that is lost, and the number behind the last one; the same number where none is.
        first: Lsn,
        /// See `first`.
        next: Lsn,
        /// What is wrong, in words.
        what: String,
    },
    /// The end of a segment's frames; behind it there are bytes that mean nothing, or a torn group that opening cuts off.
    End {
        /// Offset.
        at: u64,
        /// The number of the next record.
        next: Lsn,
        /// Bytes of a torn group behind it.
        torn: u64,
    },
}

/// Shows every readable record from `from` on, with its file and offset, until `visit` breaks off.
///
/// # Errors
/// `Corrupt` at the first place that does not read and is not the end of the log; `Io`.
pub fn dump(
    disk: &dyn Disk,
    dir: &Path,
    from: Lsn,
    visit: &mut dyn FnMut(&Path, u64, Record) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let mut damaged = None;
    dump_items(disk, dir, from, &mut |file, item| match item {
        Item::Frame(frame) if frame.kind < KIND_GAP && frame.lsn >= from => {
            let FrameItem { at, lsn, time_us, kind, body, .. } = frame;
            visit(file, at, Record { lsn, time_us, kind, body })
        }
        Item::Damage { at, first, what, .. } => {
            damaged = Some(ReadError::Corrupt { file: file.to_owned(), at, lsn: first, what });
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    })?;
    damaged.map_or(Ok(()), Err)
}

/// Shows everything in the segments that hold records from `from` on, until `visit` breaks off. Damage is an item, and the dump goes on behind it.
///
/// # Errors
/// `Io` where the folder or a file can't be read.
pub fn dump_items(
    disk: &dyn Disk,
    dir: &Path,
    from: Lsn,
    visit: &mut dyn FnMut(&Path, Item) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let seen = survey(disk, dir).map_err(|source| ReadError::Io { file: dir.to_owned(), source })?;
    for (n, segment) in seen.segments.iter().enumerate() {
        let after = seen.segments.get(n + 1).map(|after| after.name);
        if after.is_some_and(|after| after <= from) {
            continue;
        }
        let place = if after.is_some() { Place::Older } else { Place::Last };
        let shown = dissect(disk, segment, seen.log_id, place, after)
            .and_then(|anatomy| show(disk, segment, anatomy, after, &mut |item| visit(&segment.path, item)));
        match shown {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            Err(source) => return Err(ReadError::Io { file: segment.path.clone(), source }),
        }
    }
    Ok(())
}

type Visit<'a> = &'a mut dyn FnMut(Item) -> ControlFlow<()>;

/// `?` for what may break off.
macro_rules! go_on {
    ($flow:expr) => {
        if $flow.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    };
}

fn show(
    disk: &dyn Disk,
    seen: &Sighting,
    anatomy: Option<Anatomy>,
    after: Option<Lsn>,
    visit: Visit<'_>,
) -> io::Result<ControlFlow<()>> {
    let (mut problem, reason) = (None, seen.refused(if after.is_some() { Place::Older } else { Place::Last }));
    if let Some(reason) = reason {
        problem = Some((seen.expected.min(seen.name), seen.name, reason.what().to_owned()));
    }
    let Some(anatomy) = anatomy else {
        let (first, next) = (seen.name, after.unwrap_or(seen.name));
        let what = problem.map(|(_, _, what)| what).unwrap_or_default();
        return Ok(visit(Item::Damage { at: 0, end: seen.len, first, next, what }));
    };
    if let Some((first, next, what)) = problem.filter(|_| anatomy.holes.is_empty()) {
        go_on!(visit(Item::Damage { at: 0, end: SEGMENT_HEADER as u64, first, next, what }));
    }
    let file = disk.open(&seen.path, OpenHow::Read)?;
    let mut window = Window::new(&*file)?;
    go_on!(visit(Item::Segment(header_item(&mut window, &anatomy)?)));
    let mut holes = anatomy.holes.iter().peekable();
    for run in &anatomy.scan.runs {
        if anatomy.torn.is_some_and(|(from, _)| run.at >= from && run.count > 0 && run.at > SEGMENT_HEADER as u64) {
            break;
        }
        while let Some(hole) = holes.next_if(|hole| hole.end <= run.at) {
            let what = hole.what.to_owned();
            go_on!(visit(Item::Damage { at: hole.at, end: hole.end, first: hole.first, next: hole.next, what }));
        }
        go_on!(show_run(&mut window, &anatomy, run, visit)?);
    }
    for hole in holes {
        let what = hole.what.to_owned();
        go_on!(visit(Item::Damage { at: hole.at, end: hole.end, first: hole.first, next: hole.next, what }));
    }
    let torn = anatomy.torn.map_or(0, |(from, to)| to.saturating_sub(from));
    let last = if torn > 0 { anatomy.scan.runs.first() } else { anatomy.scan.runs.last() };
    let (at, next) = last.map_or((0, Lsn::NONE), |run| (run.end + run.seal.unwrap_or(0), run.next));
    Ok(visit(Item::End { at, next, torn }))
}

fn header_item(window: &mut Window<'_>, anatomy: &Anatomy) -> io::Result<HeaderItem> {
    let (file_bytes, header) = (window.len(), &anatomy.header);
    let bytes = window.bytes(0, SEGMENT_HEADER)?;
    let covered = bytes.get(..SEGMENT_HEADER - 4).unwrap_or_default();
    Ok(HeaderItem {
        file_bytes,
        version: u32_at(bytes, 8).unwrap_or(0),
        flags: u32_at(bytes, 12).unwrap_or(0),
        log_id: header.log_id,
        first: header.first,
        created_us: header.created_us,
        length: header.bytes,
        crc: u32_at(bytes, SEGMENT_HEADER - 4).unwrap_or(0),
        crc_computed: crc32fast::hash(covered),
        seed: header.seed(),
        assumed: anatomy.assumed,
    })
}

fn show_run(window: &mut Window<'_>, anatomy: &Anatomy, run: &Run, visit: Visit<'_>) -> io::Result<ControlFlow<()>> {
    let (mut at, end) = (run.at, run.end + run.seal.unwrap_or(0));
    while at < end {
        let Some(found) = frame::peek(window.bytes(at, HEADER)?) else { break };
        let bytes = window.bytes(at, found.size())?;
        let bytes = bytes.get(..found.size()).unwrap_or_default();
        let item = FrameItem {
            at,
            crc: u32_at(bytes, 0).unwrap_or(0),
            crc_computed: checksum(anatomy.header.seed(), bytes.get(4..).unwrap_or_default()),
            lsn: found.lsn,
            time_us: found.time_us,
            behind: u32_at(bytes, 24).unwrap_or(0),
            kind: found.kind,
            flags: bytes.get(29).copied().unwrap_or(0),
            body: Bytes::copy_from_slice(frame::body_of(bytes, &found)),
            next: frame::next_after(&found, bytes),
        };
        at += found.size() as u64;
        go_on!(visit(Item::Frame(item)));
    }
    Ok(ControlFlow::Continue(()))
}

impl Item {
    /// The item as one JSON object on one line. `file` is the segment's name. `docs/FORMAT.md` has the members.
    #[must_use]
    pub fn to_json(&self, file: &str) -> String {
        let object = |item: &str| Object::new().text("item", item).text("file", file);
        match self {
            Item::Segment(header) => object("segment")
                .number("file_bytes", header.file_bytes)
                .number("version", header.version)
                .number("flags", header.flags)
                .hex("log_id", &header.log_id)
                .number("first", header.first.0)
                .number("created_us", header.created_us)
                .number("length", header.length)
                .crc("crc", header.crc)
                .crc("crc_computed", header.crc_computed)
                .crc("seed", header.seed)
                .maybe(header.assumed.then_some(true), |o, yes| o.flag("assumed", yes))
                .end(),
            Item::Frame(frame) => frame.to_json(file),
            Item::Damage { at, end, first, next, what } => object("damage")
                .number("at", *at)
                .number("end", *end)
                .number("first", first.0)
                .number("next", next.0)
                .text("what", what)
                .end(),
            Item::End { at, next, torn } => {
                object("end").number("at", *at).number("next", next.0).number("torn", *torn).end()
            }
        }
    }
}

impl FrameItem {
    fn to_json(&self, file: &str) -> String {
        let item = match self.kind {
            KIND_GAP => "gap",
            KIND_SEAL => "seal",
            _ => "record",
        };
        let object = Object::new()
            .text("item", item)
            .text("file", file)
            .number("at", self.at)
            .crc("crc", self.crc)
            .crc("crc_computed", self.crc_computed)
            .number("length", self.body.len() as u64)
            .number("lsn", self.lsn.0)
            .number("time_us", self.time_us)
            .number("behind", self.behind)
            .number("kind", self.kind)
            .number("flags", self.flags)
            .number("next", self.next.0);
        let object = match self.kind {
            KIND_GAP if self.body.get(8) == Some(&GAP_BEYOND) => object.flag("damage", false).flag("beyond", true),
            KIND_GAP => object.flag("damage", self.body.get(8) == Some(&GAP_DAMAGE)),
            KIND_SEAL => {
                let number = |at| u64_at(&self.body, at).unwrap_or(0);
                object.number("count", number(0)).number("first", number(8)).number("last", number(16))
            }
            kind => match Event::decode(kind, self.body.clone()) {
                Ok(event) => object.text("event_kind", event.kind_name()).json("event", &event.to_json()),
                Err(error) => object.text("event_error", &error.to_string()),
            },
        };
        // Of a seal's body the rest is zeros, as many as fill the file, and the trailer, which repeats `at`.
        if self.kind == KIND_SEAL { object.end() } else { object.hex("body", &self.body).end() }
    }
}
