//! What the process holds of the system's memory.

/// Gives memory that is free back to the system, after work that took much more
/// of it than what comes next. Where the allocator has nothing for that it stays.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "the allocator has no other interface")]
        // SAFETY: it may be called at any time, by any thread.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}
