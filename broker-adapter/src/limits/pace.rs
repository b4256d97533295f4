//! Rates: how much at a time, and a client that is kept to its own.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::{Limit, Limits};

/// What a client may send at once after a pause, as time at its rate.
const BURST: Duration = Duration::from_secs(1);

/// A rate, as the time at which all that was used is paid for (the generic cell rate algorithm: a leaky bucket in one number).
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    paid_at: Instant,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Rate {
        Rate { paid_at: now }
    }

    /// True when nothing is owed.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.paid_at <= now
    }

    /// Uses one of `per_s` (at least 1), unless more than `burst` would then be owed.
    pub(super) fn try_use(&mut self, per_s: u64, burst: Duration, now: Instant) -> bool {
        let paid_at = self.paid_at.max(now) + cost(1, per_s);
        let fits = paid_at <= now + burst;
        if fits {
            self.paid_at = paid_at;
        }
        fits
    }

    /// Uses `n` of `per_s` in any case; when no more than `burst` will be owed again.
    fn charge(&mut self, n: u64, per_s: u64, burst: Duration, now: Instant) -> Instant {
        self.paid_at = self.paid_at.max(now) + cost(n, per_s);
        self.paid_at.checked_sub(burst).unwrap_or(now)
    }
}

fn cost(n: u64, per_s: u64) -> Duration {
    let nanos = u128::from(n) * 1_000_000_000 / u128::from(per_s.max(1));
    // A packet has at most 256 MiB: at one byte a second less than nine years.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
}

/// Keeps a connection to its rates. What it sends is taken in later and never dropped: while it is held its socket is not read, TCP
/// tells the client to wait.
pub(crate) struct Pace {
    messages_per_s: u64,
    bytes_per_s: u64,
    messages: Rate,
    bytes: Rate,
    held: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// `None` where nothing is limited.
    pub(crate) fn new(limits: &Limits) -> Option<Box<Pace>> {
        let (messages_per_s, bytes_per_s) = (limits.messages_per_s, limits.bytes_per_s);
        if messages_per_s == 0 && bytes_per_s == 0 {
            return None;
        }
        let rate = Rate::new(Instant::now());
        Some(Box::new(Pace { messages_per_s, bytes_per_s, messages: rate, bytes: rate, held: None }))
    }

    /// Counts a packet that was taken in; from then on the connection may be held.
    pub(crate) fn count(&mut self, is_publish: bool, bytes: usize) {
        if let Some((due, limit)) = self.due(is_publish, bytes, Instant::now()) {
            limit.hit();
            self.held = Some(Box::pin(tokio::time::sleep_until(due)));
        }
    }

    /// Until when the next packet has to wait, and for which of the rates; `None` where it need not.
    fn due(&mut self, is_publish: bool, bytes: usize, now: Instant) -> Option<(Instant, Limit)> {
        let (mut due, mut limit) = (now, Limit::MessageRate);
        if is_publish && self.messages_per_s > 0 {
            due = due.max(self.messages.charge(1, self.messages_per_s, BURST, now));
        }
        if self.bytes_per_s > 0 {
            let bytes_due = self.bytes.charge(bytes as u64, self.bytes_per_s, BURST, now);
            if bytes_due > due {
                (due, limit) = (bytes_due, Limit::ByteRate);
            }
        }
        (due > now).then_some((due, limit))
    }

    /// True while no packet may be taken in.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Resolves when packets may be taken in again; at once where they may. Cancellation safe.
    pub(crate) async fn go_on(&mut self) {
        if let Some(held) = &mut self.held {
            held.as_mut().await;
            self.held = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_allows_its_burst_and_then_one_at_a_time() {
        let start = Instant::now();
        let (mut rate, burst) = (Rate::new(start), Duration::from_secs(2));
        assert_eq!((0..100).filter(|_| rate.try_use(5, burst, start)).count(), 10);
        assert!(!rate.is_idle(start));
        for (ms, fits) in [(199, false), (200, true), (201, false), (400, true)] {
            assert_eq!(rate.try_use(5, burst, start + Duration::from_millis(ms)), fits, "{ms}");
        }
        let later = start + Duration::from_secs(60);
        assert!(rate.is_idle(later));
        assert_eq!((0..100).filter(|_| rate.try_use(5, burst, later)).count(), 10, "a pause saves up one burst");
    }

    #[test]
    fn what_was_taken_in_is_paid_for_with_time() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        assert!(rate.charge(1000, 1000, BURST, start) <= start, "one second's worth at once");
        assert_eq!(rate.charge(500, 1000, BURST, start), start + Duration::from_millis(500));
        assert_eq!(rate.charge(1, u64::MAX, BURST, start), start + Duration::from_millis(500));
        let far = rate.charge(u64::MAX, 1, BURST, start);
        assert!(far > start + Duration::from_secs(1_000_000_000));
    }

    #[test]
    fn a_connection_is_held_for_as_long_as_its_rates_say() {
        assert!(Pace::new(&Limits::default()).is_none());
        let mut pace = Pace::new(&Limits { messages_per_s: 10, bytes_per_s: 1000, ..Limits::default() }).unwrap();
        let now = Instant::now();
        assert!((0..10).all(|_| pace.due(true, 10, now).is_none()), "one second's worth");
        assert_eq!(pace.due(false, 10, now), None, "a ping is no message");
        let (due, limit) = pace.due(true, 10, now).unwrap();
        assert_eq!(limit, Limit::MessageRate);
        assert!(due > now && due <= now + Duration::from_millis(100));
        let (due, limit) = pace.due(false, 10_000, now).unwrap();
        assert_eq!(limit, Limit::ByteRate);
        assert!(due > now + Duration::from_secs(9));
    }
}
