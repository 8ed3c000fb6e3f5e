//! One keyed AEAD, by `ring` or by the portable crate.
//!
//! Nonce: four zero bytes, then the counter in little-endian order, for both suites.

use super::suite::Suite;

#[cfg(feature = "ring")]
pub(super) use with_ring::Aead;

#[cfg(not(feature = "ring"))]
pub(super) use portable::Aead;

/// Length of an AEAD tag, in bytes.
pub const TAG_LEN: usize = 16;

/// Why a datagram or a hop tag did not open. Nothing may change because of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Shorter than a header and a tag.
    #[error("datagram shorter than header and tag")]
    Short,
    /// The tag does not fit key, counter, header, and text.
    #[error("authentication failed")]
    Forged,
}

fn nonce_of(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

#[cfg(feature = "ring")]
mod with_ring {
    use super::*;
    use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

    /// `ring` does not wipe its expanded keys; they live only as long as the keypair.
    pub(in super::super) struct Aead(LessSafeKey);

    impl Aead {
        pub(in super::super) fn new(suite: Suite, key: &[u8; 32]) -> Self {
            let algorithm = match suite {
                Suite::Aes256Gcm => &AES_256_GCM,
                Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            };
            Aead(LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both suites take 32-byte keys")))
        }

        pub(in super::super) fn seal(&self, counter: u64, aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
            let nonce = Nonce::assume_unique_for_key(nonce_of(counter));
            let tag = self
                .0
                .seal_in_place_separate_tag(nonce, Aad::from(aad), text)
                .expect("a datagram is far below the 64 GiB limit of both suites");
            tag.as_ref().try_into().expect("both suites have 16-byte tags")
        }

        pub(in super::super) fn open(
            &self,
            counter: u64,
            aad: &[u8],
            text: &mut [u8],
            tag: &[u8; TAG_LEN],
        ) -> Result<(), OpenError> {
            let nonce = Nonce::assume_unique_for_key(nonce_of(counter));
            self.0
                .open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(*tag), text, 0..)
                .map(|_| ())
                .map_err(|_| OpenError::Forged)
        }
    }
}

#[cfg(not(feature = "ring"))]
mod portable {
    use super::*;
    use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};

    /// Wipes its key when dropped.
    pub(in super::super) struct Aead(ChaCha20Poly1305);

    impl Aead {
        pub(in super::super) fn new(suite: Suite, key: &[u8; 32]) -> Self {
            assert!(suite.is_supported(), "{} needs the `ring` feature", suite.name());
            Aead(ChaCha20Poly1305::new(key.into()))
        }

        pub(in super::super) fn seal(&self, counter: u64, aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
            self.0
                .encrypt_inout_detached(&nonce_of(counter).into(), aad, text.into())
                .expect("a datagram is far below the 256 GiB limit of the suite")
                .into()
        }

        pub(in super::super) fn open(
            &self,
            counter: u64,
            aad: &[u8],
            text: &mut [u8],
            tag: &[u8; TAG_LEN],
        ) -> Result<(), OpenError> {
            self.0
                .decrypt_inout_detached(&nonce_of(counter).into(), aad, text.into(), tag.into())
                .map_err(|_| OpenError::Forged)
        }
    }
}
