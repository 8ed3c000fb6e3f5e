//! Bytes that both ends of a stream make, so that each byte can be checked.

/// The same noise at both ends (splitmix64).
pub(super) struct Noise(u64);

impl Noise {
    /// From the beginning.
    pub(super) fn new() -> Noise {
        Noise(0x6d65_7368)
    }

    /// The next bytes. A length that 8 does not divide leaves the rest as it is.
    pub(super) fn fill(&mut self, chunk: &mut [u8]) {
        for word in chunk.chunks_exact_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut value = self.0;
            value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(value ^ value >> 31).to_le_bytes());
        }
    }
}
