//! The process's heap: how glibc keeps it, and when it gives back what nobody uses.
//!
//! What a node holds is small; what it reads and writes at once (lists of thousands of objects, texts of megabytes) is not.

/// Buffers of at least this many bytes are mappings of their own, which go when they are freed.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 128 << 10;
/// Heaps beside which no thread gets one of its own.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Called once, before there are threads.
///
/// As it comes, glibc takes the first large buffer that is freed as a sign that there will be more, and cuts all later ones up
/// to that size out of its heaps, where what lives on keeps them from shrinking; and it gives each of many threads a heap.
/// With 5,000 Services both together were a sixth of the agent's memory.
pub(crate) fn configure() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, MAPPED), (libc::M_TRIM_THRESHOLD, MAPPED), (libc::M_ARENA_MAX, HEAPS)]
    {
        // SAFETY: it takes two numbers and changes how later allocations are made, none that was.
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}

/// Gives back what is free in the heaps. At the start thousands of objects are read and a text of megabytes is written, by
/// several threads; what lives on lies scattered over the heaps, and glibc gives back only what is free at the end of one.
/// Costs milliseconds: not on the way of a change.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers, locks every heap while it looks at it, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
