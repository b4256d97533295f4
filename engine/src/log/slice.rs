//! A short time slice for the log's writer thread.
//!
//! Where more threads want to run than there are processors, a thread that wakes from its sync waits until a running one has used up its
//! slice: 3 to 4 ms, fifty times what the sync took, and every producer waits with it. A shorter slice gives the writer no larger share of
//! the processor, only its turn sooner: Linux since 6.12 takes a slice for each thread of the ordinary policy, from 0.1 ms. Elsewhere this
//! does nothing.

/// Asks for a slice of 0.1 ms for the calling thread. An older kernel ignores it, another policy than the ordinary one is left alone.
#[cfg(target_os = "linux")]
pub(crate) fn shorten() {
    let asked = linux::attributes().map(|attributes| {
        let ordinary = attributes.policy == libc::SCHED_OTHER as u32;
        ordinary && linux::set(linux::Attributes { runtime: linux::SLICE_NS, ..attributes })
    });
    tracing::debug!(given = asked == Some(true), "a short time slice for the log's writer");
}

/// Nothing to ask for.
#[cfg(not(target_os = "linux"))]
pub(crate) fn shorten() {}

#[cfg(target_os = "linux")]
mod linux {
    //! The two system calls: the only `unsafe` code of the engine. Neither the standard library nor rustix nor the C library has a wrapper for
    //! them (glibc's comes with 2.41), and what they do can't be had otherwise: a slice for one thread, without privileges. They read and fill
    //! a plain structure of integers, for which every pattern of bits is valid, and whose size is passed along; the kernel keeps no reference
    //! to it. docs/TESTING.md says how the test below runs under a sanitizer.
    #![allow(unsafe_code)]

    /// The least that Linux takes.
    pub(super) const SLICE_NS: u64 = 100_000;

    /// `struct sched_attr`, first version.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default)]
    pub(super) struct Attributes {
        pub size: u32,
        pub policy: u32,
        pub flags: u64,
        pub nice: i32,
        pub priority: u32,
        /// The slice, ns, where the policy is the ordinary one.
        pub runtime: u64,
        pub deadline: u64,
        pub period: u64,
    }

    const SIZE: u32 = size_of::<Attributes>() as u32;

    /// The calling thread's attributes.
    pub(super) fn attributes() -> Option<Attributes> {
        let mut attributes = Attributes::default();
        // SAFETY: thread 0 is the caller; the kernel writes at most SIZE bytes, all of them plain numbers, into a structure that is as large.
        let answer = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
        (answer == 0).then_some(attributes)
    }

    /// Sets the calling thread's attributes.
    pub(super) fn set(attributes: Attributes) -> bool {
        let attributes = Attributes { size: SIZE, ..attributes };
        // SAFETY: thread 0 is the caller; the kernel reads `size` bytes of a structure that is as large, and keeps no reference to it.
        let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
        answer == 0
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{linux, shorten};

    #[test]
    fn a_thread_keeps_policy_and_niceness_and_has_the_slice_where_the_kernel_knows_slices() {
        std::thread::spawn(|| {
            let before = linux::attributes().unwrap();
            shorten();
            let after = linux::attributes().unwrap();
            assert_eq!((after.policy, after.nice), (before.policy, before.nice));
            // A kernel without slices reports 0, before and after.
            assert!(after.runtime == linux::SLICE_NS || after.runtime == before.runtime, "{after:?}");
        })
        .join()
        .unwrap();
    }
}
