//! Durations as rules have them: `2h`, `1d12h`, `90s`, `250ms`, or a bare number of seconds.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration: numbers with the units `d`, `h`, `m`, `s`, `ms`, added up; a number alone is seconds.
///
/// `None` where the text is none, or longer than 2^64 ms.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return text.starts_with(|c: char| c.is_ascii_digit()).then(|| Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, after) = tail.split_at_checked(unit_len)?;
        let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit.to_ascii_lowercase())?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        for (text, ms) in [
            ("2h", 7_200_000),
            ("1d12h", 129_600_000),
            ("90", 90_000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("0", 0),
            ("5S", 5_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        for text in ["", "h", "2", "2x", "-1", "+1", "1.5h", "2h ", "99999999999999999999d", "h2"] {
            assert_eq!(parse_duration(text).is_some(), text == "2", "{text}");
        }
    }
}
