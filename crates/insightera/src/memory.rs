//! How the process takes memory from the system.

/// As many arenas as threads that work at a time, where the allocator is
/// glibc's. By default every thread may have its own, of eight times as many: a
/// run starts many short-lived ones, and what one has freed the next would take
/// anew from the kernel, page by page.
pub fn few_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).max(2);
        let arenas = i32::try_from(threads).unwrap_or(i32::MAX);
        #[expect(unsafe_code, reason = "the allocator has no other interface")]
        // SAFETY: called before any other thread starts; the number is valid.
        let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
    }
}
