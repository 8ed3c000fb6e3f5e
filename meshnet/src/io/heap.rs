//! The allocator: giving back what is free, and how much is in use.
//!
//! Only glibc's is asked (`malloc_trim(3)`, `mallinfo(3)`); with another one there is nothing to do here.

/// Gives memory that is free within the heap back to the kernel.
///
/// Reading a cache of ten thousand members, and every computation of routes, takes and frees some megabytes in pieces, which
/// glibc keeps for itself where something that lives on lies behind them.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes a number by value, may be called by any thread at any time, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes that are allocated and not freed, with what the allocator needs for each piece, of the main arena (that of a
/// program's first thread) and in mappings of their own; 0 where the allocator cannot tell.
pub fn in_use_bytes() -> u64 {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: `mallinfo2` takes nothing, and returns numbers by value.
        let info = unsafe { libc::mallinfo2() };
        (info.uordblks + info.hblkhd) as u64
    }
    #[cfg(not(target_env = "gnu"))]
    0
}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use super::*;

    /// Other tests of this process take and free memory meanwhile, but not each time.
    fn sooner_or_later(what: &str, mut measure: impl FnMut() -> bool) {
        assert!((0..20).any(|_| measure()), "{what}");
    }

    fn resident_bytes() -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    #[test]
    fn what_is_free_goes_back_to_the_kernel_and_what_is_allocated_is_counted() {
        sooner_or_later("half of 32 MB freed between what is kept goes back", || {
            // Pieces below the size that gets a mapping of its own, the last one kept.
            let mut pieces: Vec<Vec<u8>> = (0..2000).map(|_| vec![7; 16 * 1024]).collect();
            let full = resident_bytes();
            pieces.drain(..1999);
            trim();
            assert_eq!(pieces[0][0], 7);
            full.saturating_sub(resident_bytes()) > 16 << 20
        });
        sooner_or_later("64 MB are counted, and not any more when they are freed", || {
            // A mapping of its own, whichever thread and arena this is.
            let before = in_use_bytes();
            let large = vec![1_u8; 64 << 20];
            let with = in_use_bytes();
            drop(large);
            with >= before + (32 << 20) && in_use_bytes() < with - (32 << 20)
        });
    }
}
