//! How long to wait after a failure, and who may try first: one circuit breaker for all connections of a sink.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;

/// Bounds of the waits.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// First wait.
    pub first: Duration,
    /// Longest wait.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(15) }
    }
}

impl Backoff {
    /// The wait before attempt `attempt` (1 = after the first failure): doubled each time, capped, and spread over its upper half
    /// so that many connections don't return at the same moment.
    #[must_use]
    pub fn wait(&self, attempt: u32) -> Duration {
        let doubled =
            self.first.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1).min(20)).unwrap_or(u32::MAX));
        let capped = doubled.min(self.longest);
        capped.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// Lets one connection try after a failure while the others wait.
#[derive(Debug)]
pub(crate) struct Breaker {
    backoff: Backoff,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    failures: u32,
    open_until: Option<Instant>,
    probing: bool,
}

/// The breaker's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    Go,
    Wait(Duration),
}

/// How often those who are not the probe ask again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

impl Breaker {
    pub(crate) fn new(backoff: Backoff) -> Breaker {
        Breaker { backoff, inner: Mutex::new(Inner::default()) }
    }

    /// May this connection try now?
    pub(crate) fn admit(&self, now: Instant) -> Admit {
        let mut inner = self.inner.lock();
        match inner.open_until {
            None => Admit::Go,
            Some(until) if until > now => Admit::Wait(until - now),
            Some(_) if inner.probing => Admit::Wait(ASK_AGAIN),
            Some(_) => {
                inner.probing = true;
                Admit::Go
            }
        }
    }

    /// A write or connect went through.
    pub(crate) fn success(&self) {
        *self.inner.lock() = Inner::default();
    }

    /// It failed; returns when the next try is due and how many failed in a row.
    pub(crate) fn failure(&self, now: Instant, asked: Option<Duration>) -> (Instant, u32) {
        let mut inner = self.inner.lock();
        inner.failures = inner.failures.saturating_add(1);
        inner.probing = false;
        let wait = self.backoff.wait(inner.failures).max(asked.unwrap_or_default());
        let until = now + wait;
        inner.open_until = Some(until);
        (until, inner.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let b = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1) };
        for (attempt, full) in [(1, 100), (2, 200), (4, 800), (5, 1000), (4_000_000, 1000)] {
            let wait = b.wait(attempt).as_millis();
            assert!((full / 2..=full).contains(&wait), "attempt {attempt}: {wait}");
        }
    }

    #[test]
    fn after_a_failure_one_connection_probes_and_the_others_wait() {
        let breaker = Breaker::new(Backoff::default());
        let now = Instant::now();
        assert_eq!(breaker.admit(now), Admit::Go);
        let (until, failures) = breaker.failure(now, None);
        assert_eq!(failures, 1);
        assert!(matches!(breaker.admit(now), Admit::Wait(_)));
        assert_eq!(breaker.admit(until), Admit::Go);
        assert!(matches!(breaker.admit(until), Admit::Wait(_)));
        breaker.success();
        assert_eq!(breaker.admit(until), Admit::Go);
    }
}
