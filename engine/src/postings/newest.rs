//! Where the newest so many messages of a filter begin: counted backwards, a stretch at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use bytestring::ByteString;

use super::catalog::{Cover, Postings};
use super::{IndexFault, Search, SegmentIndex};
use crate::event::codec::{KIND_PUBLISHED, published_topic};
use crate::ids::Lsn;
use crate::log::{Log, ReadError, Reader};
use crate::topic;

/// What is looked at in one turn: records of a scan, steps through a dictionary (about 64 KiB each).
const TURN_RECORDS: usize = 2048;
const TURN_BYTES: usize = 2 << 20;
const TURN_STEPS: usize = 16;

/// A count under way.
#[derive(Debug)]
pub(crate) struct Newest {
    filter: ByteString,
    /// Nothing below is looked at.
    from: Lsn,
    /// So many are wanted.
    want: u64,
    /// Everything from here on was looked at.
    below: Lsn,
    found: u64,
    /// Where they begin, once they are all found; what is older is only counted.
    begin: Option<Lsn>,
    skipped: u64,
    stretch: Option<Stretch>,
}

/// The stretch `first..below` that is being looked at.
#[derive(Debug)]
enum Stretch {
    Index {
        index: Arc<SegmentIndex>,
        search: Search,
        lsns: Vec<Lsn>,
    },
    /// The newest that match, and how many do.
    Scan {
        first: Lsn,
        reader: Box<Reader>,
        last: VecDeque<Lsn>,
        count: u64,
    },
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// The first of the newest messages, or where the search began when there are fewer.
    pub begin: Lsn,
    /// Matching messages before it, as far as indexes tell.
    pub skipped: u64,
}

impl Newest {
    /// The newest `want` messages of a filter in `from..to`.
    pub(crate) fn new(filter: ByteString, from: Lsn, to: Lsn, want: u64) -> Newest {
        let begin = (want == 0).then_some(to);
        Newest { filter, from, want, below: to, found: 0, begin, skipped: 0, stretch: None }
    }

    pub(crate) fn filter(&self) -> &ByteString {
        &self.filter
    }

    /// Does a turn's work. The answer when there is nothing left to look at.
    ///
    /// # Errors
    /// The log can't be read.
    pub(crate) fn turn(&mut self, postings: &Postings, log: &Log) -> Result<Option<Counted>, ReadError> {
        let from = self.from.max(log.first());
        match self.stretch.take() {
            Some(Stretch::Index { index, search, lsns }) => self.look_up(postings, from, index, search, lsns),
            Some(Stretch::Scan { first, reader, last, count }) => self.scan(first, reader, last, count)?,
            None if self.below <= from => {
                return Ok(Some(Counted { begin: self.begin.unwrap_or(from), skipped: self.skipped }));
            }
            None => self.enter(postings, log, from)?,
        }
        Ok(None)
    }

    /// Goes into the stretch that ends at `below`.
    fn enter(&mut self, postings: &Postings, log: &Log, from: Lsn) -> Result<(), ReadError> {
        let last = Lsn(self.below.0.saturating_sub(1));
        match postings.cover(last) {
            Cover::Index(index) => {
                let search = index.search(&self.filter);
                self.look_up(postings, from, index, search, Vec::new());
            }
            Cover::Part(part) => {
                let mut lsns = Vec::new();
                let (first, below) = (part.first.max(from), self.below);
                part.each(&self.filter, |p| {
                    lsns.extend(p.iter().map(|p| p.lsn).filter(|l| (first..below).contains(l)))
                });
                self.count(first, lsns);
            }
            Cover::Open => {
                let (below, mut lsns) = (self.below, Vec::new());
                let first = postings.with_open(|part| {
                    let part = part.filter(|part| part.covers(last))?;
                    let first = part.first.max(from);
                    part.each(&self.filter, |p| {
                        lsns.extend(p.iter().map(|p| p.lsn).filter(|l| (first..below).contains(l)))
                    });
                    Some(first)
                });
                if let Some(first) = first {
                    self.count(first, lsns);
                }
            }
            Cover::Nothing(_) => {
                // Nothing is known up to there from where the cover before it ends.
                let first = postings.uncovered_from(last).max(from);
                if self.begin.is_some() {
                    // All are found; the log is not read for a mere count.
                    self.below = first;
                } else {
                    let reader = Box::new(log.reader(first)?);
                    self.stretch = Some(Stretch::Scan { first, reader, last: VecDeque::new(), count: 0 });
                }
            }
        }
        Ok(())
    }

    fn look_up(
        &mut self,
        postings: &Postings,
        from: Lsn,
        index: Arc<SegmentIndex>,
        mut search: Search,
        mut lsns: Vec<Lsn>,
    ) {
        let first = index.of().first.max(from);
        let range = first..self.below;
        for _ in 0..TURN_STEPS {
            let stepped = index.step(&mut search, &self.filter, |entry| {
                entry.positions(&range, |p| {
                    lsns.push(p.lsn);
                    true
                })
            });
            match stepped {
                Ok(true) => {}
                Ok(false) => return self.count(first, lsns),
                // The next turn finds the segment without an index.
                Err(fault) => return self.distrust(postings, &index, &fault),
            }
        }
        self.stretch = Some(Stretch::Index { index, search, lsns });
    }

    fn distrust(&self, postings: &Postings, index: &SegmentIndex, fault: &IndexFault) {
        postings.distrust(index.of().first, fault);
    }

    fn scan(
        &mut self,
        first: Lsn,
        mut reader: Box<Reader>,
        mut last: VecDeque<Lsn>,
        mut count: u64,
    ) -> Result<(), ReadError> {
        let mut records = Vec::new();
        reader.read_batch(TURN_RECORDS, TURN_BYTES, &mut records)?;
        metrics::counter!(crate::metrics::CATCH_UP_RECORDS).increment(records.len() as u64);
        let done = records.is_empty() || reader.position() >= self.below;
        let matches = |topic: Option<&str>| topic.is_some_and(|topic| topic::matches(&self.filter, topic));
        for record in records.iter().filter(|r| r.lsn < self.below && r.kind == KIND_PUBLISHED) {
            if matches(published_topic(&record.body)) {
                count += 1;
                last.push_back(record.lsn);
                if last.len() as u64 > self.want - self.found {
                    last.pop_front();
                }
            }
        }
        if !done {
            self.stretch = Some(Stretch::Scan { first, reader, last, count });
            return Ok(());
        }
        if self.found + last.len() as u64 >= self.want {
            self.begin = last.front().copied();
            self.skipped += count - last.len() as u64;
        }
        self.found += last.len() as u64;
        self.below = first;
        Ok(())
    }

    /// Takes in the records that match in the stretch from `first` on.
    fn count(&mut self, first: Lsn, mut lsns: Vec<Lsn>) {
        self.below = first;
        let missing = self.want - self.found;
        let here = lsns.len() as u64;
        if self.begin.is_some() {
            self.skipped += here;
        } else if here < missing {
            self.found += here;
        } else {
            let at = (here - missing) as usize;
            let (_, begin, _) = lsns.select_nth_unstable(at);
            self.begin = Some(*begin);
            self.found = self.want;
            self.skipped += at as u64;
        }
    }
}
