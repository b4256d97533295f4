//! Waiting with a thread instead of a task.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks the thread until the future is ready: `None` when `timeout` passes first. [`Duration::MAX`] waits for ever. The future is
/// polled once at least.
pub(crate) fn within<T>(timeout: Duration, future: impl Future<Output = T>) -> Option<T> {
    let deadline = Instant::now().checked_add(timeout);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
        // A wake between the poll and the park makes the park return at once; one without a wake is polled again and goes on.
        match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(Duration::ZERO) => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, poll_fn, ready};

    #[test]
    fn what_is_ready_is_answered_and_what_never_is_ends_with_the_time() {
        assert_eq!(within(Duration::ZERO, ready(7)), Some(7));
        assert_eq!(within(Duration::MAX, ready(7)), Some(7));
        assert_eq!(within(Duration::from_millis(1), pending::<()>()), None);
    }

    #[test]
    fn a_wake_of_another_thread_ends_the_wait() {
        let mut polls = 0;
        let twice = poll_fn(|cx| {
            polls += 1;
            if polls > 1 {
                return Poll::Ready(polls);
            }
            let waker = cx.waker().clone();
            thread::spawn(move || waker.wake());
            Poll::Pending
        });
        assert!(within(Duration::MAX, twice).is_some_and(|polls| polls > 1));
    }
}
