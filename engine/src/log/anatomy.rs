//! A segment taken apart: what of it reads, what does not, and which records that costs. For `verify`, `dump` and `repair`.

use std::io;

use super::frame::HEADER;
use super::plan::{Head, Place, Reason, Tail};
use super::scan::{Scan, scan};
use super::segment::{Header, Seal};
use super::survey::Sighting;
use super::window::Window;
use crate::disk::{Disk, OpenHow};
use crate::ids::Lsn;

/// Bytes that do not read, and the records that were in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// First and last byte; the second is not in it.
    pub at: u64,
    pub end: u64,
    /// First record that is lost, and the number after the last one. The same number twice where none is.
    pub first: Lsn,
    pub next: Lsn,
    pub what: &'static str,
    /// `next` is the highest it can have been.
    pub at_most: bool,
}

/// A segment taken apart.
#[derive(Debug)]
pub(crate) struct Anatomy {
    pub header: Header,
    /// The header is not the file's own, which does not read: it follows from the file's name and the other segments.
    pub assumed: bool,
    pub seal: Option<Seal>,
    pub scan: Scan,
    pub holes: Vec<Hole>,
    /// Bytes of the last group that opening cuts off: from, to.
    pub torn: Option<(u64, u64)>,
}

impl Anatomy {
    /// The number after the last record that the segment has or had, as far as that can be told.
    pub fn next(&self) -> Lsn {
        let known = self.seal.map_or(Lsn::NONE, |seal| seal.next);
        let holes = self.holes.iter().map(|hole| hole.next).max().unwrap_or(Lsn::NONE);
        known.max(holes).max(self.scan.runs.last().map_or(self.scan.next, |run| run.next))
    }

    /// Records that read.
    pub fn readable(&self) -> u64 {
        self.scan.runs.iter().map(|run| run.count).sum()
    }
}

/// Takes a segment apart. `until` is where the next one begins. `None` when the file tells nothing: newer, foreign, or without any
/// identity to read it by.
///
/// # Errors
/// The file can't be read.
pub(crate) fn dissect(
    disk: &dyn Disk,
    seen: &Sighting,
    log_id: Option<[u8; 16]>,
    place: Place,
    until: Option<Lsn>,
) -> io::Result<Option<Anatomy>> {
    let assumed = match seen.head {
        Head::Sound | Head::Misnamed => false,
        Head::Newer | Head::Foreign | Head::Unreadable => return Ok(None),
        Head::Empty | Head::Short | Head::NotASegment | Head::Checksum | Head::Impossible => true,
    };
    let presumed =
        log_id.map(|log_id| Header { log_id, first: seen.name, created_us: 0, weak: false, reused: true, bytes: 0 });
    let Some(mut header) = seen.header.or(presumed) else { return Ok(None) };
    let file = disk.open(&seen.path, OpenHow::Read)?;
    let mut window = Window::new(&*file)?;
    let seal = if assumed { Seal::find(&mut window, &header)? } else { seen.seal };
    let look = scan(&mut window, &header, seal)?;
    if assumed {
        header.weak = look.weak;
        header.created_us = look.runs.iter().find(|run| run.count > 0).map_or(0, |run| run.first_time_us);
    }
    let is_last = place == Place::Last;
    let short = is_last && seen.is_short();
    let torn = is_last && seal.is_none() && look.tail == Tail::Torn && !short;
    let torn = torn.then_some((look.end, look.own_end));
    let mut holes =
        if torn.is_some() { Vec::new() } else { holes(&look, seal, until.filter(|_| !is_last), window.len()) };
    if short {
        holes.push(cut_off(&mut window, &look, &header)?);
    }
    Ok(Some(Anatomy { header, assumed, seal, scan: look, holes, torn }))
}

/// What is missing at the end of a file that is shorter than it was made. Nothing is where the records end before it does.
fn cut_off(window: &mut Window<'_>, look: &Scan, header: &Header) -> io::Result<Hole> {
    let (at, next) = look.runs.last().map_or((look.end, look.next), |run| (run.end, run.next));
    let ended = window.bytes(at, HEADER)?.first_chunk::<HEADER>() == Some(&[0; HEADER]);
    let lost = if ended { 0 } else { header.bytes.saturating_sub(at) / HEADER as u64 + 1 };
    let what = Reason::CutShort.what();
    Ok(Hole { at, end: header.bytes, first: next, next: next.plus(lost), what, at_most: lost > 0 })
}

fn holes(look: &Scan, seal: Option<Seal>, until: Option<Lsn>, len: u64) -> Vec<Hole> {
    let mut holes = Vec::new();
    let what = |n: usize| if n == 0 { look.what } else { "unreadable bytes" };
    for (n, pair) in look.runs.windows(2).enumerate() {
        let [one, other] = pair else { continue };
        holes.push(Hole {
            at: one.end,
            end: other.at,
            first: one.next,
            next: other.first,
            what: what(n),
            at_most: false,
        });
    }
    let Some(last) = look.runs.last() else { return holes };
    let n = look.runs.len() - 1;
    let end = last.end + last.seal.unwrap_or(0);
    match (last.seal, seal) {
        (Some(_), Some(_)) => {}
        (None, Some(seal)) => {
            holes.push(Hole {
                at: end,
                end: seal.at,
                first: last.next,
                next: seal.next.max(last.next),
                what: what(n),
                at_most: false,
            });
        }
        (_, None) => {
            if let Some(until) = until {
                let what = match (last.seal, until > last.next) {
                    (Some(_), _) => "there are bytes behind the seal",
                    (None, true) => what(n),
                    (None, false) => "the seal at its end does not read",
                };
                holes.push(Hole {
                    at: end,
                    end: len.max(end),
                    first: last.next,
                    next: until.max(last.next),
                    what,
                    at_most: false,
                });
            }
        }
    }
    holes
}
