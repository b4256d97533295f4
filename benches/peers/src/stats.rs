//! Percentiles of samples, medians and spreads of rounds.

use std::fmt;

use serde::Serialize;

/// The value at `q` (0.0..=1.0) of sorted samples; 0 where there are none.
#[must_use]
pub fn percentile(sorted: &[u32], q: f64) -> u32 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * q).round() as usize).copied().unwrap_or(0)
}

/// One figure over all rounds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    /// The middle value.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
}

impl Spread {
    /// Of these rounds.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first(), values.last()) else { return Spread::default() };
        let upper = values.get(values.len() / 2).copied().unwrap_or_default();
        let lower = values.get((values.len() - 1) / 2).copied().unwrap_or_default();
        Spread { median: f64::midpoint(lower, upper), min: *min, max: *max }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        write!(f, "{:.digits$} ({:.digits$}..{:.digits$})", self.median, self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_spreads_are_those_of_the_sorted_values() {
        let samples: Vec<u32> = (1..=101).collect();
        assert_eq!(percentile(&samples, 0.5), 51);
        assert_eq!(percentile(&samples, 0.99), 100);
        assert_eq!(percentile(&[], 0.5), 0);
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
    }
}
