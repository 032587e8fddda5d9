//! The process's own heap.

/// Gives freed pages of the heap back to the kernel, also those between blocks in use (malloc_trim(3)). Where the C
/// library has no such call, it does nothing.
pub fn trim() {
    // SAFETY: malloc_trim takes the allocator's own locks and touches free memory only.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
