//! A counting allocator: what a program holds in memory, to the byte. Beside what was asked for, it counts what the C library's
//! allocator takes for it: a word of its own for each block, rounded up to 16 bytes, 32 at least.

#![allow(unsafe_code, reason = "a global allocator can't be written without it; it only counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static ASKED: AtomicUsize = AtomicUsize::new(0);
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Install it with `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

/// What is held at one moment, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// As asked for.
    pub asked: usize,
    /// With the allocator's own.
    pub taken: usize,
}

impl Held {
    /// What is held now.
    #[must_use]
    pub fn now() -> Held {
        Held { asked: ASKED.load(Ordering::Relaxed), taken: TAKEN.load(Ordering::Relaxed) }
    }
}

fn taken(bytes: usize) -> usize {
    ((bytes + 8).next_multiple_of(16)).max(32)
}

fn add(bytes: usize) {
    ASKED.fetch_add(bytes, Ordering::Relaxed);
    TAKEN.fetch_add(taken(bytes), Ordering::Relaxed);
}

fn sub(bytes: usize) {
    ASKED.fetch_sub(bytes, Ordering::Relaxed);
    TAKEN.fetch_sub(taken(bytes), Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        sub(layout.size());
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        sub(layout.size());
        add(size);
        unsafe { System.realloc(at, layout, size) }
    }
}
