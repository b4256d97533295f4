//! A word that threads sleep on until it changes.
//!
//! ```text
//!  31                              1   0
//! +---------------------------------+---+
//! |             changes             | w |     w: somebody may be asleep
//! +---------------------------------+---+
//! ```
//!
//! One call wakes all who sleep, and none of them takes a lock to learn that it may go on: with a condition variable each woken thread
//! first waits its turn for the mutex, which costs more than the group's write. Whoever sleeps looks at the word first, then at what it
//! waits for, then sleeps on the value it saw; whoever changes the thing waited for does so first and wakes then. Either the sleeper sees
//! the change, or the word has moved and it does not sleep.

use std::time::Duration;

use crate::sync::atomic::{AtomicU32, Ordering};

const WAITING: u32 = 1;
const CHANGE: u32 = 2;

#[derive(Debug, Default)]
pub(crate) struct Word {
    state: AtomicU32,
    sleepers: os::Sleepers,
}

impl Word {
    /// The value to sleep on, taken before the look at what is waited for.
    pub fn look(&self) -> u32 {
        self.state.load(Ordering::SeqCst)
    }

    /// Sleeps while the word has not changed since `seen`, at most for `timeout`. It may return without either: look again.
    pub fn sleep(&self, seen: u32, timeout: Option<Duration>) {
        let marked = seen | WAITING;
        if seen != marked {
            let mark = self.state.compare_exchange(seen, marked, Ordering::SeqCst, Ordering::SeqCst);
            // Another sleeper may have marked it first.
            if mark.is_err_and(|now| now != marked) {
                return;
            }
        }
        self.sleepers.sleep(&self.state, marked, timeout);
    }

    /// Changes the word and wakes all who sleep on it.
    pub fn wake(&self) {
        let mut state = self.look();
        loop {
            let changed = (state & !WAITING).wrapping_add(CHANGE);
            match self.state.compare_exchange_weak(state, changed, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        if state & WAITING != 0 {
            self.sleepers.wake(&self.state);
        }
    }
}

#[cfg(all(target_os = "linux", not(all(test, forebay_interleavings))))]
mod os {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use rustix::thread::futex::{self, Flags};

    #[derive(Debug, Default)]
    pub(super) struct Sleepers;

    impl Sleepers {
        pub fn sleep(&self, word: &AtomicU32, marked: u32, timeout: Option<Duration>) {
            let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
            // A changed word, a signal and a timeout are errors here; the caller looks again in each case.
            let _ = futex::wait(word, Flags::PRIVATE, marked, timeout.as_ref());
        }

        pub fn wake(&self, word: &AtomicU32) {
            // It fails for an address that is not mapped, which a reference is not.
            let _ = futex::wake(word, Flags::PRIVATE, i32::MAX as u32);
        }
    }
}

#[cfg(any(not(target_os = "linux"), all(test, forebay_interleavings)))]
mod os {
    use std::time::Duration;

    use crate::sync::atomic::{AtomicU32, Ordering};
    use crate::sync::{Condvar, Mutex};

    #[derive(Debug, Default)]
    pub(super) struct Sleepers {
        gate: Mutex<()>,
        moved: Condvar,
    }

    impl Sleepers {
        pub fn sleep(&self, word: &AtomicU32, marked: u32, timeout: Option<Duration>) {
            let mut gate = self.gate.lock();
            if word.load(Ordering::SeqCst) != marked {
                return;
            }
            match timeout {
                None => self.moved.wait(&mut gate),
                Some(timeout) => {
                    self.moved.wait_for(&mut gate, timeout);
                }
            }
        }

        pub fn wake(&self, _: &AtomicU32) {
            // Taking the gate orders the wake behind the check of a thread that is about to sleep.
            drop(self.gate.lock());
            self.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::Word;

    /// Each step waits for the one before it: a wake that is lost ends the test's progress, and the test with it.
    #[test]
    fn no_wake_is_lost_between_threads_that_take_turns() {
        const STEPS: u64 = 20_000;
        const THREADS: u64 = 4;
        let (word, turn) = (Word::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for me in 0..THREADS {
                let (word, turn) = (&word, &turn);
                scope.spawn(move || {
                    for step in (me..STEPS).step_by(THREADS as usize) {
                        loop {
                            let seen = word.look();
                            if turn.load(Ordering::SeqCst) == step {
                                break;
                            }
                            word.sleep(seen, None);
                        }
                        turn.store(step + 1, Ordering::SeqCst);
                        word.wake();
                    }
                });
            }
        });
        assert_eq!(turn.load(Ordering::SeqCst), STEPS);
    }

    #[test]
    fn a_changed_word_is_not_slept_on_and_a_timeout_ends_a_sleep() {
        let word = Word::default();
        let seen = word.look();
        word.wake();
        word.sleep(seen, None);
        word.sleep(word.look(), Some(Duration::from_millis(1)));
    }
}
