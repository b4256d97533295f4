//! How many operations a batch has: as many as the database stores within the target latency, and no fewer where fewer take as long.

use std::time::Duration;

/// Smallest batch that adaption goes down to.
const LIMIT_MIN: usize = 16;

/// Slow batches before a halving that was undone is tried again.
const PATIENCE: u32 = 64;

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
    /// Seconds an operation took before the last halving, until it has been judged.
    before: Option<f64>,
    patience: u32,
}

impl Pace {
    /// `most`: what a sink takes at once; `target`: what a batch should not exceed.
    pub(crate) fn new(most: usize, target: Duration) -> Self {
        Pace { limit: (most / 4).max(LIMIT_MIN), most: most.max(1), target, before: None, patience: 0 }
    }

    /// Operations that the next batch may have. A record's operations stay together, so that a batch can exceed it.
    pub(crate) fn limit(&self) -> usize {
        self.limit.min(self.most)
    }

    /// A batch of so many operations was stored.
    pub(crate) fn stored(&mut self, operations: usize, took: Duration) {
        let full = operations >= self.limit();
        if took <= self.target {
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

    /// Runs full batches on a database where a batch takes `fixed` and each operation `each` microseconds.
    fn after(pace: &mut Pace, batches: usize, fixed: u64, each: u64) -> usize {
        for _ in 0..batches {
            let operations = pace.limit();
            pace.stored(operations, Duration::from_micros(fixed + each * operations as u64));
        }
        pace.limit()
    }

    #[test]
    fn grows_while_full_and_fast() {
        let mut pace = Pace::new(1_000, TARGET);
        assert_eq!(pace.limit(), 250);
        assert_eq!(after(&mut pace, 1, 1_000, 10), 500);
        assert_eq!(after(&mut pace, 5, 1_000, 10), 1_000);
    }

    #[test]
    fn shrinks_to_what_fits_where_operations_are_slow() {
        let mut pace = Pace::new(1_000, TARGET);
        let limit = after(&mut pace, 50, 1_000, 10_000);
        assert!((16..=32).contains(&limit), "{limit}");
    }

    #[test]
    fn stays_where_a_smaller_batch_takes_as_long() {
        let mut pace = Pace::new(1_024, TARGET);
        let mut least = usize::MAX;
        for _ in 0..300 {
            least = least.min(after(&mut pace, 1, 400_000, 10));
        }
        assert_eq!(least, 128, "one halving at a time, taken back");
        assert_eq!(pace.limit(), 256);
    }

    #[test]
    fn what_is_slow_but_not_full_changes_nothing() {
        let mut pace = Pace::new(1_000, TARGET);
        pace.stored(3, Duration::from_secs(2));
        assert_eq!(pace.limit(), 250);
    }

    #[test]
    fn what_is_not_answered_is_halved_whatever_it_costs() {
        let mut pace = Pace::new(1_000, TARGET);
        for expected in [125, 62, 31, 16, 16] {
            pace.late();
            assert_eq!(pace.limit(), expected);
        }
        let mut small = Pace::new(5, TARGET);
        small.late();
        assert_eq!(small.limit(), 5);
    }
}
