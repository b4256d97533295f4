//! How many operations a batch has: as many as the database stores within the target latency, and no fewer where fewer take as long.
//!
//! The target is for records that are fresh. Of those that have waited for longer a batch may take a tenth of their age: nobody can tell
//! the difference, and what each batch costs (a flush, a position, an item that many operations change) is shared by more.

use std::time::Duration;

/// Smallest batch that adaption goes down to.
const LIMIT_MIN: usize = 16;

/// Slow batches before a halving that was undone is tried again.
const PATIENCE: u32 = 64;

/// What a batch may take of its oldest record's age, as a divisor.
const OF_AGE: u32 = 10;

/// What it may take of the time after which it would count as lost, however old its records are, as a divisor.
const OF_DEADLINE: u32 = 8;

/// The limit of one connection's batches, in operations.
///
/// Additive work wants small batches (a slow database stores half as much in half the time), a slow disk large ones: its flush takes as
/// long for ten operations as for a thousand, and halving again and again would only divide the rate. So a halving has to earn its
/// keep: where it makes an operation half as dear again, the limit goes back, and stays for [`PATIENCE`] slow batches.
#[derive(Debug)]
pub(crate) struct Pace {
    limit: usize,
    most: usize,
    target: Duration,
    /// What no age makes the target exceed.
    longest: Duration,
    /// Seconds an operation took before the last halving, until it has been judged.
    before: Option<f64>,
    patience: u32,
}

impl Pace {
    /// `most`: what a sink takes at once; `target`: what a batch of fresh records should not exceed; `deadline`: when it counts as lost.
    pub(crate) fn new(most: usize, target: Duration, deadline: Duration) -> Self {
        let (limit, longest) = ((most / 4).max(LIMIT_MIN), (deadline / OF_DEADLINE).max(target));
        Pace { limit, most: most.max(1), target, longest, before: None, patience: 0 }
    }

    /// Operations that the next batch may have. A record's operations stay together, so that a batch can exceed it.
    pub(crate) fn limit(&self) -> usize {
        self.limit.min(self.most)
    }

    /// A batch of so many operations was stored, the oldest of which had waited so long by then.
    pub(crate) fn stored(&mut self, operations: usize, took: Duration, age: Duration) {
        let full = operations >= self.limit();
        if took <= (age / OF_AGE).clamp(self.target, self.longest) {
            if full {
                self.limit = (self.limit * 2).min(self.most);
                self.before = None;
            }
            return;
        }
        // Of a slow batch that was not full, a smaller limit is no remedy.
        if !full {
            return;
        }
        let each = took.as_secs_f64() / operations.max(1) as f64;
        match self.before.take() {
            Some(before) if each > before * 1.5 => {
                self.limit = (self.limit * 2).min(self.most);
                self.patience = PATIENCE;
            }
            _ if self.patience > 0 => self.patience -= 1,
            _ => {
                self.before = Some(each);
                self.halve();
            }
        }
    }

    /// A batch was not answered in time: half as much, whatever it costs.
    pub(crate) fn late(&mut self) {
        self.before = None;
        self.patience = 0;
        self.halve();
    }

    fn halve(&mut self) {
        self.limit = (self.limit / 2).max(LIMIT_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(250);
    const DEADLINE: Duration = Duration::from_secs(30);
    const FRESH: Duration = Duration::ZERO;

    /// Runs full batches on a database where a batch takes `fixed` and each operation `each` microseconds.
    fn after(pace: &mut Pace, batches: usize, fixed: u64, each: u64) -> usize {
        for _ in 0..batches {
            let operations = pace.limit();
            pace.stored(operations, Duration::from_micros(fixed + each * operations as u64), FRESH);
        }
        pace.limit()
    }

    #[test]
    fn grows_while_full_and_fast() {
        let mut pace = Pace::new(1_000, TARGET, DEADLINE);
        assert_eq!(pace.limit(), 250);
        assert_eq!(after(&mut pace, 1, 1_000, 10), 500);
        assert_eq!(after(&mut pace, 5, 1_000, 10), 1_000);
    }

    #[test]
    fn shrinks_to_what_fits_where_operations_are_slow() {
        let mut pace = Pace::new(1_000, TARGET, DEADLINE);
        let limit = after(&mut pace, 50, 1_000, 10_000);
        assert!((16..=32).contains(&limit), "{limit}");
    }

    #[test]
    fn stays_where_a_smaller_batch_takes_as_long() {
        let mut pace = Pace::new(1_024, TARGET, DEADLINE);
        let mut least = usize::MAX;
        for _ in 0..300 {
            least = least.min(after(&mut pace, 1, 400_000, 10));
        }
        assert_eq!(least, 128, "one halving at a time, taken back");
        assert_eq!(pace.limit(), 256);
    }

    #[test]
    fn takes_longer_for_what_has_waited_for_long() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(1_000, TARGET, DEADLINE);
        for (age, expected) in [(9, 125), (10, 250), (60, 500), (3_600, 1_000)] {
            pace.stored(pace.limit(), second, age * second);
            assert_eq!(pace.limit(), expected, "{age}");
        }
        // An eighth of the deadline at most.
        pace.stored(pace.limit(), 4 * second, 3_600 * second);
        assert_eq!(pace.limit(), 500);
        // A short deadline takes nothing of the target.
        let mut pace = Pace::new(1_000, TARGET, TARGET);
        pace.stored(250, TARGET, FRESH);
        assert_eq!(pace.limit(), 500);
    }

    #[test]
    fn what_is_slow_but_not_full_changes_nothing() {
        let mut pace = Pace::new(1_000, TARGET, DEADLINE);
        pace.stored(3, Duration::from_secs(2), FRESH);
        assert_eq!(pace.limit(), 250);
    }

    #[test]
    fn what_is_not_answered_is_halved_whatever_it_costs() {
        let mut pace = Pace::new(1_000, TARGET, DEADLINE);
        for expected in [125, 62, 31, 16, 16] {
            pace.late();
            assert_eq!(pace.limit(), expected);
        }
        let mut small = Pace::new(5, TARGET, DEADLINE);
        small.late();
        assert_eq!(small.limit(), 5);
    }
}
