//! The Internet checksum (RFC 1071), for packets that our kernel left to us or that we leave to a kernel.

/// The sum of the 16-bit words of `bytes` in ones' complement arithmetic, not complemented. An odd byte at the end counts
/// as a word with a zero after it.
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum does not depend on the byte order as long as the result is turned in the end (RFC 1071, section 2 B), so
    // that words are added as they lie in memory, four at a time.
    let mut chunks = bytes.chunks_exact(8);
    let mut total: u64 = 0;
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes(chunk.try_into().expect("chunks of 8"));
        // Two halves of 32 bits: 2^32 chunks fit before it could overflow.
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let word = u64::from_ne_bytes(last);
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + ((total >> 16) & 0xffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    u16::from_be_bytes((total as u16).to_ne_bytes())
}

/// The sum of two sums.
pub fn add(a: u16, b: u16) -> u16 {
    let (total, carry) = a.overflowing_add(b);
    total + u16::from(carry)
}

/// The sum over the pseudo-header of a transport segment of `len` bytes (RFC 9293 section 3.1, RFC 8200 section 8.1), not
/// complemented. `addresses` are source and destination as they lie in the IP header.
pub fn pseudo_header(addresses: &[u8], protocol: u8, len: u16) -> u16 {
    add(add(sum(addresses), u16::from(protocol)), len)
}

/// Completes the checksum of `segment` whose field at `offset` holds the sum over the pseudo-header.
///
/// # Panics
/// When the field does not lie in the segment.
pub fn complete(segment: &mut [u8], offset: usize) {
    let total = !sum(segment);
    // UDP says with zero that there is no checksum (RFC 768). To TCP both zeroes are the same.
    let total = if total == 0 { 0xffff } else { total };
    segment[offset..offset + 2].copy_from_slice(&total.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut total: u32 = 0;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn a_sum_that_would_be_zero_is_written_as_all_ones() {
        let mut segment = [0xff, 0xff, 0, 0];
        complete(&mut segment, 2);
        assert_eq!(segment, [0xff, 0xff, 0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_words(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            // 0 and 0xffff are the same number; which one it is depends on the order of adding.
            let (a, b) = (sum(&bytes), naive(&bytes));
            prop_assert!(a == b || (a % 0xffff == 0 && b % 0xffff == 0), "{a:#x} {b:#x}");
        }

        #[test]
        fn a_completed_segment_sums_up_to_all_ones(
            bytes in prop::collection::vec(any::<u8>(), 20..2000),
            len in any::<u16>(),
        ) {
            let addresses = [192, 0, 2, 1, 198, 51, 100, 2];
            let mut segment = bytes;
            let pseudo = pseudo_header(&addresses, 6, len);
            segment[16..18].copy_from_slice(&pseudo.to_be_bytes());
            complete(&mut segment, 16);
            prop_assert_eq!(add(sum(&segment), pseudo), 0xffff);
        }
    }
}
