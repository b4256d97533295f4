//! Locks, condition variables, atomics and threads of the log.
//!
//! They are parking_lot's and the standard library's. In the tests that explore interleavings (`--cfg forebay_interleavings`, see
//! docs/TESTING.md) they are shuttle's behind the same names: its scheduler then decides at each of their calls which thread goes on.

#[cfg(not(all(test, forebay_interleavings)))]
mod ordinary {
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;
}

#[cfg(all(test, forebay_interleavings))]
mod explored;

#[cfg(not(all(test, forebay_interleavings)))]
pub(crate) use ordinary::*;

#[cfg(all(test, forebay_interleavings))]
pub(crate) use explored::*;
