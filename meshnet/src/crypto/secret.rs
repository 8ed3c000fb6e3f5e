//! Secrets: wiped on drop, without `Debug`, `Display`, or comparison that leaks.

use proto::id::TransportKey;
use rand::CryptoRng;
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes: a symmetric key, a pre-shared key, the gate key. Wiped on drop; has no `Debug`, so that it cannot
/// get into a log.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Takes `bytes`; the caller's copy remains the caller's to wipe.
    pub fn new(bytes: [u8; N]) -> Self {
        Secret(bytes)
    }

    /// A fresh random secret.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Secret([0; N]);
        rng.fill_bytes(&mut secret.0);
        secret
    }

    /// The bytes themselves.
    pub fn bytes(&self) -> &[u8; N] {
        &self.0
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

/// The private X25519 key of one key epoch, with its public key at hand.
#[derive(Clone)]
pub struct TransportSecret {
    secret: StaticSecret,
    public: TransportKey,
}

impl TransportSecret {
    /// Takes the 32 bytes of a private key (clamped when used, RFC 7748 section 5).
    pub fn new(bytes: [u8; 32]) -> Self {
        let secret = StaticSecret::from(bytes);
        let public = TransportKey(PublicKey::from(&secret).to_bytes());
        TransportSecret { secret, public }
    }

    /// A fresh random key.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let bytes = Secret::<32>::random(rng);
        TransportSecret::new(*bytes.bytes())
    }

    /// The public key.
    pub fn public(&self) -> TransportKey {
        self.public
    }

    /// The private key's bytes, for storage and for the handshake.
    pub fn bytes(&self) -> &[u8; 32] {
        self.secret.as_bytes()
    }
}

/// Compiles only while none of the types implements `Debug`: with it, `some_item` would have two candidates.
#[cfg(test)]
macro_rules! assert_no_debug {
    ($($t:ty),*) => {$({
        trait Ambiguous<A> { fn some_item() {} }
        impl<T: ?Sized> Ambiguous<()> for T {}
        struct HasDebug;
        impl<T: ?Sized + std::fmt::Debug> Ambiguous<HasDebug> for T {}
        let _ = HasDebug;
        let _ = <$t as Ambiguous<_>>::some_item;
    })*};
}

#[cfg(test)]
pub(crate) use assert_no_debug;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Opener, Sealer};

    #[test]
    fn secrets_have_no_debug() {
        assert_no_debug!(Secret<16>, Secret<32>, TransportSecret, Sealer, Opener);
    }

    #[test]
    fn secrets_are_wiped_on_drop() {
        fn wiped<T: ZeroizeOnDrop>() {}
        wiped::<Secret<32>>();
        wiped::<StaticSecret>();
    }

    /// RFC 7748 section 6.1, Alice.
    #[test]
    fn public_keys_are_x25519() {
        let private = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
            0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
        ];
        let public = [
            0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7, 0x5a,
            0x0d, 0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a,
        ];
        assert_eq!(TransportSecret::new(private).public(), TransportKey(public));
    }
}
