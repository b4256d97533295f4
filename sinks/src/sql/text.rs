//! Text of statements and of times.

/// `YYYY-MM-DD HH:MM:SS`, UTC.
pub(crate) fn datetime(us: u64) -> String {
    let seconds = us / 1_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01 in cycles of 400 years: leap days then come last in their year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// `YYYY-MM-DD HH:MM:SS.ffffff+00` of us since 1970. PostgreSQL has no year 0, and refuses what is before year 1.
#[cfg_attr(not(feature = "pgsql"), allow(dead_code, reason = "PostgreSQL's times"))]
pub(crate) fn timestamp(us: i64) -> String {
    // The calendar repeats itself every 400 years, so a time before 1970 is one after it, in another year.
    const CYCLE: i64 = 146_097 * 86_400;
    let (seconds, micros) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000));
    let (cycles, within) = (seconds.div_euclid(CYCLE), seconds.rem_euclid(CYCLE));
    let written = datetime(within.unsigned_abs().saturating_mul(1_000_000));
    let (year, rest) = written.split_once('-').unwrap_or((&written, ""));
    let year = year.parse::<i64>().unwrap_or(0) + cycles * 400;
    format!("{year:04}-{rest}.{micros:06}+00")
}

/// [`datetime`] of many rows: those of one second are written once.
#[derive(Debug, Default)]
pub(crate) struct Datetimes {
    second: Option<u64>,
    text: String,
}

impl Datetimes {
    /// The time, us since 1970.
    pub(crate) fn text(&mut self, us: u64) -> &str {
        if self.second != Some(us / 1_000_000) {
            (self.second, self.text) = (Some(us / 1_000_000), datetime(us));
        }
        &self.text
    }
}

/// Slices of at most `most` items whose lengths are powers of two, so that few prepared statements serve all lengths. `most` is a
/// power of two itself.
pub(crate) fn powers<T>(items: &[T], most: usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let size = if rest.len() >= most { most } else { 1 << rest.len().checked_ilog2()? };
        let (chunk, left) = rest.split_at_checked(size)?;
        rest = left;
        Some(chunk)
    })
}

/// `row,row,…`
#[cfg_attr(
    not(any(feature = "sqlite", feature = "mysql")),
    allow(dead_code, reason = "PostgreSQL takes rows as arrays")
)]
pub(crate) fn places(rows: usize, row: &str) -> String {
    let mut text = String::with_capacity(rows * (row.len() + 1));
    for n in 0..rows {
        if n > 0 {
            text.push(',');
        }
        text.push_str(row);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_479_202_840, "2016-11-15 09:40:40"),
            (4_102_444_799, "2099-12-31 23:59:59"),
        ] {
            assert_eq!(datetime(seconds * 1_000_000), text);
        }
        for (us, text) in [
            (1_560_745_505_429_670, "2019-06-17 04:25:05.429670+00"),
            (-1, "1969-12-31 23:59:59.999999+00"),
            (-62_135_596_800_000_000, "0001-01-01 00:00:00.000000+00"),
            (4_102_444_800_000_000, "2100-01-01 00:00:00.000000+00"),
            (253_402_300_800_000_000, "10000-01-01 00:00:00.000000+00"),
        ] {
            assert_eq!(timestamp(us), text);
        }
        let mut times = Datetimes::default();
        for us in [0, 999_999, 1_000_000, 5] {
            assert_eq!(times.text(us), datetime(us));
        }
    }

    #[test]
    fn slices_are_powers_of_two_and_lose_nothing() {
        let items: Vec<usize> = (0..300).collect();
        let slices: Vec<&[usize]> = powers(&items, 128).collect();
        assert_eq!(slices.iter().map(|s| s.len()).collect::<Vec<_>>(), [128, 128, 32, 8, 4]);
        assert_eq!(slices.concat(), items);
        assert_eq!(powers(&items[..0], 128).count(), 0);
        assert_eq!(places(3, "(?)"), "(?),(?),(?)");
    }
}
