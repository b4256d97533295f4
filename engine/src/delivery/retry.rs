//! Work that met a read error: tried again with backoff, so that a fault of the disk that passes leaves nobody waiting.

use std::sync::Arc;
use std::time::Duration;

use super::worker::Work;

/// Before work is tried again: the first wait, and the longest.
const FIRST: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(30);

/// What waits to be tried again, oldest first. One backoff for all: they wait for the same disk.
#[derive(Debug)]
pub(super) struct Retries {
    /// Since when it waits (us, the engine's clock), and what.
    waiting: Vec<(u64, Work)>,
    backoff: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { waiting: Vec::new(), backoff: FIRST }
    }
}

impl Retries {
    /// How long until the oldest is due; `None` when nothing waits. A wall clock that was set back counts as time passed.
    pub(super) fn due_in(&self, now_us: u64) -> Option<Duration> {
        let (since, _) = self.waiting.first()?;
        Some(self.backoff.saturating_sub(Duration::from_micros(now_us.abs_diff(*since))))
    }

    /// Takes the oldest when it is due.
    pub(super) fn take_due(&mut self, now_us: u64) -> Option<Work> {
        (self.due_in(now_us)? == Duration::ZERO).then(|| self.waiting.remove(0).1)
    }

    /// Takes in what has just failed; `again` = after a retry.
    pub(super) fn take_in(&mut self, failed: Vec<Work>, again: bool, now_us: u64) {
        if again {
            self.backoff = if failed.is_empty() { FIRST } else { (self.backoff * 2).min(MAX) };
        }
        for work in failed {
            if !self.waiting.iter().any(|(_, other)| same(other, &work)) {
                self.waiting.push((now_us, work));
            }
        }
    }
}

fn same(a: &Work, b: &Work) -> bool {
    match (a, b) {
        (Work::Topic(a), Work::Topic(b)) | (Work::Group(a), Work::Group(b)) => a == b,
        (Work::Fill(a), Work::Fill(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_while_it_fails_and_begins_anew_after_a_success() {
        let mut retries = Retries::default();
        let topic = || Work::Topic("queue/a".into());
        retries.take_in(vec![topic(), topic()], false, 0);
        assert_eq!(retries.waiting.len(), 1);
        assert!(retries.take_due(99_999).is_none());
        assert!(retries.take_due(100_000).is_some());
        retries.take_in(vec![topic()], true, 100_000);
        assert_eq!(retries.due_in(200_000), Some(Duration::from_millis(100)));
        assert!(retries.take_due(300_000).is_some());
        retries.take_in(Vec::new(), true, 300_000);
        assert_eq!((retries.due_in(0), retries.backoff), (None, FIRST));
        for n in 0..40 {
            retries.take_in(vec![topic()], n > 0, 0);
        }
        assert_eq!(retries.backoff, MAX);
    }
}
