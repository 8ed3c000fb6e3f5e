//! ML-KEM-768 (FIPS 203): the key agreement that a quantum computer does not break, as far as is known.
//!
//! It never stands alone: what comes of it goes into the pre-shared key of a handshake with X25519
//! ([`crate::session`]), so that whoever wants to read has to break both.

use ml_kem::kem::{Decapsulate, Encapsulate, Generate, KeyExport};
use ml_kem::{DecapsulationKey, EncapsulationKey, MlKem768};
use proto::frame::{KEM_CIPHERTEXT_LEN, KEM_KEY_LEN};
use rand::CryptoRng;
use zeroize::Zeroize;

use super::secret::Secret;

/// An encapsulation key, as sent.
pub type KemKey = [u8; KEM_KEY_LEN];

/// What answers an encapsulation key, as sent.
pub type KemCiphertext = [u8; KEM_CIPHERTEXT_LEN];

/// The private half of an ML-KEM-768 key, for one exchange. Wiped on drop; has no `Debug`.
pub struct KemSecret(Box<DecapsulationKey<MlKem768>>);

/// An encapsulation key that is none: its coefficients are not reduced (FIPS 203, section 7.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an ML-KEM-768 encapsulation key")]
pub struct InvalidKemKey;

impl KemSecret {
    /// A fresh key.
    pub fn random(rng: &mut impl CryptoRng) -> KemSecret {
        KemSecret(Box::new(DecapsulationKey::generate_from_rng(rng)))
    }

    /// The public half.
    pub fn public(&self) -> Box<KemKey> {
        Box::new(self.0.encapsulation_key().to_bytes().into())
    }

    /// The secret that the maker of `ciphertext` has. Another one that nobody knows, if the ciphertext was not made for
    /// this key: there is no error to learn from (FIPS 203, section 6.3).
    pub fn open(&self, ciphertext: &KemCiphertext) -> Secret<32> {
        taken(self.0.decapsulate(&(*ciphertext).into()).into())
    }
}

/// A fresh secret, and the ciphertext from which the holder of `key`'s private half gets it.
///
/// # Errors
/// [`InvalidKemKey`].
pub fn encapsulate(
    key: &KemKey,
    rng: &mut impl CryptoRng,
) -> Result<(Box<KemCiphertext>, Secret<32>), InvalidKemKey> {
    let key = EncapsulationKey::<MlKem768>::new(&(*key).into()).map_err(|_| InvalidKemKey)?;
    let (ciphertext, shared) = key.encapsulate_with_rng(rng);
    Ok((Box::new(ciphertext.into()), taken(shared.into())))
}

fn taken(mut bytes: [u8; 32]) -> Secret<32> {
    let secret = Secret::new(bytes);
    bytes.zeroize();
    secret
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use rand::rngs::StdRng;
    use rand::{SeedableRng, TryCryptoRng, TryRng};
    use zeroize::ZeroizeOnDrop;

    use super::*;
    use crate::crypto::hash;
    use crate::crypto::secret::assert_no_debug;

    #[test]
    fn both_ends_get_the_same_secret_and_nobody_else() {
        let mut rng = StdRng::seed_from_u64(1);
        let (secret, other) = (KemSecret::random(&mut rng), KemSecret::random(&mut rng));
        let (ciphertext, shared) = encapsulate(&secret.public(), &mut rng).unwrap();
        assert!(secret.open(&ciphertext) == shared);
        assert!(other.open(&ciphertext) != shared);
        for bit in [0, 7777, KEM_CIPHERTEXT_LEN * 8 - 1] {
            let mut damaged = ciphertext.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(secret.open(&damaged) != shared, "bit {bit}");
        }
        assert!(encapsulate(&secret.public(), &mut rng).unwrap().1 != shared, "every exchange has its own");
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut key = KemSecret::random(&mut rng).public();
        // The first coefficient: 12 bits, little-endian, must be below q = 3329.
        (key[0], key[1]) = (0x01, key[1] & 0xf0 | 0x0d);
        assert_eq!(encapsulate(&key, &mut rng).map(|_| ()), Err(InvalidKemKey));
        (key[0], key[1]) = (0x00, key[1] & 0xf0 | 0x0d);
        assert_eq!(encapsulate(&key, &mut rng).map(|_| ()), Ok(()));
        assert_eq!(encapsulate(&[0xff; KEM_KEY_LEN], &mut rng).map(|_| ()), Err(InvalidKemKey));
    }

    #[test]
    fn private_keys_are_wiped_and_not_shown() {
        fn wiped<T: ZeroizeOnDrop>() {}
        wiped::<DecapsulationKey<MlKem768>>();
        assert_no_debug!(KemSecret);
    }

    /// The key of the seed 00 01 ... 3f, and the ciphertext made with the message 40 41 ... 5f; from OpenSSL 4.0.0 (which
    /// has the same key, and gets the same secret from the ciphertext).
    #[test]
    fn it_is_the_standard_one() {
        let secret = KemSecret::random(&mut Given((0..64).collect()));
        assert_eq!(
            hash(&[&secret.public()[..]]),
            hex("d17574d4976b05ccfd85cfbeb1c2071fd3bebeddd32c83432fc29256ebfc3530")
        );
        let (ciphertext, shared) = encapsulate(&secret.public(), &mut Given((64..96).collect())).unwrap();
        assert_eq!(
            hash(&[&ciphertext[..]]),
            hex("3b7b48dcecb64ee7b1870d261e93e2344fd9b7cf7dafa75c6df7f36107626ba6")
        );
        assert!(
            shared == Secret::new(hex("9cddd089ffe70e3996e76f7c8d06746df34d07e8657bc0fcf2bb0e1c3084aea1"))
        );
        assert!(secret.open(&ciphertext) == shared);
    }

    fn hex(text: &str) -> [u8; 32] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
    }

    /// Hands out given bytes.
    struct Given(Vec<u8>);

    impl TryRng for Given {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("keys are taken as bytes")
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!("keys are taken as bytes")
        }

        fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
            out.copy_from_slice(&self.0[..out.len()]);
            self.0.drain(..out.len());
            Ok(())
        }
    }

    impl TryCryptoRng for Given {}
}
