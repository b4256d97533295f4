//! Numbers that were skipped: where, and why. A number is never given twice, so where more was known than the log holds, the log goes on
//! behind it, with a gap record.

use super::error::{AppendError, ReadError};
use super::frame::{self, GAP_BEYOND, GAP_DAMAGE, HEADER, KIND_GAP};
use super::{Appended, Log, Reader};
use crate::ids::Lsn;

/// Why numbers were skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// They may have been given out, and none was durable any more when the log was opened.
    Lost,
    /// Damage: a repair has put the gap in their place.
    Damage,
    /// A reader (a database) had stored them, and the log did not know them: [`Log::skip_past`].
    Beyond,
}

/// Skipped numbers, as their gap record has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The gap record's own number.
    pub from: Lsn,
    /// The next record.
    pub to: Lsn,
    /// Why.
    pub why: SkipReason,
}

impl Log {
    /// Makes the next number larger than `lsn`, up to which a reader has stored records of this log that the log does not have: for ever
    /// after, [`skip_at`](Log::skip_at) tells positions up to there from those that the log has given. `None` when the log is already there;
    /// else the gap record's own number, not durable yet.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn skip_past(&self, lsn: Lsn) -> Result<Option<Appended>, AppendError> {
        self.core().gap(lsn.next(), Some(GAP_BEYOND))
    }

    /// The gap that position `lsn` lies in: behind the gap's own number and before the record behind it. `None` for a position at which a
    /// record lies or will lie. Reads about one group of records.
    ///
    /// # Errors
    /// Where the place was trimmed or can't be read.
    pub fn skip_at(&self, lsn: Lsn) -> Result<Option<Skip>, ReadError> {
        self.reader(lsn)?.skip()
    }
}

impl Reader {
    fn skip(mut self) -> Result<Option<Skip>, ReadError> {
        let at = self.position();
        while self.position() == at && at < self.durable_end() {
            let Some((found, data)) = self.step()? else { continue };
            let why = match data.get(HEADER + 8) {
                Some(&GAP_DAMAGE) => SkipReason::Damage,
                Some(&GAP_BEYOND) => SkipReason::Beyond,
                _ => SkipReason::Lost,
            };
            let skip = Skip { from: found.lsn, to: frame::next_after(&found, &data), why };
            return Ok((found.kind == KIND_GAP && skip.from < at && at < skip.to).then_some(skip));
        }
        Ok(None)
    }
}
