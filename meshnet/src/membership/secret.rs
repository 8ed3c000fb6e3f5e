//! The signing keys of an authority and of a node, and the one way to check signatures.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use proto::id::IdentityKey;
use proto::key_epoch::KeyEpoch;
use proto::record::Record;
use proto::revocation::Revocation;
use proto::signed::{Body, Signed};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::root_key_id;

/// What the identity's signature over a join handshake begins with, so that it can be nothing else.
const JOIN_DOMAIN: &[u8] = b"meshnet join\0";
/// What the identity's signature over a request to another node's agent begins with.
const REQUEST_DOMAIN: &[u8] = b"meshnet request\0";

/// A root key of the mesh: signs certificates, revocations, and trust bundles. May be kept offline.
///
/// Zeroized on drop; without `Debug` and `Clone` on purpose.
pub struct AuthoritySecret(SigningKey);

/// A node's long-lived key: signs its records, its key epochs, and, where it is an issuer, certificates.
///
/// Zeroized on drop; without `Debug` and `Clone` on purpose.
pub struct IdentitySecret(SigningKey);

impl AuthoritySecret {
    /// A new key from `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(generate(rng))
    }

    /// The key with this seed, as stored by [`AuthoritySecret::to_bytes`].
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, to be stored.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key, listed as a root in the trust bundle.
    pub fn public(&self) -> IdentityKey {
        IdentityKey(self.0.verifying_key().to_bytes())
    }

    /// How certificates and trust bundles name the public key.
    pub fn key_id(&self) -> [u8; 8] {
        root_key_id(&self.public())
    }

    /// Signs a revocation as a root of the mesh.
    ///
    /// # Errors
    /// Where it would be too long.
    pub fn sign_revocation(&self, revocation: Revocation) -> Result<Signed<Revocation>, proto::Error> {
        self.sign(revocation)
    }

    /// Signs an object whose issuer is this root.
    pub(super) fn sign<T: Body>(&self, body: T) -> Result<Signed<T>, proto::Error> {
        Signed::sign_with(body, |message| self.0.sign(message).to_bytes())
    }

    pub(super) fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl IdentitySecret {
    /// A new key from `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(generate(rng))
    }

    /// The key with this seed, as stored by [`IdentitySecret::to_bytes`].
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, to be stored.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key, named by the node's certificate.
    pub fn public(&self) -> IdentityKey {
        IdentityKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a record.
    ///
    /// # Errors
    /// Where it would be too long.
    pub fn sign_record(&self, record: Record) -> Result<Signed<Record>, proto::Error> {
        self.sign(record)
    }

    /// Signs a revocation, as an operator.
    ///
    /// # Errors
    /// As [`Signed::sign_with`].
    pub fn sign_revocation(&self, revocation: Revocation) -> Result<Signed<Revocation>, proto::Error> {
        self.sign(revocation)
    }

    /// Signs a key epoch.
    ///
    /// # Errors
    /// Where it would be too long.
    pub fn sign_key_epoch(&self, epoch: KeyEpoch) -> Result<Signed<KeyEpoch>, proto::Error> {
        self.sign(epoch)
    }

    /// Proves possession of this key to an inviter: a signature over the hash of the join handshake.
    pub fn sign_join(&self, handshake_hash: &[u8]) -> [u8; 64] {
        self.0.sign(&[JOIN_DOMAIN, handshake_hash].concat()).to_bytes()
    }

    /// Proves to another node who asks it: a signature over what that node gave to be signed.
    pub fn sign_request(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(&[REQUEST_DOMAIN, message].concat()).to_bytes()
    }

    /// Signs an object whose issuer is this node.
    pub(super) fn sign<T: Body>(&self, body: T) -> Result<Signed<T>, proto::Error> {
        Signed::sign_with(body, |message| self.0.sign(message).to_bytes())
    }
}

/// Checks the proof made by [`IdentitySecret::sign_join`].
///
/// # Errors
/// [`BadSignature`] where `identity` did not make it.
pub fn verify_join(
    identity: &IdentityKey,
    handshake_hash: &[u8],
    signature: &[u8; 64],
) -> Result<(), BadSignature> {
    verify(identity, &[JOIN_DOMAIN, handshake_hash].concat(), signature)
}

/// Checks the proof made by [`IdentitySecret::sign_request`].
///
/// # Errors
/// [`BadSignature`] where `identity` did not make it.
pub fn verify_request(
    identity: &IdentityKey,
    message: &[u8],
    signature: &[u8; 64],
) -> Result<(), BadSignature> {
    verify(identity, &[REQUEST_DOMAIN, message].concat(), signature)
}

/// A signature that the key did not make.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

/// Checks the signature on a signed object.
///
/// # Errors
/// [`BadSignature`] where `key` did not make it.
pub(super) fn verify_signed<T: Body>(key: &IdentityKey, signed: &Signed<T>) -> Result<(), BadSignature> {
    verify(key, &signed.signing_bytes(), signed.signature())
}

/// Strict Ed25519: canonical encodings only, and no keys or commitments of small order, so that everybody agrees on
/// whether a signature is good (Chalkias, Garillot, Nikolaenko: "Taming the many EdDSAs", 2020).
pub(super) fn verify(key: &IdentityKey, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
    let key = VerifyingKey::from_bytes(&key.0).map_err(|_| BadSignature)?;
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| BadSignature)
}

fn generate(rng: &mut impl CryptoRng) -> SigningKey {
    let mut seed = Zeroizing::new([0; 32]);
    rng.fill_bytes(seed.as_mut());
    SigningKey::from_bytes(&seed)
}
