//! The numbers everything is compared by: [`Lsn`] and [`MsgId`].

use std::fmt;

/// Log sequence number: the dense 64-bit number of a record. The first record of a log is 1; 0 means "none".
///
/// Positions are given as *the next record to look at*: a position `p` covers every record with `lsn < p`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No record.
    pub const NONE: Lsn = Lsn(0);
    /// The number of the first record a log ever holds.
    pub const FIRST: Lsn = Lsn(1);

    /// The number after this one (saturating: 2^64 records are out of reach).
    #[must_use]
    pub const fn next(self) -> Lsn {
        Lsn(self.0.saturating_add(1))
    }

    /// This number plus `n` (saturating).
    #[must_use]
    pub const fn plus(self, n: u64) -> Lsn {
        Lsn(self.0.saturating_add(n))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A message's public name: 20 characters of base62 in ASCII order, so that byte order is publish order.
///
/// ```text
/// bits 117..64  record time in us since 1970 (54 bits)
/// bits  63..48  node number                  (16 bits)
/// bits  47..0   LSN                          (48 bits)
/// ```
///
/// It is a function of the record, so a replay gives the same name again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MsgId {
    /// Record time, microseconds since 1970-01-01T00:00:00Z (54 bits).
    pub time_us: u64,
    /// Number of the node that took the message in.
    pub node: u16,
    /// The message's record (48 bits).
    pub lsn: Lsn,
}

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const TIME_BITS: u32 = 54;
const LSN_BITS: u32 = 48;

impl MsgId {
    /// Length of the text form in bytes.
    pub const LEN: usize = 20;

    /// The name of the message in record `lsn`, taken in by `node` at `time_us`.
    #[must_use]
    pub fn new(time_us: u64, node: u16, lsn: Lsn) -> MsgId {
        MsgId { time_us: time_us & ((1 << TIME_BITS) - 1), node, lsn: Lsn(lsn.0 & ((1 << LSN_BITS) - 1)) }
    }

    /// Reads the text form; `None` where the text is not one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<MsgId> {
        if text.len() != Self::LEN {
            return None;
        }
        let mut n: u128 = 0;
        for b in text.bytes() {
            let digit = match b {
                b'0'..=b'9' => b - b'0',
                b'A'..=b'Z' => b - b'A' + 10,
                b'a'..=b'z' => b - b'a' + 36,
                _ => return None,
            };
            n = n.checked_mul(62)?.checked_add(u128::from(digit))?;
        }
        if n >> (TIME_BITS + 16 + LSN_BITS) != 0 {
            return None;
        }
        let lsn = Lsn((n & ((1 << LSN_BITS) - 1)) as u64);
        let node = ((n >> LSN_BITS) & 0xffff) as u16;
        Some(MsgId { time_us: (n >> (LSN_BITS + 16)) as u64, node, lsn })
    }
}

impl fmt::Display for MsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut n = (u128::from(self.time_us) << (LSN_BITS + 16))
            | (u128::from(self.node) << LSN_BITS)
            | u128::from(self.lsn.0);
        let mut text = [0u8; Self::LEN];
        for slot in text.iter_mut().rev() {
            *slot = ALPHABET.get((n % 62) as usize).copied().unwrap_or(b'0');
            n /= 62;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_form_round_trips_and_sorts_like_the_record(
            a_time in 0u64..1 << 54, b_time in 0u64..1 << 54, node: u16, a in 0u64..1 << 48, b in 0u64..1 << 48,
        ) {
            let first = MsgId::new(a_time, node, Lsn(a));
            let second = MsgId::new(b_time, node, Lsn(b));
            prop_assert_eq!(MsgId::parse(&first.to_string()), Some(first));
            prop_assert_eq!(first.to_string().len(), MsgId::LEN);
            prop_assert_eq!(first.cmp(&second), first.to_string().cmp(&second.to_string()));
        }
    }

    #[test]
    fn foreign_text_is_refused() {
        for text in ["", "short", "zzzzzzzzzzzzzzzzzzzz", "0123456789012345678-", "012345678901234567890"] {
            assert_eq!(MsgId::parse(text), None, "{text}");
        }
    }
}
