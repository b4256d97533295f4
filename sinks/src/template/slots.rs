//! The times of points in the database's unit.
//!
//! A point is told from others by its series and its time alone. Records have times that never repeat, in microseconds; where the
//! database's unit is coarser, two messages of one series may fall into one unit, and the second would replace the first. It is
//! moved to the next free unit, or refused.
//!
//! That depends on the records before it. It is the same again after a restart, because the sink is shown
//! [`Slots::LOOK_BACK`] records before the first that it stores.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{TemplateError, Unit};

/// What becomes of a message whose series has a point in its unit of time already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameTime {
    /// It is moved to the next free unit.
    #[default]
    Bump,
    /// It goes to the dead letters.
    DeadLetter,
}

/// Gives points their times.
#[derive(Debug)]
pub struct Slots {
    unit: Unit,
    policy: SameTime,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// By series.
    last: HashMap<u64, Slot>,
    /// Size at which what is past is forgotten.
    prune_at: usize,
}

/// The units that the newest record of a series has.
#[derive(Clone, Copy, Debug)]
struct Slot {
    lsn: u64,
    first: u64,
    last: u64,
}

/// A time in the database's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Units since 1970.
    pub time: u64,
    /// It is not the record's own.
    pub moved: bool,
}

/// Units that a point may be moved by.
const MOVE_MAX: u64 = 1_000;

/// Series that are remembered before the past is looked through.
const PRUNE_AT: usize = 4_096;

impl Slots {
    /// Records that are to be shown again before a sink goes on.
    pub const LOOK_BACK: u64 = 10_000;

    /// Times in this unit.
    #[must_use]
    pub fn new(unit: Unit, policy: SameTime) -> Slots {
        Slots { unit, policy, taken: Mutex::default() }
    }

    /// The unit.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// True where the time of a point depends on the records before it.
    #[must_use]
    pub fn depends_on_the_past(&self) -> bool {
        self.unit != Unit::Ns
    }

    /// Forgets all: the log is read from another place.
    pub fn forget(&self) {
        *self.taken.lock() = Taken::default();
    }

    /// The time of the point number `k` (from 0) of its series within the record `lsn` of the time `time_us`.
    ///
    /// # Errors
    /// Where it can't have one of its own.
    pub fn place(&self, series: u64, lsn: u64, time_us: u64, k: u64) -> Result<Placed, TemplateError> {
        let own = self.unit.of_us(time_us);
        if self.unit == Unit::Ns {
            // A record has a microsecond of its own, and so 1,000 times.
            return match k {
                0..1_000 => Ok(Placed { time: own + k, moved: false }),
                _ => Err(same(format!("more than 1000 points of one series in one message: {HELP}"))),
            };
        }
        let mut taken = self.taken.lock();
        let before = taken.last.get(&series).copied();
        let first = match before {
            Some(slot) if slot.lsn == lsn => slot.first,
            // A dead letter that is replayed: what was beside it is not known any more.
            Some(slot) if slot.lsn > lsn => return Ok(Placed { time: own + k, moved: false }),
            Some(slot) if slot.last >= own => slot.last + 1,
            _ => own,
        };
        let time = first + k;
        let moved = time != own;
        if moved && self.policy == SameTime::DeadLetter {
            return Err(same(format!(
                "another point of this series has the same time in {}, and it would be replaced: {HELP}",
                self.unit.name()
            )));
        }
        if time - own > MOVE_MAX {
            return Err(same(format!(
                "there are so many points of this series that this one would be {} {} late: {HELP}",
                time - own,
                self.unit.name()
            )));
        }
        let last = before.filter(|slot| slot.lsn == lsn).map_or(time, |slot| slot.last.max(time));
        taken.last.insert(series, Slot { lsn, first, last });
        if taken.last.len() > taken.prune_at.max(PRUNE_AT) {
            taken.last.retain(|_, slot| slot.last >= own);
            taken.prune_at = taken.last.len() * 2;
        }
        Ok(Placed { time, moved })
    }
}

const HELP: &str = "tell them apart by a tag, or take a finer unit of time where the database has one";

fn same(reason: String) -> TemplateError {
    TemplateError::SameTime(reason)
}
