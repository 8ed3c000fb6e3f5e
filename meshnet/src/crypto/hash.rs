//! BLAKE2s and what is built on it.

use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use subtle::ConstantTimeEq;

use super::secret::Secret;

/// Length of a BLAKE2s-256 hash, in bytes.
pub const HASH_LEN: usize = 32;

/// Length of a MAC (keyed BLAKE2s-128), in bytes.
pub const MAC_LEN: usize = 16;

/// BLAKE2s-256 (RFC 7693) over the concatenation of `parts`. Parts of varying length need a length or a terminator among
/// them.
pub fn hash(parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut hasher = Blake2s256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// BLAKE2s-256 over the concatenation of `parts`, as a secret: for keys that are hashes of secrets.
pub fn secret_hash(label: &str, parts: &[&[u8]]) -> Secret<HASH_LEN> {
    let mut hasher = Blake2s256::new();
    hasher.update(label.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    Secret::new(hasher.finalize().into())
}

/// Keyed BLAKE2s with 16 bytes of output over the concatenation of `parts`. `key` is 1 to 32 bytes.
///
/// # Panics
/// If `key` is longer than 32 bytes.
pub fn keyed_mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let mut mac = <Blake2sMac<blake2::digest::consts::U16> as KeyInit>::new_from_slice(key)
        .expect("the callers' keys have at most 32 bytes");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Compares two MACs in constant time.
pub fn macs_equal(a: &[u8; MAC_LEN], b: &[u8; MAC_LEN]) -> bool {
    a.ct_eq(b).into()
}

/// HKDF (RFC 5869) over HMAC-BLAKE2s-256, without salt: `info` is the concatenation of the label and `context`.
pub fn kdf(secret: &[u8], label: &str, context: &[&[u8]]) -> Secret<HASH_LEN> {
    let mut info = vec![label.as_bytes()];
    info.extend(context);
    let mut out = Secret::new([0; HASH_LEN]);
    hkdf::SimpleHkdf::<Blake2s256>::new(None, secret)
        .expand_multi_info(&info, out.bytes_mut())
        .expect("one hash is within HKDF's limit of 255");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7693 appendix B.
    #[test]
    fn hash_is_blake2s_256() {
        let expected = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982";
        assert_eq!(hex(&hash(&[b"a", b"", b"bc"])), expected);
    }

    /// From Python: `hashlib.blake2s(b"abc", key=bytes(32), digest_size=16)` and an HKDF by its `hmac`.
    #[test]
    fn macs_and_derived_keys_are_the_standard_ones() {
        assert_eq!(hex(&keyed_mac(&[0; 32], &[b"ab", b"c"])), "25cbc82fd5b1e27b931777d77965336b");
        assert_eq!(
            hex(kdf(&[1; 16], "meshnet ", &[b"te", b"st"]).bytes()),
            "ccd03ec6354cb1d671b2874798ea892a92b0ed7a8686e0d8a2f7577daa036e19"
        );
    }

    #[test]
    fn any_different_bit_makes_macs_differ() {
        for bit in 0..128 {
            let mut other = [0x5a; MAC_LEN];
            assert!(macs_equal(&other, &[0x5a; MAC_LEN]));
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!macs_equal(&other, &[0x5a; MAC_LEN]));
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
