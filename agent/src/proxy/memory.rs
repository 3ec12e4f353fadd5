//! Memory that a burst of work leaves behind.

/// Gives back what is free in the allocator's heaps. At the start thousands of objects are read and a text of megabytes is
/// written, by several threads with a heap each; what lives on lies scattered over them, and glibc gives back only what is
/// free at the end of a heap. Costs milliseconds: not on the way of a change.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers, locks every heap while it looks at it, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
